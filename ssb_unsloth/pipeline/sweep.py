"""Running a recipe: every stage of every student, each in a process of its own, then one evaluation and one report.

What is up to date is skipped, what students share is made once, and several stages may run side by side (`workers`). A
stopped run resumes with whatever is missing: nothing is remembered outside of the run folders. Where a stage fails, the
students that do not need it are made all the same; the evaluation of all then waits until it is fixed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ..backends.cluster import Cluster
from ..io.progress import say
from ..machine.hardware import here
from ..machine.reckoning import question_count
from ..recipe.schema import Recipe
from ..run.lease import STALE
from ..run.manifests import Damage
from ..run.rundir import RUN_LOCK, RunDir
from ..run.student import Student
from . import on_cluster, stopping
from .on_cluster import ClusterProcess
from .process import Call, body
from .students import scope_of, students
from .table import OF_ALL, stage

STOPPED = tuple(128 + number for number in stopping.SIGNALS)  # exit codes of a stage that was told to end
PATIENCE = stopping.SECONDS + 1  # seconds for the stages to end by themselves


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
        return {self.run.stage(name) for name in (*stage(self.stage).reads(self.recipe), *base)} - {self.folder}

    def is_fresh(self) -> bool:
        scope = scope_of(self.stage, self.recipe, self.run)
        return self.run.is_fresh(self.stage, stage(self.stage).key(scope)[0])


@dataclass
class Running:
    job: Job
    process: BaseProcess | ClusterProcess
    log: Path | None
    since: float


class Sweep:
    """One run of a recipe, read from `path` with `overrides`, in the folder of its name below `runs`."""

    def __init__(
        self,
        recipe: Recipe,
        path: str,
        overrides: Sequence[str],
        runs: Path,
        workers: int,
        force: bool,
        cluster: Cluster | None = None,
    ) -> None:
        """`cluster`: where stages are started, in place of this machine."""
        root = runs / recipe.name
        self._call = Call("", path, overrides, runs, force=force)  # of its stages, each with its own name and student
        if cluster is not None:  # a machine that is lost holds its lease for a while
            self._call = replace(self._call, patience=STALE + self._call.patience)
        self._workers, self._force, self._cluster = workers, force, cluster
        everyone = students(recipe, root)
        self._alone = len(everyone) == 1
        of_students = [Job(n, s, s.run, s.recipe) for s in everyone for n in s.chain if s.owns(n)]
        self._todo = [*of_students, *(Job(name, None, RunDir(root), recipe) for name in OF_ALL)]
        self._run = RunDir(root)
        self._total, self._ended, self._ran = len(self._todo), 0, False
        self._running: list[Running] = []
        self._code = 0  # of the stage that ended last
        self._failed: list[Job] = []
        self._damaged: list[Damage] = []  # files of stages that are up to date otherwise
        self._younger: list[Path] = []  # than the manifest of their stage
        self._waiting: list[Job] = []  # for one that failed
        self._seconds: dict[str, list[float]] = {}  # how long each stage took, by its name
        self._a_reply: list[float] = []  # seconds a reply, in each curation
        self._replies = _replies(recipe, len(everyone))
        if recipe.threads is not None:  # read by torch when it is imported, which may be in the process that is forked
            os.environ["OMP_NUM_THREADS"] = str(recipe.threads)
        # Not where there is a GPU, or Unsloth without one: it wants to be imported before the others, and CUDA to be
        # started later.
        self._forks = cluster is None and os.environ.get("UNSLOTH_ALLOW_CPU") != "1" and here() is None
        if cluster is not None:
            on_cluster.refuse([recipe, *(student.recipe for student in everyone)], cluster)

    def __call__(self) -> int:
        """Run what is not up to date. Returns 0, 2 if a stage failed, or the exit code of a stage that was stopped.

        Raises:
            UserError: another process runs the same recipe in the same folder.
        """
        try:
            with self._run.lock(RUN_LOCK), self._stopping():
                return self._all()
        except KeyboardInterrupt as stop:
            if self._workers > 1 or not (self._running or self._code in STOPPED):
                raise
            return getattr(stop, "code", STOPPED[0])  # the stage has said so

    def _all(self) -> int:
        while self._todo or self._running:
            job = None if len(self._running) == self._workers else self._ready()
            if job is not None:
                self._todo.remove(job)
                if not self._force and job.is_fresh():
                    self._ended += 1
                    self._glance(job)
                    self._learn(job, None)
                    self._line(job, "up to date")
                else:
                    self._start(job)
            elif self._running:
                code = self._wait()
                if code in STOPPED:
                    return code
            else:
                break
        if self._failed:
            self._say_what_failed()
            return 2
        if self._damaged:
            self._say_what_is_damaged()
            return 2
        self._say_what_was_looked_at()
        return 0

    def _ready(self) -> Job | None:
        """The first job that waits for no other. Those that wait for one that failed are laid aside."""
        lost = {job.folder for job in (*self._failed, *self._waiting)}
        for job in self._todo.copy():
            if job.needs & lost or (job.student is None and lost):
                self._todo.remove(job)
                self._waiting.append(job)
                lost.add(job.folder)
        pending = {job.folder for job in (*self._todo, *(r.job for r in self._running))}
        for job in self._todo:
            if job.student is None:  # over all students: after everything that stands before it
                return job if job is self._todo[0] and not self._running else None
            if not job.needs & pending:
                return job
        return None

    def _start(self, job: Job) -> None:
        label = None if job.student is None or self._alone else job.student.label
        call = replace(self._call, stage=job.stage, student=label)
        log = None
        if self._workers > 1:  # bars side by side would be unreadable
            job.run.root.mkdir(parents=True, exist_ok=True)
            log = job.run.root / f"{job.stage}.log"
        else:
            self._line(job, "starts")
        process = self._process(call, log, job)
        with stopping.later():  # until the stage can obey
            try:
                process.start()
            except (EOFError, OSError):  # the process that it is forked from was killed: a fresh one needs none
                process = multiprocessing.get_context("spawn").Process(target=body, args=(call, log))
                process.start()
        self._running.append(Running(job, process, log, time.monotonic()))
        self._ran = True

    def _process(self, call: Call, log: Path | None, job: Job) -> BaseProcess | ClusterProcess:
        """A process of its own. On a CPU all but the first are forked from one that imports the libraries meanwhile."""
        if self._cluster is not None:
            return ClusterProcess(call, log, *on_cluster.needs(job.stage, job.recipe, self._cluster))
        if self._forks and self._ran:
            return multiprocessing.get_context("forkserver").Process(target=body, args=(call, log))
        if self._forks and self._todo:
            multiprocessing.set_forkserver_preload(["ssb_unsloth.pipeline.preload"])
            os.environ["SSB_STARTER"] = str(os.getpid())  # with which it ends
            forkserver.ensure_running()
        return multiprocessing.get_context("spawn").Process(target=body, args=(call, log))

    def _wait(self) -> int:
        """Wait for the next stage to end; its exit code, as shells have it where a signal ended it."""
        signalled = wait([r.process.sentinel for r in self._running])
        ended = next(r for r in self._running if r.process.sentinel in signalled)
        ended.process.join()
        code, name = ended.process.exitcode, self._name(ended.job)
        assert code is not None
        self._code = 128 - code if code < 0 else code
        self._running.remove(ended)
        self._ended += 1
        if code == 0:
            seconds = time.monotonic() - ended.since
            self._learn(ended.job, seconds)
            if ended.log is not None:
                ended.log.unlink(missing_ok=True)
                self._line(ended.job, f"done in {_span(seconds)}")
            return 0
        code = self._code
        if code in STOPPED:
            return code
        if ended.log is not None:
            lines = ended.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            told = max((n for n, line in enumerate(lines) if line.startswith("ssb: ")), default=-5)
            self._line(ended.job, "failed")
            say("\n".join(lines[told:]))
        self._failed.append(ended.job)
        if code != 2:  # with 2 the stage has said why
            why = f"exit code {code}"
            if code == 128 + signal.SIGKILL:
                why = "killed by signal 9, as the system does when memory runs out"
            say(f"ssb: Stage {name} failed ({why}); what was finished before it is kept.")
        return code

    def _glance(self, job: Job) -> None:
        damaged, younger = job.run.glance(job.stage)
        self._damaged += damaged
        self._younger += younger

    def _say_what_is_damaged(self) -> None:
        for damage in self._damaged:
            say(f"ssb: {damage}")
        say(
            "ssb: Put back what is damaged, or delete its stage's folder, and the same command makes it again;"
            f" `ssb verify {self._run.root}` reads every byte."
        )

    def _say_what_was_looked_at(self) -> None:
        if self._younger:
            one, more = self._younger[0], len(self._younger) - 1
            and_more = f" (and {more:,} more)" if more else ""
            say(
                f"{one}{and_more}: touched since its stage was finished; `ssb verify {self._run.root}` reads all of it."
            )
        if not self._ran:
            say(f"All stages are up to date, by their keys and sizes; `ssb verify {self._run.root}` reads every byte.")

    def _say_what_failed(self) -> None:
        """Of several students: which one it was, that the others are made, and how to resume."""
        if self._alone:
            return
        names, failed, waiting = "; ".join(map(self._name, self._failed)), len(self._failed), len(self._waiting)
        say(
            f"ssb: {failed} of {self._total} stages failed ({names}), and {waiting} wait for that; all others are done."
            " Fix it, and the same command resumes from there."
        )

    def _name(self, job: Job) -> str:
        return job.stage if job.student is None or self._alone else f"{job.student.label}, {job.stage}"

    def _line(self, job: Job, what: str) -> None:
        number = self._ended + (what == "starts")
        say(f"[{number}/{self._total}] {self._name(job)}: {what}{self._left()}")

    def _learn(self, job: Job, seconds: float | None) -> None:
        """Keep how long a finished stage took; for one that an earlier call finished, what its manifest says."""
        manifest = job.run.manifest(job.stage) or {"cost": {"seconds": 0.0}, "summary": {}}
        within = manifest["cost"]["seconds"]
        self._seconds.setdefault(job.stage, []).append(within if seconds is None else seconds)
        replies = manifest["summary"].get("rollouts", 0) + manifest["summary"].get("refined", 0)
        if job.stage == "curate" and replies:
            self._a_reply.append(within / replies)

    def _left(self) -> str:
        """How long all the rest may take, by what stages of the same name took so far; the evaluation, which comes once
        and late, by its replies and the speed at which curation sampled its own.
        """
        known = {stage: _mean(times) for stage, times in self._seconds.items()}
        rest = [job.stage for job in (*self._todo, *(r.job for r in self._running))]
        if self._alone or not known or not rest:
            return ""
        mean = _mean(list(known.values()))
        if self._a_reply and self._replies:
            known.setdefault("evaluate", _mean(self._a_reply) * self._replies)
        of_students = sum(known.get(stage, mean) for stage in rest if stage not in OF_ALL)
        of_all = sum(known.get(stage, mean) for stage in rest if stage in OF_ALL)  # one after the other
        return f" (about {_span(of_students / self._workers + of_all)} left)"

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """However this ends, no stage is left: each is told to end, and has the time to put its things in order."""
        try:
            yield
        finally:
            for running in self._running:
                running.process.terminate()  # where Ctrl-C has reached it already it does not count again
            latest = time.monotonic() + PATIENCE
            for running in self._running:
                running.process.join(max(0.0, latest - time.monotonic()))
                running.process.kill()
            _end_forkserver()


def _end_forkserver() -> None:
    """It holds nothing. By itself it would end too, but not before the library that it is just importing is loaded."""
    server = getattr(forkserver, "_forkserver", None)  # Python's own name for it; it has no public one
    number = getattr(server, "_forkserver_pid", None)
    if number is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _replies(recipe: Recipe, trained: int) -> int:
    """How many replies the evaluation samples of `trained` students and of what stands beside them; 0 if unknown."""
    e, count = recipe.evaluate, 0
    for benchmark in e.benchmarks.values():
        problems = question_count(benchmark)
        if problems is None:
            return 0
        count += problems * (benchmark.greedy + (benchmark.samples if benchmark.temperature is not None else 0))
    return count * (trained + len(recipe.seeds or [0]) * (1 + e.default_prompt + len(e.adapters)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
