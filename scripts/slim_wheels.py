"""Wheels that turn a bare CUDA machine into one where Unsloth loads a model and TRL, Liger and datasets import.

    python scripts/slim_wheels.py .whl        25 wheels, 25 MB, into a folder that goes along with the checkout

The machine has Python 3.12, torch, transformers, peft, accelerate, triton and numpy, and no network (`visit.sh`). The
wheels of slim_wheels.txt are the registry's own in the versions of constraints/gpu.txt, but for two that are stripped
of what is not needed there: Unsloth of its web interface, bitsandbytes of its builds for other CUDA versions. Without
bitsandbytes Unsloth imports and loads nothing. The folder also gets the commit, which the rows of results name.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PINS = HERE.parent / "constraints" / "gpu.txt"
STRIP: dict[str, Callable[[str], object]] = {
    "unsloth": lambda name: name.startswith(("studio/", "unsloth_cli/")),
    "bitsandbytes": lambda name: re.search(r"libbitsandbytes_(?!cpu|cuda130)\w+\.so", name),
}
MANYLINUX = ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "2010", "1")
THERE = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:"]
THERE += [word for version in MANYLINUX for word in ("--platform", f"manylinux{version}_x86_64")]


def strip(wheel: Path, unwanted: Callable[[str], object]) -> None:
    """Rewrite the wheel without the unwanted files, its RECORD too."""
    aside = wheel.with_suffix(".tmp")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        record = next(name for name in old.namelist() if name.endswith(".dist-info/RECORD"))
        rows = []
        for name in old.namelist():
            if name == record or unwanted(name):
                continue
            data = old.read(name)
            new.writestr(name, data, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(data)}")
        new.writestr(record, "\n".join([*rows, f"{record},,"]) + "\n")
    aside.replace(wheel)


def wanted() -> list[str]:
    """The requirements of slim_wheels.txt, each in the version of the GPU set where that has it."""
    names = [line.split("#")[0].strip() for line in (HERE / "slim_wheels.txt").read_text().splitlines()]
    pins = {line.partition("==")[0].lower(): line.split()[0] for line in PINS.read_text().splitlines() if "==" in line}
    return [pins.get(name.lower().replace("_", "-"), pins.get(name.lower(), name)) for name in names if name]


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    with tempfile.TemporaryDirectory() as aside:
        for name in wanted():
            if subprocess.run([*pip, "download", "-q", "--no-deps", "-d", aside, *THERE, name]).returncode:
                # a source distribution alone: built here
                subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", aside, name], check=True)
        for wheel in sorted(Path(aside).glob("*.whl")):
            package = wheel.name.split("-")[0]
            if package in STRIP:
                strip(wheel, STRIP[package])
            shutil.copy(wheel, out / wheel.name)
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    (out / "commit").write_text(described.stdout)
    wheels = list(out.glob("*.whl"))
    print(f"{len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.1f} MB in {out}")


if __name__ == "__main__":
    main()
