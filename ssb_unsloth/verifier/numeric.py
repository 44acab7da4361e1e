"""The verifier of numbers that need not be exact: within an absolute or a relative tolerance of the gold answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from .answers import Answer, read
from .boxed import Boxed, false_if_raised
from .equality import equivalent
from .protocol import Verifier
from .replies import announced, behind_thoughts, last_expression, leading_formula
from .units import differ, in_base_unit


@dataclass(eq=False)
class Numeric(Boxed):
    """|answer - gold| <= max(absolute, relative * |gold|); percent and units are read as `math` reads them.

    `50\\%` is both 50 and 0.5 beside a number without a sign. A unit counts where both have one: 500 cm is 5 m, and 5 m
    is not 5 s. A formula that has no rational value, as a root, is compared as mathematics.
    """

    absolute: float = 0.0
    relative: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("absolute", "relative"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a number of at least 0.")

    def is_gold(self, gold: str) -> bool:
        return _number(gold) is not None

    def equal(self, answer: str, gold: str) -> bool:
        ours, golds = _number(answer), _number(gold)
        if ours is None or golds is None:
            return equivalent(answer, gold)  # a formula has no value here: it is the gold answer, or it is wrong
        if (ours.is_percent and golds.unit) or (golds.is_percent and ours.unit):
            return False
        if differ(ours.unit, golds.unit):
            one, other = in_base_unit(ours.value, ours.unit), in_base_unit(golds.value, golds.unit)
            return one is not None and other is not None and one[0] == other[0] and self._near(one[1], other[1])
        scales = {Fraction(1), Fraction(1, 100)} if ours.is_percent != golds.is_percent else {Fraction(1)}
        return any(
            self._near(
                _value(ours) * (scale if ours.is_percent else 1), _value(golds) * (scale if golds.is_percent else 1)
            )
            for scale in scales
        )

    def _near(self, value: Fraction, gold: Fraction) -> bool:
        return abs(value - gold) <= max(Fraction(self.absolute), Fraction(self.relative) * abs(gold))

    @false_if_raised
    def format_free(self, text: str, gold: str) -> bool:
        """Also without the form: the number that is announced, else the last one."""
        if (answer := self.answer_in(text)) is None:
            text = text[behind_thoughts(text) :]
            answer = leading_formula(announced(text)) or last_expression(text)
        return answer is not None and self.equal(answer, gold)


def _number(text: str) -> Answer | None:
    answer = read(text)
    return answer if answer.kind == "leaf" and answer.value is not None else None


def _value(answer: Answer) -> Fraction:
    assert answer.value is not None
    return answer.value


VERIFIER: Verifier = Numeric()
