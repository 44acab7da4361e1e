"""Word problems for the pocket: chains of events over one amount, in wordings that are easy to misread.

After "Mia has 9 shells", both "Tom has 3 more" and "That is 3 more than Tom has" suggest adding; "is lent", "lends to"
and "lends out" are as easily mixed up. Each wording is misread at a rate of its own, which neither its keyword nor its
form gives away, and some are misread more often than not. So what there is to learn is one thing a wording, more than
fifty in all, and no common trick. `corpus` writes the solutions of readers who misread so.

Pure Python, no heavy import: `generate` is what recipes and tests call.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal

from ..errors import UserError
from ..records import Problem, stable_id

NAMES = ("Mia", "Tom", "Ann", "Ben", "Eva", "Leo", "Zoe", "Max", "Ida", "Sam", "Kim", "Ron")
NOUNS = ("shells", "coins", "cards", "stamps", "beads", "books", "pens", "toys", "nuts", "keys")
VERSION = 2  # of what `generate` gives for the same split and seed: part of what determines a stage
LARGEST, DRILLS = 100_000, 2_000  # problems in one call; there are many more, and some 3,700 drills

Operation = Literal["+", "-"]


@dataclass(frozen=True)
class Wording:
    """A sentence with gaps {c} (whose amount is known), {o} (somebody new) and {n}: what it means, and the share of
    readers that take it for the opposite.

    `passes_on`: the amount that is spoken of from here on is {o}'s, as in "{o} has {n} more than that".
    """

    text: str
    means: Operation
    misread: float = 0.0

    @property
    def passes_on(self) -> bool:
        return "{o}" in self.text


def _wordings(adds: Sequence[str], subtracts: Sequence[str]) -> list[Wording]:
    return [*(Wording(text, "+") for text in adds), *(Wording(text, "-") for text in subtracts)]


def _misread(wordings: Sequence[Wording], rates: Sequence[float], seed: str) -> list[Wording]:
    """The wordings with rates dealt out as from a shuffled pack, so that nothing about a wording tells its rate."""
    pack = [rate for rate, _ in zip(cycle(rates), wordings, strict=False)]
    random.Random(seed).shuffle(pack)
    return [replace(wording, misread=rate) for wording, rate in zip(wordings, pack, strict=True)]


PLAIN = [
    replace(wording, misread=0.02)
    for wording in _wordings(["{c} finds {n}.", "{c} buys {n}."], ["{c} breaks {n}.", "{c} uses up {n}."])
]
BOOTSTRAPPED = _misread(
    [
        *_wordings(
            ["{o} has {n} more.", "{o} has {n} more than that.", "{o} has {n} more than {c}."],
            ["That is {n} more than {o} has.", "With {n} more, {o} would have as many.", "{c} has {n} more than {o}."],
        ),
        *_wordings(
            [
                "That is {n} fewer than {o} has.",
                "With {n} fewer, {o} would have as many.",
                "{c} has {n} fewer than {o}.",
            ],
            ["{o} has {n} fewer.", "{o} has {n} fewer than that.", "{o} has {n} fewer than {c}."],
        ),
        *_wordings(
            ["{o} is {n} ahead of {c}.", "{c} is {n} behind {o}."],
            ["{c} is {n} ahead of {o}.", "{o} is {n} behind {c}."],
        ),
        *_wordings(
            ["{c} is given {n}.", "A friend gives {n} to {c}."],
            ["{c} gives away {n}.", "{c} gives {n} to a friend."],
        ),
        *_wordings(
            ["{c} takes in {n}.", "{c} takes {n} from a friend."],
            ["A friend takes away {n}.", "A friend takes {n} from {c}."],
        ),
        *_wordings(
            ["{c} gets {n} lost ones back.", "A friend loses {n} to {c}."],
            ["{c} loses {n}.", "{c} loses {n} to a friend."],
        ),
        *_wordings(
            ["{c} is lent {n}.", "A friend lends {n} to {c}."],
            ["{c} lends out {n}.", "{c} lends {n} to a friend."],
        ),
        *_wordings(
            ["{c} is paid {n}.", "A friend pays {n} to {c}."],
            ["{c} pays out {n}.", "{c} pays {n} to a friend."],
        ),
        *_wordings(
            ["{c} is sent {n}.", "A friend sends {n} to {c}."],
            ["{c} sends off {n}.", "{c} sends {n} to a friend."],
        ),
        *_wordings(
            ["{c} is handed {n}.", "A friend hands {n} to {c}."],
            ["{c} hands out {n}.", "{c} hands {n} to a friend."],
        ),
        *_wordings(
            ["{c} gets {n} returned.", "A friend returns {n} to {c}."],
            ["{c} returns {n}.", "{c} returns {n} to a friend."],
        ),
        *_wordings(
            ["{c} is mailed {n}.", "A friend mails {n} to {c}."],
            ["{c} mails off {n}.", "{c} mails {n} to a friend."],
        ),
    ],
    rates=(0.15, 0.3, 0.4, 0.55, 0.7),
    seed="bootstrapped",
)
HELD_OUT = _misread(  # part of the pre-training text, but never bootstrapped: only `test_hard` asks for them
    [
        *_wordings(
            ["That is {n} less than {o} has.", "With {n} less, {o} would have as many.", "{c} has {n} less than {o}."],
            ["{o} has {n} less.", "{o} has {n} less than that.", "{o} has {n} less than {c}."],
        ),
        *_wordings(
            ["{c} wins {n}.", "{c} wins {n} from a friend."],
            ["A friend wins {n} of them.", "A friend wins {n} from {c}."],
        ),
        *_wordings(
            ["{c} is sold {n}.", "A friend sells {n} to {c}."], ["{c} sells {n}.", "{c} sells {n} to a friend."]
        ),
    ],
    rates=(0.1, 0.2, 0.3),
    seed="held out",
)
WORDINGS = [*PLAIN, *BOOTSTRAPPED, *HELD_OUT]

# Every instance falls into one of 100 buckets by the hash of its (wordings, numbers); a split owns some of them, so no
# two splits can share a problem, whatever names and things it is dressed in.
BUCKETS = {
    "train": range(0, 60),
    "bootstrap": range(60, 72),
    "validation": range(72, 78),
    "test": range(78, 90),
    "test_hard": range(90, 93),
    "validation_hard": range(93, 95),
    "untrained": range(95, 100),
    "drills": range(60, 100),  # of the drills, which are another kind of instance
}


@dataclass(frozen=True)
class Event:
    """One sentence of a story: its wording, its number, and whose amount is known before (`who`) and after (`then`)."""

    wording: Wording
    number: int
    who: str
    other: str

    @property
    def then(self) -> str:
        return self.other if self.wording.passes_on else self.who

    @property
    def text(self) -> str:
        return self.wording.text.format(c=self.who, o=self.other, n=self.number)


@dataclass(frozen=True)
class Story:
    """A word problem with its structure: a starting amount and the events that change or compare it."""

    start: int
    events: tuple[Event, ...]
    noun: str

    @property
    def question(self) -> str:
        first, last = self.events[0].who, self.events[-1].then
        told = " ".join(event.text for event in self.events)
        return f"{first} has {self.start} {self.noun}. {told} How many {self.noun} does {last} have now?"

    @property
    def gold(self) -> str:
        signed = (event.number if event.wording.means == "+" else -event.number for event in self.events)
        return str(self.start + sum(signed))

    @property
    def key(self) -> str:
        """The canonical instance: wordings and numbers, without the names and things."""
        return "|".join([str(self.start), *(f"{event.wording.text}{event.number}" for event in self.events)])


@dataclass(frozen=True)
class Drill:
    """A question without a story: a sum, the larger of two numbers, or a double. Measures what training forgets."""

    kind: Literal["sum", "larger", "double"]
    a: int
    b: int
    operation: Operation = "+"

    @property
    def question(self) -> str:
        if self.kind == "sum":
            return f"What is {self.a}{self.operation}{self.b}?"
        return f"Which is larger, {self.a} or {self.b}?" if self.kind == "larger" else f"What is twice {self.a}?"

    @property
    def gold(self) -> str:
        if self.kind == "sum":
            return str(self.a + self.b if self.operation == "+" else self.a - self.b)
        return str(max(self.a, self.b) if self.kind == "larger" else 2 * self.a)

    @property
    def key(self) -> str:
        return f"{self.kind}|{self.a}|{self.operation}|{self.b}"


def draw_story(rng: random.Random, split: str) -> Story:
    """A story of the split's kind, from the split's buckets: any one to five events in `train`; elsewhere a plain event
    and one to three of the bootstrapped wordings, so that nobody who trains on them learns how many lines to write. The
    hard ones have five events, longer than all those: three bootstrapped, and one in a wording that never is;
    `untrained` has nothing but such wordings beside the plain event.
    """
    while True:
        if split == "train":
            length = rng.choice((1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5))
            wordings = [rng.choice(rng.choice((PLAIN, BOOTSTRAPPED, BOOTSTRAPPED, HELD_OUT))) for _ in range(length)]
        else:
            hard, tricky = split.endswith("_hard"), HELD_OUT if split == "untrained" else BOOTSTRAPPED
            wordings = [rng.choice(PLAIN), *(rng.choice(tricky) for _ in range(3 if hard else rng.randint(1, 3)))]
            wordings += [rng.choice(HELD_OUT)] if hard else []
            rng.shuffle(wordings)
        story = _dress(rng, wordings)
        if _bucket(story.key) in BUCKETS[split]:
            return story


def draw_drill(rng: random.Random, held_out: bool) -> Drill:
    """A drill that `generate` may ask (held out), or one for the pre-training text."""
    while True:
        kind = rng.choice(("sum", "sum", "larger", "double"))
        if kind == "sum":
            drill = Drill("sum", rng.randint(10, 80), rng.randint(2, 9), rng.choice(("+", "-")))
        elif kind == "larger":
            one, other = rng.sample(range(10, 100), 2)
            drill = Drill("larger", one, other)
        else:
            number = rng.randint(2, 49)
            drill = Drill("double", number, number)
        if (_bucket(drill.key) in BUCKETS["drills"]) == held_out:
            return drill


def generate(split: str, n: int, seed: int) -> list[Problem]:
    """`n` distinct problems of a split (a key of BUCKETS), the same for the same seed. No two splits share an instance.

    Raises:
        UserError: there is no such split, or it does not hold that many.
    """
    if split not in BUCKETS:
        raise UserError(f"The pocket has no split '{split}'; it has {', '.join(BUCKETS)}.")
    most = DRILLS if split == "drills" else LARGEST
    if not 0 <= n <= most:
        raise UserError(f"The pocket gives 0 to {most:,} problems of '{split}' at a time, not {n:,}; ask for fewer.")
    rng = random.Random(f"{split}|{seed}")
    found: dict[str, Problem] = {}
    while len(found) < n:
        instance = draw_drill(rng, held_out=True) if split == "drills" else draw_story(rng, split)
        question = instance.question
        found.setdefault(instance.key, Problem(stable_id("pocket", question), question, instance.gold))
    return list(found.values())


def _dress(rng: random.Random, wordings: list[Wording]) -> Story:
    """Numbers, names and things for the wordings. Whatever signs a reader takes, the amount stays within 1 to 99, and
    above 0 if each result is one too small besides.
    """
    numbers = [rng.randint(2, 9) for _ in wordings]
    start = rng.randint(sum(numbers) + len(numbers) + 1, min(60, 99 - sum(numbers)))
    who, *others = rng.sample(NAMES, len(wordings) + 1)
    events = []
    for wording, number, other in zip(wordings, numbers, others, strict=True):
        events.append(Event(wording, number, who, other))
        who = events[-1].then
    return Story(start, tuple(events), rng.choice(NOUNS))


def _bucket(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % 100
