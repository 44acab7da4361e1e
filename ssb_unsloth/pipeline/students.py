"""Which students a recipe asks for, where each one's stages lie, and which of them share a stage.

A recipe describes one student; `variants`, `seeds` and `rounds` ask for more of them. Each has a folder of its own.
Where all that determines a stage is the same for two students, the first one's folder serves both: controls and
ablations sample their rollouts once.

    runs/<recipe>/                           the recipe's own student, with its first seed
    runs/<recipe>/students/<name>-s<seed>/   every other one
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..backends.sources import in_folder
from ..errors import UserError
from ..io.files import read_object
from ..recipe.loading import load, variant
from ..recipe.methods import METHODS
from ..recipe.schema import Recipe
from ..run.manifests import digest
from ..run.rundir import RunDir
from ..run.student import Student
from .stage import BEFORE, Scope
from .table import OF_A_STUDENT, STAGES, stage

SCORES = "scores.json"


def students(recipe: Recipe, root: Path) -> list[Student]:
    """Every student of the recipe whose run folder is `root`: seed by seed, the recipe's own first.

    A variant of several rounds is a student after each of them.

    Raises:
        UserError: two of them would have the same name.
    """
    found: dict[str, Student] = {}
    for seed in recipe.seeds or [recipe.seed]:
        one_seed = replace(recipe, seed=seed, seeds=[])
        for name in (None, *recipe.variants):
            wanted = variant(one_seed, name) if name else replace(one_seed, variants={})
            before = None
            for number in range(1, wanted.rounds + 1):
                row = (name or wanted.train.method) + (f"-round{number}" if wanted.rounds > 1 else "")
                label = f"{row}-s{seed}"
                if label in found:
                    raise UserError(f"variants.{name}: the table has a {row!r} already; give it another name.")
                run = RunDir(root / "students" / label if found else root)
                chosen = replace(wanted, rounds=1)
                before = found[label] = Student(row, chosen, run, _chain(chosen, before), before)
    _share(list(found.values()))
    return list(found.values())


def _chain(recipe: Recipe, before: Student | None) -> tuple[str, ...]:
    needed = (*METHODS[recipe.train.method].reads, "train", *(["base"] if before else []))
    return tuple(name for name in OF_A_STUDENT if name in needed)


def scope_of(name: str, recipe: Recipe, run: RunDir) -> Scope:
    """What a stage works on: `recipe` and `run` are a student's, or the whole recipe's if it is over all students."""
    return Scope(recipe, run, partial(trained, recipe, run.root) if STAGES[name].of_all else tuple)


def root_of(folder: Path) -> Path:
    """The run folder that a student's own folder lies in; of a run folder that itself.

    `--runs` may name a folder `students` as well: so whether the recipe above has that student is asked.
    """
    above = folder.parent.parent
    if folder.parent.name == "students" and (above / "recipe.yaml").is_file():
        with contextlib.suppress(UserError):  # a recipe that is none of ours
            if folder in [student.run.root for student in students(load(above / "recipe.yaml"), above)]:
                return above
    return folder


def trained(recipe: Recipe, root: Path) -> list[Student]:
    """All students of the recipe.

    Raises:
        UserError: one of them has not been trained as the recipe now asks for it.
    """
    everyone = students(recipe, root)
    for student in everyone:
        assert_trained(student, alone=len(everyone) == 1)
    return everyone


def assert_trained(student: Student, alone: bool) -> None:
    """Raises UserError if the student has not been trained as its recipe asks for it. `alone`: it is the only one."""
    _assert_made(student, student.chain, alone)


def _assert_made(student: Student, stages: Sequence[str], alone: bool) -> None:
    for name in stages:
        if not student.run.is_fresh(name, stage(name).key(Scope(student.recipe, student.run))[0]):
            whose = "" if alone else f" --student {student.label}"
            raise UserError(
                f"{student.run.stage(name)}: not there, or not as the recipe asks for it now: run"
                f" `ssb {name}{whose}` first, or `ssb run`, which does all that is missing."
            )


def finished(folder: Path) -> Student:
    """The student whose run is in this folder, such as runs/pocket or runs/pocket/students/rft-s1.

    Raises:
        UserError: there is no run; or its training has not been finished, is not what its recipe.yaml asks for, or has
            been changed since.
    """
    student, alone = _student_in(folder)
    if student.run.manifest("train") is None:
        raise UserError(f"{folder}: its training has not been finished; `ssb run` with its recipe resumes it.")
    assert_trained(student, alone)
    student.run.check("train")
    return student


def made(folder: Path, name: str) -> Student:
    """The student whose run is in this folder, which has come as far as the stage `name`.

    Raises:
        UserError: there is no run, its method has no such stage, or the stage has not been finished as the recipe asks
            for it. Whether its files have been changed since is not looked at.
    """
    student, alone = _student_in(folder)
    if name not in student.chain:
        raise UserError(f"{folder}: train.method {student.recipe.train.method} has no stage {name}; take another run.")
    _assert_made(student, student.chain[: student.chain.index(name) + 1], alone)
    return student


def _student_in(folder: Path) -> tuple[Student, bool]:
    """The student, and whether it is the only one of its recipe."""
    root, above = root_of(folder), folder.parent.parent
    if not folder.exists() and folder.parent.name == "students" and (above / "recipe.yaml").is_file():
        root = above  # a student that its recipe does not have
    if not (root / "recipe.yaml").is_file():
        raise UserError(f"{root}: holds no recipe.yaml, so it is no run folder; expected one such as runs/pocket.")
    everyone = students(load(root / "recipe.yaml"), root)
    student = next((s for s in everyone if s.run.root == folder), None)
    if student is None:
        raise UserError(
            f"{folder}: no student of {root / 'recipe.yaml'}, which has {', '.join(s.label for s in everyone)}."
        )
    return student, len(everyone) == 1


def scores_of(student: Student) -> list[dict[str, Any]]:
    """The rows of scores.json, if the run's evaluation was of this student's adapter as it is now.

    Raises:
        UserError: they have been changed since.
    """
    whole, train = RunDir(root_of(student.run.root)), student.run.manifest("train")
    evaluated = whole.manifest("evaluate")
    if not evaluated or not train or evaluated["determined_by"].get("students", {}).get(student.label) != train["id"]:
        return []
    whole.check("evaluate", [SCORES])
    found: list[dict[str, Any]] = read_object(whole.stage("evaluate") / SCORES).get("scores", [])
    return found


def _share(everyone: Sequence[Student]) -> None:
    """Let each student read from the first folder that will hold what it needs."""
    folders: dict[str, Path] = {}
    trained_by: dict[str, str] = {}  # a student's label to the identity of its adapter
    for student in everyone:
        recipe, identities = student.recipe, {}
        if student.before is not None:
            student.run.places[BEFORE] = student.before.run.stage("train")
            identities[BEFORE] = trained_by[student.before.label]
            # The merged weights are not there yet; what they are made from says as much.
            recipe = replace(recipe, model=replace(recipe.model, name="the student of the round before"))
        for name in student.chain:
            inputs = [identities.get(read) for read in (BEFORE, *stage(name).reads(recipe))]
            determined_by = stage(name).determined_by(Scope(recipe, student.run))
            identity = digest([name, recipe.seed, determined_by, inputs])
            identities[name] = identity
            home = student.run.root / name
            folder = folders.setdefault(identity, home)
            if folder != home:
                student.run.places[name] = folder
        trained_by[student.label] = identities["train"]
        if student.before is not None:
            student.run.model_before = student.before.recipe.model
            merged = student.run.stage("base") / "model"
            student.recipe = replace(student.recipe, model=in_folder(student.recipe.model, merged))
