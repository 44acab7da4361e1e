"""AdamW for 16-bit weights, which alone are too coarse to take a small step: it trains float32 copies of them.

bfloat16 has 8 binary digits, so a step of less than 1/512 of a weight would be lost. The model computes in its own 16
bits, as the teacher did, and after each step is given the copies, rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class MasterAdamW(torch.optim.AdamW):
    """torch's AdamW on float32 copies. They are part of its state, so a training that resumes goes on from them.

    `params`: groups of the model's own parameters, as any optimizer of torch takes them.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        groups = [group if isinstance(group, dict) else {"params": [group]} for group in params]
        self._weights = [weight for group in groups for weight in group["params"]]
        copies = {id(w): torch.nn.Parameter(w.detach().float().clone()) for w in self._weights}
        super().__init__([{**g, "params": [copies[id(w)] for w in g["params"]]} for g in groups], **settings)

    @property
    def _copies(self) -> list[Tensor]:
        return [copy for group in self.param_groups for copy in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for copy, weight in zip(self._copies, self._weights, strict=True):
            copy.grad = None if weight.grad is None else weight.grad.float()
        done = super().step(closure)
        for copy, weight in zip(self._copies, self._weights, strict=True):
            copy.grad = None
            weight.copy_(copy)
        return done

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight in self._weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "copies": [copy.detach() for copy in self._copies]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        for copy, weight, stored in zip(self._copies, self._weights, state.pop("copies"), strict=True):
            copy.copy_(stored)
            weight.copy_(copy)
        super().load_state_dict(state)
