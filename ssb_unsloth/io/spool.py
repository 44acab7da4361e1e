"""Values too many for memory, in their order, on the disk: each is read again when it is asked for."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class Spool:
    """A file without a name, which is gone with the process; in memory is where each value begins, eight bytes each.

    `folder`: on whose disk it lies. What JSON can say goes in, and comes out equal.
    """

    def __init__(self, folder: Path, values: Iterable[Any] = ()) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed when nobody holds the spool)
        self._starts, self._end = array("q"), 0
        for value in values:
            self.add(value)

    def add(self, value: Any) -> int:
        """Put a value behind the others. Returns its number, from 0."""
        line = json.dumps(value).encode() + b"\n"
        self._file.seek(self._end)
        self._file.write(line)
        self._starts.append(self._end)
        self._end += len(line)
        return len(self) - 1

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Any:
        self._file.seek(self._starts[number])
        return json.loads(self._file.readline())

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))
