"""The processes that train together, as each of them sees the others. One process alone is a group of itself.

What is not shared out among them (probes, new rollouts, files) is done by the first; the others wait for what came of
it, so that all have the same log and take the same decisions.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy
import torch
import torch.distributed as dist
from accelerate.utils import check_cuda_p2p_ib_support

T = TypeVar("T")
# How long a process waits for the others. They are watched by the stage that started them, which ends all when one is
# gone; so this has to be longer than whatever the first of them does alone.
PATIENCE = timedelta(days=7)


_shards = False


def join(number: int, processes: int, meeting: str, shards: bool = False) -> None:
    """Become process `number` of so many, which find each other by the file `meeting`: no port is taken for it.

    By NCCL where torch has GPUs, and then with the GPU of that number; else by Gloo on this machine's own interface.
    `shards`: each is to hold a part of every weight (`sharded`).
    """
    global _shards
    _shards = shards
    if torch.cuda.is_available():
        torch.cuda.set_device(number)
        if not check_cuda_p2p_ib_support():  # of cards that cannot read each other's memory, as accelerate launch does
            os.environ.update(NCCL_P2P_DISABLE="1", NCCL_IB_DISABLE="1")
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{meeting}", rank=number, world_size=processes, timeout=PATIENCE
    )


def leave() -> None:
    """Be a process alone again."""
    if dist.is_initialized():
        dist.destroy_process_group()


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shards() -> bool:
    """Whether the group trains a model of which each process holds a part."""
    return _shards


def is_first() -> bool:
    """Whether this process is the one that writes files and tells what happens."""
    return not several() or dist.get_rank() == 0


def by_first(make: Callable[[], T]) -> T:
    """What `make` returns, called by the first process alone, for all of them. It has to be what can be pickled."""
    if not several():
        return make()
    found: list[Any] = [make() if is_first() else None]
    dist.broadcast_object_list(found, src=0)
    return cast(T, found[0])


def same_numbers() -> None:
    """From now on all processes draw the random numbers that the first one does."""
    if not several():
        return
    on_gpu = torch.cuda.is_available()
    drawn = by_first(
        lambda: (
            random.getstate(),
            numpy.random.get_state(),
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if on_gpu else None,
        )
    )
    random.setstate(drawn[0])
    numpy.random.set_state(drawn[1])
    torch.set_rng_state(drawn[2])
    if drawn[3] is not None:
        torch.cuda.set_rng_state(drawn[3])
