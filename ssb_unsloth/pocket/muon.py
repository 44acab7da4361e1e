"""Muon for the pocket's matrices: momentum, made orthogonal (Jordan et al., 2024), in float32.

torch.optim.Muon works in bfloat16, which a CPU without bfloat16 units emulates: two thirds of a step went there.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

MOMENTUM, WEIGHT_DECAY = 0.95, 0.1
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives every singular value towards 1
ITERATIONS = 5


class Muon:
    """Steps matrices of any shapes along their orthogonalised Nesterov momentum, scaled to an AdamW step's size."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for weight in weights:
            shapes.setdefault(weight.shape, []).append(weight)
        self.stacks = list(shapes.values())  # equal shapes go through one batched product
        self.momenta = [torch.zeros(len(stack), *stack[0].shape) for stack in self.stacks]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step with the gradients that the weights hold."""
        for stack, momentum in zip(self.stacks, self.momenta, strict=True):
            gradient = torch.stack([weight.grad for weight in stack if weight.grad is not None])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonal(gradient.lerp(momentum, MOMENTUM))
            scale = 0.2 * max(stack[0].shape) ** 0.5  # the root mean square of AdamW's updates
            for weight, change in zip(stack, update, strict=True):
                weight.mul_(1 - lr * WEIGHT_DECAY).sub_(change, alpha=lr * scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values end up between 0.7 and 1.2. (..., M, N)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
