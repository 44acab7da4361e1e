"""Write the tasks' questions: `python -m ssb_unsloth.pocket.tasks.data --out DIR`.

Of each task a file to learn from and one to test with, none of whose questions is in the model's text or in the other.
Those of the two recipes lie in recipes/tasks.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...io.terminal import tell
from .choices import Choice
from .programs import Program
from .slices import Slices
from .task import Task

TASKS: Mapping[str, type[Task]] = {"choices": Choice, "programs": Program, "slices": Slices}
SPLITS = {"": "bootstrap", "-test": "test"}  # ending of the file's name -> split
COUNTS = {"choices": (320, 200), "programs": (400, 200), "slices": (240, 150)}  # questions of either


def write(name: str, folder: Path) -> list[Path]:
    """The files of a task, which are the same every time: questions as .csv, programs with their tests as .jsonl."""
    task = TASKS[name]
    written = []
    for (ending, split), count in zip(SPLITS.items(), COUNTS[name], strict=True):
        rows = [made.row() for made in task.generate(split, count, seed=0)]
        path = folder / f"{name}{ending}.{'jsonl' if task is Program else 'csv'}"
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
            else:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        written.append(path)
    return written


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ssb_unsloth.pocket.tasks.data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the files into")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="of this task alone (may be repeated)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.task or TASKS:
        for path in write(name, args.out):
            tell(str(path))


if __name__ == "__main__":
    main()
