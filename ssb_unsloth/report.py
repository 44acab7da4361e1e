"""The report stage: report.json for programs, report.md and examples.md for people, figures beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import Recipe
from .records import (
    EXAMPLES,
    EXAMPLES_BENCHMARK,
    Generation,
    Pair,
    Problem,
    Rollout,
    generations_file,
    read_jsonl,
    read_rows,
)
from .rundir import RunDir, versions
from .token_kl import FILE as TOKENS
from .token_kl import by_kind, page

FORMAT = 1  # of report.json
STAGES = ("curate", "teach", "train", "evaluate")
CURATION = ("questions", "all_right", "all_wrong", "mixed", "refined", "accepted", "no_answer", "truncated")
TITLES = {
    "ssb": "Semantic Soft Bootstrapping",
    "sft": "fine-tuning on the refined answers",
    "rft": "fine-tuning on right rollouts",
    "ssd": "fine-tuning on unverified rollouts",
    "grpo": "GRPO",
}
TRAINING = ("steps", "first_loss", "last_loss", "trainable_parameters", "total_parameters")


def write_report(recipe: Recipe, run: RunDir, folder: Path) -> None:
    """Write report.json, report.md, examples.md and the figures from what the other stages left in their folders."""
    from . import figures

    method = recipe.train.method
    manifests = {name: run.manifest(name) or {} for name in STAGES if name != "teach" or method == "ssb"}
    scored = json.loads((run.stage("evaluate") / "scores.json").read_text(encoding="utf-8"))
    curation = json.loads((run.stage("curate") / "statistics.json").read_text(encoding="utf-8"))
    history = [row for _, row in read_rows(run.stage("train") / "history.jsonl")]
    report = {
        "format": FORMAT,
        "recipe": recipe.name,
        "scores": scored["scores"],
        "differences": scored["differences"],
        "curation": {key: curation[key] for key in (*CURATION, *(k for k in curation if k not in CURATION))},
        "training": {method: {key: manifests["train"]["summary"][key] for key in TRAINING}},
        "cost": {name: manifest["cost"] for name, manifest in manifests.items()},
        "versions": versions(),
        "seed": recipe.seed,
    }
    figures.accuracy(report["scores"], folder / "accuracy.png")
    figures.training(history, folder / "training.png")
    figures.curation(curation, folder / "curation.png")
    if tokens := _tokens(run):
        report["token_kl"] = by_kind(tokens)
        figures.token_kl(report["token_kl"], folder / "token_kl.png")
        (folder / "tokens.html").write_text(_token_page(recipe, run, tokens), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "examples.md").write_text(_examples(run, method, recipe.seed), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(recipe, report), encoding="utf-8")


def _tokens(run: RunDir) -> list[dict[str, Any]]:
    """The pairs that training followed token by token; none where the recipe asks for none."""
    path = run.stage("train") / TOKENS
    return [row for _, row in read_rows(path)] if path.exists() else []


def _token_page(recipe: Recipe, run: RunDir, tokens: Sequence[dict[str, Any]]) -> str:
    questions = {pair.id: pair.question for pair in read_jsonl(run.stage("curate") / "pairs.jsonl", Pair)}
    return page(f"Run {recipe.name}, model {recipe.model.name}, seed {recipe.seed}", tokens, questions)


def closing_lines(run: RunDir) -> str:
    """What a finished run says: a small table, and where the rest is."""
    folder = run.stage("report")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = ["", *_plain(_score_table(report["scores"]))]
    lines += ["", f"Report   {folder / 'report.md'}", f"Figures  {folder}/accuracy.png, training.png, curation.png"]
    if (folder / "tokens.html").exists():
        lines.append(f"Tokens   {folder / 'tokens.html'}")
    return "\n".join([*lines, f"Examples {folder / 'examples.md'}"])


Table = list[list[str]]  # the first row is the head


def _score_table(scores: Sequence[dict[str, Any]]) -> Table:
    table = [["benchmark", "decoding", "model", "accuracy", "95 % interval", "no box", "cut off", "mean tokens"]]
    for s in sorted(scores, key=lambda s: (s["benchmark"], s["temperature"])):
        table.append(
            [
                s["benchmark"],
                f"T={s['temperature']:g}" if s["temperature"] else "greedy",
                s["model"],
                f"{100 * s['value']:.1f} %",
                f"{100 * s['low']:.1f} to {100 * s['high']:.1f}",
                f"{100 * s['no_answer']:.1f} %",
                f"{100 * s['truncated']:.1f} %",
                f"{s['mean_tokens']:.1f}",
            ]
        )
    return table


def _plain(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _pipes(table: Table) -> str:
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _markdown(recipe: Recipe, report: dict[str, Any]) -> str:
    c, t = report["curation"], report["training"][recipe.train.method]
    trained, total = t["trainable_parameters"], t["total_parameters"]
    differences = [["benchmark", "decoding", "model minus base", "95 % interval, paired over questions"]]
    for d in report["differences"]:
        differences.append(
            [
                d["benchmark"],
                f"T={d['temperature']:g}" if d["temperature"] else "greedy",
                f"{d['model']}: {100 * d['value']:+.1f} points",
                f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}",
            ]
        )
    cost = [["stage", "seconds", "tokens", "peak memory", "peak on the GPU"]]
    for name, spent in report["cost"].items():
        cost.append(
            [
                name,
                f"{spent['seconds']:.1f}",
                f"{spent['tokens']:,}",
                f"{spent['peak_rss_bytes'] / 2**30:.2f} GiB",
                f"{spent['peak_device_bytes'] / 2**30:.2f} GiB" if spent["peak_device_bytes"] else "none used",
            ]
        )
    intervals = {s["interval"] for s in report["scores"]}
    how = " and ".join(
        {"wilson": "Wilson's for one reply a question", "bootstrap": "a bootstrap over questions for several"}[i]
        for i in sorted(intervals, reverse=True)
    )
    return f"""# {recipe.name}: {TITLES[recipe.train.method]} of {recipe.model.name}

Seed {report["seed"]}. Accuracy is pass@1: the last `\\boxed{{}}` is mathematically equal to the gold answer, and
the reply was not cut off. Intervals are {how}.

{_pipes(_score_table(report["scores"]))}

{_pipes(differences)}

![Accuracy of base and student with 95 % intervals](accuracy.png)

## Curation

{c["questions"]:,} questions, {c["rollouts"]:,} rollouts ({c["no_answer"]:,} without a box, {c["truncated"]:,} cut off):
{c["all_right"]:,} questions with only right rollouts, {c["all_wrong"]:,} with only wrong ones, {c["mixed"]:,} mixed
({c["repeated_wrong"]:,} of them with a repeated wrong answer). {c["refined"]:,} refinements, {c["accepted"]:,} of
them right, the first {c["pairs"]:,} kept as pairs. The paper used 950 questions for its 256 pairs.

![From questions to pairs](curation.png)

## Training

{t["steps"]:,} steps; loss {t["first_loss"]:.3f} at the first and {t["last_loss"]:.3f} at the last. {trained:,} of
{total:,} parameters are trained ({100 * trained / total:.1f} %). The figure has the panels of the paper's Figure 2; its
length is that of the student's own greedy replies to held-out questions.

![Loss, gradient norm and reply length over training](training.png)

{_token_section(report)}## What it cost

{_pipes(cost)}

## Worked examples

[examples.md](examples.md) follows questions from rollouts to what base and student now answer.

## Versions

{", ".join(f"{name} {version}" for name, version in report["versions"].items())}
"""


def _token_section(report: dict[str, Any]) -> str:
    if "token_kl" not in report:
        return ""
    table = [
        ["kind of token", "tokens", "KL(teacher ‖ base), before", "KL(teacher ‖ student), after", "share of all before"]
    ]
    for row in report["token_kl"]:
        shares = f"{row['before']:.4f}", f"{row['after']:.4f}", f"{100 * row['share']:.1f} %"
        table.append([row["kind"], f"{row['tokens']:,}", *shares])
    return f"""## At which token

[tokens.html](tokens.html) colours the replies of the first pairs token by token: what the hint told there before
training, and what of it is left after. Mean KL in nats a token, at temperature 1, on the run's own pairs,
none of them held out:

{_pipes(table)}

![Mean KL by kind of token, before and after](token_kl.png)

"""


def _examples(run: RunDir, student: str, seed: int) -> str:
    """Pairs with their origins, then benchmark questions that base and student answer differently."""
    pairs = read_jsonl(run.stage("curate") / "pairs.jsonl", Pair)[:EXAMPLES]
    rollouts = {r.id: r for r in read_jsonl(run.stage("curate") / "rollouts.jsonl", Rollout)}
    answers = {model: _answers(run, model, seed) for model in ("base", student)}
    parts = ["# Worked examples", "", "## From a question to a pair, and what base and student now answer", ""]
    for pair in pairs:
        wrong, right = rollouts[pair.wrong_id], rollouts[pair.right_id]
        parts += [
            f"### {pair.problem_id}, gold answer {_inline(pair.gold)}",
            "",
            _fenced("Question", pair.question),
            _fenced(f"Wrong rollout {wrong.id}, answer {_inline(wrong.answer or 'none')}", wrong.text),
            _fenced(f"Right rollout {right.id}", right.text),
            _fenced(f"Refinement {pair.refinement_id}, which the student learns", pair.reply),
            _fenced(f"Base, greedy: {answers['base'][pair.problem_id].verdict}", answers["base"][pair.problem_id].text),
            _fenced(
                f"Student, greedy: {answers[student][pair.problem_id].verdict}", answers[student][pair.problem_id].text
            ),
        ]
    parts += ["## Questions that neither was trained on", ""]
    for path in sorted(run.stage("evaluate").glob("problems-*.jsonl")):
        benchmark = path.stem.removeprefix("problems-")
        problems = {p.id: p for p in read_jsonl(path, Problem)}
        replies = _greediest(run, benchmark)
        for before, after in _telling(replies.get("base", []), replies.get(student, [])):
            problem = problems[before.problem_id]
            parts += [
                f"### {benchmark}, {problem.id}, gold answer {_inline(problem.gold)}",
                "",
                _fenced("Question", problem.question),
                _fenced(f"Base: {before.verdict}", before.text),
                _fenced(f"Student: {after.verdict}", after.text),
            ]
    return "\n".join(parts)


def _answers(run: RunDir, model: str, seed: int) -> dict[str, Generation]:
    """A model's greedy replies to the first pairs' questions, by problem."""
    path = run.stage("evaluate") / generations_file(model, seed, EXAMPLES_BENCHMARK, 0.0)
    return {g.problem_id: g for g in read_jsonl(path, Generation)}


def _greediest(run: RunDir, benchmark: str) -> dict[str, list[Generation]]:
    """The benchmark's generations at its lowest temperature, by model."""
    folder = run.stage("evaluate")
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["scores"]
    scores = [s for s in scores if s["benchmark"] == benchmark]
    lowest = min((s["temperature"] for s in scores), default=0.0)
    return {
        s["model"]: read_jsonl(folder / generations_file(s["model"], s["seed"], benchmark, lowest), Generation)
        for s in scores
        if s["temperature"] == lowest
    }


def _telling(base: Sequence[Generation], student: Sequence[Generation]) -> list[tuple[Generation, Generation]]:
    """Both ways in which the verdicts can differ, and one question that both get wrong, as far as there are such."""
    both = [(b, s) for b, s in zip(base, student, strict=True) if b.sample == 0]
    gained = [(b, s) for b, s in both if b.verdict != "right" == s.verdict]
    lost = [(b, s) for b, s in both if s.verdict != "right" == b.verdict]
    neither = [(b, s) for b, s in both if "right" not in (b.verdict, s.verdict)]
    return gained[:2] + lost[:1] + neither[:1]


def _inline(text: str) -> str:
    """A code span on one line that no text can break out of."""
    text = " ".join(text.split())
    ticks = "`" * (_longest_run(text) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"


def _fenced(title: str, text: str) -> str:
    """A block that no text can break out of: the fence is longer than any run of backticks inside."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{title}:\n\n{fence}text\n{text}\n{fence}\n"


def _longest_run(text: str) -> int:
    """Length of the longest run of backticks."""
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
