"""A manifest seals a finished folder: what determined its content, and the hash and size of every file that came out.

    key     digest of `determined_by`: the recipe's part, the seed, the ids of what was read
    id      digest of the key and of all files' hashes: what those that read the folder keep of it
    seal    digest of all the rest, so that the manifest vouches for itself

A manifest is its canonical text, byte for byte; one that has been edited or damaged is none any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UserError
from ..io.limits import cores
from ..io.progress import bar

FORMAT = 3  # of what the stages write; a change makes every older stage stale
NAME = "manifest.json"
SHOWN = 1 << 30  # bytes from which a bar is shown while they are read
BLOCK = 1 << 22  # bytes that are read at once


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was when its folder was finished. `what`: missing, changed, not written by ssb."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def digest(value: Any) -> str:
    """SHA-256 of the value as canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> list[Path]:
    """Every file within, at any depth, but for the manifest itself."""
    return sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / NAME)


def seal(folder: Path, paths: Sequence[Path], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest, which has its `key`, with hashes and sizes of these files of the folder, its id, and its seal."""
    files, sizes = {}, {}
    for path, known in hashes(paths, f"hash {folder.name}").items():
        if isinstance(known, OSError):
            raise known
        name = path.relative_to(folder).as_posix()
        files[name], sizes[name] = known, path.stat().st_size
    whole = {**manifest, "files": files, "sizes": sizes, "id": digest([manifest["key"], files])}
    whole = json.loads(text(whole))  # as whoever reads it will have it
    return {**whole, "seal": digest(whole)}


def text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + "\n"


def read(folder: Path) -> dict[str, Any] | None:
    """The folder's manifest; None where there is none, or one of an older format, which counts as if there were none.

    Raises:
        UserError: it is not as it was written.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    manifest = _parsed(data)
    if _is_older(manifest):
        return None
    if not _vouches(manifest, data):
        raise UserError(
            f"{path}: not a manifest any more, or changed since it was written; put it back as it was, or delete the"
            f" folder {folder} to make it again."
        )
    return manifest


def is_ours(folder: Path) -> bool:
    """Whether the folder's content may be replaced: there is none, or a stage of any format has closed it."""
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return True
        manifest = _parsed((folder / NAME).read_bytes())
    except OSError:
        return False
    return manifest is not None and {"stage", "key", "files"} <= set(manifest)


def is_foreign(folder: Path) -> bool:
    """Whether the manifest.json that lies there is sound JSON of another program's."""
    try:
        manifest = json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return not (isinstance(manifest, dict) and {"stage", "key", "files"} <= set(manifest))


def hashes(paths: Sequence[Path], title: str) -> dict[Path, str | OSError]:
    """Each file's SHA-256, or why it cannot be read: several files at once, with a bar where there are many bytes."""
    total = sum(path.stat().st_size for path in paths)
    with (
        bar(title, "B", total, disable=total < SHOWN, unit_scale=True, unit_divisor=1024) as shown,
        ThreadPoolExecutor(min(16, cores())) as pool,
    ):

        def one(path: Path) -> str | OSError:
            state = hashlib.sha256()
            try:
                with path.open("rb", buffering=0) as file:
                    while block := file.read(BLOCK):
                        state.update(block)  # without the interpreter's lock, so that threads help
                        shown.update(len(block))
            except OSError as error:
                return error
            return state.hexdigest()

        # The largest first: at the end nobody waits for a file that began last.
        ordered = sorted(paths, key=lambda path: -path.stat().st_size)
        running = {pool.submit(one, path): path for path in ordered}
        found = {running[done]: done.result() for done in as_completed(running)}
    return {path: found[path] for path in paths}


def damage(folder: Path, manifest: Mapping[str, Any], only: Collection[str] | None = None) -> list[Damage]:
    """What differs from the manifest, every byte of every file read. `only`: these files, and no others are looked for.

    A file that has not its size any more is not read.
    """
    found, same = _by_size(folder, manifest, only)
    for path, known in hashes(list(same), f"verify {folder.name}").items():
        if isinstance(known, OSError):
            found.append(Damage(path, f"cannot be read ({known.strerror})"))
        elif known != same[path]:
            found.append(Damage(path, "changed since it was written"))
    return sorted(found, key=lambda one: one.path)


def glance(folder: Path, manifest: Mapping[str, Any]) -> tuple[list[Damage], list[Path]]:
    """What sizes and times tell, without reading a file: what is damaged for certain; and what is younger than the
    manifest, which was written last.
    """
    found, same = _by_size(folder, manifest, manifest["files"])
    written = (folder / NAME).stat().st_mtime_ns
    return found, [path for path in same if path.stat().st_mtime_ns > written]


def _by_size(
    folder: Path, manifest: Mapping[str, Any], only: Collection[str] | None
) -> tuple[list[Damage], dict[Path, str]]:
    """What is missing, of another size, or not the folder's own; and the hashes of all the other files."""
    found, same = [], {}
    for name, known in manifest["files"].items():
        path, size = folder / name, manifest["sizes"][name]
        if only is not None and name not in only:
            continue
        if not path.is_file():
            found.append(Damage(path, "missing"))
        elif path.stat().st_size != size:
            found.append(Damage(path, f"changed since it was written: {path.stat().st_size:,} bytes, not {size:,}"))
        else:
            same[path] = known
    if only is None:
        own = {folder / name for name in manifest["files"]}
        found += [Damage(path, "not written by ssb") for path in files_in(folder) if path not in own]
    return found, same


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _is_older(manifest: Mapping[str, Any] | None) -> bool:
    """Older formats had no seal."""
    return manifest is not None and manifest.get("format") in range(1, FORMAT) and "seal" not in manifest


def _vouches(manifest: dict[str, Any] | None, data: bytes) -> bool:
    if manifest is None or manifest.get("format") != FORMAT:
        return False
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    whole = digest(rest) == manifest.get("seal") and text(manifest).encode() == data
    return whole and _has_the_shape(manifest)


def _has_the_shape(manifest: Mapping[str, Any]) -> bool:
    """Whether all of it is there, as the stages write it: whoever makes a manifest up can make its seal, too."""
    names = ("files", "sizes", "determined_by", "summary", "cost", "spent", "versions")
    if not all(isinstance(manifest.get(name), dict) for name in names):
        return False
    files, sizes, by, _, cost, spent, _ = (manifest[name] for name in names)
    texts = [manifest.get("stage"), manifest.get("key"), manifest.get("id"), *files.values()]
    for read in ("inputs", "students"):
        if not isinstance(by.get(read, {}), dict):
            return False
        texts += by.get(read, {}).values()
    numbers = [cost.get("seconds"), cost.get("tokens"), *spent.values(), *sizes.values()]
    return (
        all(isinstance(value, str) for value in texts)
        and all(type(value) in (int, float) for value in numbers)
        and files.keys() == sizes.keys()
        and not any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in files)
    )


def walk(root: Path) -> Iterator[Path]:
    """Every folder below `root` that holds a manifest, at any depth, but none within another or within one that is not
    finished.
    """
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if (folder / NAME).is_file():
            yield folder
        elif folder.suffix not in (".partial", ".old"):
            yield from walk(folder)
