"""One stage in a process of its own: what is looked at before it, its run, and how it ends.

`sweep` starts such processes, and `ssb STAGE` is one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import UserError
from ..io.progress import hush, say
from ..io.terminal import complain
from ..machine.auto import choose
from ..machine.check import check_before_stage
from ..machine.environment import prepare
from ..machine.hardware import here
from ..machine.out_of_memory import explained
from ..machine.plan import beside
from ..recipe import trackers
from ..recipe.loading import load, save
from ..recipe.schema import Recipe
from ..recipe.shipped import find
from ..recipe.trust import refuse_others_code
from ..run.rundir import RunDir
from ..run.student import Student
from . import stopping
from .stage import BEFORE
from .students import scope_of, students
from .table import STAGES, stage


@dataclass(frozen=True)
class Call:
    """What a stage's process is told."""

    stage: str
    recipe: str  # its file, or a shipped one's name
    overrides: Sequence[str]
    runs: Path  # where runs are kept
    student: str | None = None  # by its label; the recipe's own if None
    force: bool = False
    patience: float = stopping.SECONDS + 2  # seconds for another process at work on the same run to end


def perform(call: Call) -> int:
    """Run a stage unless it is up to date, under the lock of its run folder. Returns the exit code 0.

    Raises:
        UserError: the recipe, the machine, or what the stage reads does not allow it.
    """
    hush()
    of_all = STAGES[call.stage].of_all
    recipe = loaded(call.recipe, call.overrides, trains=not of_all)
    if stage(call.stage).uses_model:
        check_before_stage(recipe)
    if recipe.threads is not None:  # read by torch and vLLM when they are imported
        os.environ["OMP_NUM_THREADS"] = str(recipe.threads)
    root = call.runs / recipe.name
    run, whole, first = RunDir(root), recipe, None
    if not of_all:
        everyone = students(recipe, root)
        labels = {student.label: student for student in everyone}
        if call.student is not None and call.student not in labels:
            raise UserError(f"--student: no {call.student!r} in {call.recipe}; there are {', '.join(labels)}.")
        chosen = labels[call.student] if call.student else everyone[0]
        first = partial(_look_ahead, recipe, everyone, root)
        whole = recipe if chosen is everyone[0] else chosen.recipe
        recipe, run = chosen.recipe, chosen.run
    with run.lock(patience=call.patience):
        ran = run_stage(call.stage, recipe, run, call.force, first)
        beside_it = run.root / "recipe.yaml"  # what its stages were made with: a refused command changes nothing
        if ran or not beside_it.exists():
            save(whole, beside_it)
        if not ran:
            complain(f"{call.stage}: up to date, {run.stage(call.stage)}")
    return 0


def _look_ahead(recipe: Recipe, everyone: Sequence[Student], root: Path) -> None:
    from .preflight import check

    check(recipe, everyone, root)


def loaded(path: str, overrides: Sequence[str], trains: bool = True) -> Recipe:
    """The recipe as it is on this machine. `trains`: it is wanted for training, or for what leads to it."""
    file = find(path)
    recipe = load(file, overrides)
    refuse_others_code(recipe, file)
    if trains:
        asked = [{"report_to": recipe.train.report_to}, *(v.get("train", {}) for v in recipe.variants.values())]
        trackers.refuse_missing([name for train in asked for name in train.get("report_to", [])])
    return choose(recipe, here())


def body(call: Call, log: Path | None) -> None:
    """The whole of a process that a run has started for one stage. It ends when the run does."""
    stopping.arm()
    stopping.with_parent()
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 2)
        os.dup2(file, 1)
    prepare()
    sys.exit(stopping.exit_code(lambda: perform(call)))


def _beside_the_plan(name: str, recipe: Recipe, run: RunDir) -> None:
    """On a GPU: what the stage took, beside what was planned."""
    card, manifest = here(), run.manifest(name)
    line = beside(recipe, name, manifest["cost"], card) if card is not None and manifest is not None else ""
    if line:
        say(line)


def run_stage(name: str, recipe: Recipe, run: RunDir, force: bool, first: Callable[[], None] | None = None) -> bool:
    """Run a stage in this process unless it is fresh. Returns whether it ran. `first` is called before it if it is one
    that reads no other's folder.

    Raises:
        UserError: a stage that this one reads has not been run, was run with other settings, or has files that are no
            more those that it wrote; or there is no memory left on the GPU, or no room on the disk.
    """
    wanted = stage(name)
    for own in (*wanted.reads(recipe), name):
        if own not in run.places:  # another student's are in the hands of whoever holds that one's lock
            run.settle(own)
    scope = scope_of(name, recipe, run)
    key, determined_by = wanted.key(scope)
    for before in wanted.reads(recipe):
        if before != BEFORE and not run.is_fresh(before, stage(before).key(scope)[0]):
            raise UserError(
                f"{run.stage(before)}: made with other settings than this recipe's, or from older inputs; run"
                f" `ssb {before}` first, or `ssb run`."
            )
        run.check(before)
    if name != "base":
        run.check("base")  # the model of a later round
    if not force and run.is_fresh(name, key):
        return False
    if first is not None and not wanted.reads(recipe):
        first()
    with (
        explained(name, recipe, run.stage(name)),
        run.write(name, key, determined_by, by_file=wanted.by_file, origin=wanted.origin(determined_by)) as work,
    ):
        wanted.make(scope, work)
    say(f"{name}: done, {run.stage(name)}")
    _beside_the_plan(name, recipe, run)
    return True
