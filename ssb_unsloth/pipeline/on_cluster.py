"""A stage's process that Ray starts somewhere on its cluster (`ssb sweep --ray`), as `sweep` sees a process.

Ray gives it the cards that its plan asks for, and starts it again where its machine is lost; what the stage had kept by
then is there. The run folder lies at the same path on all machines.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

from ..backends import engine_of
from ..backends.cluster import Cluster, Task
from ..errors import UserError
from ..io.terminal import complain
from ..recipe.methods import METHODS
from ..recipe.schema import Recipe
from .process import Call, body

AGAIN = 3  # times that a stage is started again when its machine is lost


class ClusterProcess:
    """What `sweep` asks of a `multiprocessing` process. `sentinel` is readable as soon as the stage has ended."""

    def __init__(self, call: Call, log: Path | None, cards: int, cpus: int) -> None:
        self._call, self._log, self._cards, self._cpus = call, log, cards, cpus
        self.exitcode: int | None = None
        self.sentinel, self._ended = os.pipe()
        self._done, self._cancelled = threading.Event(), False

    def start(self) -> None:
        where = None if self._log is None else self._log.resolve()
        self._task = Task(perform_there, (self._call, where, str(Path.cwd())), self._cpus, self._cards, AGAIN)
        threading.Thread(target=self._wait, daemon=True).start()

    def join(self, timeout: float | None = None) -> None:
        self._done.wait(timeout)

    def terminate(self) -> None:
        if not self._done.is_set():
            self._cancelled = True
            self._task.cancel()

    kill = terminate

    def _wait(self) -> None:
        try:
            self.exitcode = self._task.result()
        except UserError as error:
            if not self._cancelled:
                complain(f"ssb: {error}")
            self.exitcode = 2
        finally:
            self._done.set()
            os.close(self._ended)


def perform_there(call: Call, log: Path | None, folder: str) -> int:
    """In the cluster's process: the stage in one of its own, which ends with this one. Returns its exit code."""
    os.chdir(folder)
    process = multiprocessing.get_context("spawn").Process(target=body, args=(call, log))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def needs(stage: str, recipe: Recipe, cluster: Cluster) -> tuple[int, int]:
    """(cards, cores) that a stage has to itself.

    Raises:
        UserError: more cards than the cluster has.
    """
    engine, spread = engine_of(recipe.sampler), recipe.sampler.engine == "ray"
    if stage in ("report", "base") or (stage in ("curate", "teach", "evaluate") and spread):
        return 0, 0  # nothing is computed there: replicas have cards and cores of their own
    cards = 1
    if stage == "train":
        cards = recipe.train.processes
    elif stage in ("curate", "evaluate"):
        cards = {"servers": 0, "vllm": recipe.sampler.tensor_parallel}.get(engine, 1)
    if not cluster.gpus:
        return 0, 1
    if cards > cluster.gpus:
        key = f"train.processes: {cards}" if stage == "train" else f"sampler.tensor_parallel: {cards}"
        raise UserError(f"{key} cards for stage {stage}, and {cluster} has {cluster.gpus}; lower it.")
    return cards, 1


def refuse(recipes: list[Recipe], cluster: Cluster) -> None:
    """Raises UserError, before anything begins, for a stage that the cluster has no cards for."""
    for recipe in recipes:
        for stage in ("curate", "teach", "train", "evaluate"):
            if stage != "teach" or "teach" in METHODS[recipe.train.method].reads:
                needs(stage, recipe, cluster)
