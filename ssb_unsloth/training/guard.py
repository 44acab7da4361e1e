"""The student's accuracy on held-out questions while it is trained: which student is kept, and when it is enough.

The questions are problems that curation did not sample, in their order; where there are too few of them, the last of
those that it sampled and that gave no pair: for the most part ones that the base always solves, or never.

All that was measured stands in the log, which every checkpoint has: from it a training that resumes knows what is best
so far, and whether it was over. The weights of the best student lie beside the checkpoints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..backends.control_tokens import markers
from ..backends.sampler import Request
from ..backends.transformers_sampler import TransformersSampler
from ..data.problems import iter_problems
from ..errors import UserError
from ..io import disk
from ..io.progress import say
from ..method.modeling import resting
from ..prompts import student_messages
from ..recipe.schema import ProblemsConfig, Recipe, SamplingConfig
from ..records import Problem
from ..run import clock
from ..verifier.protocol import Verdict
from ..verifier.replies import answer_part
from ..verifier.verifiers import prepare, verifier_for
from .callbacks import beside_the_log
from .checkpoints import checkpoints, step_of
from .group import by_first, is_first

ACCURACY, TOKENS = "probe_accuracy", "probe_tokens"  # of a row of the log: the share that is right, and what it took


def held_out(problems: ProblemsConfig, seen: set[str], unpaired: Sequence[Problem], wanted: int) -> list[Problem]:
    """So many problems that are not `seen`, by their ids; in the place of those that there are not, the last
    `unpaired` ones.
    """
    fresh = (one for one in iter_problems(problems) if one.id not in seen and not markers(one.question))
    found = list(islice(fresh, wanted))
    return [*found, *unpaired[max(0, len(unpaired) - (wanted - len(found))) :]]


class Guard(TrainerCallback):
    """Asks `problems` every so many steps, greedily, at most `tokens` long; stops the training, and keeps the best."""

    def __init__(
        self,
        trainer: Trainer,
        tokenizer: PreTrainedTokenizerBase,
        problems: Sequence[Problem],
        tokens: int,
        recipe: Recipe,
    ) -> None:
        """Raises UserError where no question is left to ask."""
        assert recipe.train.guard is not None
        self._config, self._trainer = recipe.train.guard, trainer
        self._model, self._folder = cast(nn.Module, trainer.model), Path(str(trainer.args.output_dir))
        self._verifier = verifier_for(recipe.judge(recipe.problems))
        self._sampler = TransformersSampler(self._model, tokenizer, recipe.sampler.batch_size)
        self._decoding = SamplingConfig(temperature=0, max_tokens=tokens)
        self._asked = []
        for problem in problems:
            ids = self._sampler.render(student_messages(problem.question, recipe.prompts.texts))
            if len(ids) + tokens <= recipe.sampler.max_model_len:
                self._asked.append((problem, Request(ids, 0)))
        if not self._asked:
            raise UserError(
                "train.guard: no question is left that is not trained on; raise problems.limit, or set it to null."
            )
        if len(self._asked) < self._config.questions:
            say(f"train.guard: {len(self._asked):,} questions; there are no more that are not trained on")

    @property
    def decides(self) -> bool:
        """Whether what comes out depends on it. Else it is looked at and not learnt from, and no student is charged."""
        return self._config.keep == "best" or self._config.patience is not None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:  # the base; a training that resumes has this row from before
            self._measure()
        control.should_training_stop = self._is_enough(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        if step % self._config.every and step != state.max_steps:
            return
        with beside_the_log(control):
            self._measure()
        if self._config.keep == "best" and best_step(state.log_history) == step and is_first():
            self._store(step)
        if self._is_enough(state):
            control.should_training_stop = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Delete what was best before, as far as no checkpoint can be resumed from at which it was so still."""
        if not is_first():
            return
        resumable = {state.global_step, *map(step_of, checkpoints(self._folder))}
        needed = {self._stored(best_step(state.log_history, step)) for step in resumable}
        for path in self._folder.glob("best-*"):
            if path not in needed:
                disk.remove(path)

    def outcome(self, state: TrainerState) -> dict[str, Any]:
        """Give the model the weights that are to be kept. Returned: what `Trained` says of it."""
        rows = [row for row in state.log_history if ACCURACY in row]
        found: dict[str, Any] = {"sampled_tokens": sum(row[TOKENS] for row in rows)} if self.decides else {}
        if state.global_step < state.max_steps:
            found["stopped_step"] = state.global_step
        if self._config.keep == "best":
            found["kept_step"] = step = best_step(state.log_history)
            if is_first():  # which saves the student
                self._load(self._stored(step))
        return found

    def _is_enough(self, state: TrainerState) -> bool:
        steps = [row["step"] for row in _probes(state.log_history)]
        patience = self._config.patience
        return bool(steps and patience and len(steps) - 1 - steps.index(best_step(state.log_history)) >= patience)

    def _clocked(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self.decides else clock.on(clock.MEASURING)

    def _measure(self) -> None:
        Trainer.log(self._trainer, by_first(self._accuracy))  # past TRL's, as the length probe

    def _accuracy(self) -> dict[str, float]:
        with self._clocked(), resting(self._model):
            requests = [request for _, request in self._asked]
            replies = self._sampler.sample(requests, self._decoding, title="guard", quiet=True)
        graded = [
            (answer_part(reply.text), problem.gold, reply.finish_reason)
            for reply, (problem, _) in zip(replies, self._asked, strict=True)
        ]
        prepare(self._verifier, ((text, gold) for text, gold, _ in graded))
        right = sum(self._verifier.grade(*one).verdict == Verdict.RIGHT for one in graded)
        tokens = sum(len(reply.token_ids) for reply in replies)
        return {ACCURACY: right / len(replies), TOKENS: tokens}

    def _stored(self, step: int | None) -> Path:
        return self._folder / f"best-{step}.safetensors"

    def _store(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._stored(step)
        aside = path.with_name(path.name + disk.ASIDE)
        save_file({name: weight.detach().cpu().contiguous() for name, weight in self._trained()}, aside)
        aside.replace(path)
        disk.flush_tree(self._folder, [path])

    def _load(self, path: Path) -> None:
        try:
            kept = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path}: the best student's weights cannot be read ({error}); run `ssb train --force`."
            ) from None
        with torch.no_grad():
            for name, weight in self._trained():
                weight.copy_(kept[name])

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, weight) for name, weight in self._model.named_parameters() if weight.requires_grad)


def best_step(log: Sequence[dict[str, Any]], until: int | None = None) -> int | None:
    """The first step with the highest accuracy after training began, of those `until` then; None before the first."""
    rows = [row for row in _probes(log) if until is None or row["step"] <= until]
    return max(rows, key=lambda row: row[ACCURACY])["step"] if rows else None


def _probes(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of probes of a student: the first of all is of the base."""
    return [row for row in log if ACCURACY in row and row["step"] > 0]
