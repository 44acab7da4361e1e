"""The report's figures. Each function draws one PNG from plain rows and holds no statistics of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no screen is needed, and a notebook's own settings stay as they are

GREY, BLUE, ORANGE, RED = "#9aa0a6", "#1f6fb4", "#e08214", "#c0392b"
COLOURS = {"base": GREY, "ssb": BLUE}
PNG: dict[str, Any] = {
    "dpi": 150,
    "metadata": {"Software": ""},
}  # no version in the file: the same data give the same bytes


def accuracy(scores: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bars of base and student with their 95 % intervals, a group for each benchmark and decoding."""
    groups = sorted({(s["benchmark"], s["temperature"]) for s in scores})
    models = list(dict.fromkeys(s["model"] for s in scores))
    figure = Figure(figsize=(max(5.0, 1.7 * len(groups) + 1), 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(models)
    for m, model in enumerate(models):
        for g, group in enumerate(groups):
            for s in scores:
                if s["model"] == model and (s["benchmark"], s["temperature"]) == group:
                    x = g + (m - (len(models) - 1) / 2) * width
                    value, low, high = (100 * s[key] for key in ("value", "low", "high"))
                    axes.bar(x, value, width * 0.92, color=COLOURS.get(model, ORANGE), label=model if g == 0 else None)
                    errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
                    axes.errorbar(x, value, yerr=errors, color="black", capsize=3, linewidth=1)
                    axes.annotate(
                        f"{value:.0f}", (x, high), (0, 3), textcoords="offset points", ha="center", fontsize=8
                    )
    labels = [f"{name}\n" + (f"T = {t:g}" if t else "greedy") for name, t in groups]
    axes.set_xticks(range(len(groups)), labels)
    axes.set_ylim(0, 105)
    axes.set_ylabel("accuracy, % (95 % interval)")
    axes.legend(frameon=False, loc="upper right", ncols=len(models))
    _finish(figure, [axes], path)


def training(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The panels of the paper's Figure 2: loss, gradient norm, completion length (here the student's own)."""
    panels = (("loss", "loss (Eq. 6)", BLUE), ("grad_norm", "gradient norm", ORANGE), ("reply_tokens", "tokens", GREY))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    all_axes = figure.subplots(1, 3)
    for axes, (key, label, colour) in zip(all_axes, panels, strict=True):
        points = [(row["step"], row[key]) for row in history if key in row]
        if points:
            steps, values = zip(*points, strict=True)
            few = len(points) < 30
            axes.plot(
                steps,
                values,
                color=colour,
                linewidth=1.6 if few else 0.7,
                alpha=1 if few else 0.45,
                marker="o" if few else None,
            )
            if not few:
                axes.plot(steps, _smooth(values), color=colour, linewidth=2)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(label)
        axes.axhline(0, color="none")  # from 0, with the usual margin above
        axes.set_ylim(bottom=0)
    all_axes[0].set_title("(a) training loss", fontsize=10)
    all_axes[1].set_title("(b) gradient norm", fontsize=10)
    all_axes[2].set_title("(c) length of the student's own\ngreedy replies, held-out questions", fontsize=10)
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
