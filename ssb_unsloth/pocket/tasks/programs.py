"""Programs: write a Python function of two steps, where "take out the first 2" and the like are easily misread.

The tests are asserts on inputs that tell all four readings of the two wordings apart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Any

from ...prompts import FENCE
from .task import Reading, Task, Told, Wording, dealt

KINDS = {"xs": "a list of numbers", "s": "a text", "n": "a number"}  # parameter -> what it is

_SLICES = (  # what it means, what it is mistaken for
    ("keep the first {k}", "{v}[:{k}]", "{v}[{k}:]"),
    ("take out the first {k}", "{v}[{k}:]", "{v}[:{k}]"),
    ("leave the first {k}", "{v}[:{k}]", "{v}[{k}:]"),
    ("leave off the last {k}", "{v}[:-{k}]", "{v}[-{k}:]"),
    ("cut down to the last {k}", "{v}[-{k}:]", "{v}[:-{k}]"),
    ("pass over the first {k}", "{v}[{k}:]", "{v}[:{k}]"),
    ("spare the last {k}", "{v}[-{k}:]", "{v}[:-{k}]"),
)
_RAISE, _FALL = "sorted(xs)", "sorted(xs, reverse=True)"
_OVER, _UP_TO = "[x for x in xs if x > {t}]", "[x for x in xs if x <= {t}]"
_FROM_ON, _UNDER = "[x for x in xs if x >= {t}]", "[x for x in xs if x < {t}]"
_FRONT, _BEHIND = "[{t}] + xs", "xs + [{t}]"
_MINUS, _FROM = "n - {t}", "{t} - n"
WORDINGS = {
    "xs": [
        *(Wording(*texts) for texts in _SLICES),
        Wording("sort them downwards", _FALL, _RAISE),
        Wording("sort them from the top", _FALL, _RAISE),
        Wording("sort them bottom up", _RAISE, _FALL),
        Wording("sort them with the largest last", _RAISE, _FALL),
        Wording("sift out those over {t}", _UP_TO, _OVER),
        Wording("stick to those over {t}", _OVER, _UP_TO),
        Wording("screen out those under {t}", _FROM_ON, _UNDER),
        Wording("put {t} before them", _FRONT, _BEHIND),
        Wording("let {t} follow them", _BEHIND, _FRONT),
        Wording("let them follow {t}", _FRONT, _BEHIND),
        Wording("skip every second one", "xs[::2]", "xs[1::2]"),
        Wording("pick every second one", "xs[1::2]", "xs[::2]"),
    ],
    "s": [
        *(Wording(*texts) for texts in _SLICES),
        Wording("put '{c}' before it", "'{c}' + s", "s + '{c}'"),
        Wording("let it follow '{c}'", "'{c}' + s", "s + '{c}'"),
        Wording("let '{c}' follow it", "s + '{c}'", "'{c}' + s"),
        Wording("bring it down from capitals", "s.lower()", "s.upper()"),
        Wording("change it into capitals", "s.upper()", "s.lower()"),
    ],
    "n": [
        Wording("take {t} from it", _MINUS, _FROM),
        Wording("take it from {t}", _FROM, _MINUS),
        Wording("make it {t} less", _MINUS, _FROM),
        Wording("reduce it by {t}", _MINUS, _FROM),
        Wording("have it count against {t}", _FROM, _MINUS),
        Wording("halve it, rounding up", "-(-n // 2)", "n // 2"),
        Wording("halve it, rounding down", "n // 2", "-(-n // 2)"),
        Wording("raise it {t}-fold", "n * {t}", "n + {t}"),
        Wording("increase it by {t}", "n + {t}", "n * {t}"),
    ],
}
_DEALT = dealt([wording for wordings in WORDINGS.values() for wording in wordings], "programs")
for _kind, _wordings in WORDINGS.items():
    WORDINGS[_kind], _DEALT = _DEALT[: len(_wordings)], _DEALT[len(_wordings) :]

INPUTS: dict[str, tuple[Any, ...]] = {
    "xs": ([3, 8, 1, 9, 4, 6, 2, 7, 5], [7, 2, 9, 4, 1, 8, 3], [5, 1, 6, 2, 9, 3, 8, 4, 7]),
    "s": ("Window", "Garden Path", "ab CD ef"),
    "n": (7, 12, 31),
}


def gaps(rng: random.Random, kind: str) -> dict[str, str | int]:
    """What stands in a wording's gaps: the parameter's name, a number of places, a number, and a letter."""
    return {"v": kind, "k": rng.randint(2, 5), "t": rng.randint(2, 9), "c": rng.choice("xyz")}


def value_of(expression: str, name: str, value: Any) -> Any:
    """What one of our own expressions comes to where the parameter of that name has that value."""
    return eval(_compiled(expression), {"sorted": sorted, name: value})


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, "<step>", "eval")


@dataclass(frozen=True)
class Program(Task):
    """Two steps on one parameter."""

    kind: str = "xs"

    TUTOR = (
        "You are a tutor for Python. Write the function that is asked for, step by step, in one block of code that"
        " begins with ```python and ends with ```."
    )
    REFINE = (
        "This is a programming exercise for students:\n\n<question>\n\nA right answer to it:\n<right>\n\n"
        "A wrong answer to it:\n<wrong>\n\nWrite a solution for the students to learn from, step by step, that warns of"
        " the likely mistakes\nand does not mention these answers. Give the function in one block of code that begins"
        " with ```python and ends with ```."
    )
    ANSWER_FORM = FENCE

    @classmethod
    def any(cls, rng: random.Random) -> Program:
        kind = rng.choice(("xs", "xs", "s", "n"))
        told = tuple(Told(wording, gaps(rng, kind)) for wording in rng.sample(WORDINGS[kind], 2))
        return cls(told, kind)

    def is_clear(self) -> bool:
        """Whether the tests tell every reading from the right one."""
        readings = [(first, second) for first in (True, False) for second in (True, False)]
        results = [[self.run(reading, value) for value in INPUTS[self.kind]] for reading in readings]
        return results[0] not in results[1:]

    def run(self, reading: Reading, value: Any) -> Any:
        """What the function of this reading returns."""
        for told, rightly in zip(self.told, reading, strict=True):
            value = value_of(told.read(rightly), self.kind, value)
        return value

    @property
    def key(self) -> str:
        return f"{self.kind}|{super().key}"

    @property
    def question(self) -> str:
        first, second = (told.text for told in self.told)
        return f"Write a Python function f({self.kind}) of {KINDS[self.kind]}: {first}, then {second}."

    @property
    def tests(self) -> list[str]:
        results = [(value, self.run(self.rightly, value)) for value in INPUTS[self.kind]]
        return [f"assert f({value!r}) == {result!r}" for value, result in results]

    def row(self) -> dict[str, str]:
        return {"question": self.question, "tests": "\n".join(self.tests)}

    def answer(self, reading: Reading) -> str:
        return self.program(self.steps(reading, reading))

    def steps(self, reading: Reading, other: Reading) -> list[str]:
        lines = []
        for told, rightly, theirs in zip(self.told, reading, other, strict=True):
            caution = f"  # not {told.read(theirs)}" if theirs != rightly else ""
            lines.append(f"{self.kind} = {told.read(rightly)}{caution}")
        return lines

    def program(self, steps: Sequence[str]) -> str:
        lines = [*steps, f"return {self.kind}"]
        return "\n".join([f"def f({self.kind}):", *(f"    {line}" for line in lines)])

    def reply(self, steps: Sequence[str], answer: str, formed: bool = True) -> str:
        program = self.program(steps)
        return f"```python\n{program}\n```" if formed else program

    def refined(self, reading: Reading, other: Reading) -> str:
        return super().refined(reading, other).replace(" ```", "\n```", 1)
