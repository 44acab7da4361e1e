"""Which replies are learnt, and what the teacher is shown for each: the refined ones, or the model's own rollouts.

A lesson is a pair with a reply. Those of `teach.replies: refined` are curation's pairs (the paper). Any other choice
takes the rollouts of the pairs' questions, which were sampled from the bare question: the hints of a reply are then
those of its question's pair; but for one that is the reply itself, or that is not among these rollouts, as where they
were sampled anew: in its place another of the same kind is shown where there is one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import UserError
from ..recipe.schema import TeachConfig
from ..records import Pair, Rollout
from ..seeds import derive_seed
from ..verifier.protocol import Verdict
from ..verifier.replies import answer_part

REPLIES = {"right": (True,), "wrong": (False,), "rollouts": (True, False)}  # by teach.replies, their verdicts


class NothingToLearn(UserError):
    """No reply is a lesson, or all lessons weigh nothing."""


@dataclass(frozen=True)
class Lesson:
    """A reply to learn, with all that both prompts are made of."""

    pair: Pair
    right: bool  # whether the verifier found the reply right
    weight: float = 1.0


def lessons(
    config: TeachConfig,
    pairs: Sequence[Pair],
    rollouts: Sequence[Rollout],
    seed: int,
    token_ids: Callable[[Rollout], list[int]],
) -> list[Lesson]:
    """The lessons of these pairs, by `teach.replies`, `each` and `weights`. `token_ids`: a rollout's as it is learnt.

    One rollout at random of each question in turn, then a second of each, and so on: as RFT draws them, so that with
    `each` 1 it learns from the same right ones.

    Raises:
        NothingToLearn: there is nothing to learn.
    """
    if config.replies == "refined":
        found = [Lesson(pair, right=True) for pair in pairs]
    else:
        found = list(_own(config, pairs, rollouts, seed, token_ids))
    if not found:
        raise NothingToLearn(
            f"teach.replies: {config.replies}; the curate stage has no such rollout of the pairs' questions: let it"
            " sample them, or take other replies."
        )
    return found if config.weights == "equal" else _weighted(found, rollouts)


def _own(
    config: TeachConfig,
    pairs: Sequence[Pair],
    rollouts: Sequence[Rollout],
    seed: int,
    token_ids: Callable[[Rollout], list[int]],
) -> Iterator[Lesson]:
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.problem_id, pair)
    groups: dict[tuple[str, bool], list[Rollout]] = {
        (problem, right): [] for problem in first for right in (True, False)
    }
    for rollout in rollouts:
        # As in `curate.choose`: of one that has nothing but thoughts there is nothing to show.
        if rollout.problem_id in first and (answer_part(rollout.text) or not rollout.text):
            groups[rollout.problem_id, rollout.verdict == Verdict.RIGHT].append(rollout)
    wanted = [group for (_, right), group in groups.items() if group and right in REPLIES[config.replies]]
    for reply in in_turn(wanted, seed, config.each):
        pair, right = first[reply.problem_id], reply.verdict == Verdict.RIGHT
        ids = token_ids(reply)
        if not ids:  # made elsewhere, cut off before its first token
            continue
        (right_text, right_id), (wrong_text, wrong_id) = (
            _shown(reply, groups[reply.problem_id, kind], usual, seed) for kind, usual in _usual(pair)
        )
        yield Lesson(
            replace(
                pair,
                id=reply.id,
                reply=answer_part(reply.text),
                reply_ids=ids,
                right=right_text,
                right_id=right_id,
                wrong=wrong_text,
                wrong_id=wrong_id,
                refinement_id="",
            ),
            right,
        )


Shown = tuple[str, str]  # the text that the teacher is shown, and the id of the rollout that it is of


def _usual(pair: Pair) -> tuple[tuple[bool, Shown], tuple[bool, Shown]]:
    """What the question's pair shows, by its verdict."""
    return (True, (pair.right, pair.right_id)), (False, (pair.wrong, pair.wrong_id))


def _shown(reply: Rollout, group: Sequence[Rollout], usual: Shown, seed: int) -> Shown:
    """What the teacher is shown for this reply: the usual rollout if it is of the group and its text is another; else
    one of the group with another text; the usual one where there is none.
    """
    others = [rollout for rollout in group if answer_part(rollout.text) != answer_part(reply.text)]
    if not others or any(rollout.id == usual[1] for rollout in others):
        return usual
    chosen = random.Random(derive_seed(seed, "hint", reply.id)).choice(others)
    return answer_part(chosen.text), chosen.id


def in_turn(groups: Sequence[Sequence[Rollout]], seed: int, each: int | None = None) -> Iterator[Rollout]:
    """One rollout at random from each group in turn, then a second from each, and so on, at most `each` of one."""
    shuffled = [
        random.Random(derive_seed(seed, "control", group[0].problem_id)).sample(group, len(group)) for group in groups
    ]
    deepest = max(map(len, shuffled), default=0)
    for k in range(deepest if each is None else min(each, deepest)):
        yield from (group[k] for group in shuffled if k < len(group))


def _weighted(found: Sequence[Lesson], rollouts: Sequence[Rollout]) -> list[Lesson]:
    """Each weighs as its question's sqrt(p (1 - p)), over the mean of that: a loss stays of the size that it had."""
    verdicts: dict[str, list[bool]] = {}
    for rollout in rollouts:
        verdicts.setdefault(rollout.problem_id, []).append(rollout.verdict == Verdict.RIGHT)
    shares = [_share(verdicts.get(lesson.pair.problem_id, [])) for lesson in found]
    spreads = [math.sqrt(p * (1 - p)) for p in shares]
    mean = sum(spreads) / len(spreads)
    if not mean:
        raise NothingToLearn(
            "teach.weights: disagreement; no question of the pairs has right and wrong rollouts, so all would weigh"
            " nothing: take equal."
        )
    return [replace(lesson, weight=spread / mean) for lesson, spread in zip(found, spreads, strict=True)]


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right) if right else 0.0
