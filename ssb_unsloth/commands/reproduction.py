"""A finished run beside the paper: Table 1, Figure 2, the questions that were used, and what it cost beside the plan.

    python -m ssb_unsloth.commands.reproduction RUN       writes RUN/reproduction.md and prints it

The paper's figures are those of `published`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ..errors import UserError
from ..evaluation.stats import wilson
from ..io.markdown import escaped, pipes
from ..io.terminal import complain, tell
from ..machine.hardware import here
from ..machine.plan import make_plan, span
from ..published import FIGURE_2, PAIRS, QUESTIONS, TABLE_1
from ..recipe.loading import load
from ..report.tables import Table, percent
from ..run.rundir import RunDir

ENDS = 10  # steps that are averaged at each end of a curve
NAMES = {"base": "base", "ssb": "SSB", "grpo": "GRPO"}  # here, and in TABLE_1


def compare(root: Path) -> str:
    """The comparison as Markdown.

    Raises:
        UserError: the run is not finished, or has been changed since.
    """
    run = RunDir(root)
    run.check("report", ["report.json"])
    run.check("train", ["history.jsonl"])
    try:
        report = json.loads((root / "report" / "report.json").read_text(encoding="utf-8"))
        history = [json.loads(x) for x in (root / "train" / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: not there, so the run is not finished: `ssb run` resumes it.") from None
    parts = [f"# {escaped(report['recipe'])} beside the paper", ""]
    tables = [
        ("Table 1: accuracy", table_1(report["scores"], report["decoding"])),
        ("Figure 2: first and last", figure_2(history)),
        ("What it cost", cost(root, report["cost"])),
    ]
    for title, table in tables:
        parts += [f"## {title}", "", pipes(table) if len(table) > 1 else "Nothing in this run is in the paper's.", ""]
    if "curation" in report:
        c = report["curation"]
        parts.append(
            f"{c['questions']:,} questions were used for {c['pairs']:,} pairs; the paper: {QUESTIONS} for {PAIRS}."
        )
    parts += [
        "The paper states neither the prompt nor the decoding of its evaluation, and its figures are one run's. Where"
        " intervals overlap, the two cannot be told apart.",
        f"Curves: the mean of the first and last {ENDS} steps; the paper's are by eye. Its length is, in its released"
        " code, that of the teacher's stored replies; here it is the student's own, to held-out questions.",
    ]
    return "\n".join(parts) + "\n"


def table_1(scores: Sequence[Mapping[str, Any]], decoding: Mapping[str, Mapping[str, Any]]) -> Table:
    """Each published row with the same model's score on the same benchmark, of several seeds their mean, and whether
    the intervals meet.
    """
    table = [["benchmark", "model", "published", "95 %", "here", "95 %", "seeds", "decoding", "intervals"]]
    averaged = {(s["model"], s["benchmark"], s["temperature"]) for s in scores if s["seed"] is None}
    for score in scores:
        if score["seed"] is not None and (score["model"], score["benchmark"], score["temperature"]) in averaged:
            continue  # its mean over the seeds stands for it
        name = str(decoding.get(score["benchmark"], {}).get("name") or score["benchmark"])
        published = TABLE_1.get(name, {})
        known = next((key for key in published if key.lower() == NAMES.get(score["model"], "").lower()), None)
        if known is None or (score["scoring"], score.get("metric", "pass@1")) != ("equivalent", "pass@1"):
            continue
        if score.get("prompt", "tutor") == "default":
            continue
        right, n = published[known]
        low, high = wilson(right, n)
        meet = low <= score["high"] and score["low"] <= high
        how = f"T={score['temperature']:g}" if score["temperature"] else "greedy"
        bounds = f"{100 * score['low']:.1f} to {100 * score['high']:.1f}"
        row = [name, known, percent(right / n), f"{100 * low:.1f} to {100 * high:.1f}", percent(score["value"]), bounds]
        table.append([*row, str(score["n_seeds"]), how, "overlap" if meet else "apart"])
    return table


def figure_2(history: Sequence[Mapping[str, Any]]) -> Table:
    """First and last of loss, gradient norm and reply length, published and here, and whether they go the same way."""
    curves = {
        "loss": [row["loss"] for row in history if "loss" in row],
        "gradient norm": [row["grad_norm"] for row in history if "grad_norm" in row],
        "reply length, tokens": [row["reply_tokens"] for row in history if "reply_tokens" in row],
    }
    table = [["curve", "published", "here", "direction"]]
    for name, (first, last) in FIGURE_2.items():
        values = curves[name]
        if not values:
            continue
        width = 1 if name.startswith("reply") else min(ENDS, max(1, len(values) // 2))
        ours = (mean(values[:width]), mean(values[-width:]))
        same = (ours[1] > ours[0]) == (last > first)
        digits = 0 if first > 10 else 2
        spelt = [f"{a:.{digits}f} to {b:.{digits}f}" for a, b in ((first, last), ours)]
        table.append([name, *spelt, "the same" if same else "the other"])
    return table


def cost(root: Path, spent: Mapping[str, Mapping[str, Any]]) -> Table:
    """Time, tokens and memory of each stage, beside the plan's."""
    recipe = load(root / "recipe.yaml")
    card = here()
    planned = {stage.name: stage for stage in make_plan(recipe, card).stages}
    table = [["stage", "time", "planned", "tokens", "planned", "memory", "planned"]]
    for name, used in spent.items():
        plan = planned.get(name)
        if plan is None:
            continue
        held = used["peak_device_bytes"] if card is not None else used["peak_rss_bytes"]
        seconds = f"{used['seconds']:.0f} s" if used["seconds"] < 120 else f"{used['seconds'] / 60:.1f} min"
        tokens = [f"{used['tokens']:,}", f"{plan.sampled or plan.read:,.0f}"]
        memory = [f"{held / 2**30:.2f} GiB", f"{plan.bytes / 2**30:.2f} GiB"]
        table.append([name, seconds, span(plan.seconds) if plan.seconds else "not planned", *tokens, *memory])
    return table


def main() -> int:
    if len(sys.argv) != 2:
        complain("usage: python -m ssb_unsloth.commands.reproduction RUN")
        return 2
    root = Path(sys.argv[1])
    try:
        text = compare(root)
    except UserError as error:
        complain(f"ssb: {error}")
        return 2
    (root / "reproduction.md").write_text(text, encoding="utf-8")
    tell(text)
    tell(f"Written to {root / 'reproduction.md'}; the figures are in {root / 'report'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
