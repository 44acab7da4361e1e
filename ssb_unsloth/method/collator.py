"""Pairs to aligned batches. The one-token shift between a token and the state that predicts it lives here only.

A sequence is prompt + reply, padded on the right; the reply's R tokens stand at P .. P+R-1 for a prompt of P tokens,
and are predicted by the hidden states at P-1 .. P+R-2. Student and teacher have different prompts and the same reply,
so their rows match one to one although their positions differ. Masks are made from lengths, never from token ids: the
pad token may be the end of turn.

Shapes: B examples, S padded length, N reply tokens of all examples end to end, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .distributions import StoredTeacher


@dataclass(frozen=True)
class Example:
    """One pair as token ids."""

    id: str
    student_ids: list[int]  # the bare question, rendered
    teacher_ids: list[int]  # the hinted context, rendered
    reply_ids: list[int]  # end of turn included
    unhinted_ids: list[int] = field(default_factory=list)  # the hinted context without its hint, for guidance
    taught: bool = True  # by a teacher; else by its reply's own tokens
    weight: float = 1.0  # of its question

    def __post_init__(self) -> None:
        if not (self.student_ids and self.teacher_ids and self.reply_ids):
            raise ValueError(f"example {self.id}: prompt and reply need at least one token each.")

    @property
    def read_by_student(self) -> int:
        """Tokens of its prompt and the reply."""
        return len(self.student_ids) + len(self.reply_ids)

    @property
    def read_by_teacher(self) -> int:
        """Tokens of the contexts that a teacher on line reads, the reply in each."""
        read = [self.teacher_ids]
        if self.unhinted_ids:
            read += [self.student_ids, self.unhinted_ids]
        return sum(map(len, read)) + len(read) * len(self.reply_ids)


@dataclass(frozen=True)
class View:
    """What one of the two models sees of a batch: prompts with their replies, for one forward pass."""

    input_ids: Tensor  # [B, S] int64
    attention_mask: Tensor  # [B, S] int64
    rows_B: Tensor  # [N] int64: which sequence a reply token belongs to
    rows_S: Tensor  # [N] int64: the position whose hidden state predicts it

    def reply_rows(self, hidden_BSH: Tensor) -> Tensor:
        """The states [N, H] that predict the reply tokens, example after example."""
        return hidden_BSH[self.rows_B.to(hidden_BSH.device), self.rows_S.to(hidden_BSH.device)]


def make_view(prompts: Sequence[list[int]], replies: Sequence[list[int]], pad: int) -> View:
    """Pad prompt + reply on the right and find the predicting positions."""
    sequences = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
    width = max(map(len, sequences))
    input_ids = torch.full((len(sequences), width), pad, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for b, ids in enumerate(sequences):
        input_ids[b, : len(ids)] = torch.tensor(ids)
        attention_mask[b, : len(ids)] = 1
    lengths = torch.tensor([len(reply) for reply in replies])
    rows_B = torch.arange(len(replies)).repeat_interleave(lengths)
    rows_S = torch.cat([torch.arange(len(p) - 1, len(p) + len(r) - 1) for p, r in zip(prompts, replies, strict=True)])
    return View(input_ids, attention_mask, rows_B, rows_S)


@dataclass(frozen=True)
class Contexts:
    """What the teacher reads of a batch: the hinted context, and for guidance also the bare and the unhinted one."""

    hinted: View
    bare: View | None = None
    unhinted: View | None = None

    @property
    def tokens(self) -> int:
        """Read in all, without padding."""
        views = (self.hinted, self.bare, self.unhinted)
        return sum(int(view.attention_mask.sum()) for view in views if view is not None)


def contexts(examples: Sequence[Example], pad: int, guided: bool, bare: bool = False) -> Contexts:
    """The teacher's views of these examples: hinted, and bare where that is asked for; all three if `guided`.

    Raises:
        ValueError: guidance is asked for, and an example has no unhinted context.
    """
    if guided and not all(example.unhinted_ids for example in examples):
        raise ValueError("guidance needs each example's unhinted context.")
    replies = [example.reply_ids for example in examples]
    return Contexts(
        make_view([example.teacher_ids for example in examples], replies, pad),
        make_view([example.student_ids for example in examples], replies, pad) if bare or guided else None,
        make_view([example.unhinted_ids for example in examples], replies, pad) if guided else None,
    )


class PairCollator:
    """Examples to the trainer's batch.

    The batch holds `student` (View), `lengths` [B] of the replies, `labels` [N] their tokens, and either `targets` (the
    stored teacher's rows, [N, ...]) or `teacher` (Contexts), for a teacher that is run in the training step. Where some
    examples are taught by their own tokens, `own` [N] says which rows those are, and the teacher has the others alone;
    where they do not weigh alike, `weights` [B] says how much; where not all tokens count, `counted` [N] says which do.
    """

    def __init__(
        self,
        pad: int,
        targets: StoredTeacher | None,
        guided: bool = False,
        window: int | None = None,
        starts: Mapping[str, int] | None = None,
    ) -> None:
        """`window`: of a taught reply so many tokens count, from its `starts` on."""
        self._pad, self._guided, self._window = pad, guided, window
        self.take(targets, starts)

    def take(self, targets: StoredTeacher | None, starts: Mapping[str, int] | None) -> None:
        """From now on these are the stored teacher's rows, and the places from which replies count."""
        self._targets, self._starts = targets, starts or {}

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        lengths = torch.tensor([len(example.reply_ids) for example in examples])
        batch: dict[str, Any] = {
            "student": make_view([e.student_ids for e in examples], [e.reply_ids for e in examples], self._pad),
            "lengths": lengths,
            "labels": torch.tensor([token for example in examples for token in example.reply_ids]),
        }
        taught = [example for example in examples if example.taught]
        if taught and self._targets is None:
            batch["teacher"] = contexts(taught, self._pad, self._guided)
        elif taught and self._targets is not None:
            batch["targets"] = self._targets([example.id for example in taught])
        if len(taught) < len(examples):
            batch["own"] = torch.tensor([not example.taught for example in examples]).repeat_interleave(lengths)
        if any(example.weight != 1 for example in examples):
            batch["weights"] = torch.tensor([example.weight for example in examples])
        if self._window is not None:
            batch["counted"] = torch.cat([self._counted(example) for example in examples])
        return batch

    def _counted(self, example: Example) -> Tensor:
        """[R] bool: which tokens of the reply count."""
        place = torch.arange(len(example.reply_ids))
        if not example.taught or self._window is None:
            return torch.ones_like(place, dtype=torch.bool)
        start = self._starts[example.id]
        return (place >= start) & (place < start + self._window)
