"""The train stage: verified pairs and the stored teacher in, a LoRA adapter and its training history out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, PeftModel
from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from .backends import Request, model_path
from .backends.transformers import TransformersSampler, peft_config
from .collator import Example
from .config import ModelConfig, SamplingConfig, TrainConfig
from .errors import UserError
from .modeling import resting
from .progress import bar
from .prompts import student_messages
from .records import Problem
from .trainer import SSBConfig, SSBTrainer, Targets


def common_arguments(config: TrainConfig, checkpoints: Path, seed: int, dtype: Any) -> dict[str, Any]:
    """What the recipe's `train` section says to every method's trainer, as TrainingArguments has it.

    `dtype`: the base model's weights'.
    """
    import torch

    micro = config.micro_batch_size or config.batch_size
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": config.batch_size // micro,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler,
        "warmup_steps": config.warmup_steps,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "logging_steps": config.logging_steps,
        "save_steps": config.save_steps,
        "save_total_limit": 1,
        "report_to": config.report_to or "none",
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not on_gpu,
        "bf16": on_gpu and dtype == torch.bfloat16,
        "fp16": on_gpu and dtype == torch.float16,
        "dataloader_pin_memory": False,  # SSB's batches hold views and targets that pinning does not know
        "disable_tqdm": True,  # the bar below says the same in one line
    }


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


def lora(config: TrainConfig) -> LoraConfig:
    """The adapter of every method that TRL puts on."""
    return peft_config(config.lora)


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


def fit(trainer: Trainer, folder: Path, rate: str = "train.learning_rate") -> dict[str, Any]:
    """Train, and save `folder/adapter`. `rate`: the recipe's key of the learning rate.

    Returns {"model": the trained PeftModel, "history": [a dict a log], "trainable_parameters", "total_parameters"}.
    A checkpoint in `folder/checkpoints` is gone on with.

    Raises:
        UserError: the adapter's weights are no numbers any more.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StillNumbers(rate))
    checkpoint = get_last_checkpoint(folder / "checkpoints") if (folder / "checkpoints").exists() else None
    trainer.train(resume_from_checkpoint=checkpoint)
    model = cast(PeftModel, trainer.model)
    parameters = list(model.parameters())
    save_adapter(model, folder / "adapter")
    return {
        "model": model,
        "history": trainer.state.log_history,
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "total_parameters": sum(p.numel() for p in parameters),
    }


def cast_adapter(model: nn.Module) -> None:
    """Put the trained weights into the frozen ones' dtype, as the released code does. PEFT keeps them in float32."""
    dtype = next(p.dtype for p in model.parameters() if not p.requires_grad and p.is_floating_point())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """The adapter in PEFT's format, two files. Not by Trainer.save_model, which adds its arguments as a pickle."""
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; `ssb export` writes one that says something
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set, in another order each time
    if config["base_model_name_or_path"] == model_path(ModelConfig(name="pocket")):
        config["base_model_name_or_path"] = "pocket"  # as the recipe says, and not where it lies on this machine
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class LengthProbe(TrainerCallback):
    """Measures the length of the student's own greedy replies to held-out questions, before, during and after.

    The paper's Figure 2c shows the completion length; its released code logs the teacher's fixed replies there.
    """

    def __init__(
        self,
        trainer: Trainer,
        tokenizer: PreTrainedTokenizerBase,
        probes: Sequence[Problem],
        every: int,
        tokens: int,
        wording: str = "paper",
    ) -> None:
        self._trainer, self._every = trainer, every
        self._model = cast(nn.Module, trainer.model)
        self._sampler = TransformersSampler(self._model, tokenizer, batch_size=len(probes))
        self._requests = [Request(self._sampler.render(student_messages(p.question, wording)), 0) for p in probes]
        self._decoding = SamplingConfig(temperature=0, max_tokens=tokens)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._measure()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            wanted = control.should_log
            self._measure()
            control.should_log = wanted  # logging the length counts as the step's log, and would swallow its loss

    def _measure(self) -> None:
        with resting(self._model):
            replies = self._sampler.sample(self._requests, self._decoding, title="probe", quiet=True)
        lengths = [len(reply.token_ids) for reply in replies]
        cut = sum(reply.finish_reason == "length" for reply in replies)
        # Past the log of TRL's trainers, which would put the step's own figures into this row and clear them.
        measured = {"reply_tokens": sum(lengths) / len(lengths), "reply_truncated": cut / len(lengths)}
        Trainer.log(self._trainer, measured)


class StillNumbers(TrainerCallback):
    """Ends a training that has diverged. The loss does not show it: the Trainer logs a number where it is NaN."""

    def __init__(self, rate: str) -> None:
        self._rate = rate

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._check(kwargs["model"], state.global_step, args.learning_rate)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check(kwargs["model"], state.global_step, args.learning_rate)

    def _check(self, model: nn.Module, step: int, learning_rate: float) -> None:
        if not all(parameter.isfinite().all() for parameter in model.parameters() if parameter.requires_grad):
            raise UserError(
                f"Training diverged: after {step:,} steps the adapter's weights are no numbers any more. Lower"
                f" {self._rate} ({learning_rate:g})."
            )


class Bar(TrainerCallback):
    """Steps, rate, time left, and the last loss."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar = bar("train", "step", state.max_steps, initial=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._bar.update(1)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if "loss" in logs:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.close()
