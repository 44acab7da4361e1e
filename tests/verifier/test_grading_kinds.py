"""Kinds of answers, by rules: what a writing may change, and what it never makes equal."""

import itertools
import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ssb_unsloth.verifier.answers import read
from ssb_unsloth.verifier.equality import equivalent, normal_form
from ssb_unsloth.verifier.protocol import Verdict
from ssb_unsloth.verifier.spelling import characters
from ssb_unsloth.verifier.units import differ, in_base_unit, number_in_words, totals, unit_of
from ssb_unsloth.verifier.verifiers import verifier_for

MATH = verifier_for("math")
grade, answer_classes, format_free = MATH.grade, MATH.answer_classes, MATH.format_free

MATH500 = Path(__file__).parents[1] / "fixtures" / "math500" / "solutions.jsonl"

# Ways to write a positive number that say the same
WRITINGS = [
    *(r"\boldsymbol{%s}", r"\bm{%s}", r"\color{red}{%s}", r"{\color{red} %s}", r"\textcolor{blue}{%s}", r"\pmb{%s}"),
    *(r"\underline{%s}", r"\large %s", r"{\Huge %s}", r"{\bf %s}", r"{\it %s}", r"\emph{%s}", r"\text{\textbf{%s}}"),
    *(
        r"%s \checkmark",
        "%s ✓",
        r"%s\$",
        r"\$%s",
        r"\textdollar %s",
        "Rs. %s",
        r"\pounds %s",
        "%s EUR",
        "USD %s",
        "₹%s",
    ),
    *(r"\text{%s apples}", r"\text{%s cm}", r"\mathrm{%s\ kg}", r"\text{%s hours}", "%s km/h", r"%s\,km/h", "%s m/s"),
    *(
        "%s men",
        "%s cups",
        "%s sq. units",
        r"%s\,\mathrm{m}^2",
        r"%s\text{ miles per hour}",
        r"%s\text{ m}^3",
        "%s egg",
    ),
    *("%s\u200b", "\u200e%s", "\ufeff%s", "%s\u00ad", "\u2060%s\ufe0f", "*%s*", "`%s`", r"\num{%s}", r"\SI{%s}{cm}"),
]
UNITS = [
    "mm",
    "cm",
    "m",
    "km",
    "ft",
    "g",
    "kg",
    "min",
    "hours",
    "m^2",
    "cm^2",
    "km/h",
    "m/s",
    "kg/m^3",
    "dollars",
    "cents",
]
SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
numbers = st.integers(1, 10**6)


@settings(max_examples=300, deadline=None)
@given(numbers, numbers, st.sampled_from(WRITINGS), st.sampled_from(WRITINGS))
def test_a_writing_changes_no_number(number, other, writing, another):
    assert equivalent(writing % number, str(number))
    assert equivalent(str(number), writing % number)
    assert equivalent(writing % number, str(other)) is (number == other)
    if number != other and "km/h" not in writing + another:  # 36 km/h are 10 m/s
        same = size_of(writing % number) == size_of(another % other) is not None
        assert equivalent(writing % number, another % other) is same


def size_of(text):
    answer = read(text)
    return in_base_unit(answer.value, answer.unit)


@pytest.mark.parametrize("writing", WRITINGS)
def test_a_writing_changes_no_fraction_either(writing):
    assert equivalent(writing % r"\frac{3}{7}" if "text{%s" not in writing else writing % "3/7", "3/7")
    assert not equivalent(writing % "3/7", "7/3")


@settings(max_examples=200, deadline=None)
@given(
    st.fractions(1, 1000, max_denominator=8),
    st.sampled_from(sorted(SCALES)),
    st.sampled_from(["%s %s", r"%s \text{ %s}", r"\text{%s %s}", r"\$%s \text{ %s}", r"%s\text{ %s people}"]),
)
def test_scale_words_multiply(number, word, writing):
    decimal = f"{float(number):g}"
    assume(Fraction(decimal) == number)
    scaled = number * SCALES[word]
    assert equivalent(writing % (decimal, word), str(scaled))
    assert equivalent(str(scaled), writing % (decimal, word))
    assert not equivalent(writing % (decimal, word), decimal)  # which takes a wrong answer for right
    assert equivalent(decimal, writing % (decimal, word))  # "how many million?"
    assert not equivalent(rf"\$ {decimal}", writing % (decimal, word))
    assert not equivalent(f"{decimal} apples", writing % (decimal, word))
    for other, factor in SCALES.items():
        assert equivalent(writing % (decimal, word), f"{decimal} {other}") is (factor == SCALES[word])
    assert answer_classes([writing % (decimal, word), decimal]) == [0, 1]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from(UNITS), st.sampled_from(UNITS))
def test_units_agree_by_what_they_measure(number, other, unit, another):
    one, two = (in_base_unit(Fraction(n), unit_of(name)) for n, name in ((number, unit), (other, another)))
    expected = (unit == another and number == other) or one == two
    assert equivalent(rf"{number} \text{{ {unit}}}", rf"\text{{{other} {another}}}") is expected


def test_units_by_their_names():
    for text, name in {
        "square feet": "ft^2",
        "sq. ft": "ft^2",
        "feet squared": "ft^2",
        "cm^{3}": "cm^3",
        "cubic centimeters": "cm^3",
        "km per hour": "km/hr",
        "miles/hour": "mi/hr",
        "m/s^2": "m/sec^2",
        "m s^{-1}": "m/sec",
        "dollars per day": "dollar",
        "hours per week": "",  # a number of hours
        "words per minute": "",
        "apples": "",
        "men": "",
    }.items():
        assert unit_of(text) == name, text
    assert in_base_unit(Fraction(36), "km/hr") == in_base_unit(Fraction(10), "m/sec") is not None
    assert differ("cm", "m")
    assert not differ("cm", "")
    assert totals("5 ft 6 in") == [r"66 \text{ in}", r"11/2 \text{ ft}"]
    for text in ("6 in 5 ft", "5 ft", "5 ft 6 min", "5 ft 6 apples", "5 ft and x", "5 ft 6 ft"):
        assert totals(text) == [], text


def test_numbers_in_words():
    for text, value in {
        "zero": 0,
        "twenty-five": 25,
        "a hundred": 100,
        "two hundred thousand": 200_000,
        "one million two hundred": 1_000_200,
        "three dozen": 36,
        "three quarters": Fraction(3, 4),
        "two thirds": Fraction(2, 3),
    }.items():
        assert number_in_words(text) == value, text
    for text in ("a", "an", "two three", "third", "quarter", "seconds", "two apples", "one two", "", "twenty eleven"):
        assert number_in_words(text) is None, text


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**5), st.sampled_from([1, 10, 100, 1000]), st.integers(1, 99), st.integers(1, 99))
def test_floats_stand_for_what_was_computed(top, bottom, left, right):
    assert equivalent(str(Fraction(top, bottom)), repr(top * (1 / bottom)))
    assert equivalent(str(Fraction(left, right)), repr(left * (1 / right)))
    assert equivalent(str(Fraction(left + right, 10)), repr(left / 10 + right / 10))
    assert not equivalent(str(Fraction(left + right, 10)), repr(left / 10 + right / 10 + 1e-9))
    assert not equivalent(str(Fraction(left + right, 10) + Fraction(1, 10**9)), repr(left / 10 + right / 10))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from("xyzt"),
    st.integers(-50, 50),
    st.sampled_from(["<", ">", r"\le", r"\ge", r"\ne"]),
    st.integers(-50, 50),
)
def test_inequalities_multiplied_by_minus_one(letter, bound, sign, other):
    turned = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
    assert equivalent(f"-{letter} {sign} {bound}", f"{letter} {turned[sign]} {-bound}")
    assert equivalent(f"{bound} {turned[sign]} -{letter}", f"{letter} {turned[sign]} {-bound}")
    assert equivalent(f"-{letter} {sign} {bound}", f"{letter} {turned[sign]} {other}") is (other == -bound)
    if sign != r"\ne":
        assert not equivalent(f"-{letter} {sign} {bound}", f"{letter} {sign} {-bound}")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
@example("¹¹")
@example("x₁₂ √2 3\u0305")
def test_what_cannot_be_seen_changes_nothing(text):
    for signs in ("\u200b\u00ad", "\ufe0f", "\u115f\x00"):
        assert characters("".join(character + signs for character in text)) == characters(text)
    assert characters(characters(text)) == characters(text)


@pytest.mark.parametrize("letters", ["ab", "AB", "mn", "abc", "xyz", "pqr", "bce", "st"])
def test_products_of_variables_are_no_words_and_no_units(letters):
    assert not equivalent(letters, letters.swapcase())
    assert not equivalent(letters.title(), letters.swapcase())
    for number in ("3", r"\frac{1}{2}"):
        assert not equivalent(number + letters, number)
        assert not equivalent(f"{number} {letters}", number)
    assert equivalent(letters[::-1], letters)


TALK = [
    " million ",
    " dozen ",
    " hundred ",
    " km/h ",
    " men ",
    " apples ",
    " hour ",
    " 30 ",
    " minutes ",
    " and ",
    " Yes ",
]
TALK += [" no ", " option ", " A "]
TALK += [
    r"\boldsymbol{",
    r"\color{red}",
    "{",
    "}",
    r"\text{",
    r"\frac{1}{2}",
    r"\in",
    "x",
    "S",
    "-",
    "<",
    "|AB|",
    "=",
    ",",
]
TALK += [
    "1",
    "2",
    "0.30000000000000004",
    "\u200b",
    "５",
    "⅜",
    "²",
    "(a)",
    r"\boxed{",
    "</think>",
    "<think>",
    "%",
    r"\$",
    "£",
]
pieces = st.lists(st.sampled_from(TALK), max_size=10).map("".join)


@settings(max_examples=400, deadline=None)
@given(pieces | st.text(max_size=40), pieces | st.text(max_size=40))
def test_any_text_gets_a_verdict(text, gold):
    for reply in (text, rf"\boxed{{{text}}}", rf"<think>{text}</think>{gold}"):
        graded = grade(reply, gold)
        assert graded.verdict in tuple(Verdict)
        assert graded.note is None
        assert isinstance(format_free(reply, gold), bool)
    assert isinstance(normal_form(text), str)
    assert equivalent(text, text) is bool(text.strip())
    assert answer_classes([text, gold, text])[::2] == [0, 0]


@settings(max_examples=400, deadline=None)
@given(pieces, pieces)
def test_equality_is_symmetric_but_for_what_a_gold_says_more(one, other):
    assume(not re.search("=|million|dozen|hundred", one + other))
    assert equivalent(one, other) is equivalent(other, one)


@pytest.mark.slow
def test_golds_of_math500_are_different_among_themselves():
    """No two that are written differently are equal, but these, which mean the same."""
    golds = sorted({json.loads(line)["gold"] for line in MATH500.open(encoding="utf-8")})
    equal = {
        frozenset(pair) for pair in itertools.combinations(golds, 2) if equivalent(*pair) or equivalent(*pair[::-1])
    }
    assert equal == {frozenset(pair) for pair in SAME_GOLDS}


SAME_GOLDS = [  # the same written otherwise, or with a unit, variable or order that the other leaves open
    ("(-2,1)", "-2,1"),
    ("-2,1", "1,-2"),
    ("0", "5x - 7y + 11z + 4 = 0"),
    (r"10,\!080", "10080"),
    ("120", r"120^\circ"),
    ("15", r"15\mbox{ cm}^2"),
    (r"180^\circ", r"\pi"),
    (r"2 \sqrt{5}", r"2\sqrt{5}"),
    ("30", r"30^\circ"),
    ("36", r"36^\circ"),
    ("36", r"\$36"),
    ("5", "x=5"),
    ("90", r"90^\circ"),
    (r"\frac14", r"\frac{1}{4}"),
]
