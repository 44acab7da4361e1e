"""Which columns of somebody's data hold question and gold answer, and in which form: by their names, then by content.

Guesses for a recipe that is then checked by reading all of the data; nothing is guessed in a run.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from ..data.problems import problem_of, text_of
from ..data.readers import rows_of
from ..errors import UserError
from ..recipe.schema import ProblemsConfig
from ..verifier.verifiers import CHOICE, CODE, EXACT, MATH, NUMERIC, verifier_for

LOOKED_AT = 1000  # rows
LONG = 60  # characters: an answer whose half is longer is a solution
# In the order in which they are taken.
QUESTIONS = ("question", "problem", "query", "prompt", "instruction", "input", "task", "text")
ANSWERS = (
    *("gold", "answer", "final_answer", "answer_key", "answerkey", "correct_answer", "correct", "answer_index"),
    *("answer_idx", "correct_option", "correct_choice", "label", "target", "expected", "expected_answer"),
    *("expected_output", "result", "output", "solution", "response"),
)
OPTIONS = ("choices", "options", "endings", "answers")
OPTION = ("", "option", "choice", "answer", "ans", "op", "opt", "ending", "sol")  # of columns that hold one each
TESTS = ("test_list", "tests", "test", "unit_tests", "test_cases", "test_code", "asserts", "assertions")
ENTRY_POINTS = ("entry_point", "function_name", "func_name")
WORDS = {"true", "false", "yes", "no"}
_DATE = re.compile(r"\d+([-/.:])\d+(?:\1\d+)+|\d{1,2}:\d{2}")  # a day, a time, a version: no difference, no quotient
_FORMULA = re.compile(r"[\\^=_{}()+*/]|(?<![^\W\d_])(?:pi|sqrt|sin|cos|tan|log|ln|exp)(?![^\W\d_])", re.I)


@dataclass
class Columns:
    """What the recipe's `problems` says of the data, and what of it was guessed."""

    question: str
    gold: str
    gold_format: str = "plain"
    verifier: str | None = None  # None: the default
    choices: str | list[str] | None = None  # the options' column, or one for each
    entry_point: str | None = None
    guessed: list[str] = field(default_factory=list)

    def problems(self, source: str) -> ProblemsConfig:
        said: dict[str, Any] = {key: value for key, value in asdict(self).items() if key != "guessed"}
        return ProblemsConfig(source=source, **{**said, "verifier": self.verifier or MATH})


def columns_of(source: str, question: str | None, gold: str | None) -> Columns:
    """Look at the first rows of a file or a data set. `question`, `gold`: columns that are given.

    Raises:
        UserError: it cannot be read, or what a recipe needs is not there; the message says what is.
    """
    rows = [row for _, row in islice(rows_of(ProblemsConfig(source=source)), LOOKED_AT)]
    if not rows:
        raise UserError(f"{source}: holds no row.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    options = _options(names, rows, {question, gold})
    rest = [name for name in names if name not in (options or [])]
    guessed = []
    if question is None:
        question = _named(rest, QUESTIONS, gold) or _longest(rest, rows, gold)
        if question is None:
            raise UserError(f"{source}: no column is a question's: {_listed(names)}. Say --question COLUMN.")
        guessed.append(f"the question is column {question!r}")
    _there(source, "--question", question, names)
    asked = Columns(question, gold or "", guessed=guessed)
    if gold is not None:
        _there(source, "--answer", gold, names)
    if (found := _programs(asked, rest, rows)) is not None:
        return found
    if gold is None:
        others = [name for name in rest if name != question]
        gold = _named(others, ANSWERS) or (others[0] if len(others) == 1 else None)
        if gold is None:
            raise UserError(f"{source}: no column is a gold answer's: {_listed(names)}. Say --answer COLUMN.")
        guessed.append(f"the gold answer is column {gold!r}")
        asked.gold = gold
    if options and (found := _choice(asked, options, rows)) is not None:
        return found
    if (unread := _named(rest, OPTIONS[:3], gold)) is not None:
        guessed.append(f"column {unread!r} is left alone, since options are a list, or columns A, B, ... of one each")
    form, verifier, what = _form(source, gold, [row.get(gold) for row in rows])
    return Columns(question, gold, form, verifier, guessed=[*guessed, what])


def _there(source: str, option: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UserError(f"{option}: {source} has no column {name!r}; it has {_listed(names)}.")


def _read(found: Columns, rows: Sequence[Mapping[str, Any]]) -> int:
    """How many of the rows give a problem, were the recipe to say this of them."""
    config, count = found.problems("data"), 0
    for row in rows:
        try:
            problem_of(dict(row), "", config)
        except UserError:
            continue
        count += 1
    return count


# -- Programs


def _programs(asked: Columns, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Columns | None:
    """The given column, or one whose name speaks of tests, if most rows have unit tests there; the loading then names
    those that have none.
    """
    likely = [asked.gold] if asked.gold else [_named(names, [known], asked.question) for known in TESTS]
    for column in filter(None, likely):
        for entry in dict.fromkeys((None, _named(names, ENTRY_POINTS))):
            found = Columns(asked.question, column, verifier=CODE, entry_point=entry)
            if 2 * _read(found, rows) > len(rows):
                of = f", of the function that column {entry!r} names" if entry else ""
                found.guessed = [*asked.guessed, f"programs have to pass the unit tests of column {column!r}{of}"]
                return found
    return None


# -- Multiple choice


def _options(names: Sequence[str], rows: Sequence[Mapping[str, Any]], taken: set[str | None]) -> list[str] | None:
    """The column of lists (or objects) of options, alone; or those that hold one each: A, B, ..., or option1, ...."""
    left = [name for name in names if name not in taken]
    column = _named(left, OPTIONS)
    if column is not None and all(isinstance(row.get(column), list | dict) for row in rows):
        return [column]
    plain = {re.sub(r"[\s_-]+", "", name).lower(): name for name in left}
    for stem in OPTION:
        for signs in ("abcdefghijklmnopqrstuvwxyz", "123456789", "0123456789"):
            if not stem and signs[0] != "a":
                continue
            run = []
            for sign in signs:
                if f"{stem}{sign}" not in plain:
                    break
                run.append(plain[f"{stem}{sign}"])
            if len(run) > 1:
                return run
    return None


def _choice(asked: Columns, options: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Columns | None:
    """How the answers name their options, where most of them do: as most do. Text goes before place, since places that
    are texts as well would be so by chance.
    """
    zero = any(str(row.get(asked.gold)).strip() == "0" for row in rows)
    choices = options[0] if len(options) == 1 else list(options)
    tried = [
        Columns(asked.question, asked.gold, form, CHOICE, choices)
        for form in ("letter", "text", "index" if zero else "index1")
    ]
    found = max(tried, key=lambda columns: _read(columns, rows))
    if 2 * _read(found, rows) <= len(rows):
        return None
    columns = f"column{'s' * (len(options) > 1)} {_listed(options)}"
    found.guessed = [*asked.guessed, f"a multiple choice of {columns}, its answer given as {found.gold_format}"]
    return found


# -- Names and contents


def _named(names: Sequence[str], known: Sequence[str], taken: str | None = None) -> str | None:
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
    texts = [(text_of(value, booleans=True) or str(value)).strip() for value in given]
    if all("####" in text for text in texts):
        return "####", None, "it stands behind ####"
    if all("\\boxed{" in text or "\\boxed " in text for text in texts):
        return "boxed", None, "it stands in the last box"
    if statistics.median(map(len, texts)) > LONG:
        raise UserError(
            f"{source}: the answers in column {column!r} are texts (half of them above {LONG} characters) with neither"
            " #### nor \\boxed{} in them all, so no gold answer can be read; say --answer COLUMN."
        )
    if _are(texts, WORDS) or not any(re.search(r"[\d\\]", text) for text in texts):
        return "plain", EXACT, "it is the whole cell, in words, which a reply has to repeat"
    if 2 * sum(map(_is_name, texts)) > len(texts):
        return "plain", EXACT, "it is the whole cell, a name or a date, which a reply has to repeat"
    if all(_takes(NUMERIC, text) for text in texts) and any(
        re.search(r"\.\d|\de[-+]?\d", text, re.I) for text in texts
    ):
        return "plain", NUMERIC, "it is the whole cell, a decimal number, which a reply has to give to a millionth"
    if all(re.search(r"\d", text) for text in texts):
        return "plain", None, "it is the whole cell, a number or a formula"
    return "plain", None, "it is the whole cell, compared as mathematics"


def _is_name(text: str) -> bool:
    """Whether mathematics reads nothing in it, or something else than it says."""
    if _DATE.fullmatch(text) or not _takes(MATH, text):
        return True
    return re.search(r"[^\W\d_]{2}", text) is not None and not _FORMULA.search(text) and not _takes(NUMERIC, text)


def _takes(verifier: str, gold: str) -> bool:
    try:
        return bool(verifier_for(verifier).gold_from(gold, "plain"))
    except ValueError:
        return False


def _are(texts: Iterable[str], words: set[str]) -> bool:
    return {text.lower() for text in texts} <= words


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
