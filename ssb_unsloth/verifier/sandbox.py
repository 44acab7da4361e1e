"""Programs and their tests to results, by a pool of runners (`runner`): as many as cores, started when needed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..io.limits import cores

_START_SECONDS = 60.0
_MOST_TASKS = 2000  # by one runner, then a fresh one


@dataclass(frozen=True)
class Task:
    """A program, the tests that it is to pass, and what both may use, each."""

    program: str
    tests: str
    seconds: float  # of CPU time; three times as much and two seconds more by the clock
    memory: int  # MiB of address space
    disk: int  # MiB in its folder, which lies in memory; no folder where there are no namespaces


@dataclass(frozen=True)
class Result:
    outcome: str  # "passed", "failed" or "time"
    said: str  # why not


class Runner:
    """One process that works off a task after another. Not for two threads at once."""

    def __init__(self, full: bool, namespaces: bool) -> None:
        words = f"from ssb_unsloth.verifier.runner import main; main({full}, {namespaces})"
        root = str(Path(__file__).parents[2])  # where this package is found, also from a checkout
        code = f"import sys; sys.path.insert(0, {root!r}); {words}"
        # No site-packages and no environment, whose variables hold tokens; the same hash seed for all.
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", "-B", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HOME": "/", "PATH": "/usr/bin:/bin"},
            text=True,
            start_new_session=True,
        )
        self.done = 0
        try:
            self.failed: str | None = json.loads(self._line(_START_SECONDS))["namespaces"]
        except (ValueError, OSError):
            self.stop()
            raise UserError("the sandbox's process does not start; `ssb doctor` says what works here.") from None

    def run(self, task: Task) -> Result:
        """The result; a process that died on the way, as one that the kernel ended for want of memory, is "failed"."""
        assert self._process.stdin
        self.done += 1
        fields = {name: getattr(task, name) for name in Task.__dataclass_fields__}
        try:
            self._process.stdin.write(json.dumps(fields) + "\n")
            self._process.stdin.flush()
            return Result(**json.loads(self._line(3 * task.seconds + 30)))
        except (ValueError, OSError, TypeError):
            self.done = _MOST_TASKS
            return Result("failed", "the sandbox's process ended")
        except BaseException:  # interrupted: the answer must not be taken for the next task's
            self.done = _MOST_TASKS
            raise

    def _line(self, seconds: float) -> str:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise OSError("no answer")
        return self._process.stdout.readline()

    @property
    def is_worn(self) -> bool:
        return self.done >= _MOST_TASKS or self._process.poll() is not None

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its children die with it
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()
        self._process.wait()


class Pool:
    """Runners that wait for work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[bool, list[Runner]] = {True: [], False: []}

    def run(self, tasks: Sequence[Task], full: bool, workers: int) -> list[Result]:
        """The results in the tasks' order. A time-out counts when it comes a second time.

        Raises:
            UserError: this machine cannot hold programs.
        """
        check(full)
        if len(tasks) == 1:
            return [self._one(tasks[0], full)]
        with ThreadPoolExecutor(max_workers=min(workers, max(len(tasks), 1))) as threads:
            return list(threads.map(lambda task: self._one(task, full), tasks))

    def _one(self, task: Task, full: bool) -> Result:
        with self._lock:
            runner = self._idle[full].pop() if self._idle[full] else None
        runner = runner or Runner(full, full and _namespaces() is None)
        try:
            result = runner.run(task)
            if result.outcome == "time" or (result.outcome == "failed" and runner.is_worn):
                if runner.is_worn:
                    runner.stop()
                    runner = Runner(full, full and _namespaces() is None)
                result = runner.run(task)
        finally:
            if runner.is_worn:
                runner.stop()
            else:
                with self._lock:
                    self._idle[full].append(runner)
        return result

    def stop(self) -> None:
        with self._lock:
            runners = [runner for idle in self._idle.values() for runner in idle]
            self._idle = {True: [], False: []}
        for runner in runners:
            runner.stop()

    def forget(self) -> None:
        """In a forked child: the processes belong to the parent."""
        self._lock, self._idle = threading.Lock(), {True: [], False: []}


@functools.cache
def _namespaces() -> str | None:
    """Why a process here can have no namespaces of its own; None if it can."""
    if sys.platform != "linux":
        return "Linux alone has them"
    runner = Runner(full=True, namespaces=True)
    failed = runner.failed
    runner.stop()
    return failed


def layers() -> list[tuple[str, bool, str]]:
    """What holds programs here: (layer, whether it works, what it gives or why it does not)."""
    from . import confine

    if os.name != "posix":
        return [("processes", False, "programs are run on Linux, and in part on macOS")]
    version, failed = confine.landlock_version(), _namespaces()
    gives = (
        "a file system and a network of its own, with nothing in them; a folder in memory; an end to all its processes"
    )
    return [
        ("namespaces", failed is None, gives if failed is None else f"none ({failed}): no folder to write in"),
        (
            "landlock",
            version >= 3,
            f"version {version}: no file but Python's own" if version else "the kernel has none",
        ),
        (
            "seccomp",
            confine.has_seccomp(),
            "no process, socket, signal or program" if confine.has_seccomp() else "none for this kernel or processor",
        ),
        ("limits", True, "CPU time, memory, sizes and numbers of files"),
    ]


@functools.cache
def wanting() -> str | None:
    """What is missing for a program to be held here; None if nothing is."""
    if os.name != "posix":
        return "this system cannot fork a process"
    held = {name: works for name, works, _ in layers()}
    if not held["seccomp"]:
        return "there is no filter of system calls (seccomp)"
    if not (held["landlock"] or held["namespaces"]):
        return "neither Landlock nor namespaces keep it from the files here"
    return None


def check(full: bool) -> None:
    """Raises UserError where programs cannot be held; `full` False asks for a process with limits, and no more."""
    missing = wanting() if full else (None if os.name == "posix" else "this system cannot fork a process")
    if missing:
        raise UserError(
            f"the verifier 'code' runs programs that a model wrote, and this machine cannot hold them: {missing}. Run"
            " it on Linux 6.2 or newer (`ssb doctor` says what works), or, in a virtual machine that you can lose, set"
            " {name: code, sandbox: limits}: then a program can read your files and use the network."
        )


POOL = Pool()
atexit.register(POOL.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: POOL.forget())


def run(tasks: Sequence[Task], full: bool = True, at_once: int = 0) -> list[Result]:
    """As `Pool.run`; `at_once`: how many at a time, 0 for as many as there are cores."""
    return POOL.run(tasks, full, at_once or cores())
