"""The train stage: verified pairs and the stored teacher in, a LoRA adapter and its training history out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from ..method.collator import Example
from ..recipe.schema import TrainConfig
from ..records import Problem
from .arguments import SSBConfig
from .callbacks import Bar, LengthProbe
from .common import cast_adapter, common_arguments, fit
from .trainer import SSBTrainer, Targets


def trainer_arguments(config: TrainConfig, checkpoints: Path, seed: int, dtype: Any) -> SSBConfig:
    """The recipe's `train` section as SSBTrainer takes it."""
    return SSBConfig(
        kd_temperature=config.temperature,
        denominator=config.denominator,
        kd_weight=config.kd_weight,
        ce_weight=config.ce_weight,
        sharpen=config.sharpen,
        **common_arguments(config, checkpoints, seed, dtype) | {"gradient_checkpointing": False},  # set by the backend
    )


def train(
    student: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    targets: Targets | None,
    probes: Sequence[Problem],
    config: TrainConfig,
    probe_tokens: int,
    seed: int,
    folder: Path,
    wording: str = "paper",
) -> dict[str, Any]:
    """Train by SSB into `folder`; `fit` says what comes back.

    `student` is the base model with a fresh adapter (`backends.TrainingBackend`). `probes` are held-out questions: the
    student's own reply to each is measured while it trains, at most `probe_tokens` long, under the tutor prompt of this
    `wording`.
    """
    trainer = SSBTrainer(
        student,
        args=trainer_arguments(config, folder / "checkpoints", seed, next(student.parameters()).dtype),
        train_dataset=examples,
        processing_class=tokenizer,
        targets=targets,
        callbacks=[Bar()],
    )
    if config.lora.dtype == "model":
        cast_adapter(trainer.model)
    if probes and config.probe_steps:
        trainer.add_callback(LengthProbe(trainer, tokenizer, probes, config.probe_steps, probe_tokens, wording))
    return fit(trainer, folder)
