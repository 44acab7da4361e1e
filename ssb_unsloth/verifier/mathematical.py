"""The verifier of mathematical answers: the last box means the same as the gold answer (`equality` says when)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .answers import MAX_LENGTH, read
from .boxed import Boxed, classes, false_if_raised
from .equality import Compared, compare, equivalent, in_order, normal_form
from .judge import Question
from .protocol import Grade, Verdict, Verifier
from .replies import announced, behind_thoughts, boxes_of_parts, boxes_side_by_side, last_expression, leading_formula


class Mathematical(Boxed):
    """`Verifier` of numbers, formulas, sets, intervals and words.

    Raises (what compares):
        UserError: Math-Verify is needed and cannot be started, or is given no CPU time.
    """

    def equal(self, answer: str, gold: str) -> bool:
        return equivalent(answer, gold)

    def is_gold(self, gold: str) -> bool:
        """Its braces close, it is no longer than any answer that is read, and something is left without its signs."""
        braces = re.sub(r"\\.|[^{}]", "", gold, flags=re.S)
        while "{}" in braces:
            braces = braces.replace("{}", "")
        return not braces and len(gold) <= MAX_LENGTH and bool(normal_form(gold))

    def verdict_on(self, text: str, answer: str, gold: str) -> Grade:
        compared = compare(answer, gold)
        if self.is_boxed and not compared.equal and read(gold).kind in ("list", "set"):
            answer, compared = _spread(text, gold)
        return Grade(Verdict.RIGHT if compared.equal else Verdict.WRONG, answer, compared.note)

    @false_if_raised
    def format_free(self, text: str, gold: str) -> bool:
        """Without asking for a box: the last box, else what is announced, else the last formula or number.

        Announced is the formula or number right after the last "answer is" or "answer:"; where the gold answer is in
        words, all of that sentence.
        """
        boxed = self.grade(text, gold)
        if boxed.verdict != Verdict.NO_ANSWER:
            return boxed.verdict == Verdict.RIGHT
        text = text[behind_thoughts(text) :]
        phrase = announced(text)
        answer = (phrase if read(gold).is_words else leading_formula(phrase)) or last_expression(text)
        return answer is not None and equivalent(answer, gold)

    def answer_classes(self, answers: Sequence[str], exact: bool = False) -> list[int]:
        """All answers share one question's time."""
        if exact:
            return super().answer_classes(answers, exact)
        question = Question()

        def equal(one: str, other: str) -> bool:
            return compare(one, other, question).equal and compare(other, one, question).equal

        return classes(answers, equal)


def _spread(text: str, gold: str) -> tuple[str, Compared]:
    """An answer with several parts in several boxes. Those of labelled parts are compared in their order."""
    if (parts := boxes_of_parts(text)) and (compared := compare(in_order(parts), gold)).equal:
        return ", ".join(parts), compared
    answer = boxes_side_by_side(text)
    return answer, compare(answer, gold)


VERIFIER: Verifier = Mathematical()
