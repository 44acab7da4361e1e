"""One stage's work by several processes of this machine at once: started, watched and ended together.

Each is a fresh interpreter and calls the same function. The process that starts them does no work itself: it waits, so
that it can end all when one of them is gone, is stopped or refuses, where the others would wait for it in the middle of
a step, for ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..io import disk
from ..io.limits import cores
from ..io.progress import hush, of_one_process
from ..machine.environment import prepare
from . import stopping

TO_END = 2.0  # seconds that each has after a signal; less than the stage that started them
OTHERS = 2.0  # seconds after a first fault, in which another process may show that it was the cause
LAST_WORDS = 60.0  # seconds after its work is done, in which a tracker may send what it still has


@dataclass(frozen=True)
class Seat:
    """Which of the processes one is."""

    number: int
    processes: int
    meeting: str  # a file by which they find each other

    @property
    def is_first(self) -> bool:
        return self.number == 0


@dataclass
class Member:
    """One of the processes, as the one that started it sees it."""

    seat: Seat
    process: BaseProcess
    told: Connection


Kind = Literal["done", "refused", "failed", "gone"]


@dataclass(frozen=True)
class Word:
    """What a process says at its end: its result, or the sentence that refuses it, or a traceback; or its exit code,
    said for it, where it ended without a word.
    """

    kind: Kind
    what: Any
    number: int = 0


def together(work: Callable[..., Any], arguments: tuple[Any, ...], processes: int, threads: int | None) -> list[Any]:
    """`work(seat, *arguments)` in so many processes. Returns what each returned, in their order.

    `threads`: of the CPU, for all of them; None: all that this process may use.

    Raises:
        UserError: one of them refuses its work, or was ended by somebody else.
        RuntimeError: one of them failed; with its traceback.
    """
    each = max(1, (threads or cores()) // processes)
    context, members = multiprocessing.get_context("spawn"), list[Member]()
    with tempfile.TemporaryDirectory(prefix="ssb-") as folder:
        try:
            for number in range(processes):
                seat = Seat(number, processes, str(Path(folder) / "meeting"))
                told, tells = context.Pipe(duplex=False)
                process = context.Process(target=_body, args=(seat, each, work, arguments, tells))
                with stopping.later():  # until it can obey
                    process.start()
                tells.close()  # so that its end is seen here when it is gone
                members.append(Member(seat, process, told))
            results = _listen(members)
            _leave(members, LAST_WORDS)
            return results
        finally:
            _end(members)


def _body(seat: Seat, threads: int, work: Callable[..., Any], arguments: tuple[Any, ...], tells: Connection) -> None:
    """The whole of one of the processes. It ends when the one that started it does, which tells of the end for it."""
    stopping.leave_telling()
    stopping.arm(TO_END)
    stopping.with_parent()
    os.environ.update(RANK=str(seat.number), LOCAL_RANK=str(seat.number))
    os.environ.update(WORLD_SIZE=str(seat.processes), LOCAL_WORLD_SIZE=str(seat.processes))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if not seat.is_first:  # whose lines and bars are the same
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
    of_one_process()
    # At once where it is no orderly end: that would wait for the others, or be stopped in the middle.
    try:
        if code := _do(lambda: work(seat, *arguments), tells):
            sys.stderr.flush()
            os._exit(code)
    except KeyboardInterrupt as stop:  # also one that comes while a fault is being told
        os._exit(getattr(stop, "code", stopping.BY_CTRL_C))


def _do(work: Callable[[], Any], tells: Connection) -> int:
    """Work, and tell what came of it. Returns the exit code."""
    try:
        prepare()
        hush()
        tells.send(Word("done", work()))
        return 0
    except Exception as error:
        refused = error if isinstance(error, UserError) else disk.refusal(error)
        tells.send(Word("failed", traceback.format_exc()) if refused is None else Word("refused", str(refused)))
        return 1 if refused is None else 2


def _listen(members: list[Member]) -> list[Any]:
    """What all have returned. One that ends otherwise ends all; of several faults the one that is the others' cause."""
    results, faults = dict[int, Any](), list[Word]()
    latest: float | None = None
    while len(results) + len(faults) < len(members):
        heard = {word.number for word in faults} | results.keys()
        silent = [member for member in members if member.seat.number not in heard]
        watched = [one for member in silent for one in (member.told, member.process.sentinel)]
        ready = wait(watched, None if latest is None else max(0, latest - time.monotonic()))
        if not ready:
            break
        for member in silent:
            if member.told in ready or member.process.sentinel in ready:
                word = _word(member)
                if word.kind == "done":
                    results[word.number] = word.what
                else:
                    faults.append(word)
                    latest = latest or time.monotonic() + OTHERS
    if faults:
        raise _fault(faults, len(members))
    return [results[member.seat.number] for member in members]


def _word(member: Member) -> Word:
    number = member.seat.number
    with contextlib.suppress(EOFError):
        if member.told.poll():
            said: Word = member.told.recv()
            return Word(said.kind, said.what, number)
    member.process.join()  # gone without a word
    return Word("gone", member.process.exitcode, number)


def _fault(faults: list[Word], processes: int) -> Exception:
    """The error that all of it comes to. When one process is gone the others fail in what they wait for."""
    refused = [word for word in faults if word.kind == "refused"]
    if refused:
        return UserError(refused[0].what)
    gone = [word for word in faults if word.kind == "gone"]
    if gone:
        code = gone[0].what
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = ", which the system does where memory runs out" if code == -signal.SIGKILL else ""
        return UserError(
            f"Process {gone[0].number + 1} of {processes} that train together (train.processes) {how}{memory}; the"
            f" others were ended with it. {disk.KEPT}"
        )
    return RuntimeError(f"process {faults[0].number + 1} of {processes} failed:\n{faults[0].what}")


def _leave(members: list[Member], seconds: float) -> None:
    """Let them end by themselves."""
    latest = time.monotonic() + seconds
    for member in members:
        member.process.join(max(0.0, latest - time.monotonic()))


def _end(members: list[Member]) -> None:
    """End those that are still there: by a signal, and if that does not help without asking."""
    for member in members:
        if member.process.is_alive():
            member.process.terminate()
    _leave(members, TO_END + 0.3)
    for member in members:
        if member.process.is_alive():
            member.process.kill()
            member.process.join()
        member.told.close()
