"""Put the GPU set of packages into a notebook's own environment, as on Colab. Run by notebooks/02_colab_t4.ipynb.

A hosted notebook comes with packages of its own, some of them imported already. So this keeps the numpy and pillow that
are there, imports neither torch nor anything else that it replaces, and says whether the runtime has to be restarted.

    python scripts/colab.py [--dry-run]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints" / "gpu.txt"
KEPT = ("numpy", "pillow")  # compiled against by much of what the notebook has imported before its first cell
PYTHONS = ((3, 11), (3, 12))


def name_of(requirement: str) -> str:
    """The package that a requirement or a constraint is about, in the one spelling used here."""
    return re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


def pins(lines: Iterable[str], roots: Iterable[str]) -> dict[str, str]:
    """Package to exact version, for the roots and all that they need; a line's `# via` says who needs it."""
    version: dict[str, str] = {}
    needed_by: dict[str, list[str]] = {}
    for line in lines:
        pin, _, via = line.partition("#")
        if "==" in pin and not re.search("darwin|win32|aarch64|arm64", pin.partition(";")[2]):
            version[name_of(pin)] = pin.partition(";")[0].partition("==")[2].strip()
            needed_by[name_of(pin)] = [name_of(who) for who in via.replace("via ", "", 1).split(",")]
    wanted, grew = {name_of(root) for root in roots} & set(version), True
    while grew:
        more = {name for name, parents in needed_by.items() if wanted & set(parents)} - wanted
        wanted, grew = wanted | more, bool(more)
    return {name: version[name] for name in version if name in wanted}


def roots() -> list[str]:
    """What the package needs on a GPU; not what its tests and checks need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["gpu"]]


def installed() -> dict[str, str]:
    return {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions()}


def to_install(wanted: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """What differs from what is there, but for the packages that are kept."""
    return {
        name: version
        for name, version in wanted.items()
        if there.get(name) != version and not (name in KEPT and name in there)
    }


def replaced_and_imported(changes: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Packages that are replaced although this Python has imported them already."""
    top = {module.partition(".")[0] for module in modules}
    owners = metadata.packages_distributions()
    used = {owner.lower().replace("_", "-") for module in top for owner in owners.get(module, ())}
    return sorted(used & set(changes))


def install(modules: Sequence[str] = (), dry_run: bool = False) -> str:
    """Install what is missing; returns what the user should know. `modules`: those that the notebook has imported."""
    if sys.version_info[:2] not in PYTHONS:
        return f"Python {sys.version.split()[0]}: this package needs 3.11 or 3.12. Choose another runtime version."
    if "torch" in modules:
        return "torch is imported already: restart the runtime, and run this cell before any other."
    changes = to_install(pins(LOCK.read_text(encoding="utf-8").splitlines(), roots()), installed())
    conflicts = replaced_and_imported(changes, modules)
    if not dry_run:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.writelines(f"{name}=={version}\n" for name, version in changes.items())
            file.flush()
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, "-r", file.name], check=True)
            subprocess.run([*pip, "--no-build-isolation", "-e", str(ROOT)], check=True)
    told = f"{len(changes)} packages {'to install' if dry_run else 'installed'}; kept: {', '.join(KEPT)}."
    if conflicts:
        return (
            f"{told} Restart the runtime now (Runtime, Restart session), then run all cells again: these had been"
            f" imported before they were replaced: {', '.join(conflicts)}."
        )
    return f"{told} No restart is needed: every stage runs in a process of its own."


if __name__ == "__main__":
    print(install(dry_run="--dry-run" in sys.argv))
