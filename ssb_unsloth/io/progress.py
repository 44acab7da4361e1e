"""How work in progress is shown: one tqdm bar with a rate and the time left, and plain lines between bars.

Where the output is no terminal a bar is one line, written when it is full; one that takes long has a line every
`EVERY` seconds besides. What goes into a file or a pipe holds no control character.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from .terminal import complain, visible

EVERY = 300.0  # seconds between the lines of what takes long, where there is no terminal
LATELY = 2.0  # seconds by which the speed of a batch is told
OFTEN = 0.1  # seconds between two looks of a bar
FULL = "{desc}{n_fmt}/{total_fmt} in {elapsed} ({rate_fmt}{postfix})"
ON_THE_WAY = "{desc}{n_fmt}/{total_fmt} after {elapsed}, {remaining} left{postfix}"


def bar(description: str, unit: str, total: int | None = None, **kwargs: Any) -> Bar:
    """A bar on standard error; a line there where that is no terminal."""
    return Bar(
        desc=f"{visible(description):<23} ", unit=unit, total=total, mininterval=OFTEN, dynamic_ncols=True, **kwargs
    )


class Bar(tqdm):
    """tqdm's own, but one line where there is no terminal."""

    on_the_way = ON_THE_WAY

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._moves = sys.stderr.isatty()
        super().__init__(*args, **kwargs)
        self._told = getattr(self, "start_t", 0.0)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self._moves:
            return bool(super().display(msg, pos))
        if msg is None and hasattr(self, "_told") and self._time() - self._told >= EVERY:
            self._told = self._time()
            self._line(self.on_the_way)
        return False

    def clear(self, nolock: bool = False) -> None:
        if self._moves:
            super().clear(nolock)

    def close(self) -> None:
        if not self.disable and not self._moves:
            self.leave = False  # the line is all that stays
            self._ema_dt = lambda: None  # so that the rate is that of all
            self._line(FULL)
        super().close()

    def _line(self, form: str) -> None:
        self.bar_format = form
        complain(str(self).rstrip())


class Batch(Bar):
    """A bar of replies that an engine samples side by side, so that all of them end at about the same time. The time
    left is reckoned by tokens, and not by the replies that are there.
    """

    on_the_way = "{desc}{n_fmt}/{total_fmt} after {elapsed}{left}"

    def __init__(self, description: str, total: int, limit: int, quiet: bool = False) -> None:
        """`limit`: the most tokens that a reply can have."""
        self.limit, self._tokens, self._shortest, self._left = limit, 0, limit, ""
        super().__init__(
            desc=f"{visible(description):<23} ",
            unit="reply",
            total=total,
            dynamic_ncols=True,
            mininterval=OFTEN,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{left}]",
            disable=quiet,
        )
        self._looks = deque([(getattr(self, "start_t", 0.0), 0)])  # when, and how many tokens there were

    def _speed(self, tokens: int) -> float:
        """Tokens a second, of late: at first prompts are read, and at the end few replies are left."""
        now = self._time()
        while len(self._looks) > 1 and now - self._looks[1][0] >= LATELY:
            self._looks.popleft()
        self._looks.append((now, tokens))
        since, before = self._looks[0]
        return (tokens - before) / (now - since)

    @property
    def format_dict(self) -> Any:
        return {**super().format_dict, "left": self._left}

    def step(self, ended: Sequence[int], under_way: Callable[[], Sequence[int]]) -> None:
        """One step of the engine is done. `ended`: the tokens of each reply that it ended; `under_way()`: of each that
        has not ended so far, 0 of one that waits.
        """
        self._tokens += sum(ended)
        self._shortest = min([self._shortest, *ended])
        if self.disable:
            return
        due = self._time() - self._looks[-1][0] >= OFTEN
        if due:
            lengths = under_way()
            speed = self._speed(self._tokens + sum(lengths))
            found = seconds_left(speed, (self.n + len(ended), self._tokens, self._shortest), lengths, self.limit)
            self._left = "" if found is None else f", about {self.format_interval(round(found))} left"
        self.update(len(ended))
        if due:
            self.refresh()


def seconds_left(speed: float, ended: tuple[int, int, int], under_way: Sequence[int], limit: int) -> float | None:
    """How long a batch may take still; None where there is nothing to reckon by: no reply has ended, or all have.

    Replies are taken to end at random once they are as long as the shortest that has ended: then the mean of what comes
    after that is all of it so far, that of replies under way included, over how many have ended. So much comes to each
    of the others, but no more than its limit leaves room for: where nearly all are of one length, hardly any has ended
    shortly before all do, and the limit is what tells. When none waits any more, the batch ends with the longest, which
    of n such replies has ln n + 0.58 times the mean still to come.

    Args:
        speed: tokens a second, of late.
        ended: how many replies have ended, their tokens in all, and those of the shortest.
        under_way: the tokens so far of each other reply; 0 of one that waits.
        limit: the most tokens that a reply can have.
    """
    count, tokens, shortest = ended
    if not count or not under_way or speed <= 0:
        return None
    beyond = tokens - count * (shortest - 1) + sum(max(length - shortest + 1, 0) for length in under_way)
    mean = beyond / count
    to_come = sum(min(max(shortest - length, 0) + mean, limit - length) for length in under_way)
    if (least := min(under_way)) > 0:
        longest = min(max(shortest - least, 0) + mean * (math.log(len(under_way)) + 0.58), limit - least)
        to_come = max(to_come, longest * len(under_way))  # a token to each of them in a step
    return to_come / speed


def hush() -> None:
    """Keep libraries' warnings about each other's optional parts out of the progress; before they are imported."""
    import logging
    import warnings

    if not sys.stderr.isatty():  # bars of theirs would be one long line of carriage returns
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
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
