"""What the teacher is shown in the teacher-forced pass: the paper's contrast, or less, or other than that.

The pairs, and with them the replies that the student learns on, stay the same: only the teacher's distribution over the
reply's tokens changes. All kinds go through the paper's refinement prompt, of which a missing hint leaves out its
section (`teacher_messages`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

from ..errors import UserError
from ..records import Pair
from . import PAPER, Messages, Texts, gold_only, teacher_messages

# both: the pair's right and wrong rollout (the paper); right, wrong: one of them; none: the bare refinement prompt;
# gold: the gold answer without steps, in the right rollout's place; shuffled: both, of another question.
Hint = Literal["both", "right", "wrong", "none", "gold", "shuffled"]
HINTS: tuple[Hint, ...] = get_args(Hint)


def hinted_prompts(pairs: Sequence[Pair], hint: Hint, seed: int, texts: Texts = PAPER) -> list[Messages]:
    """The teacher's prompt for each pair. `seed` decides which question's hints `shuffled` shows.

    Raises:
        UserError: `shuffled` with too few questions to give every pair another's hints; or another hint than `both` for
            a pair that was given as finished messages.
    """
    if hint != "both" and any(pair.teacher_prompt is not None for pair in pairs):
        raise UserError(
            f"teach.hint: {hint}; pairs of your own that are given as messages have their hints in them, so only both"
            " can be shown."
        )
    if hint == "shuffled":
        others = (pairs[i] for i in derangement([pair.problem_id for pair in pairs], random.Random(seed)))
        return [teacher_messages(pair.question, o.right, o.wrong, texts) for pair, o in zip(pairs, others, strict=True)]
    return [pair.teacher_prompt or _hinted_prompt(pair, hint, texts) for pair in pairs]


def _hinted_prompt(pair: Pair, hint: Hint, texts: Texts) -> Messages:
    if hint == "gold":
        return teacher_messages(pair.question, gold_only(pair.gold, texts), None, texts)
    right = pair.right if hint in ("both", "right") else None
    wrong = pair.wrong if hint in ("both", "wrong") else None
    return teacher_messages(pair.question, right, wrong, texts)


def unhinted_prompts(pairs: Sequence[Pair], texts: Texts = PAPER) -> list[Messages]:
    """The same prompt with no hint in it, for each pair: what the teacher says by the prompt's manner alone.

    Raises:
        UserError: a pair was given as finished messages, so there is no telling what of them is the hint.
    """
    if any(pair.teacher_prompt is not None for pair in pairs):
        raise UserError(
            "teach.guidance: pairs of your own that are given as messages have their hints in them, and what such a"
            " prompt says without is not known; leave it at null, or give question, right and wrong."
        )
    return [teacher_messages(pair.question, None, None, texts) for pair in pairs]


def derangement(groups: Sequence[str], rng: random.Random) -> list[int]:
    """A permutation that gives every item the index of an item of another group.

    The items are laid out in a ring, each group in one piece, and each takes the one that stands as far on as the
    largest group is long.
    """
    order = list(dict.fromkeys(groups))
    rng.shuffle(order)
    ring = sorted(range(len(groups)), key=lambda i: order.index(groups[i]))
    shift = max(map(groups.count, order), default=0)
    if len(groups) < 2 * shift:
        raise UserError(
            f"teach.hint: shuffled shows each pair the hints of another question, and {shift} of the {len(groups)}"
            " pairs are of one question; curate pairs of more questions."
        )
    taken = {ring[k]: ring[(k + shift) % len(ring)] for k in range(len(ring))}
    return [taken[i] for i in range(len(groups))]
