"""Make .venv with exactly the packages of constraints/cpu.txt, and this package, editable. Run by `make setup`.

    python3 scripts/setup.py         # what a run needs
    python3 scripts/setup.py tests   # and constraints/dev.txt: what tests and checks need besides
    python3 scripts/setup.py gpu     # constraints/gpu.txt into .venv-gpu; `make reproduce` asks for it

uv does the work: the one on PATH, else one that pip puts into the environment. It asks where pip is told to ask.
Run again, there is nothing to do unless a set, pyproject.toml or the Python has changed. No byte code is made: the
first import does it, of less than half of all files. This file runs on Python 3.6 too, to say that it will not do.
"""

import ast
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETS = ROOT / "constraints"
PYTHONS = ("3.11", "3.12", "3.13")
LEAST_UV = (0, 8)
NETWORK = "Behind a proxy set HTTPS_PROXY; for a mirror of the package index set pip's index-url."
DISK_GB = {"cpu": 4, "tests": 7, "gpu": 20}  # twice what is then there: uv keeps what it has unpacked
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# What pip may be told, the variables by which uv is, and what stands between several values there.
AS_UV_HAS_IT = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "proxy": ("HTTPS_PROXY HTTP_PROXY", " "),
}


def main(wanted: str = "cpu") -> Path:
    """Make the environment, or what has changed of it; returns its folder. What tests need stays once it is there."""
    began, venv = time.time(), folder(wanted)
    stamp = venv / "ssb-setup.txt"  # what it was made from, written when it is whole
    made = stamp.read_text().split() if stamp.exists() else []
    names = ["gpu"] if wanted == "gpu" else ["cpu", "dev"] if wanted == "tests" or "dev" in made else ["cpu"]
    files = [SETS / f"{name}.txt" for name in names]
    marks = [*names, digest([*files, ROOT / "pyproject.toml"])]
    if made == marks and usable(venv, find_python()):
        print(f"The environment {venv.name} is up to date.")
        return venv
    if not made and shutil.disk_usage(str(ROOT)).free < DISK_GB[wanted] * 1e9:
        stop(f"{venv.name} takes about {DISK_GB[wanted]} GB of disk while it is made, and less is free here.")
    pip = environment(venv)
    if made and stamp.exists():
        stamp.unlink()
    if wanted != "gpu":
        pip.torch_for_cpus()
    pip("sync", *map(str, files), "-", text="-e .")
    if wanted == "gpu":
        pip.torch_for_gpus()
    else:
        pip.torch_with_cuda()
    stamp.write_text("\n".join(marks) + "\n")
    print(f"The environment {venv.name} is ready, in {time.time() - began:.0f} seconds.")
    return venv


def folder(wanted: str) -> Path:
    return ROOT / (".venv-gpu" if wanted == "gpu" else ".venv")


def environment(venv: Path) -> "Pip":
    """The environment as it is, or a new one where there is none that can be used; with uv for it."""
    python, uv = find_python(), find_uv()
    if python is None and uv is None:
        stop(
            f"SSB needs Python 3.11, 3.12 or 3.13, and this is {platform.python_version()} ({sys.executable}): install"
            " one of them, or name it, as in `make setup PYTHON=/path/to/python3.12`; or install uv, which brings one."
        )
    if not usable(venv, python):
        print(f"Making {venv.name}.", flush=True)
        make(venv, python, uv)
    return Pip(uv or own_uv(venv), venv)


class Pip:
    """`uv pip` in an environment, told what pip is told there."""

    def __init__(self, uv: str, venv: Path) -> None:
        self._uv, self._python = uv, str(venv / "bin" / "python")
        self.packages = next(venv.glob("lib/python3*/site-packages"))
        self._options = as_pip_is_told(self._python)

    def __call__(self, command: str, *words: str, text: str = "", needed: bool = True) -> None:
        """Run it in sight; `text` is its standard input. Ends this program if it fails, unless it is not needed."""
        whole = [self._uv, "pip", command, "--python", self._python, *self._options, *words]
        done = subprocess.run(whole, cwd=str(ROOT), input=text.encode())
        if done.returncode and needed:
            stop(f"The packages could not be installed; the lines above say why. {NETWORK} Then do the same again.")

    def torch_for_cpus(self) -> None:
        """The CPU build of torch. The registry's own for Linux is a CUDA build; PyTorch's index has the other."""
        if sys.platform != "linux":
            print(f"vLLM has no build for {platform.system()}: sampling will use transformers.")
        elif not self._has_torch("+cpu") and "--no-index" not in self._options and answers(TORCH_CPU_INDEX + "/torch/"):
            self("install", "--no-deps", "--default-index", TORCH_CPU_INDEX, pin_of("torch"), needed=False)

    def torch_with_cuda(self) -> None:
        """What the CUDA build of torch needs to load, should it be that one: no CPU build was found."""
        if sys.platform == "linux" and not self._has_torch("+cpu"):
            print("No CPU build of torch was found: the CUDA build comes with its libraries, some 3 GB.", flush=True)
            self("install", "--constraints", str(SETS / "gpu.txt"), pin_of("torch"))

    def torch_for_gpus(self) -> None:
        """The registry's own build, where pip is told of a place that has one for CPUs: that counts as newer."""
        if self._has_torch("+cpu"):
            self("install", "--no-deps", pin_of("torch").replace("==", "==="))

    def _has_torch(self, build: str) -> bool:
        return any(self.packages.glob(f"torch-*{build}.dist-info"))


def stop(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(2)


def output(*command: str, seconds: "float | None" = None) -> str:
    """What a command prints; nothing if it fails, or takes longer than that."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode() if done.returncode == 0 else ""


def answers(url: str, seconds: float = 4) -> bool:
    """Whether a web page can be had within that time, the look-up of its host's name included."""
    code = f"import urllib.request; print(urllib.request.urlopen({url!r}).status)"
    return bool(output(sys.executable, "-c", code, seconds=seconds))


def find_python() -> "str | None":
    """A Python that the sets are made for: this one, else the newest on PATH."""
    own = getattr(sys, "_base_executable", sys.executable)  # not that of .venv, should it be the active one
    found = [own] if "{}.{}".format(*sys.version_info) in PYTHONS else []
    found += [shutil.which(f"python{version}") for version in reversed(PYTHONS)]
    return next((python for python in found if identity(python)), None)


def identity(python: "str | Path | None") -> "str | None":
    """Which Python it is, in an environment the one under it; None if it does not start."""
    code = "import os, sys; print(sys.version, os.path.realpath(sys.base_prefix))"
    return output(str(python), "-c", code) or None if python else None


def find_uv() -> "str | None":
    """The uv on PATH, unless it is too old."""
    version = re.match(r"uv (\d+)\.(\d+)", output("uv", "--version"))
    return "uv" if version and tuple(map(int, version.groups())) >= LEAST_UV else None


def usable(venv: Path, python: "str | None") -> bool:
    """Whether it stands where it was made, as its commands are written for, and is one of that Python, which starts."""
    activate, own = venv / "bin" / "activate", identity(venv / "bin" / "python")
    return activate.exists() and str(venv) in activate.read_text() and bool(own) and identity(python) in (None, own)


def digest(files: list) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def make(venv: Path, python: "str | None", uv: "str | None") -> None:
    """An empty environment. uv needs no help from Python's own module, and brings a Python where there is none."""
    shutil.rmtree(str(venv), ignore_errors=True)
    if uv:
        command = [uv, "venv", "--quiet", "--python", python or ">=3.11,<3.14"]
    else:
        assert python is not None
        command = [python, "-m", "venv"]
        if not output(python, "-c", "import ensurepip, venv; print('both')"):
            name = "python{}-venv".format(".".join(platform.python_version_tuple()[:2]))
            stop(
                "This Python lacks the module venv, which SSB needs: install it (Debian and Ubuntu:"
                f" apt install {name}), or install uv."
            )
    if subprocess.call([*command, str(venv)]):
        stop(f"{venv.name} could not be made; the lines above say why.")


def own_uv(venv: Path) -> str:
    """uv, put into the environment by its pip."""
    uv = venv / "bin" / "uv"
    quietly = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    if not uv.exists() and subprocess.call([str(venv / "bin" / "pip"), "install", *quietly, pin_of("uv")]):
        stop(f"uv could not be installed; the lines above say why. {NETWORK}")
    return str(uv)


def pin_of(package: str) -> str:
    """Its line in the CPU set."""
    lines = [line for name in ("cpu", "dev") for line in (SETS / f"{name}.txt").read_text().splitlines()]
    return next(line for line in lines if line.startswith(f"{package}=="))


def as_pip_is_told(python: str) -> list:
    """Tell uv of the indexes, certificates and proxy that pip is configured with; returns what can only be an option.

    In the process's environment, where what is set for uv itself wins.
    """
    listed = output(python, "-m", "pip", "config", "list") or output(sys.executable, "-m", "pip", "config", "list")
    told = {}
    for section in ("global", "install"):
        for name, value in re.findall(rf"(?m)^{section}\.([\w-]+)=(.+)$", listed):
            told[name] = ast.literal_eval(value)
    told.update({n[4:].lower().replace("_", "-"): v for n, v in os.environ.items() if n.startswith("PIP_") and v})
    told.setdefault("timeout", told.get("default-timeout", "180"))
    os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # all indexes are looked through, as pip does
    for name, (variables, between) in AS_UV_HAS_IT.items():
        for variable in variables.split() if told.get(name) else ():
            os.environ.setdefault(variable, between.join(told[name].split()))
    return ["--no-index"] if told.get("no-index", "").lower() in ("1", "true", "yes", "on") else []


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        stop("\nStopped. The same command starts again.")
