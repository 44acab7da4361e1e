"""Problems from a file of a million rows: peak memory and time of reading them one at a time, and of the whole list.

python -m benchmarks.problems
"""

from __future__ import annotations

import csv
import json
import random
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from ssb_unsloth.data.problems import iter_problems, load_problems
from ssb_unsloth.data.readers import rows_of
from ssb_unsloth.recipe.schema import ProblemsConfig

from . import common

PART = 100_000  # rows of a Parquet file in memory while it is written
WORDS = ["shells", "marbles", "coins", "leaves", "stones", "cards", "beads", "stamps"]


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the files lie; default: a new one, removed at the end")
    args = parser.parse_args(argv)
    if args.measure_peak:
        common.print_peak(contestants(args.folder)[args.measure_peak])
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write(Path(folder), args.rows)
        results = []
        for name in contestants(Path(folder)):
            peak = common.peak_in_fresh_process("benchmarks.problems", {"folder": folder}, name)
            if peak is None:
                raise SystemExit("Peak memory is not to be had on this machine (no /proc).")
            times = common.Times([peak.wall], [peak.cpu])
            size: dict[str, Any] = {"rows": args.rows, "hidden": 0, "vocabulary": 0, "peak_bytes": peak.bytes}
            results.append(common.row("problems", name, times, args, **size))
    common.show(results)
    common.save(results, "problems", args)


def contestants(folder: Path) -> dict[str, Callable[[], Any]]:
    """What is measured: each form's rows alone; its problems one at a time, none of them kept; and a list of them."""

    def passed(name: str) -> Callable[[], Any]:
        return lambda: deque(iter_problems(ProblemsConfig(source=str(folder / name))), maxlen=0)

    def read(name: str) -> Callable[[], Any]:
        return lambda: deque(rows_of(ProblemsConfig(source=str(folder / name))), maxlen=0)

    rows_alone = {f"raw:{kind}": read(f"rows.{kind}") for kind in ("csv", "jsonl", "parquet")}
    whole = ProblemsConfig(source=str(folder / "rows.jsonl"))
    each = {f"ours:{kind}": passed(f"rows.{kind}") for kind in ("csv", "jsonl", "parquet")}
    return {**rows_alone, **each, "ours:list": lambda: load_problems(whole)}


def rows(count: int) -> Iterator[dict[str, str]]:
    """Questions of about 200 characters, each with a number of its own."""
    rng = random.Random(0)
    for number in range(count):
        story = " ".join(f"Then {rng.randint(2, 99)} {rng.choice(WORDS)} are found." for _ in range(6))
        question = f'Mia has {number} shells. {story} How many are there, "all in all"?'
        yield {"question": question, "answer": str(number)}


def write(folder: Path, count: int) -> None:
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["question", "answer"])
        table.writeheader()
        table.writerows(rows(count))
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows(count))
    schema = pyarrow.schema([("question", pyarrow.string()), ("answer", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(folder / "rows.parquet", schema) as writer:
        part: list[dict[str, str]] = []
        for row in rows(count):
            part.append(row)
            if len(part) == PART:
                writer.write_table(pyarrow.Table.from_pylist(part, schema))
                part.clear()
        writer.write_table(pyarrow.Table.from_pylist(part, schema))


if __name__ == "__main__":
    main()
