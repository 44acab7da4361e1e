"""Replies are kept one by one as they come, before anything looks at them; a stopped stage asks only for the rest.

One JSON object a line, with a checksum of its own: a line that was cut off, or damaged since, is asked for again. Which
replies are wanted is known beforehand, so what is missing is counted and never guessed from the length of a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..backends.sampler import Adapter, Completion, Request, Sampler
from ..io import disk
from ..io.progress import say
from ..recipe.schema import SamplingConfig
from ..records import fields_of, stable_id

SECONDS = 5.0  # a power loss takes at most what came in so many seconds


class Kept:
    """The replies in a file, by the names of what was asked. None: nothing was asked, since the prompt left no room."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.replies: dict[str, Completion | None] = {}
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        damaged = sum(not self._read(line) for line in lines if line)
        self._whole = not damaged and (not lines or lines[-1] == b"")
        if damaged:
            say(f"{path}: {damaged:,} of {len(lines):,} lines damaged or cut off; those replies are asked for again.")

    def skip(self, names: Iterable[str]) -> None:
        """Keep that these prompts leave no room."""
        with self._appending() as add:
            for name in names:
                add(name, None)

    def sample(
        self,
        sampler: Sampler,
        requests: Mapping[str, Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
    ) -> None:
        """Ask for these and keep each reply as it comes; what came before an error stays."""
        names = list(requests)
        with self._appending() as add:

            def keep(place: int, reply: Completion) -> None:
                if names[place] not in self.replies:
                    add(names[place], reply)

            replies = sampler.sample([requests[name] for name in names], decoding, adapter, title=title, keep=keep)
            for place, reply in zip(range(len(names)), replies, strict=True):
                keep(place, reply)

    @contextlib.contextmanager
    def _appending(self) -> Iterator[Callable[[str, Completion | None], None]]:
        """A function that writes a reply behind those that are there: at once into the file, soon onto the disk."""
        if not self._path.parent.exists():
            self._path.parent.mkdir()
            disk.flush_folder(self._path.parent.parent)
        if not self._whole:  # a line that was cut off would run into the next one
            with disk.writing(self._path) as file:
                file.writelines(_line(name, reply) for name, reply in self.replies.items())
            self._whole = True
        flushed = time.monotonic()
        with self._path.open("a", encoding="utf-8") as file:
            disk.flush_folder(self._path.parent)

            def add(name: str, reply: Completion | None) -> None:
                nonlocal flushed
                file.write(_line(name, reply))
                file.flush()
                self.replies[name] = reply
                if time.monotonic() - flushed > SECONDS:
                    os.fsync(file.fileno())
                    flushed = time.monotonic()

            try:
                yield add
            finally:
                os.fsync(file.fileno())

    def _read(self, line: bytes) -> bool:
        """Take a line in. Returns whether it is whole."""
        try:
            row = json.loads(line)
            if row["check"] != _check(row["of"], row["reply"]):
                return False
            self.replies[row["of"]] = None if row["reply"] is None else Completion(**row["reply"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return False
        return True


def _line(name: str, reply: Completion | None) -> str:
    row = None if reply is None else fields_of(reply)
    return json.dumps({"of": name, "reply": row, "check": _check(name, row)}, ensure_ascii=False) + "\n"


def _check(name: str, row: dict[str, Any] | None) -> str:
    return stable_id(name, json.dumps(row, ensure_ascii=False, sort_keys=True))
