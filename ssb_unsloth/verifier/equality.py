r"""Are two answers mathematically the same?

    answer --answers.read--> normal form and structure --_same--> equal or not

`read` goes over `spelling` (one way to write a thing) and `units` (what stands beside a number).

Three steps decide, the cheapest first. Equal normal forms are equal, and numbers are compared exactly, as fractions.
Structures are compared part by part: tuples in order, sets and lists in any order, intervals with their brackets,
matrices with their shape. Only what is left (surds, polynomials, equations) goes to `judge`, as single formulas.

Decisions that a reader may look for:
  - `50\%` equals `50` (the question asked for a percentage) and `0.5` (the same number), though these two differ.
  - A unit, currency, half of the day or modulus is ignored where the other side has none; two known ones must agree
    (`5 cm` is not `5 m`, but `500 cm` is; `mph` stands beside any speed). A noun that is not known is ignored. Degrees
    equal the same angle in radians where that is written with pi.
  - Scale words multiply: `2 million` is 2,000,000 and not `2`. Only a bare `2` answers the gold answer `2 million`.
  - Letters beside a number are a unit if they are a known one, a common noun or words that stand apart; else variables.
  - `i` is the imaginary unit, unless it is an index.
  - A decimal equals a number that no decimal can write (2/3, pi) if it is that number rounded to 6 or more
    significant digits, 7 if the number is irrational (3.14159 is not pi). One of 16 or 17 digits was printed by a
    computer and equals what it is to 15 digits (0.30000000000000004 is 0.3). Otherwise decimals are exact.
  - A comma between digits that are no thousands may stand for the decimal point of the same digits: `1,22` and `1.22`.
  - A numeral with a base, `52_8`, equals only the same digits in the same base: the form was asked for.
  - Words are compared without case, articles and punctuation; variables keep their case.
  - Inequalities are not solved, but for a sign: `-x > -1` is `x < 1`, and `y > x` is `x < y`.
  - `x = 3, y = 4` may be answered by `3, 4` in this order, as `(a) 3, (b) 4` may.
  - `x = 5`, `|AB| = 5` and `f(2) = 5` equal `5`, but not `y = 5`.
  - `(1, 2)` equals `1, 2` in this order; `\{1, 2\}` equals `2, 1` but no tuple.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import UserError
from .answers import MAX_LENGTH, Answer, half_unit, is_float, read, split
from .judge import Question, asked, same_formula, trouble
from .protocol import note_on
from .replies import parts_within
from .spelling import characters
from .units import differ, in_base_unit, totals, with_letter_unit

ROUNDED_DIGITS = 6


@dataclass(frozen=True)
class Compared:
    """Whether two answers are equal, and if they count as different, why they were not compared to the end."""

    equal: bool
    note: str | None = None


def equivalent(answer: str, gold: str) -> bool:
    """Whether two answers are mathematically the same; see the head of this file for what that means.

    Symmetric but where the gold answer says more than a bare value: `a + b = 5` answers `5`, but `5` does not answer
    `a + b = 5`. Never raises because of what the strings hold, and always returns within seconds.

    Raises:
        UserError: Math-Verify is needed and cannot be started, or is given no CPU time.
    """
    return compare(answer, gold).equal


def compare(answer: str, gold: str, question: Question | None = None) -> Compared:
    """`equivalent`, with its reason. Comparisons without an end are charged to `question`: the gold answer's if None.

    Raises:
        UserError: as `equivalent`.
    """
    with asked(question or _question_of(gold)):
        return _compared(answer, gold)


@functools.lru_cache(maxsize=1 << 12)
def _question_of(gold: str) -> Question:
    return Question()


@functools.lru_cache(maxsize=1 << 16)
def _compared(answer: str, gold: str) -> Compared:
    try:
        equal = _equal(answer, gold)
    except UserError:
        raise
    except Exception as error:
        return Compared(False, note_on(error))
    return Compared(equal, None if equal else trouble())


def _equal(answer: str, gold: str) -> bool:
    if answer.strip() == gold.strip():
        return bool(answer.strip())
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return False
    answer, gold = characters(answer), characters(gold)
    ours, golds = read(answer), read(gold)
    if _same(ours, golds) or _decimal_comma(answer, gold) or _decimal_comma(gold, answer):
        return True
    for text, other in ((answer, gold), (gold, answer)):
        measured = read(with_letter_unit(other) or other)
        for total in map(read, totals(text)):
            if _same(total, measured) if text is answer else _same(measured, total):
                return True
    if {ours.kind, golds.kind} & {"list", "()"}:  # `(a) 3, (b) 4`
        labelled = [parts_within(one) for one in (answer, gold)]
        if any(labelled):
            ours, golds = (
                read(in_order(parts)) if parts else whole for parts, whole in zip(labelled, (ours, golds), strict=True)
            )
            return _same(ours, golds)
    # `100,200` was read as a number; beside a list, or a gold tuple, it is two numbers.
    if (ours.kind, golds.kind) in _TWO_READINGS:
        return _same(read(answer, thousands=False), read(gold, thousands=False))
    if golds.value is not None and (quantity := with_letter_unit(answer)):
        return _same(read(quantity), golds)
    if ours.value is not None and (quantity := with_letter_unit(gold)):
        return _same(ours, read(quantity))
    return any(_approximates(one, other) for one, other in ((answer, gold), (gold, answer)))


def in_order(parts: Sequence[str]) -> str:
    """The parts of an answer as a tuple, of which none is two for the comma of its thousands."""
    return "(" + ", ".join(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", part) for part in parts) + ")"


def _approximates(one: str, other: str) -> bool:
    r"""`\sqrt{2} \approx 1.414` answers both `\sqrt{2}` and `1.414`."""
    sides = re.split(r"\\approx(?![A-Za-z])", one)
    values = [side for side in sides if not re.fullmatch(r"\s*[A-Za-z]?\s*", side)]
    return len(sides) > 1 and any(_equal(side, other) for side in values)


def _decimal_comma(one: str, other: str) -> bool:
    """`1,22` for `1.22`: the same digits, and what stands before them cannot be read as thousands."""
    digits = re.fullmatch(r"\s*(-?(?:0,\d+|\d{1,3},(?!\d{3}$)\d+|\d{4,},\d+))\s*", one)
    return digits is not None and digits[1].replace(",", ".") == other.strip()


_TWO_READINGS = {("leaf", "list"), ("leaf", "set"), ("leaf", "()"), ("list", "leaf"), ("set", "leaf")}


def normal_form(answer: str) -> str:
    r"""One spelling for answers that differ in writing only: `\$5,600.00` and `5600`, `\dfrac12` and `0.5`.

    Rational numbers become lowest terms. Units, currency, degree and percent signs are gone (`equivalent` still sees
    them), as are LaTeX spacing, sizing and delimiters; words are in lower case.
    """
    try:
        return read(answer).form
    except RecursionError:
        return answer.strip()


def _same(answer: Answer, gold: Answer) -> bool:
    if (answer.is_percent and gold.unit) or (gold.is_percent and answer.unit):
        return False
    if differ(answer.unit, gold.unit):
        measured = in_base_unit(answer.value, answer.unit)
        return measured is not None and measured == in_base_unit(gold.value, gold.unit)
    if (
        answer.variable
        and gold.variable
        and answer.variable != gold.variable
        and not _are_functions(answer.variable, gold.variable)
    ):
        return False
    kinds = {answer.kind, gold.kind}
    if kinds == {"leaf"}:
        return _same_leaf(answer, gold)
    if kinds <= {"list", "set"}:
        return _same_set(answer.parts, gold.parts)
    if "union" in kinds:  # `x < 2 or x > 3` is a list of intervals
        if kinds <= {"list", "union"} and _same_set(answer.parts, gold.parts):
            return True
        return same_formula(answer.source, gold.source)
    if "matrix" in kinds and kinds & {"()", "[]"}:  # a vector may be written as a tuple
        matrix, entries = (answer, gold) if answer.kind == "matrix" else (gold, answer)
        is_vector = len(matrix.parts) == 1 or all(len(row.parts) == 1 for row in matrix.parts)
        return is_vector and _same_sequence([entry for row in matrix.parts for entry in row.parts], entries.parts)
    if len(kinds) == 1 or kinds == {"list", "()"}:
        return _same_sequence(answer.parts, gold.parts)
    if answer.kind == "leaf" and not gold.equation and (value := _last_side(answer)):
        return _same(value, gold)
    return False


def _are_functions(one: str, other: str) -> bool:
    """`f(x) = 2x` and `y = 2x` are the same function; `f(x)` and `g(x)` are not."""
    return re.fullmatch(r"y[A-Za-z]\([a-z]\)", "".join(sorted((one, other), key=len))) is not None


def _same_sequence(answer: Sequence[Answer], gold: Sequence[Answer]) -> bool:
    return len(answer) == len(gold) and all(map(_same, answer, gold))


def _same_set(answer: Sequence[Answer], gold: Sequence[Answer]) -> bool:
    def by_form(others: Sequence[Answer], one: Answer) -> list[Answer]:  # equal forms first: they cost nothing
        return sorted(others, key=lambda other: other.form != one.form)

    def matched(one: Answer) -> bool:
        return any(_same(one, other) for other in by_form(gold, one))

    names = [part.variable for part in gold]
    is_labelled = all(names) and len({*names}) == len(names) > 1
    if is_labelled and len(answer) == len(gold) and not any(part.variable for part in answer):
        return _same_sequence(answer, gold)  # `3, 4` for `x = 3, y = 4`: in their order
    return all(matched(part) for part in answer) and all(
        any(_same(one, part) for one in by_form(answer, part)) for part in gold
    )


def _same_leaf(answer: Answer, gold: Answer) -> bool:
    if answer.value is not None and gold.value is not None:
        # The question may have asked "how many million": then `2` answers `2 million`, but `$2` does not
        if gold.before_scale is not None and answer.is_bare and answer.value == gold.before_scale:
            return True
        return _same_number(answer, answer.value, gold, gold.value)
    if answer.form == gold.form or _same_name(answer.form, gold.form):
        return bool(answer.form)
    if answer.is_words or gold.is_words:
        return answer.form.casefold().replace(" ", "") == gold.form.casefold().replace(" ", "")
    if answer.equation and gold.equation and not (answer.variable and gold.variable):
        return same_formula(answer.equation, gold.equation)
    if gold.equation and not gold.variable:
        return False
    if not answer.variable and (value := _last_side(answer)):
        return _same(value, gold)
    return same_formula(_exact(answer), _exact(gold))


def _same_name(one: str, other: str) -> bool:
    """`Gil` and `gil`: three letters that can be spoken, of which only the first may be a capital."""
    spoken = "[A-Za-z][aeiouy][a-z]"
    return one.casefold() == other.casefold() and all(re.fullmatch(spoken, name) for name in (one, other))


def _same_number(answer: Answer, ours: Fraction, gold: Answer, golds: Fraction) -> bool:
    if answer.is_percent and not gold.is_percent:
        return any(golds == value or _rounded(gold, value) for value in (ours, ours / 100))
    if gold.is_percent and not answer.is_percent:
        return _same_number(gold, golds, answer, ours)
    return ours == golds or _rounded(answer, golds) or _rounded(gold, ours)


def _rounded(decimal: Answer, exact: Fraction) -> bool:
    """Whether the decimal is a fraction's rounded value where no decimal can write it, or the float that it became."""
    if decimal.digits < ROUNDED_DIGITS or decimal.value is None:
        return False
    has_decimal = pow(10, exact.denominator.bit_length(), exact.denominator) == 0
    unit = 2 * half_unit(decimal.source)
    if has_decimal:
        return is_float(decimal.digits) and round(decimal.value / unit) * unit == exact
    return abs(decimal.value - exact) <= unit / 2


def _exact(answer: Answer) -> str:
    """What Math-Verify gets to see: degrees as radians, and short decimals as fractions, as it rounds decimals."""
    if answer.unit == "degree":
        return rf"\frac{{({answer.form})\pi}}{{180}}"
    if answer.value is not None:
        return answer.source if answer.digits > ROUNDED_DIGITS else answer.form
    return re.sub(r"\d+\.\d{1,5}(?!\d)", lambda decimal: rf"{{{read(decimal[0]).form}}}", answer.form)


def _last_side(equation: Answer) -> Answer | None:
    """What stands behind the last equals sign, if there is one."""
    _, *sides = split(equation.equation, "=")
    return read(sides[-1]) if sides else None
