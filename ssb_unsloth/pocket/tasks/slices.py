"""The tutorial's own task: write in one line, behind "Answer:", which part of a list or a text two steps keep.

`xs[:3]` and `xs[0:3]` keep the same part, which no built-in verifier knows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .programs import KINDS, WORDINGS, gaps, value_of
from .task import Reading, Task, Told

SLICES = {kind: [wording for wording in WORDINGS[kind] if wording.means.startswith("{v}[")] for kind in ("xs", "s")}
LENGTHS = range(7, 13)  # of lists on which different slices are to differ


@dataclass(frozen=True)
class Slices(Task):
    """Two slices of one thing, one after the other."""

    kind: str = "xs"

    TUTOR = (
        "You are a tutor for slices in Python. Work out step by step what is left, then give it as slices on a line of"
        " its own:\nAnswer: ..."
    )
    REFINE = (
        "This is a question about slices in Python for students:\n\n<question>\n\nA right answer to it:\n<right>\n\n"
        "A wrong answer to it:\n<wrong>\n\nWrite a solution for the students to learn from, step by step, that warns of"
        " the likely mistakes\nand does not mention these answers. End with the slices on a line of their own:\n"
        "Answer: ..."
    )
    ANSWER_FORM = "Answer: ..."

    @classmethod
    def any(cls, rng: random.Random) -> Slices:
        kind = rng.choice(("xs", "s"))
        return cls(tuple(Told(wording, gaps(rng, kind)) for wording in rng.sample(SLICES[kind], 2)), kind)

    @property
    def key(self) -> str:
        return f"{self.kind}|{super().key}"

    def is_clear(self) -> bool:
        readings = [(first, second) for first in (True, False) for second in (True, False)]
        kept = [[value_of(self.answer(r), self.kind, list(range(n))) for n in LENGTHS] for r in readings]
        return kept[0] not in kept[1:]

    @property
    def question(self) -> str:
        first, second = (told.text for told in self.told)
        return f"What is left of {KINDS[self.kind]} {self.kind}: {first}, then {second}?"

    def row(self) -> dict[str, str]:
        return {"question": self.question, "answer": self.answer(self.rightly)}

    def answer(self, reading: Reading) -> str:
        return self.kind + "".join(self._slices(reading))

    def _slices(self, reading: Reading) -> list[str]:
        read = [told.read(rightly) for told, rightly in zip(self.told, reading, strict=True)]
        return [expression.removeprefix(self.kind) for expression in read]

    def steps(self, reading: Reading, other: Reading) -> list[str]:
        steps = []
        for told, mine, theirs in zip(self.told, self._slices(reading), self._slices(other), strict=True):
            steps.append(f"{told.text} is {mine}{f', not {theirs}' if theirs != mine else ''}.")
        return steps

    def reply(self, steps: Sequence[str], answer: str, formed: bool = True) -> str:
        return " ".join(steps) + (f"\nAnswer: {answer}" if formed else "")
