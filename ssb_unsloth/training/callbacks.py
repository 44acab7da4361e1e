"""What happens beside the steps of a training: the bar, the length probe, and the watch over its numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..backends.sampler import Request
from ..backends.transformers_sampler import TransformersSampler
from ..errors import UserError
from ..io.progress import bar
from ..method.modeling import resting
from ..prompts import Texts, student_messages
from ..recipe.schema import SamplingConfig
from ..records import Problem
from ..run import clock
from .sharded import ask, own_part


@contextlib.contextmanager
def beside_the_log(control: TrainerControl) -> Iterator[None]:
    """A row that is logged meanwhile counts as the step's log, and would swallow its loss: that is logged still."""
    wanted = control.should_log
    yield
    control.should_log = wanted


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
        texts: Texts,
    ) -> None:
        self._trainer, self._every = trainer, every
        self._model = cast(nn.Module, trainer.model)
        self._sampler = TransformersSampler(self._model, tokenizer, batch_size=len(probes))
        self._requests = [Request(self._sampler.render(student_messages(p.question, texts)), 0) for p in probes]
        self._decoding = SamplingConfig(temperature=0, max_tokens=tokens)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:  # a training that resumes has this row from before
            self._measure()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            with beside_the_log(control):
                self._measure()

    def _measure(self) -> None:
        # Past the log of TRL's trainers, which would put the step's own figures into this row and clear them.
        Trainer.log(self._trainer, ask(self._model, self._lengths))

    def _lengths(self) -> dict[str, float]:
        with clock.on(clock.MEASURING), resting(self._model):
            replies = self._sampler.sample(self._requests, self._decoding, title="probe", quiet=True)
        lengths = [len(reply.token_ids) for reply in replies]
        cut = sum(reply.finish_reason == "length" for reply in replies)
        return {"reply_tokens": sum(lengths) / len(lengths), "reply_truncated": cut / len(lengths)}


class StillNumbers(TrainerCallback):
    """Ends a training that has diverged. The loss does not show it: the Trainer logs a number where it is NaN."""

    def __init__(self, rate: str = "learning_rate") -> None:
        self._rate = rate  # what the learning rate is called where the user sets it

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._check(kwargs["model"], state.global_step, args.learning_rate)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check(kwargs["model"], state.global_step, args.learning_rate)

    def _check(self, model: nn.Module, step: int, learning_rate: float) -> None:
        if not all(own_part(weight).isfinite().all() for weight in model.parameters() if weight.requires_grad):
            raise UserError(
                f"Training diverged: after {step:,} steps the trained weights are no numbers any more. Lower"
                f" {self._rate} ({learning_rate:g})."
            )


class LogWhereSaved(TrainerCallback):
    """A row of the log at every checkpoint. The Trainer's running means since the last row are in no checkpoint, so a
    training that resumes between two rows would log others.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_log = control.should_log or control.should_save


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
