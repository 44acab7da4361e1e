"""Rows of data sets in every form that they are stored in, one at a time, with the place where each one stands.

A file: .jsonl, .json, .csv, .tsv, the four also packed as .gz, or .parquet. A folder: what `save_to_disk` of the
datasets library wrote, or data files as its `load_dataset` takes them. Else the name of a data set on the hub. Nothing
is unpickled and no script of a folder is run. `cell` finds a value in a row, also one that lies deeper.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from ..io.files import check_folder, kind_of, local, open_file, parse_json, read_lines, read_object, read_text
from ..recipe.schema import ProblemsConfig
from ..records import read_rows

Row = dict[str, Any]
Placed = tuple[str, Row]  # (where it stands, as "questions.csv, line 7"; the row)

BATCH_ROWS = 1024  # of a Parquet file, in memory at a time
BUFFER_BYTES = 1 << 20  # of a Parquet column, read at a time
MOST_BYTES = 1 << 32  # of a folder that the hub's library copies into its cache
JSON_BYTES = 1 << 28  # of a .json file, which is read whole
CELL_CHARACTERS = 1 << 24  # of a CSV file; more is a quotation mark that nothing closes
TAB = "\t"
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # what `save_to_disk` writes beside a Dataset, a DatasetDict


def rows_of(config: ProblemsConfig) -> Iterator[Placed]:
    """The rows of the recipe's source, in their order.

    Raises:
        UserError: there is no such source, or it is damaged; file and line, or the row, are named.
    """
    path = local(config.source, "source")
    if path.is_dir():
        return _folder(path, config)
    if (reader := _reader(path)) is not None:
        return reader(path)
    if path.exists():
        raise UserError(f"{path}: expected a file ending in {_listed([*READERS])}, or a folder.")
    return _hub(config)


def cell(row: Row, column: str, where: str) -> Any:
    """The value of a column: the one of just that name, else what the dots in the name lead to.

    `answer.value` is a key of an object, `turns.0.content` a place in a list (-1 the last), and `choices.text` all the
    texts of a list of objects. What lies in a null is null.

    Raises:
        UserError: no such column, or nothing there; the message says what there is.
    """
    if column in row:
        return row[column]
    value: Any = row
    words = column.split(".")
    for done, word in enumerate(words):
        if value is None:
            return None
        if isinstance(value, dict) and word in value:
            value = value[word]
        elif isinstance(value, list) and word.removeprefix("-").isdecimal() and -len(value) <= int(word) < len(value):
            value = value[int(word)]
        elif isinstance(value, list) and value and all(isinstance(item, dict) and word in item for item in value):
            value = [item[word] for item in value]
        elif done == 0:
            raise UserError(f"{where}: no column {column!r}; it has {_listed(row)}. Name it in the recipe.")
        else:
            held = ".".join(words[:done])
            raise UserError(f"{where}: no column {column!r}; {held!r} is {_held(value)}. Name it in the recipe.")
    return value


def _held(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with {_listed(value)}"
    return f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)


def _listed(names: Any) -> str:
    return ", ".join(map(repr, list(names)[:20])) or "none"


# -- Files


def _jsonl(path: Path) -> Iterator[Placed]:
    for number, row in read_rows(path):
        yield f"{path}, line {number}", row


def _json(path: Path) -> Iterator[Placed]:
    """A list of objects, or an object that holds one such list. Objects one a line are read as .jsonl is."""
    if path.is_file() and path.stat().st_size > JSON_BYTES:
        raise UserError(
            f"{path}: more than {JSON_BYTES >> 20} MiB, and a .json file is read whole; write one object a line, as"
            " .jsonl."
        )
    text = read_text(path, JSON_BYTES).lstrip()
    first, _, rest = text.partition("\n")
    if rest.lstrip().startswith("{") and _is_object(first):
        yield from _jsonl(path)
        return
    try:
        value = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); expected a list of objects.") from None
    held = value.values() if isinstance(value, dict) else [value]
    lists = [one for one in held if isinstance(one, list)]
    if isinstance(value, dict) and not lists:
        lists = [[value]]  # objects one a line, of which there is one
    if len(lists) != 1:
        found = f"an object with {len(lists)} lists" if lists else kind_of(value)
        raise UserError(f"{path}: {found}; expected a list of objects, one a row, or an object with one such list.")
    for number, row in enumerate(lists[0], start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: expected a JSON object, found {kind_of(row)}.")
        yield f"{path}, row {number}", row


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _separated(sign: str, other: str) -> Callable[[Path], Iterator[Placed]]:
    """The reader of text files whose cells this sign separates; `other` is what it might have been instead."""

    def read(path: Path) -> Iterator[Placed]:
        names: list[str] | None = None
        for number, cells in _records(path, sign):
            where = f"{path}, line {number}"
            if not cells:
                continue  # an empty line
            if names is None:
                names = _header(cells, where, sign, other)
            elif len(cells) != len(names):
                raise UserError(
                    f"{where}: {len(cells)} cells, and the header has {len(names)} columns ({_listed(names)}); a cell"
                    f" that holds a {_sign(sign)} or a line break stands in quotation marks."
                )
            else:
                yield where, dict(zip(names, cells, strict=True))
        if names is None:
            raise UserError(f"{path}: empty; expected a line with the names of the columns, then a row a line.")

    return read


def _sign(sign: str) -> str:
    return {",": "comma", TAB: "tab", ";": "semicolon", "|": "bar"}[sign]


def _header(cells: list[str], where: str, sign: str, other: str) -> list[str]:
    if len(cells) == 1 and (found := next((one for one in other if one in cells[0]), None)) is not None:
        raise UserError(
            f"{where}: the header is one column, {cells[0][:80]!r}; {_sign(found)}s separate its names, where a"
            f" {_sign(sign)} is expected. Write it with {_sign(sign)}s{', or call it .tsv' * (found == TAB)}."
        )
    if twice := [name for name in cells if cells.count(name) > 1]:
        raise UserError(f"{where}: {cells.count(twice[0])} columns are called {twice[0]!r}; give each its own name.")
    return cells


def _records(path: Path, sign: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, cells) of each record."""
    csv.field_size_limit(CELL_CHARACTERS)
    at = 1

    def lines() -> Iterator[str]:
        for number, line in read_lines(path):
            if "\0" in line:
                raise UserError(f"{path}, line {number}: holds a NUL byte; expected text in UTF-8.")
            yield line

    records = csv.reader(lines(), delimiter=sign, strict=True)
    try:
        for cells in records:
            yield at, cells
            at = records.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {at}: {_unquoted(str(error), sign)}") from None


def _unquoted(reason: str, sign: str) -> str:
    if "unexpected end" in reason or "field limit" in reason:
        return "a quotation mark opens a cell of this row, and nothing closes it."
    if "new-line" in reason:
        return "a carriage return stands alone; write line ends as \\n or \\r\\n."
    if "expected after" in reason:
        return (
            f"text follows the quotation mark that closes a cell; expected a {_sign(sign)}. Within quotation marks each"
            ' mark is doubled: "".'
        )
    return f"cannot be read ({reason})."


def _parquet(path: Path) -> Iterator[Placed]:
    """The file's rows, a batch in memory at a time."""
    import pyarrow.parquet

    def batches(file: IO[bytes]) -> Iterator[Any]:
        pages = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True, buffer_size=BUFFER_BYTES)
        return _distinct(pages.schema_arrow) and pages.iter_batches(batch_size=BATCH_ROWS)

    return _of_batches(path, batches, "a Parquet file")


def _arrow(path: Path) -> Iterator[Placed]:
    """Rows of a file that `save_to_disk` wrote: a stream of batches."""
    import pyarrow

    def batches(file: IO[bytes]) -> Iterator[Any]:
        stream = pyarrow.ipc.open_stream(file)
        return _distinct(stream.schema) and iter(stream)

    return _of_batches(path, batches, "an Arrow file")


def _distinct(schema: Any) -> Any:
    """The schema, whose columns have each a name of its own."""
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise ValueError(f"{len(twice)} columns are called {twice[0]!r}")
    return schema


def _of_batches(path: Path, batches: Callable[[IO[bytes]], Iterator[Any]], kind: str) -> Iterator[Placed]:
    """Of a damaged file Arrow raises errors of many kinds."""
    number = 0
    with open_file(path) as file:
        try:
            for batch in batches(file):
                batch.validate(full=True)
                for start in range(0, len(batch), BATCH_ROWS):
                    for row in _with_decimals(batch.slice(start, BATCH_ROWS)).to_pylist():
                        number += 1
                        yield f"{path}, row {number}", row
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path}: not {kind}, or a damaged one ({reason[:200]}).") from None


def _with_decimals(batch: Any) -> Any:
    """Columns of float32 as the decimals that were written there: 0.1, and not 0.10000000149."""
    import pyarrow

    columns = [
        column.cast(pyarrow.string()).cast(pyarrow.float64()) if column.type == pyarrow.float32() else column
        for column in batch.columns
    ]
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {  # by the end of a file's name; text also with .gz behind it
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _separated(",", ";\t|"),
    ".tsv": _separated(TAB, ",;|"),
    ".parquet": _parquet,
}


def _reader(path: Path) -> Callable[[Path], Iterator[Placed]] | None:
    name = path.name.lower()
    packed = name.endswith(".gz") and not name.endswith(".parquet.gz")
    return READERS.get(Path(name.removesuffix(".gz") if packed else name).suffix)


# -- Folders and the hub


def _folder(path: Path, config: ProblemsConfig) -> Iterator[Placed]:
    if scripts := sorted(file.name for file in path.glob("*.py")):
        raise UserError(f"{path}: holds a script ({scripts[0]}), and none is run; name the data files, or take it out.")
    if (path / SAVED_SPLITS).is_file():
        splits = read_object(path / SAVED_SPLITS).get("splits")
        if not isinstance(splits, list) or config.split not in splits:
            known = _listed(splits) if isinstance(splits, list) else "none"
            raise UserError(f"{path}: no split {config.split!r}; it has {known}. Name it as `split` in the recipe.")
        path = path / config.split
    if (path / SAVED).is_file():
        return chain.from_iterable(map(_arrow, _saved(path)))
    if (files := _data_files(path, config)) is not None:
        return chain.from_iterable(reader(file) for file in files if (reader := _reader(file)) is not None)
    check_folder(path, MOST_BYTES, "source")
    return _hub(config)


def _saved(path: Path) -> list[Path]:
    """The files of a Dataset that was saved to a folder, in order."""
    state = path / SAVED
    named = read_object(state).get("_data_files")
    names = [file.get("filename") for file in named if isinstance(file, dict)] if isinstance(named, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{state}: names no data files of this folder; save the data set once more by save_to_disk.")
    return [path / str(name) for name in names]


def _data_files(path: Path, config: ProblemsConfig) -> list[Path] | None:
    """The files that the datasets library takes for the split; None where it has to read them itself: another kind of
    file, or a part of a split.
    """
    import datasets

    try:
        builder = datasets.load_dataset_builder(str(path), config.config)
    except Exception:  # loading it will raise it again, and that is where it is said
        return None
    found = (builder.config.data_files or {}).get(config.split)
    files = [Path(file) for file in found or []]
    if not files or any(_reader(file) is None or not file.is_file() for file in files):
        return None
    return files


def _hub(config: ProblemsConfig) -> Iterator[Placed]:
    import datasets

    number = 0
    try:
        # The hub client raises many kinds: offline, gated, no such name, no such split.
        for row in datasets.load_dataset(config.source, config.config, split=config.split, streaming=config.streaming):
            number += 1
            yield f"{config.source}, row {number}", row
    except UserError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        behind = f" after row {number}" if number else ""
        raise UserError(
            f"Data set {config.source!r} (configuration {config.config!r}, split {config.split!r}) cannot be loaded"
            f"{behind}: {reason} Check the name and the network, or give a local file ({', '.join(READERS)})."
        ) from None
