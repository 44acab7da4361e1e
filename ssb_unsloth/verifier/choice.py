r"""The verifier of multiple choice: the answer is an option's letter, its text, or both.

The options stand in the question, one a line, as `A) 12`. They stand in the gold answer too, below the right one's
letter, so that a reply is graded by its text and the gold answer alone:

    B
    A) 12
    B) 13

A gold answer of a letter alone (`B`, `(b)`) knows no texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .boxed import Boxed, false_if_raised
from .plain import plain
from .protocol import Grade, Verdict, Verifier
from .replies import announced, behind_thoughts

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HOW = ("plain", "letter", "text", "index", "index1")  # how a gold answer names its option (`problems.gold_format`)
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\].:]?")
_BOTH = re.compile(r"[(\[]?\s*([A-Za-z])\s*(?:[)\]]\s*[:.\-–—]?|[.:]|\s[-–—=]\s)\s*(\S.*)", re.S)
_OWN_LETTER = re.compile(r"\s*[(\[]?([A-Z])\s*[)\].:]\s*(?=\S)")
_WORD = re.compile(r"(?:the\s+)?(?:correct\s+|right\s+)?(?:option|choice|answer)(?:\s+is)?\s*:?\s+(?=\S)", re.I)


@dataclass(frozen=True)
class Gold:
    """A gold answer as read. `options` is empty where the texts are not known."""

    place: int
    options: tuple[str, ...] = ()


@dataclass(eq=False)
class Choice(Boxed):
    """The letter in any case and in brackets; the text but for white space, and for its case where that leaves one.

    A letter with the text of another option is wrong, with a note. A letter with words that are no option's counts.
    """

    example: ClassVar[str] = "B"

    # -- From the data set to the question

    def posed(self, question: str, gold: str, how: str, more: Any = None) -> tuple[str, str]:
        options, labels = _options(more)
        if how not in HOW:
            raise ValueError(f"{how!r} says not how a gold answer names its option; expected {', '.join(HOW)}.")
        place = _place(gold, how, options, labels)
        shown = "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))
        return f"{question.rstrip()}\n{shown}", f"{LETTERS[place]}\n{shown}"

    def gold_from(self, text: str, how: str) -> str:
        return super().gold_from(text, "plain" if how in HOW else how)

    def is_gold(self, gold: str) -> bool:
        return _gold(gold) is not None

    def shown(self, gold: str) -> str:
        found = _gold(gold)
        if found is None:
            return gold
        return LETTERS[found.place] + (f") {found.options[found.place]}" if found.options else "")

    def strictly(self, gold: str) -> str:
        found = _gold(gold)
        return LETTERS[found.place] if found else gold

    # -- From the reply to the verdict

    def verdict_on(self, text: str, answer: str, gold: str) -> Grade:
        """The answer of the grade is the option's letter, so that all ways to name one option are one class."""
        known = _gold(gold)
        if known is None:
            return Grade(Verdict.WRONG, answer, "the gold answer is no option")
        place, note = _read(answer, known.options)
        if place is None:
            return Grade(Verdict.WRONG, answer, note)
        return Grade(Verdict.RIGHT if place == known.place else Verdict.WRONG, LETTERS[place])

    def equal(self, answer: str, gold: str) -> bool:
        """Of two answers, neither of which knows the options: the same letter, or the same text."""
        one, other = (_read(text, ())[0] for text in (answer, gold))
        return plain(answer, case=False) == plain(gold, case=False) if None in (one, other) else one == other

    @false_if_raised
    def format_free(self, text: str, gold: str) -> bool:
        """Also without the form: what is announced, the last letter in brackets, or the last line."""
        if (answer := self.answer_in(text)) is not None:
            return self.verdict_on(text, answer, gold).verdict == Verdict.RIGHT
        text = text[behind_thoughts(text) :].strip()
        known = _gold(gold)
        if known is None or not text:
            return False
        phrase = announced(text)
        bracketed = re.findall(r"\(([A-Z])\)|(?<!\w)([A-Z])\)", text)
        last = ["".join(bracketed[-1])] if bracketed else []
        begun = re.match(r"\(?([A-Z])\)?(?![\w'])", phrase)
        for tried in (phrase, begun[1] if begun else "", *last, text.splitlines()[-1]):
            place, note = _read(tried, known.options) if tried.strip() else (None, None)
            if place is not None or note:
                return place == known.place
        return False


def _options(more: Any) -> tuple[list[str], list[str]]:
    """Texts and labels, from a list, an object of `text` (or `texts`) and `label`, or a list of such objects."""
    labels: Any = None
    if isinstance(more, Mapping):
        texts = next((more[key] for key in ("text", "texts", "choices", "options") if key in more), None)
        labels = next((more[key] for key in ("label", "labels") if key in more), None)
        if texts is None:  # {"A": "12", "B": "13"}
            texts, labels = list(more.values()), list(more)
    elif isinstance(more, Sequence) and not isinstance(more, str) and more and isinstance(more[0], Mapping):
        texts = [item.get("text") if isinstance(item, Mapping) else None for item in more]
        labels = [item.get("label") if isinstance(item, Mapping) else None for item in more]
        labels = None if None in labels else labels
    else:
        texts = more
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not texts:
        raise ValueError("there are no options: expected a list of texts.")
    found = [_text(text) for text in texts]
    marked = [_OWN_LETTER.match(text) for text in found]
    if all(mark and mark[1] == letter for mark, letter in zip(marked, LETTERS, strict=False)):
        found = [text[mark.end() :] for text, mark in zip(found, marked, strict=True) if mark]
    if not 2 <= len(found) <= len(LETTERS):
        raise ValueError(f"there are {len(found)} options; expected 2 to {len(LETTERS)}.")
    keys = [plain(text) for text in found]
    if twice := next((text for text, key in zip(found, keys, strict=True) if keys.count(key) > 1), None):
        raise ValueError(f"two options are the same: {twice[:80]!r}.")
    names = [str(label).strip() for label in labels] if isinstance(labels, Sequence | Mapping) else []
    if names and (len(names) != len(found) or len(set(names)) < len(names)):
        raise ValueError(f"the options have the labels {', '.join(names)}; expected {len(found)} different ones.")
    return found, names


def _text(value: Any) -> str:
    """An option on one line."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"an option is {str(value)[:40]!r} ({type(value).__name__}); expected a text or a number.")
    return " ".join(str(value).split())


def _place(gold: str, how: str, options: Sequence[str], labels: Sequence[str]) -> int:
    """Which option the gold answer names."""
    gold, names = gold.strip(), [*labels] or [*LETTERS[: len(options)]]
    named = {name.casefold(): place for place, name in enumerate(names)}
    by_letter = next(
        (place for place in (named.get(gold.casefold()), _letter(gold, len(options))) if place is not None), None
    )
    if labels and how != "text" and _LETTER.fullmatch(gold) and not any(name.isalpha() for name in names):
        by_letter = None  # labels are numbers, and this is a letter
    by_text = next((place for place, text in enumerate(options) if plain(text) == plain(gold)), None)
    if how.startswith("index"):
        if not re.fullmatch(r"-?\d+(?:\.0+)?", gold):
            raise ValueError(f"the gold answer is {gold[:40]!r}, no whole number.")
        first = int(how == "index1")
        place = int(float(gold)) - first
        if not 0 <= place < len(options):
            raise ValueError(f"the gold answer is option {gold}; they go from {first} to {len(options) - 1 + first}.")
        return place
    if how == "plain":
        if re.fullmatch(r"\d+", gold) and gold not in labels:
            raise ValueError(
                f"the gold answer is the number {gold}; say gold_format: index (the first option is 0), index1 (1) or"
                " text."
            )
        if None not in (by_letter, by_text) and by_letter != by_text:
            raise ValueError(f"the gold answer {gold!r} is one option's letter and another's text; say which it is.")
        found = by_letter if by_letter is not None else by_text
    else:
        found = by_letter if how == "letter" else by_text
    if found is None:
        raise ValueError(f"the gold answer {gold[:60]!r} is none of the options ({', '.join(names)}).")
    return found


def _letter(text: str, count: int) -> int | None:
    found = _LETTER.fullmatch(text.strip())
    place = LETTERS.find(found[1].upper()) if found else -1
    return place if 0 <= place < count else None


def _gold(gold: str) -> Gold | None:
    """A gold answer as `posed` wrote it, or one letter, as `(b)` or `B) 13`."""
    first, *lines = gold.strip().split("\n")
    if not lines:
        both = _BOTH.fullmatch(plain(first))
        place = _letter(both[1] if both else plain(first), len(LETTERS))
        return None if place is None else Gold(place)
    options = tuple(line[3:] for line in lines)
    if any(not line.startswith(f"{letter}) ") for line, letter in zip(lines, LETTERS, strict=False)):
        return None
    place = _letter(first, len(options))
    return None if place is None else Gold(place, options)


def _read(answer: str, options: Sequence[str]) -> tuple[int | None, str | None]:
    """Which option an answer names (None: none of them), and what is wrong where it names two."""
    text = plain(answer)
    text = text[found.end() :] if (found := _WORD.match(text)) else text
    place = _letter(text, len(options) or len(LETTERS))
    if place is not None:
        return place, None
    if (whole := _with_text(text, options)) is not None:
        return whole, None
    both = _BOTH.fullmatch(text)
    place = _letter(both[1], len(options) or len(LETTERS)) if both else None
    if both is None or place is None:
        return None, None
    other = _with_text(both[2], options)
    if other is not None and other != place:
        return None, f"names option {LETTERS[place]} and gives the text of {LETTERS[other]}"
    return place, None


def _with_text(text: str, options: Sequence[str]) -> int | None:
    """The option of that text; without regard to case where that leaves one."""
    for case in (True, False):
        found = [place for place, option in enumerate(options) if plain(option, case) == plain(text, case)]
        if len(found) == 1:
            return found[0]
    return None


VERIFIER: Verifier = Choice()
