"""Ctrl-C, SIGTERM, a closed terminal, or a starter that is gone: a command puts its things in order, and is gone within
seconds, also where it hangs.

The first signal is a KeyboardInterrupt where the work is done. Python tells of it only between two of its own steps,
and a thread that waits for a server may hold the end of the process up: so another thread hears of the signal in its
own way and ends the process when its time is up. What is kept is whole at every moment, so nothing depends on the end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from ..errors import UserError
from ..io.disk import refusal
from ..io.terminal import complain, unread

SECONDS = 3.0  # that a stage has to end by itself
BY_CTRL_C = 130  # exit code, as shells have it
UNREAD = 128 + signal.SIGPIPE  # the same where nobody reads the output any more
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_first: int | None = None  # the signal that is being obeyed
_telling = threading.Lock()  # taken by whoever tells of the end first, and kept


class Stopped(KeyboardInterrupt):
    """Raised where the main thread is, by a signal. `code` is the exit code that shells have for it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def arm(seconds: float = SECONDS) -> None:
    """Let this process end within so many seconds of the first of `SIGNALS`; of a second Ctrl-C, at once.

    For a process that is one command, in its main thread: there is no way back. Signals that whoever started it has
    told it to ignore (`nohup`, `&` in a script) stay ignored.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _obey)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_disarm)
    sys.unraisablehook = _unraisable
    threading.Thread(target=_end, args=(heard, seconds), daemon=True).start()


@contextlib.contextmanager
def later() -> Iterator[None]:
    """Hold signals back while a process is started, there too until it is armed: none finds it half made."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def with_parent() -> None:
    """Stop as by SIGTERM when the process that started this one is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def leave_telling() -> None:
    """For a process whose end is told of by the one that started it."""
    _telling.acquire(blocking=False)


def is_first_to_tell() -> bool:
    """Whether nobody has told yet that a signal has stopped this process: the main thread may have, and then hang in
    the interpreter's own end until the other thread ends it.
    """
    return _first is None or _telling.acquire(blocking=False)


def exit_code(command: Callable[[], int]) -> int:
    """What a command comes to: its own code; 2 for a user's mistake or a full disk, said in one sentence; or, when it
    is stopped or its output is read no further, what shells have for the signal.
    """
    try:
        return _exit_code(command)
    except BrokenPipeError:
        if not unread():
            raise
        return UNREAD


def _exit_code(command: Callable[[], int]) -> int:
    try:
        return command()
    except UserError as error:
        complain(f"ssb: {error}")
        return 2
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        complain(f"ssb: {refused}")
        return 2
    except KeyboardInterrupt as stop:
        if is_first_to_tell():
            complain("\nssb: stopped. What was finished is kept; the same command resumes from there.")
        return getattr(stop, "code", BY_CTRL_C)


def _obey(number: int, frame: FrameType | None) -> None:
    global _first
    if _first is None:
        _first = number
        raise Stopped(number)
    if number == _first == signal.SIGINT:
        os._exit(128 + number)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """A signal that came while Python called something back that may not raise (a weak reference's end) is told as any
    other is: the other thread ends the process.
    """
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)


def _end(heard: int, seconds: float) -> None:
    number = 0
    while number not in SIGNALS:  # others that Python listens to are told of as well
        number = os.read(heard, 1)[0]
    time.sleep(seconds)
    if is_first_to_tell():
        os.write(2, b"\nssb: stopped. What was finished is kept; the same command resumes from there.\n")
    os._exit(128 + number)


# A forked child, such as a worker that a library starts and terminates, is no command: until it has its own handlers
# back no signal may reach it, for it would be told of here.

_held: list[set[int]] = []


def _hold() -> None:
    _held.append({int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)})


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.pop())


def _disarm() -> None:
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _obey:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _release()
