"""The distillation loss once more, as loops over probabilities of Python floats: nothing shared with what it checks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Matrix = list[list[float]]


def head_logits(hidden: Matrix, weight: Matrix, bias: list[float] | None, scale: float, cap: float | None) -> Matrix:
    logits = []
    for row in hidden:
        logits.append([])
        for v, word in enumerate(weight):
            x = sum(a * b for a, b in zip(row, word, strict=True))
            x = (x + (bias[v] if bias else 0.0)) * scale
            logits[-1].append(cap * math.tanh(x / cap) if cap else x)
    return logits


def probabilities(logits: list[float], temperature: float) -> list[float]:
    top = max(logits)
    powers = [math.exp((x - top) / temperature) for x in logits]
    return [x / sum(powers) for x in powers]


def divergence(p: list[float], q: list[float]) -> float:
    """KL(p || q) in nats."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def bucketed(p: list[float], kept: list[int]) -> list[float]:
    """The probabilities of the kept words, then that of all others together."""
    return [p[v] for v in kept] + [sum(x for v, x in enumerate(p) if v not in kept)]


def kl_rows(student: Matrix, teacher: Matrix, temperature: float, k: int | None = None) -> list[float]:
    """KL of each row from final logits; with k, over the teacher's k likeliest words and a tail."""
    rows = []
    for s, t in zip(student, teacher, strict=True):
        p, q = probabilities(t, temperature), probabilities(s, temperature)
        if k is not None:
            kept = sorted(range(len(p)), key=lambda v: -p[v])[:k]
            p, q = bucketed(p, kept), bucketed(q, kept)
        rows.append(divergence(p, q))
    return rows


def loss(
    student: Matrix,
    teacher: Matrix,
    weights: list[float],
    temperature: float,
    labels: list[int],
    kd_weight: float,
    ce_weight: float,
    k: int | None = None,
) -> float:
    total = 0.0
    for n, kl in enumerate(kl_rows(student, teacher, temperature, k)):
        ce = -math.log(probabilities(student[n], 1.0)[labels[n]])
        total += weights[n] * (kd_weight * temperature * temperature * kl + ce_weight * ce)
    return total


def slopes(function: Callable[[torch.Tensor], float], x: torch.Tensor, step: float = 1e-5) -> torch.Tensor:
    """The gradient of `function` at x by central differences in float64."""
    x = x.detach().double().clone()
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        there = x.view(-1)[i].item()
        values = []
        for shifted in (there + step, there - step):
            x.view(-1)[i] = shifted
            values.append(function(x))
        x.view(-1)[i] = there
        gradient.view(-1)[i] = (values[0] - values[1]) / (2 * step)
    return gradient


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)
