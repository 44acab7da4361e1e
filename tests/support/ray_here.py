"""A Ray cluster of this machine for tests, and the processes that it runs."""

import contextlib
import os
from pathlib import Path

from ssb_unsloth.backends import cluster

MARK = "SSB_TESTED_BY"  # in the environment of all that a test starts


@contextlib.contextmanager
def ray_here():
    """Connected to, with one thread for each replica, and ended again."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "RAY_ADDRESS", MARK)}
    os.environ |= {"OMP_NUM_THREADS": "1", MARK: str(os.getpid())}
    os.environ.pop("RAY_ADDRESS", None)
    found = cluster.connect()
    import ray  # not before: it reads its settings when it is imported

    yield found
    ray.shutdown()
    cluster._connected = None
    for name, value in before.items():
        os.environ.pop(name, None)
        os.environ |= {} if value is None else {name: value}


def replicas(mark, what="_Process"):
    """The processes that run replicas, or tasks (`what`: "_joined"), and were started with that mark."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                ours = f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0")
                if ours and (path / "cmdline").read_bytes().startswith(f"ray::{what}".encode()):
                    found.append(int(path.name))
    return found
