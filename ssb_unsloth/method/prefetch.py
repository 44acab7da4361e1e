"""The next batches, made by a thread while a step computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_END = object()


class Prefetch(Iterator[Any]):
    """The items of an iterator, in order, of which one thread makes up to `depth` before they are asked for.

    So the next batch's targets are read from disk while a step computes. A thread and not the DataLoader's processes:
    what it does is to read and copy, without Python's lock, and other processes would have to copy the rows once more.
    An error is raised where its item would have come, and stays.
    """

    def __init__(self, items: Iterator[Any], depth: int) -> None:
        self._items, self._depth = items, depth
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._made: deque[Future[Any]] = deque()

    def __next__(self) -> Any:
        while len(self._made) <= self._depth:
            self._made.append(self._thread.submit(next, self._items, _END))
        item = self._made[0].result()
        if item is _END:
            self._thread.shutdown(wait=False)
            raise StopIteration
        self._made.popleft()
        return item
