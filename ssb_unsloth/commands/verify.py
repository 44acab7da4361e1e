"""`ssb verify RUN`: every byte of every stage against its manifest, the manifests, and the chain between them.

Nothing is written and no model is loaded. What the run folder holds besides is named: files that no stage wrote.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.terminal import tell
from ..pipeline.students import root_of, scope_of, students
from ..pipeline.table import OF_ALL, STAGES, stage
from ..recipe.loading import is_as_saved, load
from ..recipe.schema import Recipe
from ..report.tables import plain
from ..run import manifests
from ..run.manifests import Damage
from ..run.rundir import LOCKS, RunDir

LOOSE = {"recipe.yaml", "reproduction.md", *LOCKS, *(f"{stage}.log" for stage in STAGES)}
CURVES = "tensorboard"  # a folder that keeps growing, and no stage's
UNFINISHED = (".partial", ".old")


@dataclass
class Found:
    """A stage's folder as it was found: its manifest if it has one that vouches for itself, and what is wrong."""

    manifest: dict[str, Any] | None = None
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Stages = Mapping[Path, Found]


def main(arguments: argparse.Namespace) -> int:
    shown, whole = verify(arguments.folder)
    tell(shown)
    return 0 if whole else 2


def verify(folder: Path) -> tuple[str, bool]:
    """Look at a run, or at all that the student of one of its folders was made from.

    Returns what is to be shown, and whether everything is as it was written.

    Raises:
        UserError: there is no run.
    """
    root = root_of(folder)
    if not root.is_dir() or not ((root / "recipe.yaml").is_file() or any(manifests.walk(root))):
        raise UserError(f"{root}: no run folder; expected one such as runs/pocket, with recipe.yaml and stages.")
    stages = {path: _opened(path) for path in manifests.walk(root)}
    wrong, asked = _asked_for(root, folder, stages)
    for path in asked:
        stages.setdefault(path, Found(wrong=[_absent(path)]))
    everything = folder == root
    shown = {path: found for path, found in stages.items() if everything or path in asked}
    for path, found in shown.items():
        if found.manifest is not None:
            found.wrong += [str(damage) for damage in manifests.damage(path, found.manifest)]
            found.wrong += [*_inconsistent(path, found.manifest), *_broken_links(path, found.manifest, stages)]
            if path in asked:
                _compare(path, *asked[path], found)
    wrong += [str(Damage(path, "not written by ssb")) for path in _strays(folder, stages)]
    return _describe(root, shown, wrong)


def _opened(folder: Path) -> Found:
    try:
        manifest = manifests.read(folder)
    except UserError as error:
        return Found(wrong=[str(error)])
    older = f"{folder / manifests.NAME}: of an older version, which kept too little to be verified"
    return Found(manifest, [] if manifest is not None else [older])


def _absent(folder: Path) -> str:
    return f"{folder / manifests.NAME}: missing" if folder.exists() else f"{folder}: not there; `ssb run` makes it"


def _asked_for(root: Path, folder: Path, stages: Stages) -> tuple[list[str], dict[Path, tuple[str, Recipe, RunDir]]]:
    """What is wrong with recipe.yaml; and the folder of each stage that it asks for, with its name, recipe and run.

    Of a student's folder, the stages that this student was made by, wherever they lie.
    """
    path = root / "recipe.yaml"
    if not path.is_file():
        return [str(Damage(path, "missing"))], {}
    saved = [path, *sorted(root.glob("students/*/recipe.yaml"))]
    wrong = [str(Damage(file, "changed since ssb wrote it")) for file in saved if not is_as_saved(file)]
    if any("entrants" in found.manifest["determined_by"] for found in stages.values() if found.manifest):
        return wrong, {}  # `ssb evaluate MODEL`, which needs no other stage
    try:
        recipe = load(path)
        everyone = students(recipe, root)
    except UserError as error:
        return [*wrong, str(error)], {}
    asked = {
        student.run.stage(name): (name, student.recipe, student.run)
        for student in everyone
        if folder in (root, student.run.root)
        for name in student.chain
    }
    if folder == root:
        asked |= {root / name: (name, recipe, RunDir(root)) for name in OF_ALL}
    return wrong, asked


def _inconsistent(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """The key is what determined the stage, and the id what key and files come to."""
    if manifests.digest(manifest["determined_by"]) != manifest["key"]:
        yield f"{folder / manifests.NAME}: its key is not that of what it says determined the stage"
    if manifests.digest([manifest["key"], manifest["files"]]) != manifest["id"]:
        yield f"{folder / manifests.NAME}: its id is not that of its key and its files"


def _broken_links(folder: Path, manifest: Mapping[str, Any], stages: Stages) -> Iterator[str]:
    """Whatever the stage was made from has to be there still, under the id that it had."""
    by = manifest["determined_by"]
    read = [
        *by.get("inputs", {}).items(),
        *((f"train of {label}", known) for label, known in by.get("students", {}).items()),
    ]
    here = {found.manifest["id"] for found in stages.values() if found.manifest is not None}
    for name, known in read:
        if known not in here:
            yield f"{folder}: made from another {name} ({known[:12]}) than is here now; `ssb run` makes it again"


def _compare(folder: Path, name: str, recipe: Recipe, run: RunDir, found: Found) -> None:
    """Whether the recipe beside it would still be served by this stage."""
    try:
        fresh = run.is_fresh(name, stage(name).key(scope_of(name, recipe, run))[0])
    except UserError as error:  # a stage before it, or data that is not on this machine
        found.notes.append(f"{folder}: not compared with recipe.yaml. {error}")
        return
    if not fresh and not found.wrong:
        found.wrong.append(f"{folder}: made with other settings than recipe.yaml's, or from older inputs")


def _strays(folder: Path, stages: Stages) -> Iterator[Path]:
    """Files that lie in no stage's folder, and are none of those that a run has beside them."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path not in stages and path.suffix not in UNFINISHED and path.name != CURVES:
                yield from _strays(path, stages)
        elif path.name not in LOOSE:
            yield path


def _describe(root: Path, stages: Stages, wrong: Sequence[str]) -> tuple[str, bool]:
    table, lines = [["stage", "files", "MB", "id", ""]], [*wrong]
    files = size = 0
    for path, found in sorted(stages.items()):
        manifest = found.manifest or {"sizes": {}, "id": ""}
        own = sum(manifest["sizes"].values())
        files, size = files + len(manifest["sizes"]), size + own
        state = "as written" if not found.wrong else "differs" if path.exists() else "not there"
        name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
        table.append([name, f"{len(manifest['sizes']):,}", f"{own / 1e6:,.1f}", manifest["id"][:12], state])
        lines += [*found.wrong, *found.notes]
    unfinished = sorted(path for path in root.rglob("*.partial") if path.is_dir())
    lines += [f"{path}: not finished; the same command resumes it" for path in unfinished]
    differ = len(wrong) + sum(len(found.wrong) for found in stages.values())
    came_to = f"{differ:,} difference{'s' * (differ > 1)}." if differ else "all as written."
    last = f"{files:,} files, {size / 1e6:,.1f} MB: {came_to}"
    return "\n".join([*plain(table), "", *lines, *[""] * bool(lines), last]), not differ
