"""Pairs to aligned batches. The one-token shift between a token and the state that predicts it lives here only.

A sequence is prompt + reply, padded on the right; the reply's R tokens stand at P .. P+R-1 for a prompt of P tokens,
and are predicted by the hidden states at P-1 .. P+R-2. Student and teacher have different prompts and the same reply,
so their rows match one to one although their positions differ. Masks are made from lengths, never from token ids: the
pad token may be the end of turn.

Shapes: B examples, S padded length, N reply tokens of all examples end to end, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    def __post_init__(self) -> None:
        if not (self.student_ids and self.teacher_ids and self.reply_ids):
            raise ValueError(f"example {self.id}: prompt and reply need at least one token each.")


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


class PairCollator:
    """Examples to the trainer's batch.

    The batch holds `student` (View), `lengths` [B] of the replies, `labels` [N] their tokens, and either `targets` (the
    stored teacher's rows, [N, ...]) or `teacher` (View), for a teacher that is run in the training step.
    """

    def __init__(self, pad: int, targets: StoredTeacher | None) -> None:
        self._pad, self._targets = pad, targets

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        replies = [example.reply_ids for example in examples]
        batch: dict[str, Any] = {
            "student": make_view([example.student_ids for example in examples], replies, self._pad),
            "lengths": torch.tensor([len(reply) for reply in replies]),
            "labels": torch.tensor([token for reply in replies for token in reply]),
        }
        if self._targets is None:
            batch["teacher"] = make_view([example.teacher_ids for example in examples], replies, self._pad)
        else:
            batch["targets"] = self._targets([example.id for example in examples])
        return batch
