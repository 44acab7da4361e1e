"""The report's figures. Each function draws one PNG from plain rows and holds no statistics of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no screen is needed, and a notebook's own settings stay as they are
from matplotlib.ticker import MaxNLocator

from ..recipe.methods import METHODS
from .tables import BOX

GREY, BLUE, ORANGE, RED = "#9aa0a6", "#1f6fb4", "#e08214", "#c0392b"
OTHER = "#56707f"  # a name that is no method's
COLOURS: dict[str, str] = {"base": GREY} | {str(name): method.colour for name, method in METHODS.items()}
PNG: dict[str, Any] = {
    "dpi": 150,
    "metadata": {"Software": ""},
}  # no version in the file: the same data give the same bytes


def comparison(scores: Sequence[Mapping[str, Any]], path: Path, students: Sequence[Mapping[str, Any]] = ()) -> None:
    """A panel for each benchmark and decoding: models from best to worst, accuracy with its 95 % interval.

    A model with several seeds shows their mean, the interval of that mean, and a small point for each seed.

    Args:
        students: Rows with `model` and `method`: variants of a method have its colour, paler.
    """
    methods = {row["model"]: row["method"] for row in students}
    rows = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
    figure, panels = _panels(rows)
    for axes, here in panels:
        averaged = {s["model"] for s in here if s["seed"] is None}
        shown = [s for s in here if s["seed"] is None or s["model"] not in averaged]
        shown.sort(key=lambda s: (-s["value"], s["model"]))
        for y, s in enumerate(shown):
            value, low, high = (100 * s[key] for key in ("value", "low", "high"))
            colour = COLOURS.get(methods.get(s["model"], s["model"]), OTHER)
            axes.barh(y, value, height=0.66, color=colour, alpha=0.5 if s["model"] in COLOURS else 0.25)
            errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(value, y, xerr=errors, color="black", capsize=3, linewidth=1)
            points = [100 * o["value"] for o in here if o["model"] == s["model"] and o["seed"] is not None]
            if s["seed"] is None:  # one above the other a little: equal values stay visible
                heights = [y + 0.11 * (i - (len(points) - 1) / 2) for i in range(len(points))]
                axes.plot(points, heights, "o", color=colour, mec="black", ms=4.5, mew=0.6, clip_on=False)
            right = max(high, *points)
            axes.annotate(f"{value:.1f}", (right, y), (5, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(range(len(shown)), [s["model"] for s in shown])
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 20))
    figure.supxlabel("accuracy, % (95 % interval)", fontsize=9)
    _finish(figure, [axes for axes, _ in panels], path)


def gains(differences: Sequence[Mapping[str, Any]], path: Path, free_words: str = BOX.free) -> None:
    """Each model's gain over the base in two: reasoning (gained in whatever form) and format (the rest)."""
    free = {_place(d): d for d in differences if (d["scoring"], d["reference"]) == ("format_free", "base")}
    rows = [d for d in differences if (d["scoring"], d["reference"]) == ("equivalent", "base")]
    figure, panels = _panels(rows)
    for axes, here in panels:
        here.sort(key=lambda d: (-d["value"], d["model"]))
        whole = [100 * d["value"] for d in here]
        reasoning = [100 * free[_place(d)]["value"] for d in here]
        rest = [total - part for total, part in zip(whole, reasoning, strict=True)]
        errors = [
            [max(0.0, total - 100 * d["low"]) for total, d in zip(whole, here, strict=True)],
            [max(0.0, 100 * d["high"] - total) for total, d in zip(whole, here, strict=True)],
        ]
        axes.barh(
            [y - 0.17 for y in range(len(here))], reasoning, 0.32, color=BLUE, label=f"reasoning: gained {free_words}"
        )
        axes.barh([y + 0.17 for y in range(len(here))], rest, 0.32, color=ORANGE, label="format: the rest")
        style: dict[str, Any] = {"fmt": "D", "color": "black", "markersize": 4, "capsize": 3, "linewidth": 1}
        axes.errorbar(whole, range(len(here)), xerr=errors, label="whole gain, 95 % interval", **style)
        axes.set_yticks(range(len(here)), [d["model"] for d in here])
        axes.axvline(0, color="black", linewidth=0.8)
    if panels:
        handles = panels[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", frameon=False, ncols=3, fontsize=8)
    figure.supxlabel("accuracy minus the base's, points", fontsize=9)
    _finish(figure, [axes for axes, _ in panels], path)


def _panels(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, list[tuple[Axes, list[Mapping[str, Any]]]]]:
    """A figure with axes for each benchmark and decoding, two a line and high enough for all models, and their rows."""
    kinds = sorted({(row["benchmark"], row["temperature"]) for row in rows})
    models = len({row["model"] for row in rows})
    columns = min(2, len(kinds)) or 1
    lines = math.ceil(len(kinds) / columns) or 1
    size = (5.2 * columns + 0.4, max(3.0, lines * (0.32 * models + 1.15) + 0.6))
    figure = Figure(figsize=size, layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    panels = []
    for axes, (benchmark, temperature) in zip(grid, kinds, strict=False):
        axes.set_title(f"{benchmark}, " + (f"T = {temperature:g}" if temperature else "greedy"), fontsize=10)
        axes.set_ylim(models - 0.4, -0.6)
        panels.append(
            (axes, [row for row in rows if (row["benchmark"], row["temperature"]) == (benchmark, temperature)])
        )
    for axes in grid[len(kinds) :]:  # a last place that no panel takes
        axes.set_axis_off()
    return figure, panels


def _place(row: Mapping[str, Any]) -> tuple[str, str, float]:
    return row["model"], row["benchmark"], row["temperature"]


def training(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """The panels of the paper's Figure 2: loss, gradient norm, completion length (here the student's own); and GRPO's
    reward. A line for each method; a length or reward that nobody measured has no panel.

    GRPO's loss is left out: it is close to 0 at every step, whatever is learned. Losses and gradients of several
    methods lie orders of magnitude apart, so their axes are logarithmic then.
    """
    panels = [
        ("loss", "loss", "training loss"),
        ("grad_norm", "gradient norm", "gradient norm"),
        ("reply_tokens", "tokens", "length of the student's own\ngreedy replies, held-out questions"),
        ("reward", "share of right rollouts", "GRPO's reward"),
    ]
    measured = {"loss", "grad_norm"} | {key for history in histories.values() for row in history for key in row}
    panels = [panel for panel in panels if panel[0] in measured]
    rewarded = {method for method, history in histories.items() if any("reward" in row for row in history)}
    figure = Figure(figsize=(11 * len(panels) / 3, 3.2), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for letter, axes, (key, label, title) in zip("abcd", all_axes, panels, strict=False):
        for number, (method, history) in enumerate(histories.items()):
            points = [
                (row["step"], row[key]) for row in history if key in row and (key, method in rewarded) != ("loss", True)
            ]
            if points:
                width = 2 if len(histories) == 1 else 2.8 - 0.4 * number  # a line under another one stays visible
                _curve(axes, points, COLOURS.get(method, OTHER), method, width, len(histories) > 1)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set_ylabel(label)
        axes.set_title(f"({letter}) {title}", fontsize=10)
        drawn = [value for line in axes.lines for value in line.get_ydata()]
        if len(histories) > 1 and key in ("loss", "grad_norm") and drawn and min(drawn) > 0:
            axes.set_yscale("log")
        else:
            axes.axhline(0, color="none")  # from 0, with the usual margin above
            axes.set_ylim(bottom=0)
    if len(histories) > 1:
        figure.legend(*all_axes[1].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    _finish(figure, all_axes, path)


def _curve(
    axes: Axes, points: Sequence[tuple[int, float]], colour: str, label: str, width: float, smooth_only: bool
) -> None:
    """Few points as they are; many as a faint line under a smoothed one, or as that alone."""
    steps, values = zip(*points, strict=True)
    if len(points) < 30:
        axes.plot(steps, values, color=colour, linewidth=width, marker="o", markersize=width + 2, label=label)
        return
    if not smooth_only:
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.45)
    axes.plot(steps, _smooth(values), color=colour, linewidth=width, label=label)


def cost(scores: Sequence[Mapping[str, Any]], students: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A line for each student: its accuracies, and beside them the tokens and seconds that it took.

    Means over seeds, accuracy with its 95 % interval, the base's dashed; a colour a method, the cheapest method first.
    """
    spent = {
        name: [
            sum(row[key] for row in students if row["model"] == name) / sum(row["model"] == name for row in students)
            for key in ("sampled", "read", "seconds")
        ]
        for name in dict.fromkeys(row["model"] for row in students)
    }
    methods = {row["model"]: row["method"] for row in students}
    total = {name: sampled + read for name, (sampled, read, _) in spent.items()}
    names = sorted(spent, key=lambda name: min(total[other] for other in spent if methods[other] == methods[name]))
    colours = [COLOURS[methods[name]] for name in names]
    places = range(len(names))
    boxed = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
    kinds = sorted({(s["benchmark"], s["temperature"]) for s in boxed})
    size = 2.1 * len(kinds) + 6.4, max(2.6, 0.27 * len(names) + 1.4)
    figure = Figure(figsize=size, layout="constrained")
    widths = [2] * len(kinds) + [3, 2]
    all_axes = list(figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths).flat)
    for axes, kind in zip(all_axes, kinds, strict=False):
        here = {s["model"]: s for s in boxed if (s["benchmark"], s["temperature"]) == kind and s["seed"] is not None}
        here |= {s["model"]: s for s in boxed if (s["benchmark"], s["temperature"]) == kind and s["seed"] is None}
        for y, name in enumerate(names):
            if name in here:
                value, low, high = (100 * here[name][key] for key in ("value", "low", "high"))
                errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
                axes.errorbar(value, y, xerr=errors, fmt="o", color=colours[y], markersize=5, capsize=2, linewidth=1.2)
        if "base" in here:
            axes.axvline(100 * here["base"]["value"], color=GREY, linestyle="--", linewidth=1)
        axes.set_title(f"{kind[0]}, " + (f"T = {kind[1]:g}" if kind[1] else "greedy"), fontsize=9)
        axes.set_xlabel("accuracy, % (dashed: base)", fontsize=9)
        axes.set_xlim(-4, 104)
        axes.set_xticks(range(0, 101, 25))
        axes.grid(color="#e3e5e7", linewidth=0.8)
        axes.set_axisbelow(True)
    tokens, seconds = all_axes[-2:]
    sampled, read, time = ([spent[name][i] for name in names] for i in range(3))
    tokens.barh(places, sampled, 0.66, color=colours, alpha=0.85)
    tokens.barh(places, read, 0.66, left=sampled, color=colours, alpha=0.35)
    tokens.set_title("tokens: sampled (dark), read (pale)", fontsize=9)
    tokens.xaxis.set_major_locator(MaxNLocator(4))
    tokens.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    tokens.set_xlabel("tokens on the way to the adapter", fontsize=9)
    seconds.barh(places, time, 0.66, color=colours, alpha=0.5)
    seconds.set_title("time", fontsize=9)
    seconds.set_xlabel("seconds", fontsize=9)
    all_axes[0].set_yticks(places, names)
    all_axes[0].set_ylim(len(names) - 0.4, -0.6)
    _finish(figure, all_axes, path)


def curation(statistics: Mapping[str, int], path: Path) -> None:
    """From questions to pairs, and where the others went."""
    s = statistics
    rows = [
        ("questions sampled", s["questions"], BLUE),
        ("only wrong rollouts", s["all_wrong"], GREY),
        ("only right rollouts", s["all_right"], GREY),
        ("right and wrong: mixed", s["mixed"], BLUE),
        ("refinement sampled", s["refined"], BLUE),
        ("refinement right", s["accepted"], BLUE),
        ("kept as pairs", s["pairs"], ORANGE),
    ]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    names, values, colours = zip(*rows, strict=True)
    bars = axes.barh(range(len(rows)), values, color=colours, height=0.7)
    axes.bar_label(bars, labels=[f"{v:,}" for v in values], padding=4, fontsize=9)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(1, *values) * 1.12)
    axes.set_xlabel("questions")
    _finish(figure, [axes], path)


def token_kl(kinds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Mean KL to the teacher by kind of token, before and after training."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    places = range(len(kinds))
    for shift, key, label, colour in (
        (-0.2, "before", "before: KL(teacher ‖ base)", GREY),
        (0.2, "after", "after: KL(teacher ‖ student)", BLUE),
    ):
        bars = axes.bar([x + shift for x in places], [k[key] for k in kinds], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.2g", padding=2, fontsize=8)
    axes.set_xticks(places, [f"{k['kind']}\n{k['tokens']:,} tokens" for k in kinds])
    axes.margins(y=0.12)
    axes.set_ylabel("mean KL a token, nats")
    axes.legend(frameon=False)
    _finish(figure, [axes], path)


def _smooth(values: Sequence[float], reach: int = 4) -> list[float]:
    """Mean over each step and its neighbours: unlike a running mean it does not lag behind a steep start."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _finish(figure: Figure, all_axes: Sequence[Axes], path: Path) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    figure.savefig(path, **PNG)
