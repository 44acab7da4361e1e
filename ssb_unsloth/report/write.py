"""The report stage: report.json for programs, report.md for people, figures beside them.

The tables are made from the plain rows of scores.json, so they serve any set of models and seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.stats import RESAMPLES
from ..io.terminal import folded
from ..recipe.methods import METHODS
from ..recipe.schema import Recipe
from ..records import read_rows
from ..run.curated import iter_pairs, questions_of, rollouts_of
from ..run.keys import as_written
from ..run.rundir import RunDir, versions
from ..run.student import Student
from ..training.token_kl import FILE as TOKENS
from .cautions import cautions
from .costs import student_rows
from .headline import headline
from .sections import document, system_prompts
from .tables import gain_table, small_lines, words_for
from .token_page import by_kind, page
from .worked_examples import worked_examples

REPORT_FORMAT = 1  # of report.json
SHOWN = ("curate", "teach", "train", "evaluate")
CURATION = ("questions", "all_right", "all_wrong", "mixed", "refined", "accepted", "no_answer", "truncated")
TRAINING = (
    *("steps", "kept_step", "stopped_step", "first_loss", "last_loss"),
    *("trainable_parameters", "total_parameters", "lora", "left_as_it_is"),
)


def write_report(recipe: Recipe, run: RunDir, folder: Path, everyone: Sequence[Student]) -> None:
    """Write report.json, report.md, examples.md and the figures from what the other stages left in their folders.

    `everyone`: all students of the recipe, the one that lies in `run` first. The trainings that are told are those of
    each one's first seed; those that are drawn, of the first student of each method.
    """
    from . import figures

    method, seeds = recipe.train.method, recipe.seeds or [recipe.seed]
    told: dict[str, Student] = {}
    drawn: dict[str, RunDir] = {}
    for student in everyone:
        told.setdefault(student.name, student)
        drawn.setdefault(student.recipe.train.method, student.run)
    stages = [name for name in SHOWN if name in (*METHODS[method].reads, "train", "evaluate")]
    manifests = {name: run.manifest(name) or {} for name in stages}
    scored = json.loads((run.stage("evaluate") / "scores.json").read_text(encoding="utf-8"))
    histories = {
        name: [row for _, row in read_rows(its.stage("train") / "history.jsonl")] for name, its in drawn.items()
    }
    summaries = {name: (student.run.manifest("train") or {})["summary"] for name, student in told.items()}
    report = {
        "format": REPORT_FORMAT,
        "recipe": recipe.name,
        "headline": headline(recipe, scored["scores"], scored["differences"]),
        "scores": scored["scores"],
        "differences": scored["differences"],
        "training": {
            name: {
                "method": told[name].recipe.train.method,
                **{key: summary[key] for key in TRAINING if key in summary},
            }
            for name, summary in summaries.items()
        },
        "targets": manifests.get("teach", {}).get("summary", {}),
        "cost": {name: manifest["cost"] for name, manifest in manifests.items()},
        "versions": versions(),
        "seed": seeds[0],
        "seeds": seeds,
        "bootstrap": {"seed": recipe.seed, "resamples": RESAMPLES},
        "prompts": system_prompts(scored["scores"], recipe.prompts.texts),
        "decoding": {name: as_written(benchmark) for name, benchmark in recipe.evaluate.benchmarks.items()},
    }
    if said := manifests["evaluate"].get("summary", {}).get("template"):
        report["template"] = said
    titles = {name: benchmark.title for name, benchmark in recipe.evaluate.benchmarks.items() if benchmark.title}
    if len(everyone) > 1:
        report["students"] = student_rows(everyone)
        figures.cost(report["scores"], report["students"], folder / "cost.png", titles)
    figures.comparison(report["scores"], folder / "accuracy.png", report.get("students", ()), titles)
    if len(gain_table(report["differences"])) > 1:
        figures.gains(report["differences"], folder / "gains.png", words_for(report["decoding"]).free, titles)
    figures.training(histories, folder / "training.png")
    if "curate" in stages:
        curation = json.loads((run.stage("curate") / "statistics.json").read_text(encoding="utf-8"))
        figures.curation(curation, folder / "curation.png")
        report["curation"] = {key: curation[key] for key in (*CURATION, *(k for k in curation if k not in CURATION))}
    if tokens := _tokens(run):
        report["token_kl"] = by_kind(tokens)
        figures.token_kl(report["token_kl"], folder / "token_kl.png")
        (folder / "tokens.html").write_text(_token_page(recipe, run, tokens), encoding="utf-8")
    report["cautions"] = cautions(recipe, report)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    verifiers = {"": recipe.problems.verifier, **{name: b.verifier for name, b in recipe.evaluate.benchmarks.items()}}
    examples = worked_examples(run, everyone[0].name, seeds[0], verifiers)
    (folder / "examples.md").write_text(examples, encoding="utf-8")
    (folder / "report.md").write_text(document(recipe, report), encoding="utf-8")


def _tokens(run: RunDir) -> list[dict[str, Any]]:
    """The pairs that training followed token by token; none where the recipe asks for none."""
    path = run.stage("train") / TOKENS
    return [row for _, row in read_rows(path)] if path.exists() else []


def _token_page(recipe: Recipe, run: RunDir, tokens: Sequence[dict[str, Any]]) -> str:
    learnt = {row["pair"] for row in tokens}
    questions = {p.id: p.question for p in iter_pairs(run) if p.id in learnt}
    if rest := learnt - questions.keys():  # rollouts, where they are learnt
        of = {r.id: r.problem_id for r in rollouts_of(run) if r.id in rest}
        asked = {p.id: p.question for p in questions_of(run) if p.id in of.values()}
        questions |= {id_: asked[problem_id] for id_, problem_id in of.items()}
    return page(
        f"Run {recipe.name}, model {recipe.model.name}, seed {(recipe.seeds or [recipe.seed])[0]}", tokens, questions
    )


def closing_lines(run: RunDir) -> str:
    """What a finished run says, 80 columns wide but for paths: the headline, a small table, and where the rest is."""
    folder = run.stage("report")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines: list[str] = []
    said = [report.get("headline", ""), *(caution.replace("**", "") for caution in report.get("cautions", ()))]
    for sentence in filter(None, said):
        lines += ["", folded(sentence)]
    lines += ["", *small_lines(report["scores"], report["differences"])]
    lines += ["", f"Report   {folder / 'report.md'}", f"Figures  {folder}/*.png"]
    if (folder / "tokens.html").exists():
        lines.append(f"Tokens   {folder / 'tokens.html'}")
    return "\n".join([*lines, f"Examples {folder / 'examples.md'}"])
