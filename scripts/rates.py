"""A tuning run as one table and one figure: accuracy of each way of training at each learning rate.

The students of such a run are named WAY-RATE (ssb-2e-3); the recipe's own is called by its way alone, and its rate is
the recipe's. `scripts/evidence.py` calls this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = re.compile(r"(?P<way>.+)-(?P<rate>\d+e-\d+)")
COLUMNS = 4  # panels in a row of the figure: 900 pixels on a page
Rates = dict[str, dict[float, dict[str, float]]]  # way to learning rate to benchmark to accuracy


def by_rate(scores: Sequence[Mapping[str, Any]], own: float) -> tuple[Rates, dict[str, float]]:
    """Accuracies of all ways at all rates, and the base's by benchmark. `own`: the rate of the recipe's own student."""
    ways: Rates = {}
    base: dict[str, float] = {}
    for score in scores:
        if (score["scoring"], score["metric"]) != ("equivalent", "pass@1"):
            continue
        if score["model"] == "base":
            base[score["benchmark"]] = score["value"]
            continue
        found = NAME.fullmatch(score["model"])
        way, rate = (found["way"], float(found["rate"])) if found else (score["model"], own)
        ways.setdefault(way, {}).setdefault(rate, {})[score["benchmark"]] = score["value"]
    return ways, base


def table(scores: Sequence[Mapping[str, Any]], own: float) -> list[list[str]]:
    """A line a way, a column a rate: its accuracy on each benchmark in turn; an arrow at the best by their mean."""
    ways, base = by_rate(scores, own)
    rates = sorted({rate for found in ways.values() for rate in found})
    lines = [[", ".join(base) + ": accuracy, %", *map(_rate, rates)], ["base", *[_cell(base)] * len(rates)]]
    for way, found in ways.items():
        best = max(found, key=lambda rate: sum(found[rate].values()))
        cells = [_cell(found[rate]) if rate in found else "" for rate in rates]
        lines.append([way, *(f"> {cell}" if rate == best else cell for rate, cell in zip(rates, cells, strict=True))])
    return lines


def figure(scores: Sequence[Mapping[str, Any]], own: float, path: Path) -> None:
    """A panel a way: accuracy over the learning rate, a line a benchmark, the base's dashed."""
    from matplotlib import rc_context

    from ssb_unsloth.report.figures import STYLE

    with rc_context(STYLE):
        _figure(scores, own).savefig(path, metadata={"Software": ""})


def _figure(scores: Sequence[Mapping[str, Any]], own: float) -> Any:
    from matplotlib.figure import Figure

    from ssb_unsloth.report.figures import BLUE, ORANGE, WIDTH

    ways, base = by_rate(scores, own)
    rates = sorted({rate for found in ways.values() for rate in found})
    lines = math.ceil(len(ways) / COLUMNS)
    drawn = Figure(figsize=(WIDTH, 1.7 * lines + 0.7))
    grid = list(drawn.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (way, found) in zip(grid, ways.items(), strict=False):
        for benchmark, colour in zip(base, (BLUE, ORANGE), strict=True):
            own_rates = sorted(found)
            values = [100 * found[rate][benchmark] for rate in own_rates]
            axes.plot(own_rates, values, "o-", color=colour, markersize=4, linewidth=1.6, label=benchmark)
            axes.axhline(100 * base[benchmark], color=colour, linestyle="--", linewidth=1)
        axes.set_title(way)
        axes.set_xscale("log")
        axes.set_xticks(rates, [_rate(rate) for rate in rates], fontsize=8)
        axes.set_xticks([], minor=True)
        axes.set_ylim(0, 100)
        axes.grid()
    for axes in grid[len(ways) :]:
        axes.set_axis_off()
    drawn.supxlabel("learning rate", fontsize=9)
    drawn.supylabel("accuracy, % (dashed: base)", fontsize=9)
    drawn.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return drawn


def _cell(accuracy: Mapping[str, float]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in accuracy.values())


def _rate(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")
