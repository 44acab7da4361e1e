"""Data sets to Problems: files and folders, a hub data set (`readers`), or the built-in generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, overload

from ..errors import UserError
from ..io.files import is_finite
from ..io.progress import say
from ..io.spool import Spool
from ..pocket import is_pocket
from ..recipe.schema import BenchmarkConfig, ProblemsConfig
from ..records import LARGEST, Problem, stable_id
from ..verifier.verifiers import CODE, MATH, parts, verifier_for
from .readers import Row, cell, rows_of

POCKET_SEED = 0  # the generated sets are data like any other: they do not change with a recipe's seed
POCKET_PROBLEMS = 1000
EXACT = 2**53  # integers below it are the same as floats


def load_problems(config: ProblemsConfig, most: int | None = None) -> list[Problem]:
    """The recipe's problems in their order, without repeated questions: all that `iter_problems` gives, or the first
    `most`.

    Raises:
        UserError: as `iter_problems`; or there is none.
    """
    problems = list(islice(iter_problems(config), most))
    if not problems:
        raise UserError(_none_left(config))
    return problems


class OnDisk(Sequence[Problem]):
    """The same problems for whoever goes through them: all are read and checked at once, and lie in a spool."""

    def __init__(self, config: ProblemsConfig, folder: Path, most: int | None = None) -> None:
        """`folder`: on whose disk they lie. Raises UserError as `load_problems`."""
        problems = islice(iter_problems(config), most)
        self._spool = Spool(folder, ((p.id, p.question, p.gold) for p in problems))
        if not self._spool:
            raise UserError(_none_left(config))

    def __len__(self) -> int:
        return len(self._spool)

    @overload
    def __getitem__(self, place: int) -> Problem: ...
    @overload
    def __getitem__(self, place: slice) -> list[Problem]: ...
    def __getitem__(self, place: int | slice) -> Problem | list[Problem]:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        return Problem(*self._spool[place])


def _none_left(config: ProblemsConfig) -> str:
    after = f" after the first {config.skip:,} (skip)" * (config.skip > 0)
    return f"{config.source}: holds no problem{after}."


def iter_problems(config: ProblemsConfig) -> Iterator[Problem]:
    """The recipe's problems in their order, one at a time, without repeated questions; `limit` ends the reading.

    A problem's id depends on its question alone, so it is the same in every data set, run and order. In memory are a
    few rows, and two numbers for each problem that was given.

    Raises:
        UserError: no such source or column, a question that is empty, or a gold answer that cannot be found; the file
            and line (or the row) are named.
    """
    if is_pocket(config.source):
        from ..pocket.problems import generate

        yield from generate(config.split, config.skip + (config.limit or POCKET_PROBLEMS), POCKET_SEED)[config.skip :]
        return
    golds: dict[int, int] = {}  # id -> hash of the gold answer
    otherwise = 0
    for where, row in rows_of(config):
        problem = problem_of(row, where, config)
        id_, gold = int(problem.id, 16), hash(problem.gold)
        if id_ in golds:
            otherwise += golds[id_] != gold
            continue
        golds[id_] = gold
        if len(golds) > config.skip:
            yield problem
        if config.limit is not None and len(golds) == config.skip + config.limit:
            break
    if otherwise:
        say(f"{config.source}: {otherwise:,} rows repeat a question with another gold answer; the first counts.")


def load_benchmark(name: str, config: BenchmarkConfig) -> list[Problem]:
    """A benchmark's problems, all of them and each once.

    Raises:
        UserError: as `load_problems`; or a question or an id that stands there twice, an id that is missing, or another
            number of problems than `config.count`.
    """
    if is_pocket(config.source):
        return load_problems(config)
    problems: dict[str, Problem] = {}
    seen: dict[tuple[str, str], str] = {}  # (column, value) -> where it stood first
    with_ids = False  # whether there is a column of ids
    without: str | None = None  # the first row without one
    for where, row in rows_of(config):
        problem = problem_of(row, where, config)
        id_ = row.get(config.id or "")
        with_ids = with_ids or config.id in row
        if without is None and (id_ is None or not str(id_).strip()):
            without = where
        if with_ids and without is not None:
            raise UserError(f"{without}: the id (column {config.id!r}) is missing, though other problems have one.")
        for key in [("question", problem.id)] + [("id", str(id_))] * with_ids:
            if key in seen:
                what = "question" if key[0] == "question" else f"id {id_!r}"
                raise UserError(f"{where}: the {what} stood already in {seen[key]}; a benchmark has each problem once.")
            seen[key] = where
        problems[problem.id] = problem
    if config.count is not None and len(problems) != config.count:
        raise UserError(
            f"Benchmark {name!r}: {config.source} holds {len(problems):,} problems and not {config.count:,}, so its"
            f" scores would not be comparable; give the whole set, or say evaluate.benchmarks.{name}.count=null."
        )
    rest = list(problems.values())[config.skip :][: config.limit]
    if not rest:
        raise UserError(_none_left(config))
    return rest


def problem_of(row: Row, where: str, config: ProblemsConfig) -> Problem:
    """The problem in a row. `where` it stands is what errors begin with.

    Raises:
        UserError: as `iter_problems`.
    """
    question = cell(row, config.question, where)
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: the question is empty or no text (column {config.question!r}).")
    if config.gold is None:
        return Problem(stable_id(question), question, "")
    gold = cell(row, config.gold, where)
    if gold is None or gold == "":
        raise UserError(f"{where}: the gold answer is empty (column {config.gold!r}).")
    name = parts(config.verifier)[0]
    if name == CODE and isinstance(gold, list) and all(isinstance(line, str) for line in gold):
        gold = "\n".join(gold)  # a list of asserts
    text = text_of(gold, booleans=name != MATH)
    if text is None:
        raise UserError(
            f"{where}: the gold answer is {_short(gold)} ({type(gold).__name__}), no text and no number (column"
            f" {config.gold!r}){_remedy(gold, config.gold)}."
        )
    verifier = verifier_for(config.verifier)
    try:
        asked, answer = verifier.posed(question, text, config.gold_format, _more(row, where, config))
    except ValueError as error:
        columns = " and ".join(map(repr, [config.gold, *_more_columns(config)]))
        raise UserError(
            f"{where}: {error} Is gold_format: {config.gold_format!r} right for this file, and column {columns}?"
        ) from None
    return Problem(stable_id(asked), asked, answer)


def _more_columns(config: ProblemsConfig) -> list[str]:
    columns = config.choices if isinstance(config.choices, list) else [config.choices]
    return [column for column in [*columns, config.entry_point] if column is not None]


def _more(row: Row, where: str, config: ProblemsConfig) -> Any:
    """What the verifier is given beside the gold answer: one column as it is, several as a list."""
    values = [cell(row, column, where) for column in _more_columns(config)]
    return values if isinstance(config.choices, list) and len(values) > 1 else next(iter(values), None)


def text_of(value: Any, booleans: bool = False) -> str | None:
    """A cell that stands for a text, or None: a text, a finite number, and where `booleans`, true and false.

    A whole number is written without a point also where its column holds floats, as pandas makes of integers beside an
    empty cell: 42.0 is "42", as a reply has it.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower() if booleans else None
    if type(value) is float and value.is_integer() and abs(value) < EXACT:
        return str(int(value))
    return str(value) if type(value) in (int, float, Decimal) and is_finite(value) else None


def _remedy(value: Any, column: str) -> str:
    if isinstance(value, list) and value:
        return f"; name one of the list, as {column}.0"
    if isinstance(value, dict) and value:
        return f"; name a key of the object, as {column}.{next(iter(value))}"
    return ""


def _short(value: Any) -> str:
    """A value in at most 40 characters."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a whole number of too many digits"
    return str(value)[:40]
