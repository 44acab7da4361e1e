"""`ssb grade`: stored generations graded again, without a model; what changed is shown, and nothing is overwritten."""

from __future__ import annotations

import argparse
import json
import shlex
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.terminal import tell
from ..recipe.file import override
from ..recipe.schema import ProblemsConfig
from ..records import Problem, generations_file, iter_jsonl, read_rows, write_jsonl
from ..run import manifests
from ..run.rundir import refuse_in_stage
from ..verifier.protocol import VERDICTS, Verdict, Verifier
from ..verifier.replies import answer_part
from ..verifier.verifiers import MATH, TOGETHER, Spec, is_own, parts, prepare, verifier_for, written, wrong_with

LEGEND = """
before, now: the share of right replies by the stored verdicts and by today's
string: by comparing answer and gold answer character for character
any form: right also if the answer is not in the box, or the reply was cut off"""
SHOWN = 20  # changes listed for a file; the rest is counted
ASKED = ("model", "run_seed", "benchmark", "temperature")  # what all replies to one set of problems share
IDENTITY = (*ASKED, "problem_id", "sample")
Sets = dict[tuple[Any, ...], Counter[object]]  # by ASKED, how many replies each problem has


@dataclass(frozen=True)
class Change:
    where: str  # file and line
    problem_id: str
    answer: str | None
    gold: str
    old: str
    new: str


@dataclass
class Regraded:
    """What came of a file with its verdicts of today. The counts are of replies, `before` to `format_free` of right
    ones.
    """

    path: Path
    replies: int = 0
    before: int | None = 0  # None: the file holds no verdicts
    right: int = 0
    string: int = 0
    format_free: int = 0
    changed: int = 0
    changes: list[Change] = field(default_factory=list)  # the first SHOWN


def regrade(path: Path, verifier: Spec | None = None) -> Regraded:
    """Grade each row's `text` against its `gold` again; `finish_reason` counts where it stands there. The file is read
    twice, one row at a time: nothing is graded before all of it is looked at.

    `verifier`: the one that grades. If None, in a run's folder the one that each benchmark was graded by,
    and elsewhere the mathematical one.

    Raises:
        UserError: a row without text, or with a gold answer that is missing or does not parse; a reply without an id
            among others with one, or one that stands there twice; problems with fewer replies than others; a problem of
            the benchmark's own file (`problems-NAME.jsonl` beside it) that has no reply, or a reply to another problem.
    """
    verifiers = Verifiers(path, verifier)
    _check(path, verifiers)
    result = Regraded(path)
    deque(_graded(path, verifiers, result), maxlen=0)
    return result


def _graded(path: Path, verifiers: Verifiers, result: Regraded) -> Iterator[dict[str, Any]]:
    """The rows of a file that was looked at, with their verdicts of today, which are counted in `result`."""
    rows = ((number, row, answer_part(row["text"])) for number, row in read_rows(path))
    while some := list(islice(rows, TOGETHER)):
        for judge in {id(one): one for _, row, _ in some for one in [verifiers.of(row)]}.values():
            prepare(judge, ((text, row["gold"]) for _, row, text in some if verifiers.of(row) is judge))
        for number, row, text in some:
            yield _verdict(row, text, verifiers.of(row), f"{path}, line {number}", result)
        some.clear()  # before the next are read


def _verdict(row: dict[str, Any], text: str, asked: Verifier, where: str, result: Regraded) -> dict[str, Any]:
    gold, finish = row["gold"], str(row.get("finish_reason", "stop"))
    old = row["verdict"] if row.get("verdict") in VERDICTS else None  # others' verdicts have other names
    new = asked.grade(text, gold, finish)
    right = new.verdict == Verdict.RIGHT
    result.replies += 1
    result.before = None if old is None or result.before is None else result.before + (old == Verdict.RIGHT)
    result.right += right
    result.string += finish != "length" and asked.string_equal(text, gold)
    result.format_free += right or asked.format_free(text, gold)
    if old and old != new.verdict:
        result.changed += 1
        if len(result.changes) < SHOWN:
            id_ = str(row.get("problem_id", ""))
            result.changes.append(Change(where, id_, new.answer, gold, str(old), new.verdict))
    ours = new.note or row.keys() >= set(IDENTITY)  # rows of others keep what they call a note
    note = {"note": new.note} if ours else {}
    return {**row, "verdict": new.verdict.value, "answer": new.answer, **note}


class Verifiers:
    """Which verifier grades a row of the file."""

    def __init__(self, path: Path, given: Spec | None) -> None:
        manifest = None if manifests.is_foreign(path.parent) else manifests.read(path.parent)
        self._by_benchmark: dict[str, Spec] = (manifest or {"summary": {}})["summary"].get("verifiers", {})
        self._given = given

    def of(self, row: dict[str, Any]) -> Verifier:
        """Raises UserError for code that the run's folder names, and nobody here: a folder may come from anywhere."""
        spec = self._given or self._by_benchmark.get(str(row.get("benchmark")), MATH)
        if self._given is None and is_own(own := parts(spec)[0]):
            same = own if written(spec) == own else shlex.quote(json.dumps(written(spec), ensure_ascii=False))
            raise UserError(
                f"this run was graded by {own}, which is code of its own; if you trust it, --verifier {same}."
            )
        return verifier_for(spec)


def _check(path: Path, verifiers: Verifiers) -> None:
    """Look at all of the file's rows; of each there stays in memory a hash, and of each problem how many it has."""
    _check_sealed(path)
    hashes = array("q")
    sets: Sets = {}
    with_ids, without = False, 0  # whether a reply has an id, and the line of the first that has none
    for number, row in read_rows(path):
        for name in ("text", "gold"):
            if not isinstance(row.get(name), str):
                raise UserError(f"{path}, line {number}: no {name!r} (text), so there is nothing to grade.")
        try:
            verifiers.of(row).gold_from(row["gold"], "plain")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error} Without it no reply is right or wrong; fix it.") from None
        with_ids = with_ids or "problem_id" in row
        without = without or number * (not row.get("problem_id"))
        if with_ids and without:
            raise UserError(f"{path}, line {without}: no 'problem_id', though other replies of the file have one.")
        for key in IDENTITY:
            if isinstance(row.get(key), list | dict):
                raise UserError(f"{path}, line {number}: {key!r} is {json.dumps(row[key])[:40]}; expected one value.")
        hashes.append(hash(_identity(row)))
        if with_ids:
            sets.setdefault(_identity(row)[: len(ASKED)], Counter())[row["problem_id"]] += 1
    if not hashes:
        raise UserError(f"{path}: holds no generation.")
    if with_ids:
        _check_distinct(path, hashes)
        _check_complete(path, sets)


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in IDENTITY)


def _check_distinct(path: Path, hashes: array[int]) -> None:
    """Whether each reply stands there once. Those with the same hash are looked at again."""
    import numpy as np

    found, counts = np.unique(hashes, return_counts=True)
    suspects = set(found[counts > 1].tolist())
    seen: dict[tuple[Any, ...], int] = {}
    for number, row in read_rows(path) if suspects else ():
        identity = _identity(row)
        if identity in seen:
            raise UserError(
                f"{path}, line {number}: this reply (problem {row['problem_id']}, sample {row.get('sample')}) stood"
                f" already in line {seen[identity]}."
            )
        if hash(identity) in suspects:
            seen[identity] = number


def _check_sealed(path: Path) -> None:
    """Whether a stage's own file is still what the stage wrote."""
    if manifests.is_foreign(path.parent):
        return
    manifest = manifests.read(path.parent)
    for found in manifests.damage(path.parent, manifest, [path.name]) if manifest else []:
        raise UserError(f"{found}; put it back as it was, or grade a copy of it in a folder of its own.")


def _check_complete(path: Path, sets: Sets) -> None:
    """Whether every problem has its replies, as many as every other, and no reply is to a problem of another set."""
    names = {generations_file(*kind) for kind in sets if type(kind[1]) is int and type(kind[3]) in (int, float)}
    if (path.parent / "manifest.json").exists() and any(name != path.name for name in names):
        raise UserError(
            f"{path}: holds generations that belong into {', '.join(sorted(names))}; put that file back, or grade a"
            " copy of it in a folder of its own."
        )
    beside = {p.stem.removeprefix("problems-"): p for p in sorted(path.parent.glob("problems-*.jsonl"))}
    for (*_, benchmark, _temperature), answered in sets.items():
        least, most = min(answered, key=answered.__getitem__), max(answered.values())
        if answered[least] < most:
            raise UserError(
                f"{path}: {answered[least]} of {most} replies to problem {least}, where others have all {most}; a"
                " benchmark is never scored on a part of its replies, so sample it again."
            )
        if (asked := beside.get(str(benchmark))) is None:
            continue
        ids = {problem.id: None for problem in iter_jsonl(asked, Problem)}
        missing = [problem_id for problem_id in ids if problem_id not in answered]
        if missing:
            raise UserError(
                f"{path}: no reply to {len(missing):,} of the problems in {asked}, the first of them {missing[0]};"
                " a benchmark is never scored on a part of its problems."
            )
        if others := answered.keys() - ids.keys():
            its = (number_row for number_row in read_rows(path) if number_row[1].get("benchmark") == benchmark)
            line = next(number for number, row in its if row["problem_id"] in others)
            raise UserError(
                f"{path}, line {line}: a reply to a problem that is not in {asked}; are these replies to another"
                " set of that name?"
            )


def files_in(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the generations of given folders."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.glob("*.jsonl") if not p.name.startswith("problems-"))
            if not inside:
                raise UserError(f"{path}: holds no .jsonl file of generations.")
            found += inside
        else:
            found.append(path)
    return found


def main(arguments: argparse.Namespace) -> int:
    spec = None if arguments.verifier is None else verifier_in(arguments.verifier)
    tell(graded_again(arguments.files, arguments.out, spec))
    return 0


def verifier_in(word: str) -> Spec:
    """The verifier that a word of the command line names, read as the value of a recipe's `verifier` is: a name, or a
    mapping as `{name: numeric, absolute: 0.01}`.

    Raises:
        UserError: there is none of that name, or it does not take these options.
    """
    try:
        spec: Spec = override(f"verifier={word}", ProblemsConfig)["verifier"]
        wrong = wrong_with(spec)
    except UserError as error:
        wrong = str(error)
    if wrong is not None:
        raise UserError(f"--verifier: {wrong}")
    return spec


def graded_again(paths: Sequence[Path], out: Path | None, verifier: Spec | None = None) -> str:
    """Grade all files again; with `out`, write them there with the verdicts of today. Returns what is to be shown."""
    from ..report.tables import percent, plain

    files = files_in(paths)
    results = [regrade(path, verifier) for path in files] if out is None else _written(files, out, verifier)
    together = len({path.parent for path in files}) == 1
    table = [["replies", "before", "now", "changed", "string", "any form", "file"]]
    for r in results:
        n = r.replies
        before = "-" if r.before is None else percent(r.before / n)
        shares = (percent(r.right / n), f"{r.changed}", percent(r.string / n), percent(r.format_free / n))
        table.append([f"{n:,}", before, *shares, r.path.name if together else str(r.path)])  # last: it may be long
    lines = [*[f"In {files[0].parent}:"] * together, *plain(table), LEGEND, ""]
    for r in results:
        for change in r.changes:
            answer = "no box" if change.answer is None else repr(change.answer)
            lines.append(f"{change.where}: {answer} for gold {change.gold!r}: {change.old} -> {change.new}")
        if r.changed > SHOWN:
            lines.append(f"{r.path}: {r.changed - SHOWN:,} more changes")
    return "\n".join(lines).rstrip()


def _written(files: Sequence[Path], out: Path, verifier: Spec | None) -> list[Regraded]:
    """Grade files into a folder; nothing is written before all of them are looked at."""
    refuse_in_stage(out)
    names = Counter(path.name for path in files)
    for name, times in names.items():
        if times > 1 or (out / name).exists():
            raise UserError(f"--out {out}: {name} would be overwritten; give a folder of its own.")
    verifiers = [Verifiers(path, verifier) for path in files]
    for path, its in zip(files, verifiers, strict=True):
        _check(path, its)
    results = [Regraded(path) for path in files]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for result, its in zip(results, verifiers, strict=True):
            write_jsonl(out / result.path.name, _graded(result.path, its, result))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to ({error.strerror}).") from None
    return results
