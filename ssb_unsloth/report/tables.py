"""The tables of a report, from the plain rows of scores.json: they serve any set of models and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation.stats import wilson
from ..io.markdown import Markdown
from ..io.terminal import WIDTH
from ..published import TABLE_1

Row = Mapping[str, Any]


Table = list[list[str]]  # the first row is the head


@dataclass(frozen=True)
class Words:
    """What an answer's form is called: a box where mathematics alone is asked, else no such thing."""

    answer: str  # what carries it
    free: str  # the loosest scoring: right with it or without
    none: str  # replies that have none


BOX = Words("the box", "box or not", "no box")
FORM = Words("the answer", "in any form", "no answer")


def words_for(benchmarks: Mapping[str, Row]) -> Words:
    """By the benchmarks as reports describe them, which name a verifier where it is another than the mathematical."""
    return FORM if any("verifier" in benchmark for benchmark in benchmarks.values()) else BOX


def score_table(scores: Sequence[Row], differences: Sequence[Row] = (), words: Words = BOX) -> Table:
    """Every model with its three scorings; of several seeds the mean, the standard deviation and each seed's value.

    Where `differences` against the base are given, each gain stands beside its model, and what is not significant
    (Holm, over all rows of that scoring) is marked.
    """
    boxed = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
    others = {(*_place(s), s["seed"], s["scoring"]): s["value"] for s in scores if s["metric"] == "pass@1"}
    gains = {_place(d): d for d in differences if (d["scoring"], d["reference"]) == ("equivalent", "base")}
    several = {_place(s) for s in boxed if s["seed"] is None}
    head = ["benchmark", "decoding", "model", "accuracy", "95 % interval"]
    head += ["against base"] * bool(gains) + ["equal as string", words.free, words.none, "cut off"]
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


def small_table(scores: Sequence[Row], differences: Sequence[Row]) -> Table:
    """What a reader looks for first: every model's accuracy with its interval, and what it gained over the base."""
    table = score_table(scores, differences)
    columns = table[0].index("equal as string")  # and what follows it
    return [row[:columns] for row in table]


def small_lines(scores: Sequence[Row], differences: Sequence[Row]) -> list[str]:
    """The small table for a terminal. Where names make it too wide for one, benchmark and decoding stand in lines of
    their own, above their models.
    """
    table = small_table(scores, differences)
    lines = plain(table)
    if max(map(len, lines)) > WIDTH:
        lines = [f"  {line}" for line in plain([row[2:] for row in table])]
        places = [row[:2] for row in table]
        for number in range(len(table) - 1, 0, -1):
            if places[number] != places[number - 1]:
                lines.insert(number, ", ".join(places[number]))
    if any(row[-1].endswith("n.s.") for row in table):
        lines += ["", "n.s.: not significant, by the tests in report.md"]
    return lines


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
    """Each gain over the base split in two: what is gained in whatever form (reasoning), and the rest (format)."""
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
        for model, (right, n) in TABLE_1.get(benchmark or "", {}).items():
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


def student_table(rows: Sequence[Row]) -> list[list[str]]:
    """Means over seeds, a line for each name; the first line is the head."""
    table = [["model", "method", "seeds", "steps", "tokens sampled", "tokens read", "seconds", "KL(base ‖ student)"]]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        drifts = [row["drift"] for row in own if row["drift"] is not None]
        table.append(
            [
                name,
                own[0]["method"],
                str(len(own)),
                f"{_mean([row['steps'] for row in own]):.0f}",
                *(f"{_mean([row[key] for row in own]):,.0f}" for key in ("sampled", "read", "seconds")),
                f"{_mean(drifts):.4f}" if drifts else "not measured",
            ]
        )
    return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
