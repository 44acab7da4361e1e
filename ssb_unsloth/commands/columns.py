"""Which columns of somebody's data hold question and gold answer, and in which form: by their names, then by content.

Guesses for a recipe that is then checked by reading all of the data; nothing is guessed in a run.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..data.readers import rows_of
from ..errors import UserError
from ..recipe.schema import ProblemsConfig
from ..verifier.verifiers import CHOICE

LOOKED_AT = 1000  # rows
LONG = 60  # characters: an answer whose half is longer is a solution
# In the order in which they are taken.
QUESTIONS = ("question", "problem", "query", "prompt", "instruction", "input", "task", "text")
ANSWERS = (
    *(
        "gold",
        "answer",
        "final_answer",
        "answer_key",
        "answerkey",
        "correct_answer",
        "correct",
        "answer_index",
        "label",
    ),
    *("target", "expected", "expected_answer", "expected_output", "result", "output", "solution", "response"),
)
OPTIONS = ("choices", "options", "endings", "answers")
WORDS = {"true", "false", "yes", "no"}


@dataclass
class Columns:
    """What the recipe's `problems` says of the data, and what of it was guessed."""

    question: str
    gold: str
    gold_format: str
    verifier: str | None = None  # None: the default
    choices: str | None = None  # the options' column
    guessed: list[str] = field(default_factory=list)


def columns_of(source: str, question: str | None, gold: str | None) -> Columns:
    """Look at the first rows of a file or a data set. `question`, `gold`: columns that are given.

    Raises:
        UserError: it cannot be read, or what a recipe needs is not there; the message says what is.
    """
    rows = [row for _, row in islice(rows_of(ProblemsConfig(source=source)), LOOKED_AT)]
    if not rows:
        raise UserError(f"{source}: holds no row.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    guessed = []
    if question is None:
        question = _named(names, QUESTIONS, gold) or _longest(names, rows, gold)
        if question is None:
            raise UserError(f"{source}: no column is a question's: {_listed(names)}. Say --question COLUMN.")
        guessed.append(f"the question is column {question!r}")
    if gold is None:
        rest = [name for name in names if name != question]
        gold = _named(names, ANSWERS, question) or (rest[0] if len(rest) == 1 else None)
        if gold is None:
            raise UserError(f"{source}: no column is a gold answer's: {_listed(names)}. Say --answer COLUMN.")
        guessed.append(f"the gold answer is column {gold!r}")
    for option, name in (("--question", question), ("--answer", gold)):
        if name not in names:
            raise UserError(f"{option}: {source} has no column {name!r}; it has {_listed(names)}.")
    options = _named(names, OPTIONS, gold)
    if options is not None and all(_texts(row.get(options)) for row in rows):
        nested = isinstance(rows[0][options], dict)
        form = _place(rows, options, gold)
        guessed.append(f"a multiple choice of column {options!r}, its answer given as {form}")
        return Columns(question, gold, form, CHOICE, f"{options}.text" if nested else options, guessed)
    form, verifier, what = _form(source, gold, [row.get(gold) for row in rows])
    return Columns(question, gold, form, verifier, None, [*guessed, what])


def _texts(cell: Any) -> list[Any]:
    """The options in a cell: a list, or the texts of an object that has labels beside them."""
    held = cell.get("text") if isinstance(cell, dict) else cell
    return held if isinstance(held, list) else []


def _place(rows: Sequence[Mapping[str, Any]], options: str, gold: str) -> str:
    """How the answers name their option: `gold_format`."""
    answers = [str(row.get(gold)).strip() for row in rows]
    if all(re.fullmatch(r"\d+", answer) for answer in answers):
        return "index" if any(answer == "0" for answer in answers) else "index1"
    return "letter" if all(re.fullmatch(r"\(?[A-Za-z]\)?", answer) for answer in answers) else "text"


def _named(names: Sequence[str], known: Sequence[str], taken: str | None) -> str | None:
    """The column with the first of the known names; capitals, blanks and hyphens do not matter."""
    plain = {re.sub(r"[\s-]+", "_", name.strip()).lower(): name for name in reversed(names) if name != taken}
    return next((plain[name] for name in known if name in plain), None)


def _longest(names: Sequence[str], rows: Sequence[Mapping[str, Any]], taken: str | None) -> str | None:
    """The column of texts that are the longest in the middle."""
    lengths = {
        name: statistics.median(len(row[name]) for row in rows)
        for name in names
        if name != taken and all(isinstance(row.get(name), str) for row in rows)
    }
    return max(lengths, key=lambda name: lengths[name], default=None)


def _form(source: str, column: str, values: Sequence[Any]) -> tuple[str, str | None, str]:
    """`gold_format`, the verifier, and both in words."""
    given = [value for value in values if value is not None]
    if not given:
        raise UserError(f"{source}: column {column!r} is empty in the first {len(values):,} rows.")
    if any(isinstance(value, list | dict) for value in given):
        raise UserError(
            f"{source}: column {column!r} holds lists or objects, and a gold answer is a text or a number; say"
            " --answer COLUMN."
        )
    texts = [str(value).strip() for value in given]
    if all("####" in text for text in texts):
        return "####", None, "it stands behind ####"
    if all("\\boxed{" in text or "\\boxed " in text for text in texts):
        return "boxed", None, "it stands in the last box"
    if statistics.median(map(len, texts)) > LONG:
        raise UserError(
            f"{source}: the answers in column {column!r} are texts (half of them above {LONG} characters) with neither"
            " #### nor \\boxed{} in them all, so no gold answer can be read; say --answer COLUMN."
        )
    if all(re.search(r"\d", text) for text in texts):
        return "plain", None, "it is the whole cell, a number or a formula"
    if _are(texts, WORDS) or not any(re.search(r"[\d\\]", text) for text in texts):
        return "plain", "exact", "it is the whole cell, in words, which a reply has to repeat"
    return "plain", None, "it is the whole cell, compared as mathematics"


def _are(texts: Iterable[str], words: set[str]) -> bool:
    return {text.lower() for text in texts} <= words


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
