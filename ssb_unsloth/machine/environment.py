"""What the processes of a run find in their environment, and what is compiled on their way.

`prepare` is called before anything heavy is imported: by the command `ssb`, of which every stage is a call, and by what
starts vLLM from Python. Standard library only.

vLLM and FlashInfer compile parts of themselves when they first run: Triton's kernels by a C compiler (which everything
on a GPU needs), FlashInfer's by nvcc. The second is asked for nowhere by default: README names no CUDA toolkit.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..recipe.schema import SamplerConfig

WITHOUT_FLASHINFER = {  # what to set so that a part of vLLM does without it
    "its attention": "sampler.attention_backend=FLASH_ATTN",
    "its sampler": "VLLM_USE_FLASHINFER_SAMPLER=0",
}
VLLM = {  # read when vllm is imported; what the user has set wins
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; CPU build only
    "VLLM_NO_USAGE_STATS": "1",
    # vLLM warms its sampler up with requests that have no seed, and on Ampere and newer compiles FlashInfer's for them.
    # Ours have seeds, for which it takes its own sampler.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
# CUDA numbers the fastest card first, nvidia-smi by their places: the card that is looked at is to be the one used.
CUDA_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
WSL_PROGRAMS = "/usr/lib/wsl/lib"  # where Windows lends its driver to Linux; not always on PATH
CUDA = "/usr/local/cuda"  # where FlashInfer looks last
FLASHINFER_FROM = (8, 0)  # compute capability: vLLM 0.31 and 0.32 use it on nothing older
# The oldest nvcc that compiles for a card, by the major number of its compute capability (CUDA's release notes; 12.9
# for 12 is FlashInfer's own bound, 0.7.0).
NVCC = {12: (12, 9), 10: (12, 8), 9: (12, 0), 8: (11, 8)}

TOOLKIT = "install the compiler (`sudo apt install cuda-toolkit-13-0 g++`, from NVIDIA's repository)"


def prepare() -> None:
    """vLLM's settings, cards numbered as nvidia-smi does, and the environment's own programs (ninja) on PATH, as if it
    had been activated.
    """
    for name, value in {**VLLM, **CUDA_ORDER}.items():
        os.environ.setdefault(name, value)
    programs, path = str(Path(sys.prefix) / "bin"), os.environ.get("PATH", "")
    if programs not in path.split(os.pathsep):
        os.environ["PATH"] = f"{programs}{os.pathsep}{path}" if path else programs


def wsl() -> bool:
    """Whether this is Linux within Windows, as vLLM tells it."""
    return "microsoft" in " ".join(platform.uname()).lower()


def by_flashinfer(
    config: SamplerConfig, capability: tuple[int, int] | None, env: Mapping[str, str] = os.environ
) -> list[str]:
    """The parts of vLLM that FlashInfer will compile on a card, under settings without `auto`."""
    if capability is None or capability < FLASHINFER_FROM:
        return []
    parts = ["its attention"] * (config.attention_backend == "FLASHINFER")
    return parts + ["its sampler"] * (env.get("VLLM_USE_FLASHINFER_SAMPLER") == "1")


def missing_for_flashinfer(capability: tuple[int, int] | None) -> str:
    """What FlashInfer lacks here to compile for such a card, as a phrase; "" where it can, or has nothing to compile.

    It is looked for where FlashInfer looks (0.7.0, jit/cpp_ext.py).
    """
    if find_spec("flashinfer_jit_cache") is not None:  # its kernels, compiled by NVIDIA
        return ""
    nvcc = _nvcc()
    if nvcc is None:
        return "there is no nvcc (in CUDA_HOME, on PATH, or in /usr/local/cuda)"
    needed = NVCC.get(capability[0], (0, 0)) if capability else (0, 0)
    have = _release(nvcc)
    if have is None:
        return f"{nvcc} does not say its version"
    if have < needed:
        return f"{nvcc} is of CUDA {have[0]}.{have[1]}, and this card needs {needed[0]}.{needed[1]} or newer"
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return f"there is no {compiler}, a C++ compiler"
    return "" if _which("ninja") else "there is no ninja"


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    given = os.environ.get("FLASHINFER_NVCC")
    if home is None and given is None:
        found = shutil.which("nvcc")
        home = str(Path(found).parent.parent) if found else CUDA
    return shutil.which(given or f"{home}/bin/nvcc")


def _which(program: str) -> str | None:
    """On PATH as `prepare` leaves it."""
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.prefix) / "bin"))


def _release(nvcc: str) -> tuple[int, int] | None:
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"release (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None
