"""The sections of report.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.stats import RESAMPLES
from ..io.markdown import escaped, fenced, opening, pipes
from ..prompts import DEFAULT, PAPER, SHIPPED, Texts
from ..published import PAIRS, QUESTIONS
from ..recipe.methods import METHODS
from ..recipe.schema import Recipe
from ..verifier.verifiers import CODE, MATH, parts, title
from .tables import (
    BOX,
    FORM,
    Row,
    Words,
    difference_table,
    gain_table,
    published_table,
    samples_table,
    score_table,
    small_table,
    student_table,
    words_for,
)


def evaluation_section(
    scores: Sequence[Row], differences: Sequence[Row], benchmarks: Mapping[str, Row], seed: int, own: Texts = PAPER
) -> str:
    """Scores, differences, the published figures and how it was measured, as Markdown. `seed`: the bootstraps'; `own`:
    what the recipe's models are shown.
    """
    tables = tables_section(scores, differences, benchmarks)
    return f"{tables}\n\n{definitions_section(scores, differences, benchmarks, seed, own)}"


def definitions_section(
    scores: Sequence[Row], differences: Sequence[Row], benchmarks: Mapping[str, Row], seed: int, own: Texts = PAPER
) -> str:
    """What the columns mean, how intervals were come by, and how the models were asked, as Markdown."""
    kinds = {s["interval"] for s in scores if s["metric"] == "pass@1"}
    several = any(s["seed"] is None for s in scores)
    intervals = {
        "wilson": "Wilson's for one reply a question" + ", or where all replies or none are right," * (len(kinds) > 1),
        "bootstrap": f"a bootstrap over questions for several ({RESAMPLES:,} resamples, seed {seed})",
    }
    words = words_for(benchmarks)
    free = "the last box, formula or number is equal to it, boxed or not, cut off or not"
    if words is FORM:
        free = (
            "it is right wherever and however the reply gives it, cut off or not, as far as the verifier looks for it"
        )
    columns = [
        f"*equal as string*: {words.answer} is the gold answer character for character (the paper's way)"
        + ("; tests of programs know no such thing, and it is their accuracy" if _has_programs(benchmarks) else ""),
        f"*{words.free}*: {free}",
        f"*{words.none}*, *cut off*: shares of all replies, those that ended without {_one(words)} and those that did"
        " not end; *tokens*: means over right and over wrong replies",
    ]
    if any((d["scoring"], d["reference"]) == ("equivalent", "base") for d in differences):
        columns.append("*against base*: points gained; *n.s.*: not significant, by the tests below")
    if several:
        columns.append(
            "*seeds*: standard deviation (n - 1) and each seed's accuracy. Intervals speak of other questions, seeds of"
            " other training runs"
        )
    parts = [
        f"Accuracy is pass@1: {_right(benchmarks)}, and the reply was not cut off."
        f" Intervals are {' and '.join(text for kind, text in intervals.items() if kind in kinds)}.",
        "\n".join(f"- {line}" for line in columns),
    ]
    parts.append(_how(benchmarks, {s["benchmark"]: s["n_questions"] for s in scores}))
    for name, prompt in system_prompts(scores, own).items():
        if prompt is None:
            parts.append("Prompt *default*: the question alone, under whatever the chat template says by itself.")
        else:
            parts += [
                f"Prompt *{escaped(name)}*, the system prompt before the question:",
                "> " + prompt.replace("\n", "\n> ") if name in SHIPPED else fenced(prompt),
            ]
    return "\n\n".join(parts)


def tables_section(scores: Sequence[Row], differences: Sequence[Row], benchmarks: Mapping[str, Row]) -> str:
    """All scores and differences, and the published figures beside them, as Markdown."""
    words = words_for(benchmarks)
    parts = [pipes(score_table(scores, differences, words))]
    ours = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1") and s["seed"] is not None]
    if undecided := sum(s.get("undecided", 0) for s in ours):
        parts.append(_undecided(undecided, "replies", "generations"))
    if len(samples := samples_table(scores)) > 1:
        parts += [
            "Several samples per question (pass@k by the unbiased estimate; in a tied vote each answer has its share):",
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
            f"What a model gains {words.free} is *reasoning*; the rest of its gain in accuracy, which comes from"
            f" {'boxing the answer' if words is BOX else 'giving the answer as it was asked'} and from stopping, is"
            " *format*. Points, the interval that of the reasoning:",
            pipes(gains),
        ]
    if len(published := published_table([b["name"] for b in benchmarks.values()])) > 1:
        parts += [
            "**Published, not measured here:** the paper's Table 1 (Qwen2.5-3B-Instruct), with Wilson's intervals for"
            " its counts. Its prompt and decoding are unstated.",
            pipes(published),
        ]
    return "\n\n".join(parts)


def _right(benchmarks: Mapping[str, Row]) -> str:
    """When a reply is right."""
    others = sum("verifier" in benchmark for benchmark in benchmarks.values())
    if others and others == len(benchmarks):
        return "the answer is right to the verifier that its benchmark names below"
    elsewhere = " (to a verifier that a benchmark below names, its answer is right)" if others else ""
    return f"the last `\\boxed{{}}` is mathematically equal to the gold answer{elsewhere}"


def _has_programs(benchmarks: Mapping[str, Row]) -> bool:
    return any(parts(benchmark.get("verifier", MATH))[0] == CODE for benchmark in benchmarks.values())


def _one(words: Words) -> str:
    """One of what carries answers."""
    return "a box" if words is BOX else "an answer"


def _undecided(count: int, what: str, where: str) -> str:
    return (
        f"**{count:,} {what}** count as wrong because their answers could not be compared with the gold answer to the"
        f" end (time, memory or recursion ran out); `note` in the {where} says why."
    )


def system_prompts(scores: Sequence[Row], own: Texts) -> dict[str, str | None]:
    """The system prompts under which the scores were made, by name; None for the model's own default."""
    known = {DEFAULT: None, **SHIPPED, own.name: own.tutor}
    return {name: known[name] for name in dict.fromkeys(s["prompt"] for s in scores)}


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
        judge = f", verifier {escaped(title(b['verifier']))}" if "verifier" in b else ""
        limits = f"{penalty}, at most {b['max_tokens']:,} tokens{judge}"
        told.append(f"- {opening(name)}: {n} questions, {' and '.join(ways)}{limits}")
    return "\n".join(["The decoding is ours, the paper's being unstated:\n", *told])


def document(recipe: Recipe, report: dict[str, Any]) -> str:
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
    scored = report["scores"], report["differences"]
    measured = definitions_section(*scored, report["decoding"], recipe.seed, recipe.prompts.texts)
    template = f"\n\n{escaped(report['template'])}" if "template" in report else ""
    gains = "![Each gain over the base, split into reasoning and format](gains.png)\n\n"
    if len(gain_table(report["differences"])) == 1:
        gains = ""
    return f"""# {escaped(recipe.name)}: {METHODS[recipe.train.method].title} of {escaped(recipe.model.name)}

{opening(report["headline"]) + chr(10) * 2 if report["headline"] else ""}\
{"".join(f"> {caution}{chr(10) * 2}" for caution in report["cautions"])}\
{pipes(small_table(*scored))}

Seed{"s" * (len(report["seeds"]) > 1)} {", ".join(map(str, report["seeds"]))}. How accuracy and intervals\
 were measured is explained [below](#how-it-was-measured).

![Accuracy of each model with 95 % intervals](accuracy.png)

{gains}{curation_section(report)}{_training_section(report)}{_student_section(report)}{_token_section(report)}\
## What it cost{_whose(report)}

{pipes(cost)}

## Worked examples

[examples.md](examples.md) follows questions from rollouts to what base and student now answer.

## All scores and differences

{tables_section(*scored, report["decoding"])}

## Versions

{", ".join(f"{name} {escaped(version)}" for name, version in report["versions"].items())}

## How it was measured

{measured}{template}
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


def curation_section(report: dict[str, Any]) -> str:
    if "curation" not in report:  # GRPO alone learns from no pairs
        return ""
    c = report["curation"]
    if c["brought"]:
        kept = "all of them" if c["pairs"] == c["brought"] else f"the first {c['pairs']:,}"
        return f"## Curation\n\n{c['brought']:,} pairs of your own were read, and {kept} used; nothing was sampled.\n\n"
    one, undecided = _one(words_for(report.get("decoding", {}))), ""
    if c.get("undecided"):
        undecided = (
            _undecided(c["undecided"], "rollouts and refinements", "rollouts.jsonl and refinements.jsonl") + "\n\n"
        )
    return f"""## Curation{_whose(report)}

{c["questions"]:,} questions, {c["rollouts"]:,} rollouts ({c["no_answer"]:,} without {one}, {c["truncated"]:,} cut off):
{c["all_right"]:,} questions with only right rollouts, {c["all_wrong"]:,} with only wrong ones, {c["mixed"]:,} mixed
({c["repeated_wrong"]:,} of them with a repeated wrong answer). {c["refined"]:,} questions refined, {c["accepted"]:,} of
these refinements right, {c["pairs"]:,} pairs kept. The paper used {QUESTIONS} questions for its {PAIRS} pairs.

{undecided}\
![From questions to pairs](curation.png)

"""


def _guarded(training: dict[str, Any]) -> str:
    """What `train.guard` has decided, behind the number of steps."""
    said = ["stopped early"] if "stopped_step" in training else []
    said += [f"step {training['kept_step']:,} kept"] if "kept_step" in training else []
    return f" ({', '.join(said)})" if said else ""


def _training_section(report: dict[str, Any]) -> str:
    table = [["student", "trained by", "steps", "first loss", "last loss", "trained parameters", "of all"]]
    for name, t in report["training"].items():
        counts = f"{t['trainable_parameters']:,}", f"{t['total_parameters']:,}"
        losses = f"{t['first_loss']:.3f}", f"{t['last_loss']:.3f}"
        table.append([name, t["method"], f"{t['steps']:,}{_guarded(t)}", *losses, *counts])
    methods = list(dict.fromkeys(t["method"] for t in report["training"].values()))
    own = [METHODS[method].title for method in methods if METHODS[method].samples]  # they keep no pairs' questions
    others = f" ({own[0]}'s are others than the rest's)" if 0 < len(own) < len(methods) else ""
    whose = " of each method's first student" if len(methods) < len(report["training"]) else ""
    return f"""## Training

{pipes(table)}

{_layers_section(report["training"])}\
Losses can be compared only between students of one method. The figure has the panels of the paper's Figure 2{whose};
lengths are those of the student's own greedy replies to held-out questions{others}.{_targets(report["targets"])}

![Loss, gradient norm and reply length over training](training.png)

"""


def _layers_section(training: Mapping[str, Any]) -> str:
    """On which layers the adapters were put, or which weights stayed as they are, said once where it is the same for
    all; nothing of runs from before.
    """
    said: dict[str, list[str]] = {}
    for name, t in training.items():
        if "lora" in t:
            trained, left = t["lora"]["layers"], t["lora"]["left_out"]
            layers = ", ".join(f"{count:,} x {escaped(kind)}" for kind, count in trained.items())
            others = ", ".join(f"{escaped(what)} ({count:,} parameters)" for what, count in left.items())
            said.setdefault(f"LoRA (STUDENTS) was on {layers}. Left out: {others or 'nothing'}.", []).append(name)
        elif "left_as_it_is" in t:
            left = " and ".join(f"{escaped(what)} ({count:,} parameters)" for what, count in t["left_as_it_is"].items())
            said.setdefault(f"All weights (STUDENTS) were trained but {left or 'none'}.", []).append(name)
    return "".join(what.replace("STUDENTS", ", ".join(students), 1) + "\n\n" for what, students in said.items())


def _student_section(report: dict[str, Any]) -> str:
    if "students" not in report:
        return ""
    return f"""## All students

Tokens and seconds are what a student needed until it was trained, curation included, as if it had been trained alone
(stages that students share are counted for each); means over seeds. KL(base ‖ student), in nats per token, is measured
on unrelated text: how far training moved the student where it was not meant to.

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

[tokens.html](tokens.html) shows the solutions of the first pairs, each token in the colour of how much the hint changed
its prediction, before training and after. The table has the mean KL in nats per token, at temperature 1, on the pairs
that the student was trained on:

{pipes(table)}

![Mean KL by kind of token, before and after](token_kl.png)

"""
