"""The teacher's rows: those of the hinted base as the paper has it, or the base moved by what a hint changes.

    t* = s + a (t_hint - t_none)

s are the base's logits on the bare question, t_hint those in the hinted context, t_none those in the same context
without its hint, all on the same reply: so what the prompt's manner changes cancels out, and what the hint changes
stays. With a = 1 and no manner (t_none = s) it is the hinted teacher.

A linear head makes the same of hidden states: head(h + a (h_hint - h_none)) has every logit as above, with the head's
bias once. So guidance is stored, and learnt by the same loss, as one vector a token. A soft-cap is not linear: there
the logits themselves are combined.

The contrast of two contexts of one model, so that what they share cancels, is also in RLCSD (arXiv 2606.11709) and SIPO
(arXiv 2609.36742); that it is stored in hidden space is ours.

Shapes: N reply tokens of a batch, H hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .collator import Contexts
from .distributions import Head, TeacherLogits
from .losses import head_logits
from .modeling import output_head, reply_states


@dataclass(frozen=True)
class States:
    """Hidden states [N, H] that predict the same reply tokens, as the head receives them, by what was read before."""

    hinted: Tensor
    bare: Tensor | None
    unhinted: Tensor | None


def states(model: nn.Module, seen: Contexts) -> States:
    """One pass over each context. `model` is asked as it is: whoever calls this turns adapter and gradients off
    (`modeling.as_teacher`).
    """
    dtype = output_head(model).weight.dtype
    views = (seen.hinted, seen.bare, seen.unhinted)
    hinted, *others = (None if view is None else reply_states(model, view).to(dtype) for view in views)
    assert hinted is not None
    return States(hinted, *others)


def teacher_rows(known: States, guidance: float | None, head: Head) -> Tensor | TeacherLogits:
    """The teacher's hidden states [N, H] for its head, or its final logits where a soft-cap leaves no such states."""
    if guidance is None:
        return known.hinted
    assert known.bare is not None, "contexts that were made for guidance"
    assert known.unhinted is not None
    rows = (known.bare, known.hinted, known.unhinted)
    if not head.softcap:
        return guided(rows, guidance).to(head.weight.dtype)
    bare_NV, hinted_NV, unhinted_NV = (head_logits(rows_NH, head) for rows_NH in rows)
    return TeacherLogits(guided((bare_NV, hinted_NV, unhinted_NV), guidance))


def guided(rows: tuple[Tensor, Tensor, Tensor], guidance: float) -> Tensor:
    """bare + guidance (hinted - unhinted) of these three, hidden states or logits alike, in float32 at least."""
    wide = torch.promote_types(rows[0].dtype, torch.float32)
    bare, hinted, unhinted = (each.to(wide) for each in rows)
    return bare + guidance * (hinted - unhinted)


def first_change(hinted_RH: Tensor, bare_RH: Tensor, head: Head) -> int:
    """The first reply token for which hinted and bare base have another likeliest word; R where there is none."""
    differ = head_logits(hinted_RH, head).argmax(-1) != head_logits(bare_RH, head).argmax(-1)
    found = differ.nonzero()
    return int(found[0, 0]) if len(found) else len(hinted_RH)
