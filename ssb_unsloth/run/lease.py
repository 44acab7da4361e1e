"""A lock for file systems that know none: a file that its owner touches again and again.

It holds who owns it. One that has not been touched for STALE seconds, by the file system's own clock, is taken over; so
is one whose owner was a process of this machine that is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

from ..io.files import parse_json
from ..io.progress import say

BEAT = 10.0  # seconds between two touches
STALE = 60.0  # seconds without one, after which nobody owns it any more: longer than a network's hiccup


class Lease:
    """Held from `taken` until `release`. Where another process takes it over meanwhile, as after this one was stopped
    for a while, this process ends as by SIGTERM: two must not write the same folder."""

    def __init__(self, path: Path, owner: dict[str, Any]) -> None:
        self._path, self._owner = path, owner
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def release(self) -> None:
        self._over.set()
        self._beating.join()
        if _owner(self._path) == self._owner:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                if _owner(self._path) != self._owner:
                    say(f"{self._path}: taken over by another process while this one did not answer, so this one ends.")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                os.utime(self._path)
            except OSError:  # the file system may answer again a moment later
                continue


def taken(path: Path) -> Lease | None:
    """The lease at this path; None while another process holds it.

    Raises:
        OSError: the file cannot be written.
    """
    owner = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "machine": _machine(), "pid": os.getpid()}
    new = path.with_name(f"{path.name}.{owner['id']}")
    new.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    try:
        for _ in range(2):  # the second time where a stale one has gone
            try:
                os.link(new, path)  # which one of several wins, on network file systems too
                return Lease(path, owner)
            except FileExistsError:
                if not _gone(path, new):
                    return None
        return None
    finally:
        new.unlink(missing_ok=True)


def _gone(path: Path, new: Path) -> bool:
    """Take a lease away whose owner is gone. Returns whether there is none now."""
    holder = _owner(path)
    try:
        os.utime(new)
        age = new.stat().st_mtime - path.stat().st_mtime  # both by the file system's clock
    except FileNotFoundError:
        return True
    ended = holder is not None and holder.get("machine") == _machine() and not _runs(holder.get("pid"))
    if age < STALE and not ended:
        return False
    aside = new.with_name(f"{new.name}.stale")
    try:
        path.rename(aside)
    except FileNotFoundError:  # another one was faster
        return True
    try:
        if _owner(aside) != holder:  # that was the other's new one: back with it
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            return False
        return True
    finally:
        aside.unlink(missing_ok=True)


def _owner(path: Path) -> dict[str, Any] | None:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _machine() -> str:
    """The same for two processes that see each other's numbers, and for no others; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _runs(number: Any) -> bool:
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, TypeError, ValueError, OverflowError):
        return True
    return True
