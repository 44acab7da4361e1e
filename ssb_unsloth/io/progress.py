"""How work in progress is shown: one tqdm bar with a rate and the time left, and plain lines between bars."""

from __future__ import annotations

import sys
import threading
from typing import Any

from tqdm import tqdm

from .terminal import visible


def bar(description: str, unit: str, total: int | None = None, **kwargs: Any) -> tqdm[Any]:
    """A bar on standard error; where that is a file, a line every ten seconds instead of ten a second."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        desc=f"{visible(description):<24}", unit=unit, total=total, mininterval=interval, dynamic_ncols=True, **kwargs
    )


def bar_for(description: str, unit: str) -> Any:
    """The same for vLLM's `use_tqdm`, which makes two bars: one over the prompts it reads, which is not shown, and one
    that counts the replies."""

    def make(iterable: Any = None, **kwargs: Any) -> tqdm[Any]:
        hidden = {"iterable": iterable, "disable": True} if iterable is not None else {}
        return bar(description, unit, kwargs.get("total"), **hidden)

    return make


def hush() -> None:
    """Keep libraries' warnings about each other's optional parts out of the progress; before they are imported."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what vLLM's native code says of NUMA nodes, among others
    torch = ("torch.utils._pytree", "torch.utils.cpp_extension", "torch._library.triton")
    for name in (*torch, "torchao", "vllm.triton_utils.importing", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="IProgress not found")  # a plain bar does
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=SyntaxWarning)  # of their files, compiled as they are first imported


def of_one_process() -> None:
    """Bars that share their line with no other process. Of the lock that tqdm makes for that, Python would tell when
    the process is killed.
    """
    tqdm.set_lock(threading.RLock())


def hide_loading_bars() -> None:
    """No bar of transformers' own while weights are read or written. The hub's, over a download, stay.

    Apart from `hush` because transformers has to be imported for it, and may not be before Unsloth.
    """
    from transformers.utils import logging

    logging.set_tqdm_hook(lambda make, args, kwargs: make(*args, **{**kwargs, "disable": True}))


def say(text: str) -> None:
    """A line of its own, also while a bar is shown."""
    tqdm.write(visible(text), file=sys.stderr)
