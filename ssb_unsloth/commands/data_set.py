"""What a run has made as a data set: pairs, the teacher's targets, or rollouts, with a card; files as the stages wrote
them, so that they are read back byte for byte.

    pairs      pairs.jsonl                          read by curate.pairs_file
    rollouts   rollouts.jsonl, questions.jsonl      read by curate.rollouts_file
    targets    index.json, targets-*.safetensors,   read by teach.targets_from; the pairs or rollouts that they belong
               origin.json; and one of the above    to, by curate's key
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..errors import UserError
from ..io.credentials import holds_token
from ..io.files import read_lines
from ..io.progress import say
from ..pipeline.students import made, scores_of
from ..run import manifests
from ..run.curated import iter_pairs
from ..run.rundir import RunDir, refuse_in_stage
from ..run.student import Student
from .data_card import data_card
from .export import all_or_nothing
from .model_card import base_of

PAIRS, ROLLOUTS = ("pairs.jsonl",), ("rollouts.jsonl", "questions.jsonl")
CARD = "README.md"
Content = Path | bytes


def files_of(folder: Path, what: str, name: str = "FOLDER_OR_REPO_OF_THIS") -> dict[str, Content]:
    """The files of the data set by their names, the card among them: those of the run as they lie there. `name`: what
    the card calls it.

    Raises:
        UserError: the run has no such thing, a file has been changed since it was written, or a row holds a token.
    """
    student = made(folder, "teach" if what == "targets" else "curate")
    curate, teach = student.run.stage("curate"), student.run.stage("teach")
    of_curation = _of_curation(student, what)
    student.run.check("curate", of_curation)
    files: dict[str, Content] = {file: curate / file for file in of_curation}
    for file in of_curation:
        _refuse_tokens(curate / file)
    if what == "targets":
        if student.recipe.teach.targets == "online":
            raise UserError(f"{folder}: teach.targets: online stores none; there is nothing to share.")
        student.run.check("teach")
        manifest = student.run.manifest("teach") or {}
        files |= {file: teach / file for file in manifest["files"]} | {"origin.json": _origin(student)}
    return {CARD: data_card(student, what, name, sorted(files), scores_of(student)).encode(), **files}


def write(folder: Path, what: str, to: Path) -> Path:
    """The same as a folder. It is written aside and has its name when it is whole; one that `write` has written is
    replaced, and no other.

    Raises:
        UserError: as `files_of`; or in the folder's place lies something else.
    """
    if not to.absolute().name:
        raise UserError(f"--to {to}: has no name that a folder could be written under; name a folder in it.")
    refuse_in_stage(to.parent, "--to")
    if (to / manifests.NAME).is_file() and "what" not in (manifests.read(to) or {"determined_by": {}})["determined_by"]:
        raise UserError(f"--to {to}: is a stage's own folder, and stays; take another.")
    files, to = files_of(folder, what), to.absolute()
    card = manifests.digest(_text(files[CARD]))
    determined_by = {"format": manifests.FORMAT, "what": what, "card": card, "files": sorted(files)}
    writing = RunDir(to.parent).write(to.name, manifests.digest(determined_by), determined_by)
    with writing as work, all_or_nothing(work.folder):
        for file, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, work.folder / file)
            else:
                (work.folder / file).write_bytes(content)
    say(f"{what}: {len(files)} files, {sum(path.stat().st_size for path in to.iterdir()) / 1e6:,.1f} MB")
    return to


def _text(content: Content) -> str:
    assert isinstance(content, bytes)
    return content.decode()


def _of_curation(student: Student, what: str) -> tuple[str, ...]:
    """The curate stage's files that go along: all from which whoever reads them has the same lessons."""
    learnt_from_rollouts = what == "targets" and student.recipe.teach.needs_rollouts
    if what == "rollouts" or learnt_from_rollouts:
        if not (student.run.stage("curate") / ROLLOUTS[0]).stat().st_size:
            raise UserError(f"{student.run.root}: has no rollouts: its pairs were made elsewhere; push the pairs.")
        return ROLLOUTS
    if not next(iter_pairs(student.run)).reply_ids:
        raise UserError(
            f"{student.run.root}: its pairs have no replies (curate.refinements: 0), and nobody could learn from them;"
            " push the rollouts, from which they are made again without a model."
        )
    return PAIRS


def _refuse_tokens(path: Path) -> None:
    for number, line in read_lines(path):
        if holds_token(line):
            raise UserError(f"{path}, line {number}: holds what looks like a token of the hub's; it is not shared.")


def _origin(student: Student) -> bytes:
    from ..backends.transformers import load_tokenizer
    from ..method.brought_targets import origin
    from ..method.examples import taught_examples

    recipe, manifest = student.recipe, student.run.manifest("teach")
    assert manifest is not None
    tokenizer = load_tokenizer(recipe.model)
    name, rounds = base_of(student)
    found = origin(recipe, name + rounds, tokenizer, taught_examples(recipe, student.run, tokenizer), manifest)
    return (json.dumps(found, indent=1) + "\n").encode()
