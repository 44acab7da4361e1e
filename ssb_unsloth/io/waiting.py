"""Many slow answers at a time, none of which can hold the process up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def as_they_come(
    answer: Callable[[Asked], Answer], asked: Sequence[Asked], threads: int
) -> Iterator[tuple[int, Answer]]:
    """(place, answer) of each, in the order in which they come.

    Nobody waits for a thread that hangs: neither who stops asking, as by Ctrl-C, nor the end of the process, which a
    pool of `concurrent.futures` would hold up.

    Raises:
        Exception: the first that `answer` raises, after all that came before it; what has not begun then does not.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Answer | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()
    for place in range(len(asked)):
        waiting.put(place)

    def work() -> None:
        while not stopped.is_set():
            try:
                place = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((place, answer(asked[place]), None))
            except BaseException as error:
                done.put((place, None, error))

    for _ in range(min(threads, len(asked))):
        threading.Thread(target=work, daemon=True).start()
    failed: BaseException | None = None
    try:
        for _ in asked:
            if failed is not None and done.empty():
                break
            place, found, error = done.get()
            if error is None:
                yield place, found  # type: ignore[misc]
            elif failed is None:
                failed = error
                stopped.set()
    finally:
        stopped.set()
    if failed is not None:
        raise failed


def in_order(answer: Callable[[Asked], Answer], asked: Sequence[Asked], threads: int, ahead: int) -> Iterator[Answer]:
    """The answers in the order of what is asked. Nothing is begun that is `ahead` or more places behind the next one to
    be yielded, so that no more than so many answers are held.

    Raises:
        Exception: as `as_they_come`.
    """
    moved, due = threading.Condition(), 0

    def when_near(place: int) -> Answer:
        with moved:
            moved.wait_for(lambda: place < due + ahead)
        return answer(asked[place])

    held: dict[int, Answer] = {}
    for place, found in as_they_come(when_near, range(len(asked)), threads):
        held[place] = found
        while due in held:
            yield held.pop(due)
            with moved:
                due += 1
                moved.notify_all()
