"""`ssb grade`: stored generations graded again, without a model; what changed is shown, and nothing is overwritten."""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.terminal import tell
from ..recipe.file import override
from ..recipe.schema import ProblemsConfig
from ..records import Problem, generations_file, read_jsonl, read_rows, write_jsonl
from ..run import manifests
from ..run.rundir import refuse_in_stage
from ..verifier.protocol import VERDICTS, Verdict, Verifier
from ..verifier.replies import answer_part
from ..verifier.verifiers import MATH, Spec, is_own, parts, prepare, verifier_for, written, wrong_with

SHOWN = 20  # changes listed for a file; the rest is counted
ASKED = ("model", "run_seed", "benchmark", "temperature")  # what all replies to one set of problems share
IDENTITY = (*ASKED, "problem_id", "sample")


@dataclass(frozen=True)
class Change:
    where: str  # file and line
    problem_id: str
    answer: str | None
    gold: str
    old: str
    new: str


@dataclass(frozen=True)
class Regraded:
    """A file with its verdicts of today. The counts are of right replies."""

    path: Path
    rows: list[dict[str, Any]]
    before: int | None  # None: the file holds no verdicts
    right: int
    string: int
    format_free: int
    changes: list[Change]


def regrade(path: Path, verifier: Spec | None = None) -> Regraded:
    """Grade each row's `text` against its `gold` again; `finish_reason` counts where it stands there.

    `verifier`: the one that grades. If None, in a run's folder the one that each benchmark was graded by,
    and elsewhere the mathematical one.

    Raises:
        UserError: a row without text, or with a gold answer that is missing or does not parse; a reply without an id
            among others with one, or one that stands there twice; problems with fewer replies than others; a problem of
            the benchmark's own file (`problems-NAME.jsonl` beside it) that has no reply, or a reply to another problem.
    """
    rows, changes, known = [], [], True
    counts = {"before": 0, "right": 0, "string": 0, "format_free": 0}
    verifiers = Verifiers(path, verifier)
    checked = [(number, row, answer_part(row["text"])) for number, row in _checked(path, verifiers)]
    for judge in {id(one): one for _, row, _ in checked for one in [verifiers.of(row)]}.values():
        prepare(judge, ((text, row["gold"]) for _, row, text in checked if verifiers.of(row) is judge))
    for number, row, text in checked:
        gold, asked = row["gold"], verifiers.of(row)
        old = row["verdict"] if row.get("verdict") in VERDICTS else None  # others' verdicts have other names
        finish = str(row.get("finish_reason", "stop"))
        new = asked.grade(text, gold, finish)
        right = new.verdict == Verdict.RIGHT
        known = known and old is not None
        counts["before"] += old == Verdict.RIGHT
        counts["right"] += right
        counts["string"] += finish != "length" and asked.string_equal(text, gold)
        counts["format_free"] += right or asked.format_free(text, gold)
        if old and old != new.verdict:
            where = f"{path}, line {number}"
            changes.append(Change(where, str(row.get("problem_id", "")), new.answer, gold, str(old), new.verdict))
        ours = new.note or row.keys() >= set(IDENTITY)  # rows of others keep what they call a note
        note = {"note": new.note} if ours else {}
        rows.append({**row, "verdict": new.verdict.value, "answer": new.answer, **note})
    return Regraded(
        path=path,
        rows=rows,
        before=counts["before"] if known else None,
        right=counts["right"],
        string=counts["string"],
        format_free=counts["format_free"],
        changes=changes,
    )


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


def _checked(path: Path, verifiers: Verifiers) -> Iterable[tuple[int, dict[str, Any]]]:
    """The file's rows with their line numbers, after a look at all of them."""
    _check_sealed(path)
    rows = list(read_rows(path))
    if not rows:
        raise UserError(f"{path}: holds no generation.")
    with_ids = any("problem_id" in row for _, row in rows)
    seen: dict[tuple[object, ...], int] = {}
    for number, row in rows:
        for field in ("text", "gold"):
            if not isinstance(row.get(field), str):
                raise UserError(f"{path}, line {number}: no {field!r} (text), so there is nothing to grade.")
        try:
            verifiers.of(row).gold_from(row["gold"], "plain")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error} Without it no reply is right or wrong; fix it.") from None
        if with_ids and not row.get("problem_id"):
            raise UserError(f"{path}, line {number}: no 'problem_id', though other replies of the file have one.")
        for key in IDENTITY:
            if isinstance(row.get(key), list | dict):
                raise UserError(f"{path}, line {number}: {key!r} is {json.dumps(row[key])[:40]}; expected one value.")
        identity = tuple(row.get(key) for key in IDENTITY)
        if with_ids and identity in seen:
            raise UserError(
                f"{path}, line {number}: this reply (problem {row['problem_id']}, sample {row.get('sample')}) stood"
                f" already in line {seen[identity]}."
            )
        seen[identity] = number
    if with_ids:
        _check_complete(path, rows)
    return rows


def _check_sealed(path: Path) -> None:
    """Whether a stage's own file is still what the stage wrote."""
    if manifests.is_foreign(path.parent):
        return
    manifest = manifests.read(path.parent)
    for found in manifests.damage(path.parent, manifest, [path.name]) if manifest else []:
        raise UserError(f"{found}; put it back as it was, or grade a copy of it in a folder of its own.")


def _check_complete(path: Path, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Whether every problem has its replies, as many as every other, and no reply is to a problem of another set."""
    sets: dict[tuple[Any, ...], Counter[object]] = {}
    for _, row in rows:
        sets.setdefault(tuple(row.get(key) for key in ASKED), Counter())[row["problem_id"]] += 1
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
        ids = {problem.id: None for problem in read_jsonl(asked, Problem)}
        missing = [problem_id for problem_id in ids if problem_id not in answered]
        if missing:
            raise UserError(
                f"{path}: no reply to {len(missing):,} of the problems in {asked}, the first of them {missing[0]};"
                " a benchmark is never scored on a part of its problems."
            )
        others = [number for number, row in rows if row.get("benchmark") == benchmark and row["problem_id"] not in ids]
        if others:
            raise UserError(
                f"{path}, line {others[0]}: a reply to a problem that is not in {asked}; are these replies to another"
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

    results = [regrade(path, verifier) for path in files_in(paths)]
    names = [result.path.name for result in results]
    if out is not None:
        refuse_in_stage(out)
        for name in names:
            if names.count(name) > 1 or (out / name).exists():
                raise UserError(f"--out {out}: {name} would be overwritten; give a folder of its own.")
        try:
            out.mkdir(parents=True, exist_ok=True)
            for result in results:
                write_jsonl(out / result.path.name, result.rows)
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written to ({error.strerror}).") from None
    table = [["file", "replies", "right before", "right now", "changed", "equal as string", "box or not"]]
    for r in results:
        n = len(r.rows)
        before = "-" if r.before is None else percent(r.before / n)
        shares = (percent(r.right / n), f"{len(r.changes)}", percent(r.string / n), percent(r.format_free / n))
        table.append([str(r.path), f"{n:,}", before, *shares])
    lines = plain(table)
    for r in results:
        for change in r.changes[:SHOWN]:
            answer = "no box" if change.answer is None else repr(change.answer)
            lines.append(f"{change.where}: {answer} for gold {change.gold!r}: {change.old} -> {change.new}")
        if len(r.changes) > SHOWN:
            lines.append(f"{r.path}: {len(r.changes) - SHOWN:,} more changes")
    return "\n".join(lines)
