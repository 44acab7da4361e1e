"""The cores and the memory that this process may use: within a container or a scheduler's job not all of them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

MEMORY = Path("/proc/meminfo")
GROUPS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


def cores() -> int:
    """The cores that this process may run on, or fewer where a control group has a quota of their time."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min((here, *_quotas()))


def free_memory() -> int | None:
    """Bytes that programs started here could still take, of the machine or of the tightest control group around, None
    where the system does not say.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(MEMORY), re.M)
    free = [1024 * int(found[1])] if found else []
    for folder in _groups("memory"):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        # Files that were read lately are counted as used, and leave when somebody needs their place.
        stat = _read(folder / "memory.stat")
        cached = re.search(r"^total_inactive_file (\d+)", stat, re.M) or re.search(r"^inactive_file (\d+)", stat, re.M)
        if limit.isdigit() and used.isdigit():  # "max": no limit
            free.append(max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0)))
    return min(free, default=None)


def _quotas() -> Iterator[int]:
    """Cores whose time a control group may take, for each group around that has a limit, rounded up."""
    for folder in _groups("cpu"):
        said = _read(folder / "cpu.max")
        said = said or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        if found := re.fullmatch(r"(\d+) (\d+)", said):  # "max" or -1: no limit
            yield max(1, math.ceil(int(found[1]) / int(found[2])))


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the control groups around this process that a controller holds, from the innermost outward.

    Version 2 has one tree for all controllers, version 1 one for each. A container may see its own group only, at the
    root of the tree, under a path of the machine outside that does not exist here.
    """
    for controllers, path in re.findall(r"^\d+:([^:]*):/(.*)$", _read(GROUPS), re.M):
        if not controllers or controller in controllers.split(","):
            root = MOUNTED / controller if controllers else MOUNTED
            group = root / path
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root) and folder.is_dir())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
