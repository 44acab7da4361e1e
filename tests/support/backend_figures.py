"""What a backend computes on a tiny model, for the comparison of two: run by transformers, and by Unsloth in a process
of its own (tests/backends/test_unsloth.py on a CPU, tests/gpu on a GPU).

    python tests/support/unsloth_cpu.py tests/support/backend_figures.py CASES.json
    python tests/support/backend_figures.py CASES.json                          with a GPU

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

    from ssb_unsloth.method.collator import Example

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
    return {name: p.detach().float().cpu().clone() for name, p in model.named_parameters() if "lora_" in name}


def make_trainer(model, folder, batch, targets):
    import torch

    from ssb_unsloth import SSBConfig, SSBTrainer
    from ssb_unsloth.backends.transformers import load_tokenizer
    from ssb_unsloth.recipe.schema import ModelConfig

    dtype, on_gpu = next(model.parameters()).dtype, torch.cuda.is_available()
    args = SSBConfig(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=batch,  # Unsloth replaces parts of the Trainer's accumulation
        max_steps=STEPS,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=not on_gpu,
        bf16=on_gpu and dtype == torch.bfloat16,
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
    from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig

    chosen = TrainingBackend(ModelConfig(name=path, dtype=dtype, backend=backend))  # Unsloth before what follows
    from ssb_unsloth.method.collator import make_view
    from ssb_unsloth.method.modeling import as_teacher, output_head, reply_states
    from ssb_unsloth.training.common import save_adapter

    model = chosen.load(256, LoraConfig(**LORA), seed=SEED)
    assert chosen.name == backend
    found = {f"first {name}": value for name, value in adapter_of(model).items()}
    disturb(model)
    head = output_head(model)

    trainer = make_trainer(model, folder, 1, None)
    batch = trainer.data_collator(examples()[:2])
    seen, hinted = batch["student"], batch["teacher"].hinted
    with torch.no_grad():
        rows = reply_states(model, seen)
        found["hidden"] = rows.float()
        found["logits"] = (rows.to(head.weight.dtype) @ head.weight.T).float()
    with as_teacher(model):
        found["teacher"] = reply_states(model, hinted).float()
    model.train()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    found["loss"] = loss.detach().float()
    found |= {f"gradient {n}": p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    before = adapter_of(model)
    with as_teacher(model):
        taught = {e.id: reply_states(model, make_view([e.teacher_ids], [e.reply_ids], 0)) for e in examples()}
        taught = {name: rows.to(head.weight.dtype) for name, rows in taught.items()}
    trainer = make_trainer(model, folder, 2, lambda ids: torch.cat([taught[i] for i in ids]))
    trainer.train()
    found["losses"] = torch.tensor([row["loss"] for row in trainer.state.log_history if "loss" in row])
    found |= {f"update {name}": value - before[name] for name, value in adapter_of(model).items()}
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    save_adapter(model, folder / "adapter")
    found["trained"] = _hidden_with(model)
    _reply_between_steps(model)
    return found


def _reply_between_steps(model):
    """The student's replies are sampled while it trains: the model has to come back as it was, able to train."""
    import torch

    from ssb_unsloth.method.modeling import hidden_states, output_head, resting

    device = output_head(model).weight.device
    ids = torch.tensor([examples()[0].student_ids], device=device)
    model.train()
    modes = {m: getattr(m, "gradient_checkpointing", None) for m in model.modules()}
    with torch.no_grad(), resting(model):
        reply = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    assert reply.shape[1] > ids.shape[1]
    assert all(m.training for m in model.modules())
    assert modes == {m: getattr(m, "gradient_checkpointing", None) for m in model.modules()}
    hidden_states(model, ids, torch.ones_like(ids))[..., 0].sum().backward()
    assert any(p.grad is not None for p in model.parameters())


def _hidden_with(model):
    import torch

    from ssb_unsloth.method.modeling import hidden_states, output_head, resting

    ids = torch.tensor([examples()[0].teacher_ids], device=output_head(model).weight.device)
    with torch.no_grad(), resting(model):
        return hidden_states(model, ids, torch.ones_like(ids))[0].float()


def loaded(path, backend, dtype, adapter):
    """Hidden states of the base by this backend with an adapter that was saved by another."""
    from ssb_unsloth.backends import TrainingBackend
    from ssb_unsloth.recipe.schema import ModelConfig

    base = TrainingBackend(ModelConfig(name=path, dtype=dtype, backend=backend)).load(256)
    from peft import PeftModel

    return _hidden_with(PeftModel.from_pretrained(base, adapter).eval())


def write(path, backend, dtype, folder, other=None):
    """`figures` into folder/figures.safetensors, and `loaded` with the other backend's adapter beside them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = figures(path, backend, dtype, folder)
    if other is not None:
        found["loaded"] = loaded(path, backend, dtype, other)
    from safetensors.torch import save_file

    save_file({name: value.cpu().contiguous() for name, value in found.items()}, folder / "figures.safetensors")


if __name__ == "__main__":
    for case in json.loads(Path(sys.argv[1]).read_text()):
        write(**case)
