"""The teach stage: one teacher-forced pass per pair over hinted context + reply, adapter off (§3.1.4).

The paper recomputes the logits one position after another; a causal model gives the same rows in one pass. Guidance
takes three of them (`guidance`): hinted, bare and unhinted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..io.progress import bar, say
from ..recipe.schema import TeachConfig
from .collator import Example, contexts
from .distributions import Head
from .guidance import first_change, states, teacher_rows
from .modeling import as_teacher, output_head
from .targets import TargetWriter, bytes_per_token, make_target


@dataclass(frozen=True)
class Taught:
    """What came of the teacher pass."""

    tokens: int  # read by the teacher, prompts and replies
    mean_mass: float | None  # of the teacher's probability that is kept, over the reply tokens; None: all of it
    least_mass: float | None


def teach(
    model: nn.Module,
    examples: Sequence[Example],
    config: TeachConfig,
    temperature: float,
    pad: int,
    writer: TargetWriter,
) -> Taught:
    """Write the teacher's rows for every taught example's reply, from exactly one pass over each of its contexts.

    Batches are of similar length. A row is that of a pass over its example alone, to 1e-4 of its size in float32 and
    2e-2 in bf16: in a batch of another shape sums are taken in another order.

    `temperature` is the teacher's, T_KD / sharpen: only `top_k` depends on it. With `config.window` the place is kept
    from which a reply counts.

    Raises:
        UserError: more words to keep than there are, or a head that hidden states do not stand for.
    """
    head = output_head(model)
    examples = [example for example in examples if example.taught]
    _check(config, head)
    replies = sum(len(example.reply_ids) for example in examples)
    vocabulary, hidden = head.weight.shape
    size = bytes_per_token(config.targets, hidden, vocabulary, config.top_k, head.weight.element_size())
    say(
        f"Targets {config.targets}: {size:,} bytes a token, {size * replies / 1e6:,.1f} MB for {replies:,} reply tokens"
    )
    read, masses = 0, []
    with as_teacher(model), bar("teacher pass", "pair", len(examples)) as shown:
        for batch in _batches(examples, config.batch_tokens):
            seen = contexts(batch, pad, config.guidance is not None, bare=config.window is not None)
            known = states(model, seen)
            teacher = teacher_rows(known, config.guidance, head)
            read += seen.tokens
            for example, rows in zip(batch, _rows_of(batch), strict=True):
                tensors, mass_R = make_target(config.targets, teacher[rows], head, config.top_k, temperature)
                starts = None
                if config.window is not None and known.bare is not None:
                    starts = first_change(known.hinted[rows], known.bare[rows], head)
                writer.add(example.id, tensors, starts)
                if mass_R is not None:
                    masses.append(mass_R.cpu())
            shown.update(len(batch))
    return _taught(read, masses, config, temperature)


def _check(config: TeachConfig, head: Head) -> None:
    """Whether this head's distributions can be kept so."""
    vocabulary = len(head.weight)
    if config.targets == "top_k" and config.top_k > vocabulary:
        raise UserError(f"teach.top_k: {config.top_k} is more than the model's {vocabulary:,} words.")
    if config.targets == "hidden" and config.guidance is not None and head.softcap:
        raise UserError(
            "teach.targets: hidden; this model caps its logits, so no hidden states stand for what guidance makes of"
            " them: take logits, top_k or online."
        )


def _rows_of(batch: Sequence[Example]) -> Iterator[slice]:
    """Where each example's reply tokens stand among those of the batch."""
    start = 0
    for example in batch:
        yield slice(start, start := start + len(example.reply_ids))


def _taught(read: int, masses: Sequence[Tensor], config: TeachConfig, temperature: float) -> Taught:
    if not masses:
        return Taught(read, None, None)
    mass_N = torch.cat(list(masses)).double()
    mean, least = mass_N.mean().item(), mass_N.min().item()
    kept = f"the {config.top_k} likeliest words of a token" if config.targets == "top_k" else "the likeliest word"
    say(
        f"Approximate targets: {kept} hold{'s' * (config.targets == 'one_hot')} {mean:.1%} of the teacher's mass in the"
        f" mean and {least:.1%} at the least (temperature {temperature:g})."
    )
    return Taught(read, mean, least)


def _batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Examples of similar length together, at most `batch_tokens` with padding; a longer one goes alone.

    The hinted context is the longest of those that are read.
    """
    batch: list[Example] = []
    width = 0
    for example in sorted(examples, key=lambda e: len(e.teacher_ids) + len(e.reply_ids)):
        width = len(example.teacher_ids) + len(example.reply_ids)  # the widest so far, since they are sorted
        if batch and width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch
