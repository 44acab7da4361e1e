"""The teach stage: one teacher-forced pass per pair over hinted context + reply, adapter off (§3.1.4).

The paper recomputes the logits one position after another; a causal model gives the same rows in one pass. Guidance
takes three of them (`guidance`): hinted, bare and unhinted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class Row:
    """What is kept of the teacher for one example; views of the batch's."""

    id: str
    tensors: dict[str, Tensor]
    start: int | None  # with `config.window`: the reply token from which the reply counts
    mass_R: Tensor | None  # of the teacher's probability that is kept; None: all of it


@dataclass(frozen=True)
class Pass:
    """What one pass over a batch gives."""

    tokens: int  # read by the teacher
    rows: list[Row]


class Teacher:
    """The loaded model as the teacher of batches. `temperature` is its own, T_KD / sharpen: only `top_k` depends on it.

    Raises:
        UserError: more words to keep than there are, or a head that hidden states do not stand for.
    """

    def __init__(self, model: nn.Module, config: TeachConfig, temperature: float, pad: int) -> None:
        self.config, self.temperature = config, temperature
        self._model, self._pad = model, pad
        self._head = output_head(model)
        _check(config, self._head)

    @property
    def bytes_per_token(self) -> int:
        vocabulary, hidden = self._head.weight.shape
        c = self.config
        return bytes_per_token(c.targets, hidden, vocabulary, c.top_k, self._head.weight.element_size())

    def pass_over(self, batch: Sequence[Example]) -> Pass:
        c, head = self.config, self._head
        with as_teacher(self._model):
            seen = contexts(batch, self._pad, c.guidance is not None, bare=c.window is not None)
            known = states(self._model, seen)
            teacher = teacher_rows(known, c.guidance, head)
            rows = []
            for example, own in zip(batch, _rows_of(batch), strict=True):
                tensors, mass_R = make_target(c.targets, teacher[own], head, c.top_k, self.temperature)
                start = None
                if c.window is not None and known.bare is not None:
                    start = first_change(known.hinted[own], known.bare[own], head)
                rows.append(Row(example.id, tensors, start, None if mass_R is None else mass_R.cpu()))
            return Pass(seen.tokens, rows)


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
    2e-2 in bf16: in a batch of another shape sums are taken in another order. With `config.window` the place is kept
    from which a reply counts.

    Raises:
        UserError: as `Teacher`.
    """
    return taught(Teacher(model, config, temperature, pad), examples, writer)


def taught(teacher: Teacher, examples: Sequence[Example], writer: TargetWriter) -> Taught:
    """As `teach`, of a teacher that is there."""
    batches, config = batches_of(examples, teacher.config), teacher.config
    passes = map(teacher.pass_over, batches)
    return write(passes, batches, teacher.bytes_per_token, config, teacher.temperature, writer)


def write(
    passes: Iterable[Pass],
    batches: Sequence[Sequence[Example]],
    size: int,
    config: TeachConfig,
    temperature: float,
    writer: TargetWriter,
) -> Taught:
    """Keep what the passes over these batches give, in their order. `size`: bytes a token."""
    replies = sum(len(example.reply_ids) for batch in batches for example in batch)
    say(
        f"Targets {config.targets}: {size:,} bytes a token, {size * replies / 1e6:,.1f} MB for {replies:,} reply tokens"
    )
    read, masses = 0, []
    with bar("teacher pass", "pair", sum(map(len, batches))) as shown:
        for done in passes:
            read += done.tokens
            for row in done.rows:
                writer.add(row.id, row.tensors, row.start)
                if row.mass_R is not None:
                    masses.append(row.mass_R)
            shown.update(len(done.rows))
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


def batches_of(examples: Sequence[Example], config: TeachConfig) -> list[list[Example]]:
    """Taught examples of similar length together, at most `config.batch_tokens` with padding; a longer one goes alone.

    The hinted context is the longest of those that are read.
    """
    found: list[list[Example]] = []
    taught = [example for example in examples if example.taught]
    for example in sorted(taught, key=lambda e: len(e.teacher_ids) + len(e.reply_ids)):
        width = len(example.teacher_ids) + len(example.reply_ids)  # the widest so far, since they are sorted
        if not found or width * (len(found[-1]) + 1) > config.batch_tokens:
            found.append([])
        found[-1].append(example)
    return found
