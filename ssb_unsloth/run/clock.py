"""What the seconds of a stage were spent on, where not all of them are what every student needs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..io import disk

ROLLOUTS = "rollouts"  # sampling them, in the curate stage
REFINEMENTS = "refinements"
MEASURING = "measuring"  # reply lengths, KL of each token, drift: what is looked at and not learnt from

ALL = "all"
_spent: dict[str, float] = {}


@contextlib.contextmanager
def on(what: str) -> Iterator[None]:
    """Count the seconds that this takes as spent on `what`."""
    start = time.monotonic()
    try:
        yield
    finally:
        _spent[what] = _spent.get(what, 0.0) + time.monotonic() - start


def spent() -> dict[str, float]:
    """The seconds of this process so far, by what they were spent on."""
    return dict(_spent)


def add(seconds: Mapping[str, float]) -> None:
    """Count what another process has spent as spent here."""
    for what, more in seconds.items():
        _spent[what] = _spent.get(what, 0.0) + more


class Watch:
    """The seconds of a stage, those of earlier attempts at it included, which were stopped and resumed.

    What an attempt took that ends in an error or a signal is kept in `file`; of one that was killed nothing is known.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._start, self._before = file, time.monotonic(), dict(_spent)
        self._earlier: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError):  # the first attempt, or a file that is not whole
            self._earlier = {str(what): float(s) for what, s in json.loads(file.read_text(encoding="utf-8")).items()}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # such as the full disk that ended it
                disk.write_text(self._file, json.dumps({ALL: self.seconds, **self.spent}))

    @property
    def seconds(self) -> float:
        return round(self._earlier.get(ALL, 0.0) + time.monotonic() - self._start, 2)

    @property
    def spent(self) -> dict[str, float]:
        """Of these, by what they were spent on."""
        passed = {what: seconds - self._before.get(what, 0.0) for what, seconds in _spent.items()}
        both = {
            what: passed.get(what, 0.0) + self._earlier.get(what, 0.0) for what in {*passed, *self._earlier} - {ALL}
        }
        return {what: round(seconds, 2) for what, seconds in sorted(both.items()) if seconds > 0}
