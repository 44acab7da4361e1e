"""Pairs of random ids, a trainer on them, and a teacher stored for them; and what a way of training is given."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig

from ssb_unsloth import SSBConfig, SSBTrainer
from ssb_unsloth.method.collator import Example
from ssb_unsloth.method.targets import TargetWriter
from ssb_unsloth.method.teach import teach
from ssb_unsloth.recipe.schema import Recipe, TeachConfig, TrainConfig
from ssb_unsloth.run.rundir import RunDir
from ssb_unsloth.training.common import Inputs

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}


def make_examples(n=20, seed=3):
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 500, (length,), generator=generator).tolist()

    return [Example(f"pair{i}", draw(3, 8), draw(8, 20), draw(2, 12)) for i in range(n)]


def make_trainer(model, tokenizer, folder, examples, targets=None, **settings):
    defaults = {
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 5,
    }
    args = SSBConfig(output_dir=str(folder), **{**defaults, **settings})
    return SSBTrainer(
        model, args, examples, processing_class=tokenizer, peft_config=LoraConfig(**LORA), targets=targets
    )


def store(model, examples, folder, kind="hidden"):
    """Run the teacher over the examples and store its targets."""
    folder.mkdir(exist_ok=True)
    writer = TargetWriter(folder)
    teach(model, examples, TeachConfig(targets=kind), 2.0, 0, writer)
    writer.close({"targets": kind, "temperature": 2.0 if kind == "top_k" else None})


def inputs_of(folder, config=None, recipe=None, probe_tokens=8, seed=5, **made):
    """What a way of training is given, of which `made` stands in place of what it would read from a run's folder."""
    recipe = recipe or Recipe(name="test", seed=seed, train=config or TrainConfig())
    recipe.curate.rollout.max_tokens = probe_tokens
    recipe.sampler.max_model_len = 512
    inputs = Inputs(recipe, RunDir(Path(folder) / "nowhere"), Path(folder))
    for name, value in made.items():
        setattr(inputs, name, value)
    return inputs
