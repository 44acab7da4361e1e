"""The report stage: report.json for programs, report.md for people, figures beside them.

The tables are made from the plain rows of scores.json, so they serve any set of models and seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..evaluation.stats import RESAMPLES, wilson
from ..io.markdown import Markdown, escaped, opening, pipes
from ..prompts import text
from ..recipe.schema import READS, Recipe
from ..records import Pair, read_jsonl, read_rows
from ..run.rundir import RunDir, versions
from ..run.students import students
from ..training.token_kl import FILE as TOKENS
from ..training.token_kl import by_kind, page
from .costs import student_rows, student_table
from .worked_examples import worked_examples

FORMAT = 1  # of report.json
STAGES = ("curate", "teach", "train", "evaluate")
CURATION = ("questions", "all_right", "all_wrong", "mixed", "refined", "accepted", "no_answer", "truncated")
PUBLISHED: dict[str, dict[str, tuple[int, int]]] = {  # the paper's Table 1 in counts: right, questions
    "math500": {"base": (188, 500), "GRPO": (224, 500), "SSB": (277, 500)},  # 37.6, 44.8, 55.4 %
    "aime2024": {"base": (0, 30), "GRPO": (1, 30), "SSB": (4, 30)},  # 0, 3.33, 13.33 %
}
TITLES = {
    "ssb": "Semantic Soft Bootstrapping",
    "sft": "fine-tuning on the refined answers",
    "rft": "fine-tuning on right rollouts",
    "ssd": "fine-tuning on unverified rollouts",
    "grpo": "GRPO",
}
TRAINING = ("steps", "first_loss", "last_loss", "trainable_parameters", "total_parameters")


def write_report(recipe: Recipe, run: RunDir, folder: Path, trained: Mapping[str, RunDir] | None = None) -> None:
    """Write report.json, report.md, examples.md and the figures from what the other stages left in their folders.

    `trained`: for each method of training the first student that learned by it; the recipe's own where nothing is said.
    """
    from . import figures

    method, seeds = recipe.train.method, recipe.seeds or [recipe.seed]
    own = method if recipe.rounds == 1 else f"{method}-round1"  # the student that lies in this run's own folder
    trained = trained or {method: run}
    stages = [name for name in STAGES if name in (*READS[method], "train", "evaluate")]
    manifests = {name: run.manifest(name) or {} for name in stages}
    scored = json.loads((run.stage("evaluate") / "scores.json").read_text(encoding="utf-8"))
    histories = {
        name: [row for _, row in read_rows(student.stage("train") / "history.jsonl")]
        for name, student in trained.items()
    }
    summaries = {name: (student.manifest("train") or {})["summary"] for name, student in trained.items()}
    report = {
        "format": FORMAT,
        "recipe": recipe.name,
        "scores": scored["scores"],
        "differences": scored["differences"],
        "training": {name: {key: summary[key] for key in TRAINING} for name, summary in summaries.items()},
        "targets": manifests.get("teach", {}).get("summary", {}),
        "cost": {name: manifest["cost"] for name, manifest in manifests.items()},
        "versions": versions(),
        "seed": seeds[0],
        "seeds": seeds,
        "bootstrap": {"seed": recipe.seed, "resamples": RESAMPLES},
        "prompts": system_prompts(scored["scores"]),
        "decoding": {name: asdict(benchmark) for name, benchmark in recipe.evaluate.benchmarks.items()},
    }
    everyone = students(recipe, run.root)
    if len(everyone) > 1:
        report["students"] = student_rows(everyone)
        figures.cost(report["scores"], report["students"], folder / "cost.png")
    figures.comparison(report["scores"], folder / "accuracy.png", report.get("students", ()))
    if len(gain_table(report["differences"])) > 1:
        figures.gains(report["differences"], folder / "gains.png")
    figures.training(histories, folder / "training.png")
    if "curate" in stages:
        curation = json.loads((run.stage("curate") / "statistics.json").read_text(encoding="utf-8"))
        figures.curation(curation, folder / "curation.png")
        report["curation"] = {key: curation[key] for key in (*CURATION, *(k for k in curation if k not in CURATION))}
    if tokens := _tokens(run):
        report["token_kl"] = by_kind(tokens)
        figures.token_kl(report["token_kl"], folder / "token_kl.png")
        (folder / "tokens.html").write_text(_token_page(recipe, run, tokens), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "examples.md").write_text(worked_examples(run, own, seeds[0]), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(recipe, report), encoding="utf-8")


def _tokens(run: RunDir) -> list[dict[str, Any]]:
    """The pairs that training followed token by token; none where the recipe asks for none."""
    path = run.stage("train") / TOKENS
    return [row for _, row in read_rows(path)] if path.exists() else []


def _token_page(recipe: Recipe, run: RunDir, tokens: Sequence[dict[str, Any]]) -> str:
    questions = {pair.id: pair.question for pair in read_jsonl(run.stage("curate") / "pairs.jsonl", Pair)}
    return page(
        f"Run {recipe.name}, model {recipe.model.name}, seed {(recipe.seeds or [recipe.seed])[0]}", tokens, questions
    )


def closing_lines(run: RunDir) -> str:
    """What a finished run says: a small table, and where the rest is."""
    folder = run.stage("report")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = ["", *plain(score_table(report["scores"], report["differences"]))]
    drawn = sorted(path.name for path in folder.glob("*.png"))
    lines += ["", f"Report   {folder / 'report.md'}", f"Figures  {folder}/{', '.join(drawn)}"]
    if (folder / "tokens.html").exists():
        lines.append(f"Tokens   {folder / 'tokens.html'}")
    return "\n".join([*lines, f"Examples {folder / 'examples.md'}"])


Row = Mapping[str, Any]
Table = list[list[str]]  # the first row is the head


def score_table(scores: Sequence[Row], differences: Sequence[Row] = ()) -> Table:
    """Every model with its three scorings; of several seeds the mean, the standard deviation and each seed's value.

    Where `differences` against the base are given, each gain stands beside its model, and what is not significant
    (Holm, over all rows of that scoring) is marked.
    """
    boxed = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
    others = {(*_place(s), s["seed"], s["scoring"]): s["value"] for s in scores if s["metric"] == "pass@1"}
    gains = {_place(d): d for d in differences if (d["scoring"], d["reference"]) == ("equivalent", "base")}
    several = {_place(s) for s in boxed if s["seed"] is None}
    head = ["benchmark", "decoding", "model", "accuracy", "95 % interval"]
    head += ["against base"] * bool(gains) + ["equal as string", "box or not", "no box", "cut off"]
    table = [[*head, "tokens, right", "tokens, wrong", *["seeds: sd, each"] * bool(several)]]
    for s in sorted(boxed, key=lambda s: (s["benchmark"], s["temperature"])):
        if _place(s) in several and s["seed"] is not None:
            continue
        gain = gains.get(_place(s))
        row = [s["benchmark"], decoding(s), s["model"], percent(s["value"])]
        row.append(f"{100 * s['low']:.1f} to {100 * s['high']:.1f}")
        if gains:
            row.append(f"{100 * gain['value']:+.1f}{'' if gain['significant'] else ' n.s.'}" if gain else "")
        row += [percent(others[(*_place(s), s["seed"], scoring)]) for scoring in ("string", "format_free")]
        row += [percent(s["no_answer"]), percent(s["truncated"])]
        row += ["-" if s[key] is None else f"{s[key]:.1f}" for key in ("tokens_right", "tokens_wrong")]
        if several:
            each = [f"{100 * o['value']:.1f}" for o in boxed if _place(o) == _place(s) and o["seed"] is not None]
            row.append(f"{100 * s['sd']:.1f}: {', '.join(each)}" if s["sd"] is not None else "")
        table.append(row)
    return table


def samples_table(scores: Sequence[Row]) -> Table:
    """pass@k and the majority vote; only the head where nothing was sampled more than once."""
    table = [["benchmark", "decoding", "model", "measure", "value", "95 % interval"]]
    averaged = {(*_place(s), s["metric"]) for s in scores if s["seed"] is None}
    for s in sorted(scores, key=lambda s: (s["benchmark"], s["temperature"])):
        if s["metric"] != "pass@1" and (s["seed"] is None or (*_place(s), s["metric"]) not in averaged):
            interval = f"{100 * s['low']:.1f} to {100 * s['high']:.1f}"
            table.append([s["benchmark"], decoding(s), s["model"], s["metric"], percent(s["value"]), interval])
    return table


def difference_table(differences: Sequence[Row], scoring: str = "equivalent") -> Table:
    """Every difference with its paired interval and test; what is not significant after Holm's correction says so."""
    table = [["benchmark", "decoding", "difference", "95 % interval", "gained, lost", "p", "p, Holm", "significant"]]
    for d in differences:
        if d["scoring"] == scoring:
            name = d["model"] if d["reference"] == "base" else f"{d['model']} against {d['reference']}"
            table.append(
                [
                    d["benchmark"],
                    decoding(d),
                    f"{name}: {100 * d['value']:+.1f} points",
                    f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}",
                    "" if d["gained"] is None else f"{d['gained']}, {d['lost']}",
                    p_value(d["p"]),
                    p_value(d["p_holm"]),
                    "yes" if d["significant"] else Markdown("**no**"),
                ]
            )
    return table


def gain_table(differences: Sequence[Row]) -> Table:
    """Each gain over the base split in two: what is gained box or not (reasoning), and the rest (format)."""
    table = [["benchmark", "decoding", "difference", "gain", "of it reasoning", "95 % interval", "of it format"]]
    free = {_place(d): d for d in differences if (d["scoring"], d["reference"]) == ("format_free", "base")}
    for d in differences:
        if (d["scoring"], d["reference"]) == ("equivalent", "base"):
            reasoning = free[_place(d)]
            row = [d["benchmark"], decoding(d), f"{d['model']} minus base", f"{100 * d['value']:+.1f}"]
            row += [f"{100 * reasoning['value']:+.1f}"]
            row += [f"{100 * reasoning['low']:+.1f} to {100 * reasoning['high']:+.1f}"]
            table.append([*row, f"{100 * (d['value'] - reasoning['value']):+.1f}"])
    return table


def published_table(benchmarks: Sequence[str | None]) -> Table:
    """The paper's Table 1 for those of the benchmarks that are in it, with Wilson's intervals for its counts."""
    table = [["benchmark", "model, as published", "accuracy", "95 % interval"]]
    for benchmark in benchmarks:
        for model, (right, n) in PUBLISHED.get(benchmark or "", {}).items():
            low, high = wilson(right, n)
            table.append([str(benchmark), model, percent(right / n), f"{100 * low:.1f} to {100 * high:.1f}"])
    return table


def _place(row: Row) -> tuple[str, str, float]:
    return row["model"], row["benchmark"], row["temperature"]


def decoding(row: Row) -> str:
    return f"T={row['temperature']:g}" if row["temperature"] else "greedy"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def plain(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def evaluation_section(
    scores: Sequence[Row], differences: Sequence[Row], benchmarks: Mapping[str, Row], seed: int
) -> str:
    """Scores, differences, the published figures and how it was measured, as Markdown. `seed`: the bootstraps'."""
    kinds = {s["interval"] for s in scores if s["metric"] == "pass@1"}
    several = any(s["seed"] is None for s in scores)
    intervals = {
        "wilson": "Wilson's for one reply a question" + ", or where all replies or none are right," * (len(kinds) > 1),
        "bootstrap": f"a bootstrap over questions for several ({RESAMPLES:,} resamples, seed {seed})",
    }
    columns = [
        "*equal as string*: the box is the gold answer character for character (the paper's way)",
        "*box or not*: the last box, formula or number is equal to it, boxed or not, cut off or not",
        "*no box*, *cut off*: shares of all replies, those that ended without a box and those that did not end;"
        " *tokens*: means over right and over wrong replies",
    ]
    if any((d["scoring"], d["reference"]) == ("equivalent", "base") for d in differences):
        columns.append("*against base*: points gained; *n.s.*: not significant, by the tests below")
    if several:
        columns.append(
            "*seeds*: standard deviation (n - 1) and each seed's accuracy. Intervals speak of other questions, seeds of"
            " other training runs"
        )
    parts = [
        "Accuracy is pass@1: the last `\\boxed{}` is mathematically equal to the gold answer, and the reply was not cut"
        f" off. Intervals are {' and '.join(text for kind, text in intervals.items() if kind in kinds)}.",
        "\n".join(f"- {line}" for line in columns),
        pipes(score_table(scores, differences)),
    ]
    ours = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1") and s["seed"] is not None]
    if undecided := sum(s.get("undecided", 0) for s in ours):
        parts.append(_undecided(undecided, "replies", "generations"))
    if len(samples := samples_table(scores)) > 1:
        parts += [
            "Over the samples of a question (pass@k unbiased; ties of a vote count by their share):",
            pipes(samples),
        ]
    if differences:
        parts += [
            "Differences on the same questions: the interval is a paired bootstrap over questions, the test McNemar's"
            " exact one where each question has one reply (*gained, lost*: those that only the one, or only the other,"
            " got right), else the same bootstrap, whose p is never below 2 / 2^m if m questions differ. Holm's"
            f" correction is over the {len(difference_table(differences)) - 1} rows of this table. **no** marks what is"
            " not significant at 5 %.",
            pipes(difference_table(differences)),
        ]
    if len(gains := gain_table(differences)) > 1:
        parts += [
            "What a model gains box or not is *reasoning*; the rest of its gain in accuracy, which comes from boxing"
            " the answer and from stopping, is *format*. Points, the interval that of the reasoning:",
            pipes(gains),
        ]
    if len(published := published_table([b["name"] for b in benchmarks.values()])) > 1:
        parts += [
            "**Published, not measured here:** the paper's Table 1 (Qwen2.5-3B-Instruct), with Wilson's intervals for"
            " its counts. Its prompt and decoding are unstated.",
            pipes(published),
        ]
    parts.append(_how(benchmarks, {s["benchmark"]: s["n_questions"] for s in scores}))
    for name, prompt in system_prompts(scores).items():
        if prompt is None:
            parts.append("Prompt *default*: the question alone, under whatever the chat template says by itself.")
        else:
            parts += [
                f"Prompt *{escaped(name)}*, the system prompt before the question:",
                "> " + prompt.replace("\n", "\n> "),
            ]
    return "\n\n".join(parts)


def _undecided(count: int, what: str, where: str) -> str:
    return (
        f"**{count:,} {what}** count as wrong because their answers could not be compared with the gold answer to the"
        f" end (time, memory or recursion ran out); `note` in the {where} says why."
    )


def system_prompts(scores: Sequence[Row]) -> dict[str, str | None]:
    """The system prompts under which the scores were made, by name; None for the model's own default."""
    texts = {"tutor": text("tutor"), "released": text("tutor", "released"), "default": None}
    return {name: texts[name] for name in dict.fromkeys(s["prompt"] for s in scores)}


def _how(benchmarks: Mapping[str, Row], questions: Mapping[str, int]) -> str:
    """How many questions, and how they were decoded: ours, since the paper's decoding is unstated."""
    told = []
    for name, b in benchmarks.items():
        ways = ["greedy"] * b["greedy"]
        if b["temperature"] is not None:
            ways.append(f"{b['samples']} at T={b['temperature']:g}, top_p {b['top_p']:g}, top_k {b['top_k'] or 'off'}")
        penalty = f", repetition penalty {b['repetition_penalty']:g}"
        n = f"{questions.get(name, 0):,}"
        if b["count"] and questions.get(name) != b["count"]:
            n = f"**only the first {n} of {b['count']:,}**"
        told.append(
            f"- {opening(name)}: {n} questions, {' and '.join(ways)}{penalty}, at most {b['max_tokens']:,} tokens"
        )
    return "\n".join(["The decoding is ours, the paper's being unstated:\n", *told])


def _markdown(recipe: Recipe, report: dict[str, Any]) -> str:
    cost = [["stage", "seconds", "tokens", "peak memory", "peak on the GPU"]]
    for name, spent in report["cost"].items():
        cost.append(
            [
                name if name != "evaluate" or "students" not in report else "evaluate, of all students",
                f"{spent['seconds']:.1f}",
                f"{spent['tokens']:,}",
                f"{spent['peak_rss_bytes'] / 2**30:.2f} GiB",
                f"{spent['peak_device_bytes'] / 2**30:.2f} GiB" if spent["peak_device_bytes"] else "none used",
            ]
        )
    gains = "![Each gain over the base, split into reasoning and format](gains.png)\n\n"
    if len(gain_table(report["differences"])) == 1:
        gains = ""
    return f"""# {escaped(recipe.name)}: {TITLES[recipe.train.method]} of {escaped(recipe.model.name)}

Seed{"s" * (len(report["seeds"]) > 1)} {", ".join(map(str, report["seeds"]))}.

{evaluation_section(report["scores"], report["differences"], report["decoding"], recipe.seed)}

![Accuracy of each model with 95 % intervals](accuracy.png)

{gains}{_curation_section(report)}{_training_section(report)}{_student_section(report)}{_token_section(report)}\
## What it cost{_whose(report)}

{pipes(cost)}

## Worked examples

[examples.md](examples.md) follows questions from rollouts to what base and student now answer.

## Versions

{", ".join(f"{name} {escaped(version)}" for name, version in report["versions"].items())}
"""


def _whose(report: dict[str, Any]) -> str:
    """Of several students, whose stages a section speaks of."""
    return f" of the first student, seed {report['seed']}" if "students" in report else ""


def _targets(summary: dict[str, Any]) -> str:
    """A sentence on what was kept of the teacher; how much of it, where that is not all."""
    if "targets" not in summary:
        return ""
    if "mean_mass" not in summary:
        return f" The teacher's targets ({summary['targets']}) are exact."
    mean, least, temperature = (summary[name] for name in ("mean_mass", "least_mass", "mass_temperature"))
    return (
        f" The teacher's targets ({summary['targets']}) are **approximate**: they hold {mean:.1%} of its mass in the"
        f" mean and {least:.1%} at the least, at temperature {temperature:g}."
    )


def _curation_section(report: dict[str, Any]) -> str:
    if "curation" not in report:  # GRPO alone learns from no pairs
        return ""
    c = report["curation"]
    if c["brought"]:
        kept = "all of them" if c["pairs"] == c["brought"] else f"the first {c['pairs']:,}"
        return f"## Curation\n\n{c['brought']:,} pairs were brought along, and {kept} used; nothing was sampled.\n\n"
    undecided = ""
    if c.get("undecided"):
        undecided = (
            _undecided(c["undecided"], "rollouts and refinements", "rollouts.jsonl and refinements.jsonl") + "\n\n"
        )
    return f"""## Curation{_whose(report)}

{c["questions"]:,} questions, {c["rollouts"]:,} rollouts ({c["no_answer"]:,} without a box, {c["truncated"]:,} cut off):
{c["all_right"]:,} questions with only right rollouts, {c["all_wrong"]:,} with only wrong ones, {c["mixed"]:,} mixed
({c["repeated_wrong"]:,} of them with a repeated wrong answer). {c["refined"]:,} questions refined, {c["accepted"]:,} of
them rightly, {c["pairs"]:,} pairs kept. The paper used 950 questions for its 256 pairs.

{undecided}\
![From questions to pairs](curation.png)

"""


def _training_section(report: dict[str, Any]) -> str:
    table = [["trained by", "steps", "first loss", "last loss", "trained parameters", "of"]]
    for method, t in report["training"].items():
        counts = f"{t['trainable_parameters']:,}", f"{t['total_parameters']:,}"
        table.append([method, f"{t['steps']:,}", f"{t['first_loss']:.3f}", f"{t['last_loss']:.3f}", *counts])
    others = " (GRPO's are others than the rest's)" if {"grpo"} < set(report["training"]) else ""
    return f"""## Training

{pipes(table)}

A loss compares with others of its own method alone. The figure has the panels of the paper's Figure 2; its length is
that of the student's own greedy replies to held-out questions{others}.{_targets(report["targets"])}

![Loss, gradient norm and reply length over training](training.png)

"""


def _student_section(report: dict[str, Any]) -> str:
    if "students" not in report:
        return ""
    return f"""## All students

What each took on its way to the adapter, as if it had been made alone (stages that students share are counted for
each); means over seeds. KL(base ‖ student) is measured on unrelated text, in nats a token: what training moved that it
was not meant to.

{pipes(student_table(report["students"]))}

![Accuracy beside the tokens and seconds that it took](cost.png)

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

{pipes(table)}

![Mean KL by kind of token, before and after](token_kl.png)

"""
