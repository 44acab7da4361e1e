"""Trains a tiny model and writes its losses and adapter: one of the processes of the DDP test in test_trainer.py.

torchrun --nproc-per-node 2 tests/support/one_of_several.py OUT PER_DEVICE_BATCH ACCUMULATION
"""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file
from tiny import tiny_model
from training import make_examples, make_trainer

from ssb_unsloth.backends.transformers import load_tokenizer
from ssb_unsloth.recipe.schema import ModelConfig


def main(out: Path, batch: int, accumulation: int) -> None:
    trainer = make_trainer(
        tiny_model("qwen2"),
        load_tokenizer(ModelConfig(name="pocket")),
        out / "checkpoints",
        make_examples(24),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        ddp_backend="gloo",
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    adapter = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    process = trainer.accelerator.process_index
    save_file(adapter, out / f"adapter-{process}.safetensors")
    (out / f"log-{process}.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
