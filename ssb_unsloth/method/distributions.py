"""What the objective is made of: a head, a teacher's distribution in its stored forms, and the terms of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST = -1e30  # stands for log 0: p log p stays 0 where -inf would make it NaN


@dataclass(frozen=True)
class Head:
    """The language-model head as the loss needs it: logits = (h Wᵀ + b) scale, then softcap tanh(logits / softcap)."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class TeacherLogits:
    """The teacher's final logits: the head's transforms applied, the KD temperature not. -inf is allowed."""

    logits: Tensor  # [N, V], any float dtype

    def __getitem__(self, rows: slice) -> TeacherLogits:
        return TeacherLogits(self.logits[rows])


@dataclass(frozen=True)
class TeacherTopK:
    """The teacher's k likeliest words of each row, and the mass of all others in one tail bucket. Approximate.

    The KL over these k + 1 outcomes is a true KL and at most the exact one. What is stored belongs to one temperature
    (the teacher's, T / sharpen): the tail's mass at another cannot be told from it.
    """

    values: Tensor  # [N, k] log-probabilities at `temperature`
    indices: Tensor  # [N, k] int64, their words, distinct within a row
    log_tail: Tensor  # [N] log-probability of all other words together at `temperature`; -inf for none
    temperature: float | None  # None: the same at any, as of a one-hot teacher

    @classmethod
    def from_logits(cls, logits: Tensor, k: int, temperature: float) -> TeacherTopK:
        """Keep the k likeliest words of final logits [N, V]; k = V keeps all and leaves the tail empty."""
        log_p = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=-1)
        values, indices = log_p.topk(k, dim=-1)
        return cls(values, indices, log_p.scatter(-1, indices, -torch.inf).logsumexp(-1), temperature)

    @classmethod
    def one_hot(cls, words: Tensor) -> TeacherTopK:
        """All mass on one word of each row, [N] int64; the KL is then -log q of that word."""
        zeros = torch.zeros(words.shape, device=words.device)
        return cls(zeros[:, None], words[:, None], zeros - torch.inf, None)

    def __getitem__(self, rows: slice) -> TeacherTopK:
        return TeacherTopK(self.values[rows], self.indices[rows], self.log_tail[rows], self.temperature)

    def log_p(self, dtype: torch.dtype) -> Tensor:
        """[N, k + 1], the tail last; normalized again, because a narrow dtype rounds what is stored."""
        outcomes = torch.cat([self.values, self.log_tail[:, None]], dim=-1).to(dtype)
        return F.log_softmax(outcomes, dim=-1).clamp_min(LOWEST)

    def log_q(self, log_q: Tensor) -> Tensor:
        """The student's log-probabilities [N, V] over the same k + 1 outcomes."""
        tail = log_q.scatter(-1, self.indices, LOWEST).logsumexp(-1, keepdim=True)
        return torch.cat([log_q.gather(-1, self.indices), tail], dim=-1)

    def best(self) -> Tensor:
        """[N] the likeliest word."""
        return self.indices.gather(-1, self.values.argmax(-1, keepdim=True))[:, 0]


Divergence = Literal["forward", "reverse", "jsd"]  # losses.py says what each is
Teacher = Tensor | TeacherLogits | TeacherTopK  # a Tensor: hidden states [N, H], for the head
StoredTeacher = Callable[[Sequence[str]], Teacher]  # pair ids to the rows of their replies, as `targets.Targets` does


@dataclass(frozen=True)
class KDLoss:
    """What `kd_loss` returns; all but `loss` is detached, float32 [N], and at the KD temperature."""

    loss: Tensor  # [] float32
    kl: Tensor  # D_n, of whichever divergence, before the clip and without weights and T²
    agreement: Tensor | None = None  # with `stats`: 1 where both models have the same likeliest word, else 0
    teacher_entropy: Tensor | None = None  # with `stats`: nats; of the k + 1 outcomes for a TeacherTopK
    student_entropy: Tensor | None = None  # with `stats`: nats


def placed(teacher: Any, device: torch.device) -> Any:
    """The same teacher with its tensors on that device; from pinned memory without waiting for them. None stays so."""
    if teacher is None:
        return None
    if isinstance(teacher, Tensor):
        return teacher.to(device, non_blocking=True)
    moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in vars(teacher).items()}
    return type(teacher)(**moved)


@dataclass(frozen=True)
class Terms:
    """What the work between the products has to know besides its tensors."""

    temperature: float
    teacher_temperature: float
    kd_weight: float
    ce_weight: float
    raw_teacher: bool  # the teacher's logits still need the head's bias, scale and soft-cap
    gradient: bool
    divergence: Divergence = "forward"
    beta: float = 0.5
    clip: float = math.inf

    @property
    def bound(self) -> float:
        """Bound of d loss_n / d s_n without w_n and `steepness`. Gradients are divided by both until they are float32
        for good: half precision ends at 65,504.
        """
        return abs(self.kd_weight) * self.temperature + abs(self.ce_weight) or 1.0

    def steepness(self, kl: Tensor) -> Tensor:
        """What else the gradients of rows with these reverse KLs [n] are divided by, since they grow with it:
        |q (log q - log p - D)| <= 1 + D, because the negative terms of sum q (log q - log p) come to -1 at most.
        """
        return 1 + kl

    def kept(self, kl: Tensor) -> Tensor:
        """c_n: what the clip leaves of rows with these divergences [n]."""
        return (self.clip / kl).clamp_max(1)
