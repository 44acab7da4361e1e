"""What a backend computes on a tiny model, for the comparison of two: run here by transformers, and by Unsloth in a
process of its own (tests/test_unsloth.py).

    python tests/unsloth_cpu.py tests/backend_figures.py CASES.json

CASES.json: a list of the arguments of `write`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SEED = 7
STEPS = 5
LORA = {"r": 4, "alpha": 8}


def examples():
    """Six pairs; the longest sequence has 13 tokens. Interpreted kernels take milliseconds a row."""
    import torch

    from ssb_unsloth.collator import Example

    generator = torch.Generator().manual_seed(3)

    def draw(n):
        return torch.randint(3, 500, (n,), generator=generator).tolist()

    return [Example(f"pair{i}", draw(2 + i % 3), draw(5 + i % 2), draw(3 + i % 4)) for i in range(6)]


def disturb(model):
    """A fresh adapter changes nothing (B is zero); this one does."""
    import torch

    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def adapter_of(model):
    return {name: p.detach().float().clone() for name, p in model.named_parameters() if "lora_" in name}


def make_trainer(model, folder, batch, targets):
    from ssb_unsloth import SSBConfig, SSBTrainer
    from ssb_unsloth.backends.transformers import load_tokenizer
    from ssb_unsloth.config import ModelConfig

    args = SSBConfig(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=batch,  # Unsloth replaces parts of the Trainer's accumulation
        max_steps=STEPS,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        seed=SEED,
    )
    return SSBTrainer(
        model, args, examples(), processing_class=load_tokenizer(ModelConfig(name="pocket")), targets=targets
    )


def figures(path, backend, dtype, folder):
    """Everything that is compared, as tensors; `folder` gets the trained adapter."""
    import torch

    from ssb_unsloth.backends import TrainingBackend
    from ssb_unsloth.config import LoraConfig, ModelConfig
    from ssb_unsloth.modeling import as_teacher, hidden_states, output_head
    from ssb_unsloth.train import save_adapter

    chosen = TrainingBackend(ModelConfig(name=path, dtype=dtype, backend=backend))
    model = chosen.load(256, LoraConfig(**LORA), seed=SEED)
    assert chosen.name == backend
    found = {f"first {name}": value for name, value in adapter_of(model).items()}
    disturb(model)
    head = output_head(model)

    trainer = make_trainer(model, folder, 1, None)
    batch = trainer.data_collator(examples()[:2])
    seen, hinted = batch["student"], batch["teacher"]
    with torch.no_grad():
        rows = seen.reply_rows(hidden_states(model, seen.input_ids, seen.attention_mask))
        found["hidden"] = rows.float()
        found["logits"] = (rows.to(head.weight.dtype) @ head.weight.T).float()
    with as_teacher(model):
        found["teacher"] = hinted.reply_rows(hidden_states(model, hinted.input_ids, hinted.attention_mask)).float()
    model.train()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    found["loss"] = loss.detach().float()
    found |= {f"gradient {n}": p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    before = adapter_of(model)
    with as_teacher(model):
        taught = {e.id: _teacher_rows(model, e).to(head.weight.dtype) for e in examples()}
    trainer = make_trainer(model, folder, 2, lambda ids: torch.cat([taught[i] for i in ids]))
    trainer.train()
    found["losses"] = torch.tensor([row["loss"] for row in trainer.state.log_history if "loss" in row])
    found |= {f"update {name}": value - before[name] for name, value in adapter_of(model).items()}
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    save_adapter(model, folder / "adapter")
    found["trained"] = _hidden_with(model)
    return found


def _teacher_rows(model, example):
    import torch

    from ssb_unsloth.modeling import hidden_states

    ids = torch.tensor([example.teacher_ids + example.reply_ids])
    return hidden_states(model, ids, torch.ones_like(ids))[0, len(example.teacher_ids) - 1 : -1]


def _hidden_with(model):
    import torch

    from ssb_unsloth.modeling import hidden_states, resting

    ids = torch.tensor([examples()[0].teacher_ids])
    with torch.no_grad(), resting(model):
        return hidden_states(model, ids, torch.ones_like(ids))[0].float()


def loaded(path, backend, dtype, adapter):
    """Hidden states of the base by this backend with an adapter that was saved by another."""
    from peft import PeftModel

    from ssb_unsloth.backends import TrainingBackend
    from ssb_unsloth.config import ModelConfig

    base = TrainingBackend(ModelConfig(name=path, dtype=dtype, backend=backend)).load(256)
    return _hidden_with(PeftModel.from_pretrained(base, adapter).eval())


def write(path, backend, dtype, folder, other=None):
    """`figures` into folder/figures.safetensors, and `loaded` with the other backend's adapter beside them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = figures(path, backend, dtype, folder)
    if other is not None:
        found["loaded"] = loaded(path, backend, dtype, other)
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in found.items()}, folder / "figures.safetensors")


if __name__ == "__main__":
    for case in json.loads(Path(sys.argv[1]).read_text()):
        write(**case)
