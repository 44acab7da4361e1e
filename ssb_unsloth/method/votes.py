"""The majority vote in the gold answer's place (`curate.gold: majority`), for questions without labels.

The answer that most of a question's rollouts give is taken for the right one, as in U-OPSD (arXiv 2608.06296). A
question has no vote where no answer is given twice, or two of them as often as each other: nothing speaks for one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..backends.sampler import Completion
from ..records import Problem
from ..verifier.protocol import Verifier
from ..verifier.replies import answer_part


def vote(replies: Sequence[Completion], verifier: Verifier, exact: bool = False) -> str | None:
    """The gold answer that these replies to one question agree on, or None. One that was cut off has no vote."""
    ended = [answer_part(reply.text) for reply in replies if reply.finish_reason != "length"]
    answers = [answer for text in ended if (answer := verifier.answer_in(text)) is not None]
    classes = verifier.answer_classes(answers, exact)
    ranked = Counter(classes).most_common(2)
    if not ranked or ranked[0][1] < 2 or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    try:
        return verifier.gold_from(answers[classes.index(ranked[0][0])], "plain")
    except ValueError:  # none that a reply could be compared with
        return None


def voted(
    problems: Sequence[Problem], replies: dict[str, list[Completion]], verifier: Verifier, exact: bool = False
) -> list[Problem]:
    """The problems that have a vote, with that for their gold answer. `replies`: by the problem's id."""
    found = ((problem, vote(replies.get(problem.id, []), verifier, exact)) for problem in problems)
    return [replace(problem, gold=gold) for problem, gold in found if gold is not None]
