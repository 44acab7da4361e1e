from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssb_unsloth import SSBConfig, SSBTrainer
from ssb_unsloth.pocket import MODEL_DIR  # or the hub id or folder of any instruction-tuned model

trainer = SSBTrainer(
    AutoModelForCausalLM.from_pretrained(MODEL_DIR),
    args=SSBConfig(output_dir="student", num_train_epochs=3, report_to="none"),
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    peft_config=LoraConfig(r=32, task_type="CAUSAL_LM"),
)
trainer.train()
trainer.model.save_pretrained("student")
