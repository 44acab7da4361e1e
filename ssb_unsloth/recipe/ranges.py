"""The range of a recipe's value, stated beside its default: `top_p: float = number(1.0, above=0, at_most=1)`.

It is kept as the field's metadata. `checks.out_of_range` holds a whole recipe to the ranges of all its keys.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
_NAME = "range"


@dataclass(frozen=True)
class Range:
    """Which numbers a key can have. Its text ends the sentence "train.epochs: 0 is not ..."."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    note: str = ""  # after a semicolon: the reason, or which value turns it off
    word: str | None = None  # that can stand in a number's place

    def __contains__(self, value: float | str | None) -> bool:
        """null is in every range: whether a key can be null is its type's to say."""
        if isinstance(value, str):
            return value == self.word
        return value is None or (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        bounds = {"above": self.above, "of at least": self.at_least, "below": self.below, "at most": self.at_most}
        said = " and ".join(f"{name} {bound:,}" for name, bound in bounds.items() if bound is not None)
        word = f"{self.word}, nor " if self.word is not None else ""
        return f"{word}a number {said}" + (f"; {self.note}" if self.note else "")


def number(default: T, **bounds: Any) -> T:
    """A field with that default and the Range of these bounds. A default that is a word is no number's, and allowed."""
    return field(default=default, metadata=each(**bounds, word=default if isinstance(default, str) else None))


def each(**bounds: Any) -> dict[str, Range]:
    """The metadata of a field that is a list: each of its numbers lies within the Range of these bounds."""
    return {_NAME: Range(**bounds)}


def as_in(section: type, key: str) -> Any:
    """A field with the default and the range of another section's key."""
    (known,) = (one for one in dataclasses.fields(section) if one.name == key)
    return field(default=known.default, metadata=known.metadata)


def range_of(known: dataclasses.Field[Any]) -> Range | None:
    """The range that stands beside the field."""
    return known.metadata.get(_NAME)
