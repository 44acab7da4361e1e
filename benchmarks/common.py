"""What all benchmarks share: how contestants are timed, what a row of results holds, and where it is kept.

Contestants are functions that do the same work once. They are timed in turn, round after round, in one process, so
that whatever else the machine does falls on all of them. A contestant is named `name` or `name:option`; the first part
is one of CONTESTANTS, and `raw` is the yardstick: the least that the machine could need.

A row has the keys of ROW, and more where a benchmark has more to say. Beside them stand `cpu_seconds` (the least of one
repeat, all threads) and `load`: how many cores others kept busy while the row was measured (null where /proc is not).
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ssb_unsloth.io.progress import hush

RESULTS = Path(__file__).parent / "results"
CONTESTANTS = ("ours", "dense", "trl", "liger", "unsloth", "paper", "raw")
ROW: dict[str, tuple[type, ...]] = {
    "work": (str,),
    "contestant": (str,),
    "device": (str,),
    "dtype": (str,),
    "rows": (int,),
    "hidden": (int,),
    "vocabulary": (int,),
    "threads": (int,),
    "seconds": (dict,),
    "peak_bytes": (int, type(None)),
    "commit": (str,),
    "date": (str,),
}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Times:
    """What the repeats of one contestant took, in seconds, and what else the machine did meanwhile, in cores."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    load: float | None = None

    def scaled(self, factor: float) -> Times:
        return Times([factor * t for t in self.wall], [factor * t for t in self.cpu], self.load)


def parser(doc: str | None, dtype: str = "float32", repeats: int = 3) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    hush()
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    result.add_argument("--dtype", choices=DTYPES, default=dtype)
    result.add_argument("--threads", type=int, default=torch.get_num_threads())
    result.add_argument("--repeats", type=int, default=repeats)
    result.add_argument("--no-memory", action="store_true", help="skip the peak memory")
    result.add_argument("--out", type=Path, help="default: a file in benchmarks/results/")
    result.add_argument("--measure-peak", metavar="NAME", help=argparse.SUPPRESS)
    return result


def timed(function: Callable[[], Any], device: str) -> tuple[float, float, Any]:
    """Wall seconds (on a GPU by its own events), CPU seconds of this process and its children, and what came back."""
    synchronize(device)
    cpu, start = _cpu_seconds(), time.perf_counter()
    if device == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        value = function()
        last.record()
        synchronize(device)
        return first.elapsed_time(last) / 1000, _cpu_seconds() - cpu, value
    value = function()
    return time.perf_counter() - start, _cpu_seconds() - cpu, value


def in_turn(
    contestants: Mapping[str, Callable[[], Any]], repeats: int, device: str, before: Callable[[], Any] = lambda: None
) -> dict[str, Times]:
    """Each contestant once, then each again, `repeats` times. `before` runs before each, and is not timed."""
    times = {name: Times() for name in contestants}
    others = Others()
    for _ in range(repeats):
        gc.collect()  # once a round: with Unsloth's and TRL's modules loaded it takes as long as a contestant
        for name, function in contestants.items():
            before()
            wall, cpu, _ = timed(function, device)
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
    load = others.cores()
    for each in times.values():
        each.load = load
    return times


def row(
    work: str,
    name: str,
    times: Times,
    args: argparse.Namespace,
    *,
    rows: int,
    hidden: int,
    vocabulary: int,
    peak_bytes: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One row of results. `rows`: the rows, tokens or requests that one repeat works through."""
    contestant, _, option = name.partition(":")
    return {
        "work": work,
        "contestant": contestant,
        "option": option or None,
        "device": device_name(args.device),
        "dtype": args.dtype,
        "rows": rows,
        "hidden": hidden,
        "vocabulary": vocabulary,
        "threads": torch.get_num_threads(),
        "seconds": {"min": min(times.wall), "median": statistics.median(times.wall), "max": max(times.wall)},
        "cpu_seconds": min(times.cpu),
        "repeats": len(times.wall),
        "peak_bytes": peak_bytes,
        **more,
        "load": times.load,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def check_row(found: Mapping[str, Any]) -> None:
    """Raise ValueError where a row is not as the head of this file says."""
    for key, kinds in ROW.items():
        if key not in found or not isinstance(found[key], kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{key}: expected {names}, found {found.get(key, 'nothing')!r} in {dict(found)}.")
    if found["contestant"] not in CONTESTANTS:
        raise ValueError(f"contestant: expected one of {', '.join(CONTESTANTS)}, found {found['contestant']!r}.")
    seconds = found["seconds"]
    if set(seconds) != {"min", "median", "max"} or not 0 < seconds["min"] <= seconds["median"] <= seconds["max"]:
        raise ValueError(f"seconds: expected 0 < min <= median <= max, found {seconds}.")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"]):
        raise ValueError(f"date: expected YYYY-MM-DD, found {found['date']!r}.")


def save(results: Sequence[Mapping[str, Any]], name: str, args: argparse.Namespace) -> Path:
    """Write one run: a JSON list, one row a line."""
    for each in results:
        check_row(each)
    path: Path = args.out or RESULTS / ("gpu" if args.device == "cuda" else "cpu") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(each) for each in results) + "\n]\n", encoding="utf-8")
    print(f"Written to {path}.", flush=True)
    return path


def show(results: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each row."""
    for each in results:
        name = ":".join(filter(None, (each["contestant"], each.get("option"), each.get("divergence"))))
        memory = "" if each["peak_bytes"] is None else f"{each['peak_bytes'] / 2**20:9,.0f} MiB"
        seconds = "".join(f"{each['seconds'][key]:10.3f}" for key in ("min", "median", "max"))
        load = "" if not each.get("load") else f"  (others: {each['load']:.1f} cores)"
        print(f"{each['work']:14} {name:24} {each['rows']:7,} rows {seconds} s {memory}{load}", flush=True)


# ---- memory


def peak_of(function: Callable[[], Any], device: str) -> int:
    """Bytes that the function needs at most above what is there before it. On a CPU: of resident memory."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
    before = _resident("VmRSS")
    function()
    return _resident("VmHWM") - before


def peak_in_fresh_process(module: str, options: Mapping[str, Any], name: str) -> Peak | None:
    """The same on a CPU, by `python -m MODULE --measure-peak NAME ...`, which calls `print_peak`: what a process did
    before leaves its allocator in a state that hides memory. None where it cannot be told."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", module, f"--measure-peak={name}"]
    for key, value in options.items():
        command += [f"--{key}", *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)])]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if run.returncode:
        raise SystemExit(f"Measuring the memory of {name} failed:\n{run.stderr}")
    return Peak(**json.loads(run.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Peak:
    bytes: int
    wall: float  # seconds of the one step that was measured
    cpu: float


def print_peak(function: Callable[[], Any]) -> None:
    """What a process that was started to measure memory prints."""
    wall, cpu, peak = timed(lambda: peak_of(function, "cpu"), "cpu")
    print(json.dumps({"bytes": peak, "wall": wall, "cpu": cpu}))


def _resident(key: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


# ---- the machine


class Others:
    """How many cores are busy with anything but this process, from when this is made until it is asked."""

    def __init__(self) -> None:
        self._start = (self._busy(), _cpu_seconds(), time.perf_counter())

    def cores(self) -> float | None:
        busy, own, now = self._start
        if busy is None:
            return None
        found = self._busy()
        assert found is not None
        return max(0.0, round((found - busy - (_cpu_seconds() - own)) / (time.perf_counter() - now), 2))

    @staticmethod
    def _busy() -> float | None:
        """Seconds that all cores have worked since the start, or have been taken by the host of a virtual machine."""
        path = Path("/proc/stat")
        if not path.exists():
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, path.read_text().split("\n")[0].split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _cpu_seconds() -> float:
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu ({names[0]}, {os.cpu_count()} cores)" if names else "cpu"


def commit() -> str:
    """SSB_COMMIT where the checkout came without its history (`visit.sh`), else as git describes it."""
    if told := os.environ.get("SSB_COMMIT"):
        return told
    command = ["git", "describe", "--always", "--dirty"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return "unknown"
    return run.stdout.strip() or "unknown"
