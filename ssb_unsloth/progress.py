"""How work in progress is shown: one tqdm bar with a rate and the time left, and plain lines between bars."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(description: str, unit: str, total: int | None = None, **kwargs: Any) -> tqdm[Any]:
    """A bar on standard error; where that is a file, a line every ten seconds instead of ten a second."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(desc=f"{description:<24}", unit=unit, total=total, mininterval=interval, dynamic_ncols=True, **kwargs)


def bar_for(description: str, unit: str) -> Any:
    """The same for libraries that make the bar themselves and fill in `total` (vLLM's `use_tqdm`)."""

    def make(iterable: Any = None, **kwargs: Any) -> tqdm[Any]:
        kept = {k: v for k, v in kwargs.items() if k in ("total", "disable", "initial")}
        return bar(description, unit, iterable=iterable, **kept)

    return make


def say(text: str) -> None:
    """A line of its own, also while a bar is shown."""
    tqdm.write(text, file=sys.stderr)
