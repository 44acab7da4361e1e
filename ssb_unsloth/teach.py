"""The teach stage: one teacher-forced pass per pair over hinted context + reply, adapter off (§3.1.4).

The paper recomputes the logits one position after another; a causal model gives the same rows in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from .collator import Example, view
from .config import TeachConfig
from .modeling import as_teacher, hidden_states, output_head
from .progress import bar, say
from .targets import TargetWriter, bytes_per_token, make_target


def teach(
    model: nn.Module,
    examples: Sequence[Example],
    config: TeachConfig,
    temperature: float,
    pad: int,
    writer: TargetWriter,
) -> int:
    """Write the teacher's rows for every example's reply. Returns the number of tokens that the teacher read.

    `temperature` is T_KD: only `top_k` depends on it.
    """
    head = output_head(model)
    device = head.weight.device
    vocabulary, hidden = head.weight.shape
    replies = sum(len(example.reply_ids) for example in examples)
    size = bytes_per_token(config.targets, hidden, vocabulary, config.top_k, head.weight.element_size())
    say(
        f"Targets {config.targets}: {size:,} bytes a token, {size * replies / 1e6:,.1f} MB for {replies:,} reply tokens"
    )
    read = 0
    with as_teacher(model), bar("teacher pass", "pair", len(examples)) as shown:
        for batch in _batches(examples, config.batch_tokens):
            seen = view([e.teacher_ids for e in batch], [e.reply_ids for e in batch], pad)
            hidden_BSH = hidden_states(model, seen.input_ids.to(device), seen.attention_mask.to(device))
            # What the head receives: hidden states in its own dtype.
            rows_NH = seen.reply_rows(hidden_BSH).to(head.weight.dtype)
            read += int(seen.attention_mask.sum())
            for example, rows_RH in zip(batch, rows_NH.split([len(e.reply_ids) for e in batch]), strict=True):
                writer.add(example.id, make_target(config.targets, rows_RH, head, config.top_k, temperature))
            shown.update(len(batch))
    return read


def _batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Examples of similar length together, at most `batch_tokens` with padding; a longer one goes alone."""
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
