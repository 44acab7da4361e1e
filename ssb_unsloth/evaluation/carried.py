"""Replies that are there already serve again where all that they depend on is the same: of a finished evaluation, and
of one that was stopped and is now asked for with another student, benchmark or adapter.

`origins.json` says of each file of replies, graded or not, what it depends on (`origins`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io import disk
from ..io.files import read_object
from ..io.progress import say
from ..recipe.schema import SamplerConfig
from ..records import generations_file
from ..run import keys as identity
from ..run import manifests
from ..run.manifests import digest
from ..run.rundir import fingerprint
from ..verifier.verifiers import MATH, written
from .evaluate import Benchmarks, Contestant, decodings

ORIGINS = "origins.json"
BY = " graded by "  # behind it, in an origin, the hash of a verifier of one's own


def origins(contestants: Sequence[Contestant], benchmarks: Benchmarks, sampler: SamplerConfig) -> dict[str, str]:
    """What each file of replies with their verdicts depends on, but for the seed and the names in its own name."""
    found = {}
    for e in contestants:
        adapter = None if e.adapter is None else fingerprint(e.adapter)
        who = [identity.of_model(e.model), adapter, e.prompt, identity.of_sampler(sampler)]
        for name, (config, problems) in benchmarks.items():
            asked = [asdict(problem) for problem in problems]
            judge = written(config.verifier)
            judged = [judge] * (judge != MATH)  # nobody was asked before there were several
            text = identity.of_verifier(config.verifier)
            source = f"{BY}{text}" if text else ""
            for decoding, samples in decodings(config):
                file = generations_file(e.name, e.seed, name, decoding.temperature)
                found[file] = digest([*who, asked, asdict(decoding), samples, *judged]) + source
    return found


def carry_over(finished: Path, folder: Path, wanted: Mapping[str, str], repeated: Collection[str] = ()) -> None:
    """Leave in the partial `folder` the replies that are wanted (by file: what they depend on), and add those of the
    finished stage, but for what is `repeated`.
    """
    held = _known(folder)
    for path in folder.glob("*.jsonl"):
        if held.get(path.name) != wanted.get(path.name, ""):
            disk.remove(path)
    for path in (folder / "kept").glob("*.jsonl"):
        if _sampled(held.get(path.name)) != _sampled(wanted.get(path.name, "")):
            disk.remove(path)
    disk.write_text(folder / ORIGINS, json.dumps(dict(wanted), indent=1) + "\n")
    known = sealed(finished)
    same = {name for name, origin in wanted.items() if known.get(name) == origin}
    copy(finished, folder, [name for name in sorted(same - set(repeated)) if not (folder / name).exists()])


def _sampled(origin: str | None) -> str | None:
    """What replies without verdicts depend on: not on the text of the verifier that is to grade them."""
    return None if origin is None else origin.partition(BY)[0]


def copy(finished: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy files of a finished stage, each whole or not at all; one that is not as the stage wrote it is left out."""
    damaged = {found.path: found for found in manifests.damage(finished, _manifest(finished), names)}
    for name in names:
        if finished / name in damaged:
            say(f"{damaged[finished / name]}; these replies are sampled again.")
        else:
            aside = folder / f"{name}{disk.ASIDE}"
            shutil.copyfile(finished / name, aside)
            aside.replace(folder / name)


def sealed(finished: Path) -> dict[str, str]:
    """What the files of replies in a finished stage depend on; nothing where that cannot be relied on."""
    manifest = _manifest(finished)
    if ORIGINS not in manifest["files"] or manifests.damage(finished, manifest, [ORIGINS]):
        return {}
    return {name: origin for name, origin in _known(finished).items() if name in manifest["files"]}


def _manifest(finished: Path) -> Mapping[str, Any]:
    return manifests.read(finished) or {"files": {}, "sizes": {}}


def _known(folder: Path) -> dict[str, str]:
    try:
        return dict(read_object(folder / ORIGINS))
    except UserError:
        return {}
