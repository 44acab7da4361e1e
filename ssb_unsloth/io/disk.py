"""Writing so that a power loss takes nothing that something else says is there, and a disk that takes no more is a
sentence.

A file is written aside, flushed, and only then given its name; then its folder is flushed, which holds the name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ..errors import UserError

ASIDE = ".tmp"  # ends the name of a file that is not whole yet
KEPT = "What was finished is kept, and the same command resumes from there."
ELSEWHERE = "or take another place by --runs or --out"
NO_FLUSHING = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)  # what file systems say that flush no folders
REFUSALS = {  # what the system says no with: in words, and the remedy
    errno.ENOSPC: ("the disk is full", f"Free some space there, {ELSEWHERE}."),
    errno.EDQUOT: ("your share of the disk is used up", f"Free some space there, {ELSEWHERE}."),
    errno.EFBIG: ("no file may be that large there", f"Raise the limit (`ulimit -f unlimited`), {ELSEWHERE}."),
    errno.EROFS: ("it can be read and not written", f"Make it writable, {ELSEWHERE}."),
    errno.EACCES: ("this user may not read or write it", f"Change its permissions, {ELSEWHERE}."),
    errno.EPERM: ("this user may not read or write it", f"Change its permissions, {ELSEWHERE}."),
    errno.ENAMETOOLONG: ("the name is too long", "Give shorter ones: of the recipe, variant, benchmark or folder."),
    errno.ENOTDIR: ("a file stands where a folder is expected", f"Move it away, {ELSEWHERE}."),
    errno.EISDIR: ("a folder stands where a file is expected", f"Move it away, {ELSEWHERE}."),
    errno.ELOOP: ("its links lead round in a circle", "Fix the links."),
    errno.EBUSY: ("the system is using it, as it does where a disk is mounted", "Link to a folder on that disk."),
    errno.EXDEV: ("it lies partly on another disk", "Link the stage's whole folder to that disk."),
    errno.EMFILE: ("too many files are open", "Raise the limit (`ulimit -n 65536`)."),
    errno.EIO: ("the disk does not answer as it should", "Look at it, and at what the system logged."),
    errno.ESTALE: ("the server of its file system has lost it", "Mount it again."),
}


def write_text(path: Path, text: str) -> None:
    """The whole text under that name, or what was there before."""
    with writing(path) as file:
        file.write(text)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """A file to write UTF-8 text into; it has its name when the context ends, and not where it ends in an error."""
    aside = path.with_name(path.name + ASIDE)
    with aside.open("w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Let the names in a folder survive a power loss."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_FLUSHING:
            raise
    finally:
        os.close(number)


def flush_tree(folder: Path, files: Iterable[Path]) -> None:
    """Let these files in a folder survive a power loss, and the names of all folders in it."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        flush_folder(inner)


def remove(path: Path) -> None:
    """A folder with all that is in it, a file or a link, if it is there; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refusal(error: BaseException | None, where: Path | None = None) -> UserError | None:
    """What to say where the file system said no, anywhere in the chain of causes; None for any other error.

    `where` was being written, for the libraries that do not say.
    """
    while error is not None:
        number = _errno(error, where)
        if number in REFUSALS:
            named = getattr(error, "filename", None) or where
            words, remedy = REFUSALS[number]
            return UserError(f"{f'{named}: ' if named else ''}{words} ({os.strerror(number)}). {remedy} {KEPT}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _errno(error: BaseException, where: Path | None) -> int | None:
    """The system's own number, also where a library wraps it in a text: safetensors, and torch, which says little."""
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    if found := re.search(r"\bos error (\d+)", text):
        return int(found[1])
    if where is not None and re.search(r"PytorchStreamWriter|inline_container|iostream error", text):
        return errno.ENOSPC if _free(where) < 1 << 20 else errno.EIO
    return None


def _free(path: Path) -> int:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free
