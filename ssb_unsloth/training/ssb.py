"""Semantic Soft Bootstrapping by recipe: SSBTrainer on the curated pairs, its teacher stored or on line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..backends.transformers import freeze_the_rest
from ..method.distributions import StoredTeacher
from ..method.selfchecks import check_student
from ..method.targets import Targets
from ..recipe.schema import TrainConfig
from .arguments import SSBConfig
from .callbacks import Bar
from .common import Inputs, Trained, common_arguments, fit
from .refresh import Refresh
from .trainer import SSBTrainer


def train(inputs: Inputs) -> Trained:
    """Train the base's fresh adapter, or all its weights, on all pairs.

    Raises:
        UserError: there are no pairs or no targets, the model or its teacher is not what the method takes it for, or
            what `fit` raises.
    """
    recipe, backend, examples = inputs.recipe, inputs.backend, inputs.examples
    assert backend is not None, "whoever calls it makes the backend, before this module is imported"
    targets = None if recipe.teach.targets == "online" else Targets(inputs.run.stage("teach"))
    length, checkpointing = recipe.sampler.max_model_len, recipe.train.gradient_checkpointing
    student = backend.load(length, recipe.train.lora, recipe.seed, checkpointing, inputs.device)
    if recipe.train.lora is None:
        freeze_the_rest(student)
    check_student(recipe, student, examples, targets)
    return replace(train_ssb(inputs, student, targets), backend=backend.name)


def train_ssb(inputs: Inputs, student: nn.Module, targets: StoredTeacher | None) -> Trained:
    """Train `student`, the base with a fresh adapter or with all but its ends to be trained, on the inputs' examples.
    `targets` None: the teacher, which is the same model, runs in the training step.
    """
    config, teach, examples = inputs.recipe.train, inputs.recipe.teach, inputs.examples
    dtype = next(student.parameters()).dtype
    trainer = SSBTrainer(
        student,
        args=trainer_arguments(
            config, inputs.folder / "checkpoints", inputs.recipe.seed, dtype, teach.guidance, teach.window
        ),
        train_dataset=examples,
        processing_class=inputs.tokenizer,
        targets=targets,
        callbacks=[Bar()],
    )
    trainer.step_size = config.batch_size
    tokens = sum(example.read_by_student for example in examples)
    if targets is None:  # the teacher reads with the student
        tokens += sum(example.read_by_teacher for example in examples if example.taught)
    if config.refresh is None:
        trained = fit(trainer, inputs, inputs.probes, inputs.recipe.curate.rollout.max_tokens)
        return replace(trained, tokens=round(tokens * trained.epochs))
    refresh = Refresh(trainer, inputs, stored=targets is not None)
    trainer.add_callback(refresh)
    trained = fit(trainer, inputs, inputs.probes, inputs.recipe.curate.rollout.max_tokens)
    read, sampled = refresh.close(trained.history, trained.epochs)
    return replace(trained, tokens=read, sampled_tokens=sampled + (trained.sampled_tokens or 0))


def trainer_arguments(
    config: TrainConfig,
    checkpoints: Path,
    seed: int,
    dtype: Any,
    guidance: float | None = None,
    window: int | None = None,
) -> SSBConfig:
    """The recipe's `train` section as SSBTrainer takes it, and what of its `teach` section is the trainer's."""
    return SSBConfig(
        kd_temperature=config.kd_temperature,
        denominator=config.denominator,
        kd_weight=config.kd_weight,
        ce_weight=config.ce_weight,
        sharpen=config.sharpen,
        guidance=guidance,
        window=window,
        divergence=config.divergence,
        beta=config.beta,
        clip=config.clip,
        **common_arguments(config, checkpoints, seed, dtype) | {"gradient_checkpointing": False},  # set by the backend
    )
