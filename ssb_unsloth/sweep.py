"""Running a recipe: every stage of every student, each in a process of its own, then one evaluation and one report.

What is up to date is skipped, what students share is made once, and several stages may run side by side (`workers`). A
stopped run goes on with whatever is missing: nothing is remembered outside of the run folders.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from .config import Recipe
from .progress import say
from .rundir import RunDir
from .stages import STAGES
from .students import Student, students

STOPPED = 130  # exit code after Ctrl-C, as shells have it
TOGETHER = ("evaluate", "report")  # stages over all students
FORKED = ("teach", "train")  # stages that need no engine


@dataclass
class Job:
    """One stage of one student, or of all of them (None)."""

    stage: str
    student: Student | None
    run: RunDir
    recipe: Recipe

    @property
    def folder(self) -> Path:
        return self.run.stage(self.stage)

    @property
    def needs(self) -> set[Path]:
        """The folders that it reads."""
        base = ["base"] if self.student is not None and self.student.before is not None else []
        return {self.run.stage(name) for name in (*STAGES[self.stage].reads(self.recipe), *base)} - {self.folder}

    def is_fresh(self) -> bool:
        return self.run.is_fresh(self.stage, STAGES[self.stage].key(self.recipe, self.run)[0])


@dataclass
class Running:
    job: Job
    process: BaseProcess
    log: Path | None
    since: float


class Sweep:
    """One run of a recipe. `words` are what the stages' own commands are given: the recipe, its overrides, --runs."""

    def __init__(self, recipe: Recipe, root: Path, words: Sequence[str], workers: int, force: bool) -> None:
        self._words, self._workers, self._force = words, workers, force
        everyone = students(recipe, root)
        self._alone = len(everyone) == 1
        of_students = [Job(n, s, s.run, s.recipe) for s in everyone for n in s.chain if s.owns(n)]
        self._todo = [*of_students, *(Job(name, None, RunDir(root), recipe) for name in TOGETHER)]
        self._total, self._done, self._ran = len(self._todo), 0, False
        self._running: list[Running] = []
        self._seconds: dict[str, list[float]] = {}  # how long each stage took, by its name
        if recipe.threads is not None:  # read by torch when it is imported, which may be in the process that is forked
            os.environ["OMP_NUM_THREADS"] = str(recipe.threads)
        self._forks = not self._alone and not Path("/dev/nvidiactl").exists()

    def __call__(self) -> int:
        """Run what is not up to date. Returns 0, or the exit code of the stage that ended it."""
        code = 0
        with self._interruptible():
            while self._todo or self._running:
                job = self._ready() if code == 0 and len(self._running) < self._workers else None
                if job is not None:
                    self._todo.remove(job)
                    if not self._force and job.is_fresh():
                        self._done += 1
                        self._line(job, "up to date")
                    else:
                        self._start(job)
                elif self._running:
                    code = self._wait() or code
                else:
                    break
            if code == 0 and not self._ran:
                say("All stages are up to date.")
            return code
        return STOPPED

    def _ready(self) -> Job | None:
        """The first job that waits for no other."""
        pending = {job.folder for job in (*self._todo, *(r.job for r in self._running))}
        for job in self._todo:
            if job.student is None:  # over all students: after everything that stands before it
                return job if job is self._todo[0] and not self._running else None
            if not job.needs & pending:
                return job
        return None

    def _start(self, job: Job) -> None:
        words = [job.stage, *self._words, *["--force"] * self._force]
        if job.student is not None and not self._alone:
            words += ["--student", job.student.label]
        log = None
        if self._workers > 1:  # bars side by side would be unreadable
            job.run.root.mkdir(parents=True, exist_ok=True)
            log = job.run.root / f"{job.stage}.log"
        else:
            self._line(job, "starts")
        process = self._process(job.stage, words, log)
        process.start()
        self._running.append(Running(job, process, log, time.monotonic()))
        self._ran = True

    def _process(self, stage: str, words: list[str], log: Path | None) -> BaseProcess:
        """A process of its own. Many short stages on a CPU are forked from one that has imported the libraries already;
        not where there is a GPU, for Unsloth wants to be imported before the others, and CUDA to be started later.
        """
        if self._forks and stage in FORKED:
            forking = multiprocessing.get_context("forkserver")
            forking.set_forkserver_preload(["ssb_unsloth.preload"])
            return forking.Process(target=_stage, args=(words, log))
        return multiprocessing.get_context("spawn").Process(target=_stage, args=(words, log))

    def _wait(self) -> int:
        """Wait for the next stage to end; its exit code."""
        signalled = wait([r.process.sentinel for r in self._running])
        ended = next(r for r in self._running if r.process.sentinel in signalled)
        self._running.remove(ended)
        ended.process.join()
        code = ended.process.exitcode
        if code == 0:
            self._done += 1
            seconds = time.monotonic() - ended.since
            self._seconds.setdefault(ended.job.stage, []).append(seconds)
            if ended.log is not None:
                ended.log.unlink(missing_ok=True)
                self._line(ended.job, f"done in {_span(seconds)}")
            return 0
        if ended.log is not None:
            tail = ended.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            say("\n".join(tail))
        if code in (2, STOPPED):
            return code  # the stage has said why
        if code == -signal.SIGINT:
            return STOPPED
        say(f"ssb: Stage {ended.job.stage} failed (exit code {code}); what was finished before it is kept.")
        return 2

    def _line(self, job: Job, what: str) -> None:
        name = job.stage if job.student is None or self._alone else f"{job.student.label}, {job.stage}"
        number = self._done + (what == "starts")
        say(f"[{number}/{self._total}] {name}: {what}{self._left()}")

    def _left(self) -> str:
        """How long all the rest may take, by what stages of the same name took so far."""
        known = {stage: sum(times) / len(times) for stage, times in self._seconds.items()}
        rest = [job.stage for job in (*self._todo, *(r.job for r in self._running))]
        if self._alone or not known or not rest:
            return ""
        mean = sum(known.values()) / len(known)
        return f" (about {_span(sum(known.get(stage, mean) for stage in rest) / self._workers)} left)"

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C reaches the stages too: wait until they have put their things in order."""
        try:
            yield
        except KeyboardInterrupt:
            for running in self._running:
                while running.process.is_alive():
                    with contextlib.suppress(KeyboardInterrupt):
                        running.process.join()


def _stage(words: list[str], log: Path | None) -> None:
    """The body of a stage's process: the stage's own command."""
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 2)
        os.dup2(file, 1)
    from .cli import main

    sys.exit(main(words))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
