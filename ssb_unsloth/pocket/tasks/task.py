"""What the three kinds of question have in common: wordings, readings of them, replies, and splits that share nothing.

Pure Python, no heavy import.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import ClassVar

OPENING = "Read each word with care."
RATES = (0.15, 0.3, 0.45, 0.6, 0.7)  # shares of readers that take a wording for its opposite, dealt out evenly

# Every question falls into one of 100 buckets by the hash of its key; a split owns some of them.
BUCKETS = {"train": range(0, 50), "bootstrap": range(50, 75), "validation": range(75, 80), "test": range(80, 100)}

Reading = tuple[bool, ...]  # of each of a question's wordings: taken as it is meant?


@dataclass(frozen=True)
class Wording:
    """A piece of a question with gaps in braces: what it means, what it is mistaken for, and how often."""

    text: str
    means: str
    rival: str
    misread: float = 0.0


@dataclass(frozen=True)
class Told:
    """A wording in a question, its gaps filled."""

    wording: Wording
    gaps: dict[str, str | int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.wording.text.format(**self.gaps)

    def read(self, rightly: bool) -> str:
        """What a reader takes it for."""
        return (self.wording.means if rightly else self.wording.rival).format(**self.gaps)


def dealt(wordings: Sequence[Wording], seed: str) -> list[Wording]:
    """The wordings with rates dealt out as from a shuffled pack, so that nothing about a wording tells its rate."""
    pack = [rate for rate, _ in zip(cycle(RATES), wordings, strict=False)]
    random.Random(seed).shuffle(pack)
    return [replace(wording, misread=rate) for wording, rate in zip(wordings, pack, strict=True)]


@dataclass(frozen=True)
class Task(ABC):
    """A question, and what readers make of it."""

    told: tuple[Told, ...]

    TUTOR: ClassVar[str]
    REFINE: ClassVar[str]
    ANSWER_FORM: ClassVar[str]

    @classmethod
    @abstractmethod
    def any(cls, rng: random.Random) -> Task:
        """One that may be of any split."""

    @property
    @abstractmethod
    def question(self) -> str:
        """As the model is asked it."""

    @abstractmethod
    def row(self) -> dict[str, str]:
        """As it stands in a data file: columns and values."""

    @abstractmethod
    def answer(self, reading: Reading) -> str:
        """What this reading comes to, as it stands in the reply."""

    @abstractmethod
    def steps(self, reading: Reading, other: Reading) -> list[str]:
        """The worked steps, with a caution at each wording that the other reading takes in another way."""

    @abstractmethod
    def reply(self, steps: Sequence[str], answer: str, formed: bool = True) -> str:
        """A whole reply; without the form that the answer was asked in where it is not `formed`."""

    @property
    def key(self) -> str:
        """The canonical question: wordings and numbers, without what it is dressed in."""
        return "|".join(told.text for told in self.told)

    @property
    def rightly(self) -> Reading:
        return (True,) * len(self.told)

    def is_clear(self) -> bool:
        """Whether a wrong reading always leads to a wrong answer."""
        return True

    def attempt(self, rng: random.Random, unlike: str | None = None) -> Reading:
        """How a reader reads it; with `unlike`, again until the answer is another one (or after many, as it came)."""
        for _ in range(300):
            reading = tuple(rng.random() >= told.wording.misread for told in self.told)
            if unlike is None or self.answer(reading) != unlike:
                break
        return reading

    def solution(self, reading: Reading, formed: bool = True) -> str:
        """A student's reply."""
        return self.reply(self.steps(reading, reading), self.answer(reading), formed)

    def refined(self, reading: Reading, other: Reading) -> str:
        """The reply as a tutor writes it up."""
        return f"{OPENING} {self.reply(self.steps(reading, other), self.answer(reading))}"

    @classmethod
    def draw(cls, rng: random.Random, split: str) -> Task:
        """One from the split's buckets."""
        while True:
            task = cls.any(rng)
            if bucket(task.key) in BUCKETS[split] and task.is_clear():
                return task

    @classmethod
    def generate(cls, split: str, n: int, seed: int) -> list[Task]:
        """`n` different ones of a split, the same for the same seed. No two splits share a key.

        Raises:
            ValueError: the split does not hold so many.
        """
        rng = random.Random(f"{cls.__name__}|{split}|{seed}")
        found: dict[str, Task] = {}
        for _ in range(20 * n):
            task = cls.draw(rng, split)
            found.setdefault(task.key, task)
            if len(found) == n:
                return list(found.values())
        raise ValueError(f"{split} holds only about {len(found)} questions of {cls.__name__}, and not {n}.")


def bucket(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % 100
