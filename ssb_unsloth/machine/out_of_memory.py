"""What to say when the GPU has no memory left, or the disk no room: the stage, what was asked for, what to change."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..io import disk
from ..recipe.methods import METHODS
from ..recipe.schema import Recipe


@contextlib.contextmanager
def explained(stage: str, recipe: Recipe, folder: Path) -> Iterator[None]:
    """Turn torch's out-of-memory error, and the file system's refusals, into one sentence. The stage writes `folder`.

    Raises:
        UserError: in place of it, wherever in the chain of causes it stands (vLLM and TRL wrap it).
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if found := _out_of_memory(error):
            keys = " or ".join(worth_changing(stage, recipe)[:2])
            raise UserError(
                f"Stage {stage}: the GPU is out of memory ({_asked_for(found)}). Try {keys}. {disk.KEPT}"
            ) from error
        if refused := disk.refusal(error, folder):
            raise UserError(f"Stage {stage}: {refused}") from error
        raise


def worth_changing(stage: str, recipe: Recipe) -> list[str]:
    """`key=value`s that make the stage smaller, the most worth changing first; those at their end are left out."""
    train, teach, sampler = recipe.train, recipe.teach, recipe.sampler
    section, micro = "train", train.together
    if METHODS[train.method].samples:
        grpo = train.grpo
        share = grpo.questions_per_step * grpo.generations // train.processes
        section, micro = "train.grpo", min(grpo.micro_batch_size or share, share)
    quantize = "model.quantization=4bit" if recipe.model.quantization != "4bit" else ""
    smaller_batch = f"{section}.micro_batch_size={_divisor_below(micro)}" if micro > 1 else ""
    shorter = f"sampler.max_model_len={sampler.max_model_len // 2}"
    if stage == "teach":
        found = [f"teach.batch_tokens={max(teach.batch_tokens // 2, 1)}", quantize]
    elif stage == "train":
        recompute = "" if train.gradient_checkpointing else "train.gradient_checkpointing=true"
        found = [smaller_batch, recompute, quantize]
    elif sampler.engine == "transformers":
        found = [f"sampler.batch_size={max(sampler.batch_size // 2, 1)}", quantize]
    else:
        found = [shorter, "sampler.gpu_memory_utilization=0.7"]
    return [key for key in [*found, shorter, "a smaller model.name"] if key]


def _divisor_below(size: int) -> int:
    """The largest proper divisor: micro-batches have to divide the batch."""
    return next(d for d in range(size // 2, 0, -1) if size % d == 0)


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    torch = sys.modules.get("torch")  # without it nothing can have run out
    while torch is not None and error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _asked_for(error: BaseException) -> str:
    """torch's own figures: what was asked for, and what is free."""
    text = " ".join(str(error).split())
    found = re.findall(r"Tried to allocate [\d.]+ \w+|[\d.]+ \w+ is free|total capacity of [\d.]+ \w+", text)
    return ", ".join(word[0].lower() + word[1:] for word in dict.fromkeys(found)) or text[:120] or "no figures given"
