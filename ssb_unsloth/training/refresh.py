"""The student writes new rollouts while it trains, and learns from them in the epochs that follow.

    between two epochs:  the student samples the pairs' questions  ->  verdicts  ->  lessons  ->  the base's targets

All is as it was before the first epoch, but for who wrote: as many rollouts a question, by the same decoding and the
same verifier, lessons by `teach` (`method/lessons.py`), the teacher still the base. A teacher is shown rollouts of the
new ones; of a kind of which there is none, the pair's. There are as many steps as before: of more lessons the last are
left out, which are further rollouts of questions that have one; of fewer the first come again.

Each round's rollouts lie beside the checkpoints, and which rounds there were stands in the log that every checkpoint
has: so a training that resumes learns from the same ones.

Shapes: N reply tokens of a batch, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..backends.chat_template import pad_id
from ..backends.sampler import Request
from ..backends.transformers_sampler import TransformersSampler
from ..backends.wrapped import embedded
from ..errors import UserError
from ..io import disk
from ..io.progress import say
from ..method.collator import Example, make_view
from ..method.curate import graded
from ..method.distributions import Head, StoredTeacher
from ..method.examples import render_examples, token_ids
from ..method.lessons import NothingToLearn, lessons
from ..method.losses import head_logits
from ..method.modeling import as_teacher, output_head, reply_states, resting
from ..method.targets import Targets, TargetWriter
from ..method.teach import teach
from ..prompts import student_messages
from ..records import Problem, Rollout, read_jsonl, write_jsonl
from ..seeds import derive_seed
from ..verifier.protocol import Verdict
from ..verifier.replies import answer_part
from ..verifier.verifiers import prepare, verifier_for
from .common import Inputs
from .group import by_first, is_first
from .trainer import SSBTrainer

FILE = "refreshed.jsonl"  # all new rollouts, as training leaves them
REPLIES = 32  # lessons in which student and base are compared
ROWS = 256  # distributions that are compared at a time


class Refresh(TrainerCallback):
    """Renews what the trainer learns from, by the inputs' recipe. `stored`: whether its teacher's targets are."""

    def __init__(self, trainer: SSBTrainer, inputs: Inputs, stored: bool) -> None:
        recipe, self._model = inputs.recipe, trainer.model
        assert recipe.train.refresh is not None
        self._below, self._trainer, self._inputs, self._stored = recipe.train.refresh.below, trainer, inputs, stored
        self._sampler = TransformersSampler(self._model, inputs.tokenizer, recipe.sampler.batch_size)
        self._pad = pad_id(inputs.tokenizer, embedded(self._model))
        self._first = self._read()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if learnt := [row["refresh"] for row in _rounds(state.log_history) if row["refresh_lessons"]]:
            self._learn(learnt[-1])

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epoch, within = divmod(state.global_step, state.max_steps // state.num_train_epochs)
        if epoch == 0 or within or control.should_training_stop:
            return
        row = {}
        if self._below is not None:
            some, batch = self._learnt[:REPLIES], args.per_device_train_batch_size
            row["overlap"] = by_first(lambda: overlap(self._model, some, self._pad, batch))
        if self._below is None or row["overlap"] < self._below:
            row |= self._renew(epoch)
        Trainer.log(self._trainer, row)

    def close(self, log: Sequence[dict[str, Any]], epochs: float) -> tuple[int, int]:
        """Leave all new rollouts in the inputs' folder, after so many epochs. Returned: the tokens that were read in
        all, and those that were sampled."""
        rounds = _rounds(log)
        if is_first():
            write_jsonl(self._inputs.folder / FILE, (one for row in rounds for one in self._rollouts(row["refresh"])))
        begun = [0, *(row["refresh"] for row in rounds)]
        ended = [*begun[1:], epochs]
        an_epoch = [self._first, *(row["refresh_read"] for row in rounds)]
        read = sum(tokens * (to - since) for tokens, since, to in zip(an_epoch, begun, ended, strict=True))
        read += sum(row["refresh_taught"] for row in rounds)
        return round(read), sum(row["refresh_tokens"] for row in rounds)

    @property
    def _learnt(self) -> list[Example]:
        return cast(list[Example], self._trainer.train_dataset)

    def _read(self) -> int:
        """Tokens that an epoch reads; a teacher on line reads with the student."""
        by_teacher = sum(one.read_by_teacher for one in self._learnt if one.taught and not self._stored)
        return by_teacher + sum(one.read_by_student for one in self._learnt)

    def _folder(self, number: int) -> Path:
        return Path(str(self._trainer.args.output_dir)) / f"refresh-{number}"

    def _renew(self, number: int) -> dict[str, Any]:
        """Sample and learn anew. Returned: the round's row of the log."""
        by_first(lambda: self._write(number))
        rollouts = self._rollouts(number)
        count, taught = self._learn(number)
        return {
            "refresh": number,
            "refresh_right": sum(one.verdict == Verdict.RIGHT for one in rollouts) / max(1, len(rollouts)),
            "refresh_lessons": count,
            "refresh_tokens": sum(len(one.token_ids or []) for one in rollouts),
            "refresh_read": self._read(),
            "refresh_taught": taught,
        }

    def _write(self, number: int) -> None:
        path = self._folder(number) / "rollouts.jsonl"
        if not path.exists():
            rollouts = self._sample(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(path, rollouts)

    def _sample(self, number: int) -> list[Rollout]:
        """The student's rollouts of the pairs' questions, with their verdicts."""
        recipe = self._inputs.recipe
        problems = {pair.problem_id: Problem(pair.problem_id, pair.question, pair.gold) for pair in self._inputs.pairs}
        wanted: list[tuple[Problem, str, Request]] = []
        for problem in problems.values():
            ids = self._sampler.render(student_messages(problem.question, recipe.prompts.texts))
            if len(ids) + recipe.curate.rollout.max_tokens > recipe.sampler.max_model_len:
                continue  # of rollouts that were made elsewhere
            for k in range(recipe.curate.rollouts):
                seed = derive_seed(recipe.seed, "refresh", number, problem.id, k)
                wanted.append((problem, f"refresh-{number}-{k}", Request(ids, seed)))
        with resting(self._model):
            requests = [request for _, _, request in wanted]
            replies = self._sampler.sample(requests, recipe.curate.rollout, title=f"refresh {number}")
        verifier, exact = recipe.judge(recipe.problems), recipe.curate.equality == "string"
        both = list(zip(wanted, replies, strict=True))
        prepare(verifier_for(verifier), ((answer_part(reply.text), problem.gold) for (problem, _, _), reply in both))
        return [graded(problem, name, reply, request.seed, verifier, exact) for (problem, name, request), reply in both]

    def _rollouts(self, number: int) -> list[Rollout]:
        path = self._folder(number) / "rollouts.jsonl"
        if not path.exists():
            raise UserError(f"{path}: missing, and the training learns from it; run `ssb train --force`.")
        return read_jsonl(path, Rollout)

    def _learn(self, number: int) -> tuple[int, int]:
        """Let the trainer learn from a round's rollouts, if any is a lesson. Returned: how many are, and the tokens
        that the teacher read for them."""
        inputs, tokens = self._inputs, partial(token_ids, tokenizer=self._inputs.tokenizer)
        try:
            found = lessons(inputs.recipe.teach, inputs.pairs, self._rollouts(number), inputs.recipe.seed, tokens)
        except NothingToLearn:
            say(f"refresh {number}: no new rollout is a lesson; training goes on with those that it had")
            return 0, 0
        examples = render_examples(inputs.recipe, found[: len(self._learnt)], inputs.tokenizer)
        targets, taught = self._taught(number, examples) if self._stored else (None, 0)
        self._trainer.learn_from(examples, targets)
        return len(found), taught

    def _taught(self, number: int, examples: Sequence[Example]) -> tuple[StoredTeacher, int]:
        """The base's targets for these. They are made anew where a training resumes, and only the newest are kept."""
        read = by_first(lambda: self._teach(number, examples))
        return Targets(self._folder(number) / "targets"), read

    def _teach(self, number: int, examples: Sequence[Example]) -> int:
        """Write these targets. Returned: the tokens that the teacher read."""
        recipe, folder = self._inputs.recipe, self._folder(number) / "targets"
        for old in folder.parents[1].glob("refresh-*/targets"):
            disk.remove(old)
        folder.mkdir()
        writer, temperature, read = TargetWriter(folder), recipe.train.teacher_temperature, 0
        if any(example.taught for example in examples):
            read = teach(self._model, examples, recipe.teach, temperature, self._pad, writer).tokens
        kind = recipe.teach.targets
        writer.close({"targets": kind, "temperature": temperature if kind == "top_k" else None})
        return read


def _rounds(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of rounds in which rollouts were sampled anew."""
    return [row for row in log if "refresh" in row]


@torch.no_grad()
def overlap(model: nn.Module, examples: Sequence[Example], pad: int, batch: int) -> float:
    """What the student has in common with its base: Σ_v min(p(v), q(v)), a mean over all reply tokens, where p and q
    are their distributions at temperature 1 on the bare question and the same reply. 1: they are equal; it is 1 less
    their total variation distance, and the share of tokens that the base could have said in the student's place.
    """
    head, common = output_head(model), []
    for start in range(0, len(examples), batch):
        some = examples[start : start + batch]
        view = make_view([one.student_ids for one in some], [one.reply_ids for one in some], pad)
        with resting(model):
            student_NH = reply_states(model, view)
        with as_teacher(model):
            base_NH = reply_states(model, view)
        common += [
            torch.minimum(_distribution(p_NH, head), _distribution(q_NH, head)).sum(-1)
            for p_NH, q_NH in zip(student_NH.split(ROWS), base_NH.split(ROWS), strict=True)
        ]
    return float(torch.cat(common).double().mean())


def _distribution(rows_NH: Tensor, head: Head) -> Tensor:
    return head_logits(rows_NH, head).float().softmax(-1)
