"""Names and files that come from outside: looked at and opened here, so that whatever is wrong with one is a sentence.

A name may hold anything, and a file may be a pipe that never ends, larger than memory, or text of another encoding.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import stat
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from ..errors import UserError

JSON_BYTES = 1 << 24  # of a config or a manifest; the largest model index is a tenth of that
LINE_CHARACTERS = 1 << 26  # of one line; longer than any question or reply
MOST_FILES = 10_000  # in a folder that is given as a data set or a model
DEEPEST = 64  # levels of a JSON document; configs have six at most
UNPACKING = (gzip.BadGzipFile, EOFError, zlib.error)  # what a damaged .gz raises


def local(name: str, key: str = "") -> Path:
    """The path that a name in a recipe or a command stands for, `~` expanded; whether it is there is not asked.

    `key` is what names it, for the message.

    Raises:
        UserError: it cannot be the name of a file: empty, a control character, too long, or another user's home.
    """
    where = f"{key}: " if key else ""
    if not name:  # which would be the folder that the command was started in
        raise UserError(f"{where}'' is no name of a file or folder; give one, or leave it out.")
    if (found := control_character(name)) is not None:
        raise UserError(f"{where}{name!r} holds the control character {found!r}, which no name of a file may.")
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~nobody
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        raise UserError(f"{where}{shown!r} cannot be the name of a file or folder ({reason}).") from None
    return path


def control_character(text: str, allowed: str = "") -> str | None:
    """The first character that does something to a terminal or a file name, or is half of one; None without such."""
    return next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in allowed), None)


def open_file(path: Path) -> IO[bytes]:
    """An ordinary file, opened for reading bytes.

    Raises:
        UserError: it is missing, is a folder, a pipe or a device, or cannot be read.
    """
    try:
        # Not blocking: the opening of a pipe would wait for a writer. What it is, is asked of the opened file.
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path}: cannot be read, since it is a pipe or a device; expected an ordinary file.")
    return file


def read_text(path: Path, most: int = JSON_BYTES) -> str:
    """The file's text, without a byte-order mark; of one that ends in .gz, what is packed in it.

    Raises:
        UserError: it cannot be opened, has more than `most` bytes, or is not UTF-8.
    """
    with open_file(path) as file:
        try:
            content = _unpacked(file, path).read(most + 1)
        except UNPACKING as error:
            raise UserError(f"{path}: not a .gz file, or a damaged one ({error}).") from None
    if len(content) > most:
        raise UserError(f"{path}: more than {most:,} bytes; that is not a file of this kind.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None


def _unpacked(file: IO[bytes], path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.suffix.lower() == ".gz" else file


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of a text file, one line at a time; without a byte-order mark. A file that ends in .gz
    is unpacked as it is read.

    Raises:
        UserError: it cannot be opened, a line is not UTF-8, or has no end.
    """
    number, before = 0, 0
    with open_file(path) as packed:
        file = _unpacked(packed, path)
        while line := _line(file, path, number + 1):
            number += 1
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: not UTF-8 text ({error.reason} at byte {before + error.start})."
                ) from None
            before += len(line)


def _line(file: IO[bytes], path: Path, number: int) -> bytes:
    try:
        line = file.readline(LINE_CHARACTERS)
    except UNPACKING as error:
        raise UserError(f"{path}: not a .gz file, or a damaged one ({error}).") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    if len(line) == LINE_CHARACTERS:
        raise UserError(f"{path}, line {number}: longer than {LINE_CHARACTERS:,} bytes; that is not a file of rows.")
    return line


def parse_json(text: str) -> Any:
    """JSON that can be written again: no key twice, no half character, no number beyond bounds, no deeper than DEEPEST.

    Raises:
        ValueError: anything else; the message says what is wrong.
    """
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
        if text.count("[") + text.count("{") > DEEPEST:
            _check_depth(value)
        if "\\ud" in text.lower():  # an escaped half of a surrogate pair is JSON, and no text
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f" in line {error.lineno}, column {error.colno}" if "\n" in text.strip() else ""
        raise ValueError(f"{error.msg}{place}") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"\\u{ord(error.object[error.start]):04x} is half a character; write whole ones") from None
    except RecursionError:
        raise ValueError(f"deeper than {DEEPEST} levels") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise ValueError(str(error).partition(";")[0]) from None
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object, whose last value of a key would win over the others in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.60} stands there twice")
    return found


def _check_depth(value: Any) -> None:
    """Level by level, so that depth costs no stack."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise RecursionError


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a config or a manifest is.

    Raises:
        UserError: it cannot be read, or is no JSON object.
    """
    try:
        value = parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {kind_of(value)}.")
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in a word."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def is_finite(value: Any) -> bool:
    """Whether a number can be computed with: an integer of 400 digits has no float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_folder(path: Path, most_bytes: int, key: str, up_to: int | None = None) -> None:
    """Whether a folder is as small as one that is read whole; only files below `up_to` bytes count towards its size.

    Raises:
        UserError: it has more files than MOST_FILES or more bytes; `key` is what names it.
    """
    count = total = 0
    waiting = [path]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError as error:
            raise UserError(f"{key}: {path}: cannot be read ({error.strerror}).") from None
        for entry in entries:
            count += 1
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file() and (up_to is None or entry.stat().st_size < up_to):
                total += entry.stat().st_size
        if count > MOST_FILES or total > most_bytes:
            held = f"more than {MOST_FILES:,} files" if count > MOST_FILES else f"more than {most_bytes >> 30} GiB"
            raise UserError(f"{key}: the folder {path} holds {held}; name the file, or a folder that holds it alone.")


def check_input(path: Path, up_to: int) -> None:
    """Whether a file or folder can be read to tell its identity; files from `up_to` bytes on are not.

    Raises:
        UserError: it is a pipe or a device, or a folder of gigabytes.
    """
    if path.is_dir():
        check_folder(path, 1 << 30, "input", up_to)
    elif not path.is_file():
        raise UserError(f"{path}: cannot be read, since it is a pipe or a device; expected an ordinary file.")
