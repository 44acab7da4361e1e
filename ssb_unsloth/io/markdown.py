"""Names, ids and texts from outside in Markdown: what they hold is shown, and is never markup, a link or a new line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .terminal import visible

_MARKUP = re.compile(
    r"[\\`*|~$]"  # anywhere
    r"|\](?=[:(\[])|\[(?=\^|[ xX]\])"  # links, notes and boxes to tick
    r"|(?<![^\W_])_|_(?![^\W_])"  # not between letters, where it is none
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)"  # tags and entities
    r"|:(?=//)|(?<=www)\.|@(?=\w)",  # what becomes a link by itself
    re.IGNORECASE,
)
_OPENING = re.compile(r"^(\d{0,9})(?=[#>+=.)-])")  # of a heading, a quote or a list


class Markdown(str):
    """A text that is Markdown already."""


def escaped(text: str) -> str:
    """The text on one line, to stand anywhere in a paragraph, a heading or a table's cell."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(visible(text.replace("\n", " ")).split()))


def opening(text: str) -> str:
    """The same to begin a line with."""
    return _OPENING.sub(r"\1\\", escaped(text))


def code(text: str) -> str:
    """A code span on one line that no text can break out of."""
    text = " ".join(visible(text.replace("\n", " ")).split())
    ticks = "`" * (_longest_run(text) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"


def fenced(text: str, language: str = "text") -> str:
    """A block that no text can break out of: the fence is longer than any run of backticks inside."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def pipes(table: Sequence[Sequence[str]]) -> str:
    """A table, its first row the head. Cells are text, but for those that are `Markdown`."""
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell if isinstance(cell, Markdown) else escaped(cell) for cell in row) + " |" for row in lines
    )


def _longest_run(text: str) -> int:
    """Length of the longest run of backticks."""
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
