"""Writes the tables and the plots of docs/performance.md from the rows in benchmarks/results/.

    python -m benchmarks.report

Everything between the two markers in that file is made here, and only here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssb_unsloth.report import figures

from .common import RESULTS, check_row

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
PLOT = DOCUMENT.with_name("performance.png")
BEGIN = "<!-- what follows is written by `python -m benchmarks.report` -->"
END = "<!-- up to here -->"
Row = dict[str, Any]
UNKNOWN = "not yet measured"


def load(folder: Path = RESULTS) -> list[Row]:
    """The rows of all runs, checked: those of the benchmarks, and those within the lines of `gpu_checks.py`."""
    rows = []
    for path in sorted([*folder.glob("*/*.json"), *folder.glob("*/*.jsonl")]):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found = json.loads(text)
        else:
            found = [row for line in text.splitlines() for row in json.loads(line)["figures"].get("rows", [])]
        for row in found:
            try:
                check_row(row)
            except ValueError as error:
                raise SystemExit(f"{path}: {error}") from None
            rows.append({**row, "gpu": path.parent.name == "gpu", "run": path.name})
    return rows


def name_of(row: Row) -> str:
    return ":".join(filter(None, (row["contestant"], row.get("option"), row.get("divergence"))))


class Results:
    """Rows by what they measure."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def find(self, work: str, name: str | None = None, gpu: bool = False, **where: Any) -> list[Row]:
        """`name` is a contestant, or contestant:option."""
        return [
            row
            for row in self.rows
            if row["work"] == work
            and row["gpu"] == gpu
            and (name is None or name in (row["contestant"], name_of(row)))
            and all(row.get(key) == value for key, value in where.items())
        ]

    def fastest(self, work: str, name: str, gpu: bool = False, **where: Any) -> Row | None:
        rows = self.find(work, name, gpu, **where)
        return min(rows, key=lambda row: row["seconds"]["min"], default=None)


@dataclass(frozen=True)
class Target:
    """One line of what is to be reached. `value` gives the figure, or None where it has not been measured."""

    work: str
    goal: str
    value: Callable[[Results], float | None]
    met: Callable[[float], bool]
    text: str = "{:.2f}"
    more: Callable[[Results], str] = lambda _: ""


def seconds(row: Row) -> float | None:
    return row["seconds"]["min"]


def ratio(work: str, one: str, other: str, of: Callable[[Row], float | None] = seconds) -> Any:
    """A function from results to one's figure over the other's, by the smallest of several repeats; where both were
    measured at several sizes, the worst of these ratios."""

    def value(results: Results, gpu: bool = False, **where: Any) -> float | None:
        ratios = []
        for row in results.find(work, one, gpu, **where):
            size = {key: row.get(key) for key in ("run", "rows", "hidden", "vocabulary")}
            best, against = (results.fastest(work, name, gpu, **{**where, **size}) for name in (one, other))
            if best and against and of(best) is not None and of(against):
                ratios.append(of(best) / of(against))  # type: ignore[operator]
        return max(ratios, default=None)

    return value


def beside(work: str, one: str, other: str, **where: Any) -> Callable[[Results], str]:
    """The same ratio by medians and by CPU time: how far chance and other jobs may have moved it."""
    median = ratio(work, one, other, lambda r: r["seconds"]["median"])
    cpu = ratio(work, one, other, lambda r: r.get("cpu_seconds"))

    def text(results: Results) -> str:
        found = {"medians": median(results, **where), "CPU time": cpu(results, **where)}
        return ", ".join(f"{key} {value:.2f}" for key, value in found.items() if value is not None)

    return text


def linear(results: Results) -> float | None:
    """Ours: the largest relative distance of a time from the line a + b rows that fits them best."""
    import numpy as np

    rows = sorted((row["rows"], row["seconds"]["min"]) for row in results.find("kd-loss", "ours"))
    times = dict(reversed(rows))  # the fastest where a number of rows was measured twice
    if len(times) < 3:
        return None
    x, y = np.array(sorted(times)), np.array([times[n] for n in sorted(times)])
    line = np.polyval(np.polyfit(x, y, 1, w=1 / y), x)
    return float(np.abs(y / line - 1).max())


def growth(results: Results) -> float | None:
    """Ours: bytes for each row from 2,048 to 4,096, in units of one row of a float32 gradient."""
    rows = {row["rows"]: row for row in results.find("kd-loss", "ours") if row["peak_bytes"]}
    if not {2048, 4096} <= rows.keys():
        return None
    return (rows[4096]["peak_bytes"] - rows[2048]["peak_bytes"]) / 2048 / (4 * rows[2048]["hidden"])


def words_times_length(results: Results) -> float | None:
    """Ours: what twice the reply length costs more in memory at the large vocabulary than at a quarter of it, in bytes
    for each added row and word. A float32 tensor of rows by words would make it 4."""
    rows = sorted(results.find("train-step-memory", "ours"), key=lambda row: (row["vocabulary"], row["rows"]))
    if len(rows) != 4:
        return None
    small, small_long, large, large_long = rows
    more = (large_long["peak_bytes"] - large["peak_bytes"]) - (small_long["peak_bytes"] - small["peak_bytes"])
    return more / ((large_long["rows"] - large["rows"]) * (large["vocabulary"] - small["vocabulary"]))


def share(results: Results, gpu: bool = False) -> float | None:
    """The most that ours reaches of the machine's own speed, over the numbers of rows that all contestants ran at."""
    shares = []
    for row in results.find("kd-loss", "ours", gpu):
        same = {key: row.get(key) for key in ("run", "rows", "hidden", "vocabulary")}
        raw = results.fastest("kd-loss", "raw", gpu, **same)
        if raw and results.find("kd-loss", "liger", gpu, **same):
            shares.append(raw["seconds"]["min"] / row["seconds"]["min"])
    return max(shares, default=None)


def store(results: Results) -> float | None:
    row = results.fastest("targets-write", "ours:hidden")
    return None if row is None else row["bytes_per_token"] / (2 * row["hidden"]) - 1


def latest(rows: Sequence[Row]) -> list[Row]:
    """Those of the last day: what has been changed since an earlier one does not count as it was."""
    return [row for row in rows if row["date"] == max(row["date"] for row in rows)]


def on_gpu(function: Any) -> Callable[[Results], float | None]:
    """Of the last visit to a GPU that measured the loss."""
    return lambda results: function(Results(latest(results.find("kd-loss", gpu=True))), gpu=True)


def at(rows: int, function: Any) -> Callable[[Results], float | None]:
    return lambda results: function(results, rows=rows)


def gigabytes(results: Results) -> float | None:
    row = next(iter(results.find("train-step", "ours:hidden", True, geometry="3B", dtype="bfloat16")), None)
    return None if row is None or not row.get("total_bytes") else row["total_bytes"] / 1e9


DENSE, LIGER = ratio("kd-loss", "ours", "dense"), ratio("kd-loss", "ours", "liger")
MEMORY = ratio("kd-loss", "ours", "dense", lambda r: r["peak_bytes"])
ENGINE, LOOP = ratio("curate", "raw", "ours"), ratio("curate", "paper", "ours")
TARGETS = (
    Target(
        "loss + gradient, N 256, H 2048, V 151,936, fp32, CPU: ours / dense autograd",
        "at most 1.1",
        at(256, DENSE),
        lambda x: x <= 1.1,
        more=beside("kd-loss", "ours", "dense", rows=256),
    ),
    Target(
        "the same: ours / Liger's best",
        "at most 0.6",
        at(256, LIGER),
        lambda x: x <= 0.6,
        more=beside("kd-loss", "ours", "liger", rows=256),
    ),
    Target(
        "loss + gradient, bf16, GPU: ours / TRL's",
        "at most 0.65",
        on_gpu(ratio("kd-loss", "ours", "trl")),
        lambda x: x <= 0.65,
    ),
    Target("the same: ours / Liger's", "at most 0.65", on_gpu(LIGER), lambda x: x <= 0.65),
    Target("the same: ours / Unsloth's", "at most 1", on_gpu(ratio("kd-loss", "ours", "unsloth")), lambda x: x <= 1),
    Target("rows 64 to 4,096: time, distance from a line", "linear; here within 10 %", linear, lambda x: x <= 0.1),
    Target("memory at 2,048 rows: ours / dense", "at most 0.15", at(2048, MEMORY), lambda x: x <= 0.15),
    Target(
        "memory from 2,048 to 4,096 rows: growth, in rows of the [N, H] gradient",
        "constant but for the gradient; here at most 3",
        growth,
        lambda x: x <= 3,
    ),
    Target("share of a large matrix product's speed, CPU", "at least 0.8", share, lambda x: x >= 0.8),
    Target("the same, GPU", "at least 0.7", on_gpu(share), lambda x: x >= 0.7),
    Target("store: bytes a token above 2 H", "at most 1 %", store, lambda x: x <= 0.01, "{:.2%}"),
    Target(
        "train step, 0.1 B, CPU: ours / chunked cross-entropy + head product",
        "at most 1.15",
        ratio("train-step", "ours:hidden", "raw"),
        lambda x: x <= 1.15,
        more=beside("train-step", "ours:hidden", "raw"),
    ),
    Target(
        "train step: bytes for each row and word (4 = one float32 tensor)",
        "independent of V x S; here at most 0.4",
        words_times_length,
        lambda x: x <= 0.4,  # a tenth of one float32 tensor: resident memory comes in pages, and wavers by some MB
        "{:.3f}",
    ),
    Target(
        "curation of the pocket: speed of `LLM.generate` that ours reaches",
        "at least 0.9",
        ENGINE,
        lambda x: x >= 0.9,
        more=beside("curate", "raw", "ours"),
    ),
    Target("curation: times as fast as one request after another", "at least 20", LOOP, lambda x: x >= 20, "{:.0f}"),
    Target(
        "`ssb --help`, seconds",
        "at most 0.3",
        lambda results: (results.fastest("startup", "ours") or {"seconds": {"min": None}})["seconds"]["min"],
        lambda x: x <= 0.3,
    ),
    Target("3B geometry, batch 4, bf16, GPU: peak in GB", "at most 12", gigabytes, lambda x: x <= 12, "{:.1f}"),
    Target(
        "the same: how many times faster than the paper's way",
        "at least 1.5",
        lambda results: ratio("train-step", "paper", "ours:hidden")(results, gpu=True),
        lambda x: x >= 1.5,
    ),
)
TITLES = {
    "kd-loss": "Loss and gradient",
    "kd-divergence": "Loss and gradient of each divergence",
    "targets-write": "Writing targets",
    "targets-read": "Reading targets",
    "teacher-pass": "Teacher pass",
    "train-step": "Training step",
    "train-step-memory": "Training step: memory against vocabulary and length",
    "curate": "Curation",
    "problems": "Reading problems",
    "memory": "Memory by questions",
    "replicas": "Spreading over replicas",
    "startup": "Start",
}


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


def target_table(results: Results) -> list[str]:
    body = []
    for target in TARGETS:
        value = target.value(results)
        shown = UNKNOWN if value is None else target.text.format(value)
        beside = "" if value is None else target.more(results)
        verdict = "" if value is None else "met" if target.met(value) else "**missed**"
        body.append((target.work, target.goal, shown, beside, verdict))
    return table(("work", "to reach", "measured", "by", ""), body)


def work_tables(results: Results) -> list[str]:
    lines: list[str] = []
    for gpu in (False, True):
        for work, title in TITLES.items():
            rows = results.find(work, gpu=gpu)
            lines += ["", f"### {title}{', GPU' if gpu else ''}"] if rows else []
            for group in _by_visit(rows) if gpu else filter(None, [rows]):
                lines += ["", *_conditions(group), "", *_rows_table(group)]
    return lines


def _by_visit(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each card and day, the last first: they are not to be compared with each other."""
    visits: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        visits.setdefault((row["date"], row["device"]), []).append(row)
    return [visits[visit] for visit in sorted(visits, reverse=True)]


def _conditions(rows: Sequence[Row]) -> list[str]:
    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(str(row[key]) for row in rows))

    load = max((row.get("load") or 0.0 for row in rows), default=0.0)
    busy = f"; other processes kept up to {load:.1f} cores busy meanwhile" if load >= 0.1 else ""
    device = f"{all_of('device')}, {all_of('dtype')}, threads: {all_of('threads')}"
    return [f"{device}; {all_of('date')}, commit {all_of('commit')}{busy}."]


def _rows_table(rows: Sequence[Row]) -> list[str]:
    extras = {
        "bytes_per_token": ("bytes a token", "{:,.0f}"),
        "pairs_per_second": ("pairs/s", "{:.2f}"),
        "tokens_per_second": ("tokens/s", "{:,.0f}"),
        "replicas": ("replicas", "{:,}"),
        "replies_per_second": ("replies/s", "{:,.0f}"),
        "gradient_apart": ("gradient from first", "{:.0e}"),
        "total_bytes": ("GB in all", "{:.1f}"),
    }
    used = {key: value for key, value in extras.items() if any(row.get(key) is not None for row in rows)}
    unit, scale, digits = ("ms", 1e3, 2) if max(row["seconds"]["max"] for row in rows) < 1 else ("s", 1.0, 3)
    head = ["contestant", "rows", "H", "V", *(f"{which} {unit}" for which in ("min", "median", "max", "CPU"))]
    head += ["/ ours", "peak MiB"]
    body = []
    for row in rows:
        same = [r for r in rows if all(r.get(key) == row.get(key) for key in ("rows", "divergence"))]
        ours = next((r for r in same if r["contestant"] == "ours"), None)
        times = None if ours is None else row["seconds"]["min"] / ours["seconds"]["min"]
        cells = [name_of(row) + (" (extrapolated)" if row.get("extrapolated") else ""), f"{row['rows']:,}"]
        cells += [f"{row['hidden']:,}", f"{row['vocabulary']:,}"]
        seconds = [row["seconds"][key] for key in ("min", "median", "max")] + [row.get("cpu_seconds")]
        cells += ["" if taken is None else f"{scale * taken:,.{digits}f}" for taken in seconds]
        cells += ["" if times is None else f"{times:.2f}"]
        cells += ["" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f}"]
        for key, (_, form) in used.items():
            value = row.get(key)
            cells.append("" if value is None else form.format(value / 1e9 if key == "total_bytes" else value))
        body.append(cells)
    return table([*head, *(label for label, _ in used.values())], body)


def section(rows: Sequence[Row]) -> str:
    """The generated part of the document."""
    results = Results(rows)
    lines = ["", "## Against what was to be reached", "", *target_table(results), "", f"![the loss]({PLOT.name})", ""]
    lines += ["## All rows", *work_tables(results), ""]
    return "\n".join(lines)


def with_section(document: str, rows: Sequence[Row]) -> str:
    """The document with its generated part made anew."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{DOCUMENT.name}: the markers {BEGIN} and {END} are not both there.")
    return before + BEGIN + "\n" + section(rows) + "\n" + END + after


def line_of(row: Row) -> str:
    """The line that a row belongs to: its contestant, which may have been tried with chunks of several sizes."""
    option = str(row.get("option") or "")
    return row["contestant"] + (f", {option}" if option.isalpha() else "")


LINES = {  # of the plot: colour, marker, name
    "ours": (figures.BLUE, "o", "ours"),
    "unsloth": (figures.ORANGE, "s", "Unsloth's JSD"),
    "trl": ("#c2609a", "^", "TRL, chunked"),
    "trl, dense": ("#c2609a", "v", "TRL, dense"),
    "liger": ("#2a9d8f", "D", "Liger"),
    "dense": (figures.GREY, "P", "dense autograd"),
    "paper": (figures.GREY, "X", "the paper's code"),
    "ours, torch": (figures.BLUE, ".", "ours, plain torch"),
    "raw": (figures.INK, "_", "matrix products alone"),
}


def plot(rows: Sequence[Row], path: Path = PLOT) -> None:
    """Time and memory of the loss against the number of rows, on both scales logarithmic; one line a contestant."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    results = Results(rows)
    machines = [found for found in (results.find("kd-loss"), latest(results.find("kd-loss", gpu=True))) if found]
    if not machines:
        return
    with rc_context(figures.STYLE):
        figure = Figure(figsize=(figures.WIDTH, 3.6 * len(machines)))
        axes = figure.subplots(len(machines), 2, squeeze=False)
        for pair, found in zip(axes, machines, strict=True):
            for name in sorted(set(map(line_of, found)), key=list(LINES).index):
                same = sorted((row for row in found if line_of(row) == name), key=lambda row: row["rows"])
                best = {row["rows"]: row for row in same}
                colour, marker, label = LINES[name]
                style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 5, "label": label}
                style |= {"lw": 2.5 if name == "ours" else 1.2, "ls": "--" if name in ("raw", "ours, torch") else "-"}
                pair[0].plot(list(best), [1000 * row["seconds"]["min"] for row in best.values()], **style)
                peaks = {n: row["peak_bytes"] / 2**20 for n, row in best.items() if row["peak_bytes"]}
                if peaks:
                    pair[1].plot(list(peaks), list(peaks.values()), **style)
            for axis, quantity in zip(pair, ("milliseconds", "peak memory above the inputs, MiB"), strict=True):
                axis.set(xscale="log", yscale="log", xlabel="rows (reply tokens)", ylabel=quantity)
                axis.set_title(f"loss + gradient, {found[0]['device']}, {found[0]['dtype']}")
                ticks = sorted({row["rows"] for row in found})
                axis.set_xticks(ticks, [f"{n:,}" for n in ticks], minor=False)
                axis.set_xticks([], minor=True)
                axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
                axis.yaxis.set_minor_formatter(NullFormatter())
                axis.grid(axis="y")
            pair[0].set_ylim(top=4 * pair[0].get_ylim()[1])  # room for the legend
            pair[0].legend(ncols=2, fontsize=8, loc="upper left")
        figure.savefig(path, metadata={"Software": ""})


def main() -> None:
    rows = load()
    DOCUMENT.write_text(with_section(DOCUMENT.read_text(encoding="utf-8"), rows), encoding="utf-8")
    plot(rows)
    print(f"Written: {DOCUMENT} and {PLOT}.")


if __name__ == "__main__":
    main()
