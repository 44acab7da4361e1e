"""Write the tables and figures of docs/evidence.md from finished runs.

    python scripts/evidence.py runs/evidence-tuning runs/evidence ...

Each run's rows go to docs/evidence/NAME.json and its figures beside them; the tables in the document stand between
<!-- NAME --> and <!-- /NAME -->, and are made from the JSON alone. What is said about them is written by hand.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rates
import readings

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "evidence.md"
ROWS = ROOT / "docs" / "evidence"
TUNING = "evidence-tuning"  # the run whose students differ in their learning rate
TUNED_AT = 1e-3  # the rate of its own student
OTHER_READERS = ("evidence-rare", "evidence-rule")  # whose models misread the wordings at rates of their own
# Of scores and differences what the tables say; the run has the rest (other scorings, lengths, tests).
FIELDS = {
    "scores": (
        *("model", "benchmark", "scoring", "metric", "seed", "temperature", "n_questions"),
        *("value", "low", "high", "sd"),
    ),
    "differences": (
        *("model", "reference", "benchmark", "scoring", "temperature", "value", "low", "high"),
        *("p", "p_holm", "significant"),
    ),
}
KEPT = ("recipe", "seeds", "scores", "differences", "students", "curation", "token_kl", "versions")


def keep(run: Path) -> None:
    """Take a run's rows into the repository, and of its figures those that the document shows."""
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    ROWS.mkdir(exist_ok=True)
    rows = {key: report[key] for key in KEPT if key in report}
    for name, fields in FIELDS.items():
        rows[name] = [{key: row[key] for key in fields} for row in report[name] if row["scoring"] == "equivalent"]
    if report["recipe"] not in OTHER_READERS and (run / "evaluate" / "problems-test.jsonl").exists():
        order = list(dict.fromkeys(score["model"] for score in report["scores"]))
        found = readings.readings(run / "evaluate", "test")
        rows["readings"] = sorted(found, key=lambda row: (order.index(row["model"]), row["misread"]))
        rows["places"] = readings.places(run)
    (ROWS / f"{report['recipe']}.json").write_text(json.dumps(rows) + "\n", encoding="utf-8")
    if report["recipe"] == TUNING:
        rates.figure(rows["scores"], TUNED_AT, ROWS / f"{TUNING}-rates.png")
    document = DOCUMENT.read_text(encoding="utf-8")
    for figure in (run / "report").glob("*.png"):
        kept = ROWS / f"{report['recipe']}-{figure.name}"
        if f"({ROWS.name}/{kept.name})" in document:
            shutil.copyfile(figure, kept)


def tables(rows: dict[str, Any]) -> str:
    """A run's tables as Markdown: scores, differences (between students and the recipe's own first), which wordings
    were learnt, cost."""
    from ssb_unsloth.io.markdown import pipes
    from ssb_unsloth.report.tables import student_table

    if rows["recipe"] == TUNING:
        return pipes(rates.table(rows["scores"], TUNED_AT))
    parts = [pipes(accuracy_table(rows["scores"]))]
    parts += [pipes(against_table(rows["differences"], reference)) for reference in references(rows["differences"])]
    if "readings" in rows:
        parts.append(pipes(readings.table(rows["readings"])))
    if rows.get("places"):
        parts.append(pipes(readings.place_table(rows["places"])))
    if "students" in rows:
        parts.append(pipes(student_table(rows["students"])))
    return "\n\n".join(parts)


def references(differences: Sequence[dict[str, Any]]) -> list[str]:
    return [r for r in dict.fromkeys(d["reference"] for d in differences) if r != "base"]


def accuracy_table(scores: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line a model, a column a benchmark and decoding: the mean over seeds, and their standard deviation or the
    interval."""
    boxed = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
    averaged = {(s["model"], column(s)) for s in boxed if s["seed"] is None}
    shown = [s for s in boxed if s["seed"] is None or (s["model"], column(s)) not in averaged]
    columns = list(dict.fromkeys(map(column, shown)))
    found = {(s["model"], column(s)): s for s in shown}
    table = [["accuracy, %", *columns]]
    for model in dict.fromkeys(s["model"] for s in shown):
        line = [model]
        for name in columns:
            s = found[model, name]
            spread = f" ± {100 * s['sd']:.1f}" if s["seed"] is None and s["sd"] is not None else ""
            line.append(f"{100 * s['value']:.1f}{spread} [{100 * s['low']:.1f}, {100 * s['high']:.1f}]")
        table.append(line)
    return table


def column(row: dict[str, Any]) -> str:
    """The benchmark, and how it was decoded where that is not the usual T = 0.8."""
    return str(row["benchmark"]) + (", greedy" if row["temperature"] == 0 else "")


def against_table(differences: Sequence[dict[str, Any]], reference: str) -> list[list[str]]:
    """Every model minus the reference, with the paired interval; what is not significant after Holm says so."""
    own = [d for d in differences if (d["scoring"], d["reference"]) == ("equivalent", reference)]
    columns = list(dict.fromkeys(map(column, own)))
    table = [[f"minus {reference}, points", *columns]]
    for model in dict.fromkeys(d["model"] for d in own):
        line = [model]
        for name in columns:
            d = next(d for d in own if (d["model"], column(d)) == (model, name))
            mark = "" if d["significant"] else " n.s."
            line.append(f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]{mark}")
        table.append(line)
    return table


def rewrite(document: str, name: str, text: str) -> str:
    """The document with what stands between the run's two marks replaced."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
    if not pattern.search(document):
        raise SystemExit(f"docs/evidence.md: no <!-- {name} --> ... <!-- /{name} --> to write the tables between.")
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", document)


def main(runs: Sequence[str]) -> None:
    for run in runs:
        keep(Path(run))
    document = DOCUMENT.read_text(encoding="utf-8")
    for path in sorted(ROWS.glob("*.json")):
        document = rewrite(document, path.stem, tables(json.loads(path.read_text(encoding="utf-8"))))
    DOCUMENT.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
