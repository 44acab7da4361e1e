"""The report's figures. Each function draws one PNG from plain rows and holds no statistics of its own.

All are transparent, with words and axes in a grey that can be read on white and on black, and no wider than a page
shows them (8.6 inches at 150 dots), so that their letters stay as large as the text around them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no screen is needed, and a notebook's own settings stay as they are
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ..recipe.methods import METHODS
from .tables import BOX

GREY, BLUE, ORANGE = "#9aa0a6", METHODS["ssb"].colour, METHODS["sft"].colour
INK, FAINT = "#7a828c", "#7a828c40"  # words and axes; the lines of a grid
OTHER = "#6b8595"  # a name that is no method's
COLOURS: dict[str, str] = {"base": GREY} | {str(name): method.colour for name, method in METHODS.items()}
WIDTH = 8.6  # inches of a figure with several panels
STYLE: Any = {  # matplotlib names each key in a type of its own
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "legend.labelcolor"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "axes.labelsize", "legend.fontsize"), 9),
    "axes.titlesize": 10,
    "ytick.major.size": 0,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
}
Row = Mapping[str, Any]
Asked = ParamSpec("Asked")


def _drawn(draw: Callable[Asked, tuple[Figure, Path]]) -> Callable[Asked, None]:
    """`draw` in the style of all figures, saved without a version in the file: the same data give the same bytes."""

    @functools.wraps(draw)
    def save(*args: Asked.args, **kwargs: Asked.kwargs) -> None:
        with rc_context(STYLE):
            figure, path = draw(*args, **kwargs)
            figure.savefig(path, metadata={"Software": ""})

    return save


@_drawn
def comparison(
    scores: Sequence[Row], path: Path, students: Sequence[Row] = (), titles: Mapping[str, str] | None = None
) -> tuple[Figure, Path]:
    """A panel for each benchmark and decoding: a line for each model, best mean over the panels first, the base dashed.

    A model with several seeds shows their mean, the interval of that mean, and a small point for each seed.

    Args:
        students: Rows with `model` and `method`: variants of a method have its colour, paler.
        titles: What benchmarks are called, where that is not their name.
    """
    methods = {row["model"]: row["method"] for row in students}
    rows = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
    best = _means(rows)
    models = sorted(best, key=lambda model: (-best[model], model))
    if len(models) > 1:
        models = [model for model in models if model != "base"]
    figure, panels = _panels(rows, models, titles or {})
    for axes, here in panels:
        shown = _averaged(here)
        if "base" in shown and "base" not in models:
            low, value, high = (100 * shown["base"][key] for key in ("low", "value", "high"))
            axes.axvspan(low, high, color=GREY, alpha=0.2, linewidth=0)
            axes.axvline(value, color=GREY, linestyle="--", linewidth=1.2)
            axes.annotate(
                f"{value:.1f}",
                (value, 1),
                (0, 2),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
            axes.set_title(axes.get_title(), pad=15)
        for y, model in enumerate(models):
            if model not in shown:
                continue
            value, low, high = (100 * shown[model][key] for key in ("value", "low", "high"))
            colour = COLOURS.get(methods.get(model, model), OTHER)
            axes.barh(y, value, height=0.66, color=colour, alpha=0.6 if model in COLOURS else 0.3)
            errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.errorbar(value, y, xerr=errors, color=INK, capsize=2.5, linewidth=1)
            seeds = [100 * s["value"] for s in here if s["model"] == model and s["seed"] is not None]
            if shown[model]["seed"] is None:  # one above the other a little: equal values stay visible
                heights = [y + 0.11 * (i - (len(seeds) - 1) / 2) for i in range(len(seeds))]
                axes.plot(seeds, heights, "o", color=colour, mec=INK, ms=3.5, mew=0.5, clip_on=False)
            axes.annotate(
                f"{value:.1f}",
                (1, y),
                (4, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_xlim(0, 100)
        axes.set_xticks(range(0, 101, 20))
    several = any(s["seed"] is None for s in rows)
    said = "mean over the seeds, and each; " if several else ""
    dashed = "" if "base" in models else "; dashed: base"
    figure.supxlabel(f"accuracy, % ({said}95 % interval over questions{dashed})", fontsize=9)
    return figure, path


@_drawn
def gains(
    differences: Sequence[Row], path: Path, free_words: str = BOX.free, titles: Mapping[str, str] | None = None
) -> tuple[Figure, Path]:
    """Each model's gain over the base in two: reasoning (gained in whatever form), and from its end on format (the
    rest), which so ends at the whole gain."""
    free = {_place(d): d for d in differences if (d["scoring"], d["reference"]) == ("format_free", "base")}
    rows = [d for d in differences if (d["scoring"], d["reference"]) == ("equivalent", "base")]
    best = _means(rows)
    models = sorted(best, key=lambda model: (-best[model], model))
    figure, panels = _panels(rows, models, titles or {}, sharex=True)
    for axes, here in panels:
        found = {d["model"]: d for d in here}
        places = [y for y, model in enumerate(models) if model in found]
        ordered = [found[models[y]] for y in places]
        whole = [100 * d["value"] for d in ordered]
        reasoning = [100 * free[_place(d)]["value"] for d in ordered]
        rest = [total - part for total, part in zip(whole, reasoning, strict=True)]
        errors = [
            [max(0.0, total - 100 * d["low"]) for total, d in zip(whole, ordered, strict=True)],
            [max(0.0, 100 * d["high"] - total) for total, d in zip(whole, ordered, strict=True)],
        ]
        axes.barh(places, reasoning, 0.62, color=BLUE, alpha=0.7, label=f"gain in reasoning (right, {free_words})")
        axes.barh(places, rest, 0.3, left=reasoning, color=ORANGE, label="gain in format (the rest)")
        style: dict[str, Any] = {"fmt": "D", "color": INK, "markersize": 3.5, "capsize": 2.5, "linewidth": 1}
        axes.errorbar(whole, places, xerr=errors, label="whole gain, 95 % interval", **style)
        axes.axvline(0, color=INK, linewidth=0.8)
    if panels:
        handles = panels[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=3)
    figure.supxlabel("accuracy minus the base's, points", fontsize=9)
    return figure, path


def _means(rows: Sequence[Row]) -> dict[str, float]:
    """Each model's mean value over benchmarks and decodings, of several seeds their mean."""
    values: dict[str, list[float]] = {}
    for kind in dict.fromkeys(map(_kind, rows)):  # in one order: sums differ in their last bits
        for model, row in _averaged([row for row in rows if _kind(row) == kind]).items():
            values.setdefault(model, []).append(row["value"])
    return {model: sum(found) / len(found) for model, found in values.items()}


def _averaged(rows: Sequence[Row]) -> dict[str, Row]:
    """Of rows of one benchmark and decoding each model's: the mean over seeds where there is one."""
    return {r["model"]: r for r in rows if r.get("seed") is not None} | {
        r["model"]: r for r in rows if r.get("seed") is None
    }


def _panels(
    rows: Sequence[Row], models: Sequence[str], titles: Mapping[str, str], sharex: bool = False
) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """A figure with axes for each benchmark and decoding, two a line, with a place for each model; and their rows."""
    kinds = list(dict.fromkeys(map(_kind, rows)))
    columns = min(2, len(kinds)) or 1
    lines = math.ceil(len(kinds) / columns) or 1
    size = (WIDTH if columns > 1 else 5.6, max(2.4, lines * (0.25 * len(models) + 0.9) + 0.5))
    figure = Figure(figsize=size)
    grid = list(figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=sharex).flat)
    panels = []
    for axes, kind in zip(grid, kinds, strict=False):
        here = [row for row in rows if _kind(row) == kind]
        counts = {row["n_questions"] for row in here if "n_questions" in row}
        axes.set_title(_title(kind, titles) + "".join(f", n = {n}" for n in sorted(counts)))
        axes.tick_params(labelbottom=True)
        panels.append((axes, here))
    grid[0].set_yticks(range(len(models)), models)
    grid[0].set_ylim(len(models) - 0.4, -0.6)
    for axes in grid[len(kinds) :]:  # a last place that no panel takes
        axes.set_axis_off()
    return figure, panels


def _kind(row: Row) -> tuple[str, float]:
    return row["benchmark"], row["temperature"]


def _title(kind: tuple[str, float], titles: Mapping[str, str]) -> str:
    return titles.get(kind[0], kind[0]) + (f", T = {kind[1]:g}" if kind[1] else ", greedy")


def _place(row: Row) -> tuple[str, str, float]:
    return row["model"], row["benchmark"], row["temperature"]


@_drawn
def training(histories: Mapping[str, Sequence[Row]], path: Path) -> tuple[Figure, Path]:
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
    lines = 2 if len(panels) == 4 else 1
    figure = Figure(figsize=(WIDTH if len(panels) > 2 else 6.4, 2.7 * lines))
    all_axes = list(figure.subplots(lines, len(panels) // lines, squeeze=False).flat)
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
        axes.set_title(f"({letter}) {title}")
        drawn = [value for line in axes.lines for value in line.get_ydata() if math.isfinite(value)]
        if len(histories) > 1 and key in ("loss", "grad_norm") and drawn and min(drawn) > 0:
            _logarithmic(axes, math.log10(max(drawn) / min(drawn)))
        else:
            axes.axhline(0, color="none")  # from 0, with the usual margin above
            axes.set_ylim(bottom=0)
    if len(histories) > 1:  # all methods have a gradient
        all_axes[1].legend(loc="best", ncols=2 if len(histories) > 3 else 1, fontsize=8)
    return figure, path


def _logarithmic(axes: Axes, decades: float) -> None:
    """A logarithmic y axis with a handful of labels, whatever its range."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1, 3) if decades < 4 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


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


@_drawn
def cost(
    scores: Sequence[Row], students: Sequence[Row], path: Path, titles: Mapping[str, str] | None = None
) -> tuple[Figure, Path]:
    """A line for each student: its accuracies, and beside them the tokens and seconds that it took.

    Means over seeds, accuracy with its 95 % interval, the base's dashed; a colour a method, the cheapest method first.
    Four panels a line.
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
    boxed = [s for s in scores if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
    kinds = list(dict.fromkeys(map(_kind, boxed)))
    columns = min(4, len(kinds) + 2)
    lines = math.ceil((len(kinds) + 2) / columns)
    figure = Figure(figsize=(WIDTH, lines * max(2.2, 0.22 * len(names) + 1.0)))
    all_axes = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for axes, kind in zip(all_axes, kinds, strict=False):
        here = _averaged([s for s in boxed if _kind(s) == kind])
        for y, name in enumerate(names):
            if name in here:
                value, low, high = (100 * here[name][key] for key in ("value", "low", "high"))
                errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
                axes.errorbar(
                    value, y, xerr=errors, fmt="o", color=colours[y], markersize=4.5, capsize=2, linewidth=1.2
                )
        if "base" in here:
            axes.axvline(100 * here["base"]["value"], color=GREY, linestyle="--", linewidth=1)
        axes.set_title(_title(kind, titles or {}), fontsize=9)
        asked = max(s["n_questions"] for s in boxed if _kind(s) == kind)
        axes.set_xlabel(f"accuracy, %, n = {asked:,}\n(95 % interval; dashed: base)", fontsize=8)
        axes.set_xlim(0, 100)
        axes.set_xticks(range(0, 101, 25))
        axes.grid()
    tokens, seconds = all_axes[len(kinds) : len(kinds) + 2]
    places = range(len(names))
    sampled, read, time = ([spent[name][i] for name in names] for i in range(3))
    tokens.barh(places, sampled, 0.66, color=colours, alpha=0.9)
    tokens.barh(places, read, 0.66, left=sampled, color=colours, alpha=0.4)
    tokens.set_title("tokens, with curation", fontsize=9)
    tokens.xaxis.set_major_locator(MaxNLocator(3))
    tokens.xaxis.set_major_formatter(lambda value, _: _short(value))
    tokens.set_xlabel("sampled (dark), read (pale)", fontsize=8)
    seconds.barh(places, time, 0.66, color=colours, alpha=0.6)
    seconds.set_title("time, with curation", fontsize=9)
    seconds.xaxis.set_major_locator(MaxNLocator(4))
    seconds.set_xlabel("seconds", fontsize=8)
    all_axes[0].set_yticks(places, names)
    all_axes[0].set_ylim(len(names) - 0.4, -0.6)
    for axes in all_axes[len(kinds) + 2 :]:
        axes.set_axis_off()
    return figure, path


def _short(value: float) -> str:
    """A number of tokens as an axis says it: 250k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


@_drawn
def curation(statistics: Mapping[str, int], path: Path) -> tuple[Figure, Path]:
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
    figure = Figure(figsize=(6.4, 2.9))
    axes = figure.subplots()
    names, values, colours = zip(*rows, strict=True)
    bars = axes.barh(range(len(rows)), values, color=colours, height=0.7)
    axes.bar_label(bars, labels=[f"{v:,}" for v in values], padding=4, fontsize=9)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(1, *values) * 1.12)
    axes.set_xlabel("questions")
    return figure, path


@_drawn
def token_kl(kinds: Sequence[Row], path: Path) -> tuple[Figure, Path]:
    """Mean KL to the teacher by kind of token, before and after training."""
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    places = range(len(kinds))
    for shift, key, label, colour in (
        (-0.2, "before", "before: KL(teacher ‖ base)", GREY),
        (0.2, "after", "after: KL(teacher ‖ student)", BLUE),
    ):
        bars = axes.bar([x + shift for x in places], [k[key] for k in kinds], 0.38, color=colour, label=label)
        said = [f"{k[key]:.2g}" if k[key] >= 0.001 else "≈ 0" for k in kinds]  # 2.4e-06 is wider than its bar
        axes.bar_label(bars, labels=said, padding=2, fontsize=8)
    axes.set_xticks(places, [f"{k['kind']}\n{k['tokens']:,} tokens" for k in kinds])
    axes.margins(y=0.12)
    axes.set_ylabel("mean KL per token, nats")
    axes.legend()
    return figure, path


def _smooth(values: Sequence[float], reach: int = 4) -> list[float]:
    """Mean over each step and its neighbours: unlike a running mean it does not lag behind a steep start."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
