"""Data sets to Problems: a local JSONL or Parquet file, a hub data set, or the built-in generator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.files import check_folder, is_finite, local, open_file
from ..io.progress import say
from ..pocket import is_pocket
from ..recipe.schema import BenchmarkConfig, ProblemsConfig
from ..records import LARGEST, Problem, read_rows, stable_id
from ..verifier.verifiers import verifier_named

POCKET_SEED = 0  # the generated sets are data like any other: they do not change with a recipe's seed
POCKET_PROBLEMS = 1000
FILE_KINDS = (".jsonl", ".parquet")
PARQUET_ROWS = 1024  # in memory at a time
MOST_BYTES = 1 << 32  # of a folder that the hub's library copies into its cache


def load_problems(config: ProblemsConfig) -> list[Problem]:
    """The recipe's problems in their order, without repeated questions.

    A problem's id depends on its question alone, so it is the same in every data set, run and order.

    Raises:
        UserError: no such source or column, a question that is empty, or a gold answer that cannot be found; the file
            and line (or the row) are named.
    """
    if is_pocket(config.source):
        from ..pocket.problems import generate

        return generate(config.split, config.limit or POCKET_PROBLEMS, POCKET_SEED)
    problems: dict[str, Problem] = {}
    otherwise = 0
    for where, row in _rows(config):
        if config.limit is not None and len(problems) == config.limit:
            break
        problem = _problem(row, where, config)
        otherwise += problems.setdefault(problem.id, problem).gold != problem.gold
    if not problems:
        raise UserError(f"{config.source}: holds no problem.")
    if otherwise:
        say(f"{config.source}: {otherwise:,} rows repeat a question with another gold answer; the first counts.")
    return list(problems.values())


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
    rows = list(_rows(config))
    with_ids = any(config.id in row for _, row in rows)
    for where, row in rows:
        problem = _problem(row, where, config)
        id_ = row.get(config.id or "")
        if with_ids and (id_ is None or not str(id_).strip()):
            raise UserError(f"{where}: the id (column {config.id!r}) is missing, though other problems have one.")
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
    if not problems:
        raise UserError(f"{config.source}: holds no problem.")
    return list(problems.values())[: config.limit]


def _problem(row: dict[str, Any], where: str, config: ProblemsConfig) -> Problem:
    for column in (config.question, config.gold):
        if column not in row:
            raise UserError(
                f"{where}: no column {column!r}; it has {', '.join(map(repr, row))}. Name it in the recipe."
            )
    question, gold = row[config.question], row[config.gold]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: the question is empty or no text.")
    if gold is None:
        raise UserError(f"{where}: the gold answer is empty.")
    if not (isinstance(gold, str) or (type(gold) in (int, float, Decimal) and is_finite(gold))):
        raise UserError(f"{where}: the gold answer is {_short(gold)} ({type(gold).__name__}), no text and no number.")
    verifier = verifier_named(config.verifier)
    try:
        return Problem(stable_id(question), question, verifier.gold_from(str(gold), config.gold_format))
    except ValueError as error:
        raise UserError(f"{where}: {error} Is gold_format: {config.gold_format!r} right for this file?") from None


def _short(value: Any) -> str:
    """A value in at most 40 characters."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a whole number of too many digits"
    return str(value)[:40]


def _rows(config: ProblemsConfig) -> Iterable[tuple[str, dict[str, Any]]]:
    path = local(config.source, "source")
    if path.suffix == ".jsonl":
        return ((f"{path}, line {number}", row) for number, row in read_rows(path))
    if path.suffix == ".parquet" and not path.is_dir():
        return ((f"{path}, row {number}", row) for number, row in enumerate(_parquet(path), start=1))
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: expected a file ending in {' or '.join(FILE_KINDS)}.")
    if path.is_dir():
        check_folder(path, MOST_BYTES, "source")
    return _hub_rows(config)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The file's rows, a batch in memory at a time. Of a damaged one Arrow raises errors of many kinds."""
    import pyarrow.parquet

    with open_file(path) as file:
        try:
            pages = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
            names = pages.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{len(twice)} columns are called {twice[0]!r}")
            for batch in pages.iter_batches(batch_size=PARQUET_ROWS):
                batch.validate(full=True)
                yield from _with_decimals(batch).to_pylist()
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path}: not a Parquet file, or a damaged one ({reason[:200]}).") from None


def _with_decimals(batch: Any) -> Any:
    """Columns of float32 as the decimals that were written there: 0.1, and not 0.10000000149."""
    import pyarrow

    columns = [
        column.cast(pyarrow.string()).cast(pyarrow.float64()) if column.type == pyarrow.float32() else column
        for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _hub_rows(config: ProblemsConfig) -> Iterable[tuple[str, dict[str, Any]]]:
    import datasets

    try:
        rows = datasets.load_dataset(config.source, config.config, split=config.split)
    except Exception as error:  # the hub client raises many kinds: offline, gated, no such name, no such split
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Data set {config.source!r} (configuration {config.config!r}, split {config.split!r}) cannot be loaded:"
            f" {reason} Check the name and the network, or give a local .jsonl or .parquet file."
        ) from None
    return ((f"{config.source}, row {number}", row) for number, row in enumerate(rows, start=1))
