"""The machine's card as nvidia-smi shows it, and what a recipe's `auto` becomes on a card.

Standard library only, because it is asked before anything heavy is installed or imported.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .cards import Card, known_as
from .environment import WSL_PROGRAMS

if TYPE_CHECKING:
    from ..recipe.schema import CardConfig

OLDEST = (7, 5)  # compute capability: CUDA 13 compiles for nothing older (Turing; the T4)
# Oldest driver by the major version of CUDA that torch was compiled for (NVIDIA, "CUDA Compatibility", table 1).
DRIVERS = {"13": (580,), "12": (525,)}


@dataclass(frozen=True)
class Found:
    """What nvidia-smi says: the cards that a program started here would see, or why there are none."""

    cards: tuple[Card, ...]
    problem: str = ""  # a sentence; "" with cards
    broken: bool = False  # there is a card or a driver, and it does not answer


_FIELDS = "index,uuid,name,memory.total,memory.free,driver_version"
_NEWER_FIELDS = ",compute_cap,mig.mode.current"  # which drivers before 510 do not know
_PART_BYTES = 0.95  # of what a part's name says: 4,864 MiB of a 1g.5gb


def find_cards(seconds: float = 20) -> Found:
    """Ask nvidia-smi, which comes with the driver, for this machine's cards; CUDA_VISIBLE_DEVICES hides some or all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return Found((), "CUDA_VISIBLE_DEVICES is set to none, which hides every GPU.")
    answer, program = "", shutil.which("nvidia-smi") or f"{WSL_PROGRAMS}/nvidia-smi"
    for fields in (_FIELDS + _NEWER_FIELDS, _FIELDS):
        try:
            done = subprocess.run(
                [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except (FileNotFoundError, PermissionError):
            return Found((), "There is no NVIDIA GPU here, or its driver is not installed (no nvidia-smi).")
        except subprocess.TimeoutExpired:
            return Found((), f"nvidia-smi does not answer within {seconds:.0f} seconds: the driver hangs.", broken=True)
        answer = (done.stdout + done.stderr).strip()
        if done.returncode == 0:
            break
    else:
        if "No devices were found" in answer:
            return Found((), "The NVIDIA driver is installed, and it finds no GPU.", broken=True)
        said = answer.splitlines()[0] if answer else f"exit code {done.returncode}"
        return Found((), f"nvidia-smi fails: {said.rstrip('.')}.", broken=True)
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
    rows = [row for row in rows if row[0].isdigit() and len(row) >= len(_FIELDS.split(","))]  # the rest are warnings
    if not rows:
        said = f"; it says: {answer.splitlines()[0].rstrip('.')}" if answer else ""
        return Found((), f"nvidia-smi lists no GPU{said}.", broken=True)
    if any(row[-1] == "Enabled" for row in rows):
        rows = _with_parts(rows, program, seconds)
        if not rows:
            return Found((), "The GPU is in MIG mode, and has no part that a program could use.", broken=True)
    cards = [_card(*row[2:8]) for row in _visible(rows, visible)]
    if not cards:
        return Found((), f"CUDA_VISIBLE_DEVICES={visible} names no GPU that nvidia-smi lists.", broken=True)
    return Found(tuple(cards))


def _visible(rows: list[list[str]], visible: str | None) -> list[list[str]]:
    """The rows (index, uuid, ...) that CUDA_VISIBLE_DEVICES leaves, in its order."""
    if visible is None:
        return rows
    wanted = [word.strip() for word in visible.split(",") if word.strip()]
    return [r for word in wanted for r in rows if word == r[0] or r[1].startswith(word)]


def _with_parts(rows: list[list[str]], program: str, seconds: float) -> list[list[str]]:
    """The rows with the parts (MIG) of a card in its place: a program has one of them, and never the whole.

    How much memory a part has, its name says; how much of that is free, nothing does.
    """
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=seconds).stdout
    except subprocess.TimeoutExpired:
        listed = ""
    parts: dict[str, list[tuple[str, str]]] = {}
    card = ""
    for line in listed.splitlines():
        found = re.match(r"GPU .*UUID: ([^)]+)\)|\s+MIG (\S+) .*UUID: ([^)]+)\)", line)
        if found and found[1]:
            card = found[1]
        elif found:
            parts.setdefault(card, []).append((found[2], found[3]))
    seen = []
    for row in rows:
        if row[-1] != "Enabled":
            seen.append(row)
            continue
        for name, uuid in parts.get(row[1], []):
            size = re.search(r"(\d+)gb", name)
            memory = str(int(_PART_BYTES * 1024 * int(size[1]))) if size else ""
            seen.append([row[0], uuid, f"{row[2]} MIG {name}", memory, "", *row[5:]])
    return seen


def _card(name: str, total: str, free: str, driver: str, capability: str = "", mig: str = "") -> Card:
    memory = int(total) if total.isdigit() else 0
    known = known_as(name, memory)
    parts = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return Card(
        name=name,
        memory_mib=memory or (known.memory_mib if known else 0),
        capability=(int(parts[1]), int(parts[2])) if parts else known.capability if known else None,
        tflops=known.tflops if known else None,
        bandwidth=known.bandwidth if known else None,
        source=known.source if known else "",
        free_mib=int(free) if free.isdigit() else None,
        driver=driver,
    )


def torch_build() -> tuple[str, str | None] | None:
    """(version, CUDA version or None for a CPU build) of the torch that is installed, without importing it."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__ = ['\"](.+?)['\"]", text, re.M)
    cuda = re.search(r"^cuda\b.*= ['\"](.+?)['\"]", text, re.M)
    return version[1] if version else "?", cuda[1] if cuda else None


@functools.cache
def here() -> Card | None:
    """The card that a stage started here would compute on, None where that is the CPU. Asked once a process."""
    build = torch_build()
    if build is not None and build[1] is None:
        return None
    cards = find_cards().cards
    return cards[0] if cards else None


def stated(card: Card | None, config: CardConfig) -> Card | None:
    """The card with the speeds that the recipe states for it."""
    if card is None or (config.tflops is None and config.bandwidth is None):
        return card
    return replace(
        card,
        tflops=config.tflops or card.tflops,
        bandwidth=config.bandwidth or card.bandwidth,
        source="the recipe's card.tflops and card.bandwidth",
    )


# -- What `auto` becomes ----------------------------------------------------------------------------------------------


def check_cards(tensor_parallel: int) -> None:
    """Raises UserError where the model is to be split over more cards than there are."""
    count = len(find_cards().cards) if tensor_parallel > 1 else 1
    if tensor_parallel > count:
        there = f"{count} card{'s' * (count > 1)}" if count else "no card"
        raise UserError(
            f"sampler.tensor_parallel: {tensor_parallel}, and this process sees {there} (CUDA_VISIBLE_DEVICES counts);"
            f" set it to {max(count, 1)}, or take a smaller model."
        )
