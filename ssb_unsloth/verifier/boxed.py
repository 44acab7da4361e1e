r"""What most verifiers share: the answer is the last `\boxed{}`, or what the recipe's answer form has in its place.

A verifier of its own inherits `Boxed` and says what is different: which answers are equal (`equal`), which gold answers
there are (`is_gold`), and where else an answer may be (`answer_in`, `format_free`). Its options are the fields of a
dataclass, with their defaults.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, ParamSpec

from ..errors import UserError
from ..prompts import BOX
from .forms import answer_in_form, check_form, is_boxed
from .protocol import Grade, Verdict, note_on
from .replies import last_boxed

Arguments = ParamSpec("Arguments")


def false_if_raised(decide: Callable[Arguments, bool]) -> Callable[Arguments, bool]:
    """What cannot be decided (memory or recursion ran out) is False."""

    @functools.wraps(decide)
    def decided(*args: Arguments.args, **kwargs: Arguments.kwargs) -> bool:
        try:
            return decide(*args, **kwargs)
        except UserError:
            raise
        except Exception:
            return False

    return decided


def classes(answers: Sequence[str], equal: Callable[[str, str], bool]) -> list[int]:
    """The class of each answer, as `Verifier.answer_classes`; `equal` is asked for an answer and a class's first."""
    first: list[str] = []
    known: dict[str, int] = {}
    for answer in answers:
        if answer not in known:
            numbers = (number for number, member in enumerate(first) if equal(answer, member))
            known[answer] = next(numbers, len(first))
            if known[answer] == len(first):
                first.append(answer)
    return [known[answer] for answer in answers]


@dataclass(eq=False)
class Boxed:
    """A `Verifier` to which the last box is the answer, and answers are equal where their characters are."""

    form: str = BOX  # how a reply gives its answer (`forms`)

    example: ClassVar[str] = "42"

    def __post_init__(self) -> None:
        check_form(self.form)

    @property
    def is_boxed(self) -> bool:
        return is_boxed(self.form)

    # -- What another verifier may see otherwise

    def equal(self, answer: str, gold: str) -> bool:
        """Whether the answer is the gold answer."""
        return answer.strip() == gold.strip()

    def is_gold(self, gold: str) -> bool:
        """Whether this can be a gold answer at all."""
        return True

    def answer_in(self, text: str) -> str | None:
        return answer_in_form(text, self.form)

    def posed(self, question: str, gold: str, how: str, more: Any = None) -> tuple[str, str]:
        return question, self.gold_from(gold, how)

    def shown(self, gold: str) -> str:
        return gold

    def strictly(self, gold: str) -> str:
        """What a reply has to say, character for character, to be right in the strictest scoring."""
        return gold.strip()

    def verdict_on(self, text: str, answer: str, gold: str) -> Grade:
        """The verdict on a whole reply that has an answer. Whatever it raises is the verdict WRONG with a note."""
        return Grade(Verdict.RIGHT if self.equal(answer, gold) else Verdict.WRONG, answer)

    def format_free(self, text: str, gold: str) -> bool:
        """No looser than the box, but for replies that were cut off behind it."""
        return self.grade(text, gold).verdict == Verdict.RIGHT

    def answer_classes(self, answers: Sequence[str], exact: bool = False) -> list[int]:
        @false_if_raised
        def equal(one: str, other: str) -> bool:
            return self.equal(one, other) and self.equal(other, one)

        return classes(answers, str.__eq__ if exact else equal)

    # -- What is the same for all

    def grade(self, text: str, gold: str, finish_reason: str = "stop", exact: bool = False) -> Grade:
        answer: str | None = None
        try:
            answer = self.answer_in(text)
            if finish_reason == "length":
                return Grade(Verdict.TRUNCATED, answer)
            if answer is None:
                return Grade(Verdict.NO_ANSWER, None)
            if exact:
                return Grade(Verdict.RIGHT if answer == self.strictly(gold) else Verdict.WRONG, answer)
            return self.verdict_on(text, answer, gold)
        except UserError:
            raise
        except Exception as error:
            return Grade(Verdict.TRUNCATED if finish_reason == "length" else Verdict.WRONG, answer, note_on(error))

    @false_if_raised
    def string_equal(self, text: str, gold: str) -> bool:
        answer = self.answer_in(text)
        return answer is not None and answer.strip() == self.strictly(gold)

    def gold_from(self, text: str, how: str) -> str:
        if how == "####":
            gold = text.rpartition("####")[2] if "####" in text else ""
        elif how == "boxed":
            gold = last_boxed(text) or ""
        elif how == "plain":
            gold = text
        else:
            raise ValueError(f'A gold answer is found by "####", "boxed" or "plain", not by {how!r}.')
        if not gold.strip():
            place = {"####": 'after "####"', "boxed": r"in a balanced \boxed{}", "plain": "in the text"}[how]
            raise ValueError(f"No gold answer {place}: {text[-80:]!r}.")
        gold = gold.strip()
        if not self.is_gold(gold):
            raise ValueError(f"The gold answer does not parse: {gold[-80:]!r}.")
        return gold
