"""The verifier of answers that are one text: names, words, yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .boxed import Boxed, classes
from .plain import plain
from .protocol import Verifier
from .replies import announced

_BLIND = frozenset({"true", "false", "yes", "no"})  # golds of these: a reply may begin them with a capital letter


@dataclass(eq=False)
class Exact(Boxed):
    """The same text, but for white space, Unicode's form, and what is only set around it (`plain`)."""

    case: bool = True  # whether capital letters differ from small ones
    true: str = "true"  # how a boolean gold answer is written: {true: "yes", false: "no"}
    false: str = "false"

    def posed(self, question: str, gold: str, how: str, more: object = None) -> tuple[str, str]:
        gold = {"True": self.true, "true": self.true, "False": self.false, "false": self.false}.get(gold, gold)
        return question, self.gold_from(gold, how)

    def is_gold(self, gold: str) -> bool:
        return bool(plain(gold))

    def equal(self, answer: str, gold: str) -> bool:
        case = self.case and plain(gold, case=False) not in _BLIND
        return plain(answer, case) == plain(gold, case)

    def format_free(self, text: str, gold: str) -> bool:
        """Also what is announced: the rest of the sentence behind the last "answer is" or "answer:"."""
        answer = self.answer_in(text)
        return self.equal(announced(text) if answer is None else answer, gold)

    def answer_classes(self, answers: Sequence[str], exact: bool = False) -> list[int]:
        return classes(answers, str.__eq__ if exact else self.equal)


VERIFIER: Verifier = Exact()
