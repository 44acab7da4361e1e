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
    """The same for vLLM's `use_tqdm`, which makes two bars: one over the prompts it reads, which is not shown, and one
    that counts the replies."""

    def make(iterable: Any = None, **kwargs: Any) -> tqdm[Any]:
        hidden = {"iterable": iterable, "disable": True} if iterable is not None else {}
        return bar(description, unit, kwargs.get("total"), **hidden)

    return make


def hush() -> None:
    """Keep libraries' warnings about each other's optional parts out of the progress."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="IProgress not found")  # a plain bar does
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def say(text: str) -> None:
    """A line of its own, also while a bar is shown."""
    tqdm.write(text, file=sys.stderr)
