"""Where the loss's time goes on a GPU: its matrix products, what stands between them, and what each of its knobs gives.

    python -m benchmarks.kd_parts --device cuda --dtype bfloat16        (part 2 of scripts/visit.sh runs it)

For every number of rows in a chunk, in milliseconds, the median of the repeats:

    logits      both models' logits in one product, float32 out; and one model's
    gradient    the product back to hidden states: as the loss has it, and cut along the vocabulary into parts that run
                side by side (`split4`), since few rows give a card too few tiles to work on
    cast        what narrowing a float32 gradient would cost, which the kernel does itself (`method/kernels.py`)
    kernel      what is between the products, by its block of words and its warps (CUDA only)
    whole       kd_loss and backward over many rows, by `chunk_rows`, with the memory above its inputs in MiB
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ssb_unsloth.method import losses
from ssb_unsloth.method.distributions import Head, Terms
from ssb_unsloth.method.losses import kd_loss

from . import common

CHUNKS = (256, 512, 1024, 2048)
SPLITS = (2, 4, 8, 16)
SHAPES = ((1024, 4), (2048, 4), (2048, 8), (4096, 8), (4096, 16), (8192, 8), (8192, 16), (16384, 16))  # words, warps


def measure(
    device: str, dtype: torch.dtype, hidden: int, vocab: int, rows: int, repeats: int, chunks: tuple[int, ...] = CHUNKS
) -> Iterator[dict[str, Any]]:
    """One dictionary for each part and number of rows; `rows` is what `whole` works through."""

    def took(function: Callable[[], Any]) -> float:
        function()  # compiled, and its memory taken
        times = [common.timed(function, device)[0] for _ in range(repeats)]
        return round(1e3 * statistics.median(times), 3)

    torch.manual_seed(0)
    kind = {"device": device, "dtype": dtype}
    weight_VH = torch.empty(vocab, hidden, **kind).normal_(std=hidden**-0.5)
    for n in chunks:
        both_NH = torch.randn(2 * n, hidden, **kind)
        logits_NV = torch.empty(2 * n, vocab, device=device)
        yield {
            "part": "logits",
            "rows": n,
            "both": took(lambda x=both_NH, out=logits_NV: losses._multiply(x, weight_VH.T, out=out)),
            "one": took(lambda x=both_NH[:n], out=logits_NV[:n]: losses._multiply(x, weight_VH.T, out=out)),
        }
        narrow_NV = torch.empty(n, vocab, **kind)
        yield {"part": "cast", "rows": n, "ms": took(lambda x=logits_NV[:n], out=narrow_NV: out.copy_(x))}
        back_NH = torch.empty(n, hidden, device=device)
        found = {"mm": took(lambda x=narrow_NV, out=back_NH: losses._multiply(x, weight_VH, out=out))}
        if device == "cuda":  # a CPU's narrow products have no float32 result
            for split in (s for s in SPLITS if vocab % s == 0):
                parts_SNV = narrow_NV.view(n, split, vocab // split).transpose(0, 1)
                weight_SVH = weight_VH.view(split, vocab // split, hidden)
                found[f"split{split}"] = took(lambda x=parts_SNV, w=weight_SVH: _side_by_side(x, w))
        yield {"part": "gradient", "rows": n, **found}
    if device == "cuda":
        yield from _kernel(took, weight_VH, logits_NV[: 2 * chunks[0]], narrow_NV[: chunks[0]])
    del both_NH, logits_NV, narrow_NV, back_NH

    student_NH = torch.randn(rows, hidden, **kind).requires_grad_()
    teacher_NH = (student_NH.detach() + 0.3 * torch.randn(rows, hidden, **kind)).detach()
    weights_N = torch.full((rows,), 1 / rows, device=device)
    for n in chunks:

        def step(chunk: int = n) -> None:
            student_NH.grad = None
            options: dict[str, Any] = {"temperature": 2.0, "chunk_rows": chunk}
            kd_loss(student_NH, teacher_NH, Head(weight_VH), weights_N, **options).loss.backward()

        peak = common.peak_of(step, device) if device == "cuda" else None
        yield {"part": "whole", "rows": rows, "chunk": n, "ms": took(step), "mib": peak and peak >> 20}


def _side_by_side(parts_SNV: Tensor, weight_SVH: Tensor) -> Tensor:
    return torch.bmm(parts_SNV, weight_SVH, out_dtype=torch.float32).sum(0)


def _kernel(
    took: Callable[[Callable[[], Any]], float], weight_VH: Tensor, logits_NV: Tensor, into_NV: Tensor
) -> Iterator[dict[str, Any]]:
    from ssb_unsloth.method import kernels

    n = len(into_NV)
    head, terms = Head(weight_VH), Terms(2.0, 2.0, 1.0, 0.0, True, True)
    out = {name: torch.empty(n, device=weight_VH.device) for name in ("kl", "ce")}
    usual = kernels.BLOCK, kernels.WARPS
    logits_NV.normal_()
    yield {"part": "read once", "rows": n, "ms": took(logits_NV.sum)}
    for block, warps in SHAPES:
        kernels.BLOCK, kernels.WARPS = block, warps
        work = (logits_NV[:n], logits_NV[n:], head, None, terms, out)
        narrow, wide = took(lambda w=work: kernels.kd_rows(*w, into_NV)), took(lambda w=work: kernels.kd_rows(*w))
        yield {"part": "kernel", "rows": n, "block": block, "warps": warps, "narrow": narrow, "wide": wide}
    kernels.BLOCK, kernels.WARPS = usual


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=10)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=151_936)
    args = parser.parse_args(argv)
    for found in measure(args.device, getattr(torch, args.dtype), args.hidden, args.vocab, args.rows, args.repeats):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
