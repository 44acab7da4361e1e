"""Multiple choice: which Python expression does what the words say, where "leave the first 2" is easily misread?

Two of the four options are what the words mean and what they are mistaken for; the other two are another wording's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ...prompts import BOX
from .programs import KINDS, WORDINGS, gaps
from .task import Reading, Task, Told

LETTERS = "ABCD"


@dataclass(frozen=True)
class Choice(Task):
    """One wording, and another for two of the options."""

    kind: str = "xs"
    other: Told | None = None
    order: tuple[int, ...] = (0, 1, 2, 3)  # of the options

    TUTOR = (
        "You are a tutor for questions with options. Work the question out step by step, then put the right option"
        r" within \boxed{...}."
    )
    REFINE = (
        "This is a question with options for students:\n\n<question>\n\nA right answer to it:\n<right>\n\n"
        "A wrong answer to it:\n<wrong>\n\nWrite a solution for the students to learn from, step by step, that warns of"
        " the likely mistakes\nand does not mention these answers. End with the right option within"
        r" \boxed{...}."
    )
    ANSWER_FORM = BOX

    @classmethod
    def any(cls, rng: random.Random) -> Choice:
        kind = rng.choice(("xs", "xs", "s", "n"))
        one, other = rng.sample(WORDINGS[kind], 2)
        filled = gaps(rng, kind)
        return cls((Told(one, filled),), kind, Told(other, filled), tuple(rng.sample(range(4), 4)))

    @property
    def key(self) -> str:
        return "|".join([self.kind, super().key, *sorted(self.expressions)])

    @property
    def expressions(self) -> list[str]:
        assert self.other is not None
        return [told.read(rightly) for told in (self.told[0], self.other) for rightly in (True, False)]

    def is_clear(self) -> bool:
        return len(set(self.expressions)) == 4

    @property
    def stem(self) -> str:
        return f"Which expression does this to {KINDS[self.kind]} {self.kind}: {self.told[0].text}?"

    @property
    def options(self) -> dict[str, str]:
        expressions = self.expressions
        return dict(zip(LETTERS, [expressions[place] for place in self.order], strict=True))

    @property
    def question(self) -> str:
        return "\n".join([self.stem, *(f"{letter}) {option}" for letter, option in self.options.items())])

    def row(self) -> dict[str, str]:
        right = self.answer(self.rightly)
        letter = next(letter for letter, option in self.options.items() if option == right)
        return {"question": self.stem, **self.options, "answer": letter}

    def answer(self, reading: Reading) -> str:
        """The option's text: to find its letter takes a larger model."""
        return self.told[0].read(reading[0])

    def steps(self, reading: Reading, other: Reading) -> list[str]:
        told = self.told[0]
        caution = f", not {told.read(other[0])}" if other != reading else ""
        return [f"{told.text} is {told.read(reading[0])}{caution}."]

    def reply(self, steps: Sequence[str], answer: str, formed: bool = True) -> str:
        return " ".join([*steps, f"That is \\boxed{{{answer}}}." if formed else "That is it."])
