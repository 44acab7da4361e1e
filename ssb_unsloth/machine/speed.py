"""The speed of the device that is here, measured: for a card whose data sheet `cards` does not have."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UserError
from .cards import Card

if TYPE_CHECKING:
    import torch

SECONDS = 1.0  # for each of the two figures
EDGE = {"cuda": 8192, "cpu": 512}  # of the square matrices
BYTES = {"cuda": 1 << 29, "cpu": 1 << 26}  # of what is copied


def measured(card: Card | None) -> Card:
    """The card with the speeds that torch reaches on it.

    Raises:
        UserError: there is no card, or no torch that can use it.
    """
    try:
        import torch
    except ImportError:
        raise UserError("--measure: torch is not installed here; `ssb doctor` says how to install it.") from None
    if card is None or not torch.cuda.is_available():
        raise UserError("--measure: torch sees no GPU here; `ssb doctor` says why.")
    dtype = torch.bfloat16 if card.bfloat16 else torch.float16
    tflops, bandwidth = speed(torch.device("cuda"), dtype)
    return replace(card, tflops=tflops, bandwidth=bandwidth, source="measured here")


def speed(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """(1e12 operations a second in a square matrix product, 1e9 bytes a second in a copy, read and written)."""
    import torch

    edge, size = EDGE[device.type], BYTES[device.type]
    one, other = torch.randn(2, edge, edge, device=device, dtype=dtype)
    product = torch.empty_like(one)
    text = torch.empty(size, dtype=torch.uint8, device=device)
    copy = torch.empty_like(text)
    operations = 2 * edge**3 / _seconds(lambda: torch.mm(one, other, out=product), device)
    moved = 2 * size / _seconds(lambda: copy.copy_(text), device)
    return round(operations / 1e12, 3), round(moved / 1e9, 1)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The least that one call takes, over about SECONDS."""
    import torch

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best, end = float("inf"), time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - start)
    return best
