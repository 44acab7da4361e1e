"""The teacher's pass: by a model in this process, or shared among replicas on a cluster (`sampler.engine: ray`).

Batches are the same for any number of replicas, and what they give is kept in the order of the batches by one process:
so the stored files are those that one process would have written. A batch whose replica dies is given to another.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..backends import TrainingBackend
from ..errors import UserError
from ..io.progress import say
from ..io.waiting import in_order
from ..recipe.schema import Recipe

if TYPE_CHECKING:
    from ..backends.cluster import Replica
    from ..method.collator import Example
    from ..method.targets import TargetWriter
    from ..method.teach import Pass, Taught

CHECKED = 32  # examples that a replica's model is tried on
AHEAD = 4  # batches a replica that are asked for, or held until it is their turn


class LoadedTeacher:
    """A model and the teacher that it is. `backend`: loads it; made here where None."""

    def __init__(self, recipe: Recipe, backend: TrainingBackend | None = None) -> None:
        backend = backend or TrainingBackend(recipe.model)  # first: Unsloth has to be imported before transformers
        from ..backends.chat_template import pad_id
        from ..backends.transformers import load_tokenizer
        from ..backends.wrapped import embedded
        from ..method.teach import Teacher

        self._recipe, self._model = recipe, backend.load(recipe.sampler.max_model_len)
        pad = pad_id(load_tokenizer(recipe.model), embedded(self._model))
        self._teacher = Teacher(self._model, recipe.teach, recipe.train.teacher_temperature, pad)
        self._name = backend.name

    def about(self) -> tuple[str, int]:
        """Which backend has loaded it, and the bytes of a token's targets."""
        return self._name, self._teacher.bytes_per_token

    def check(self, examples: Sequence[Example]) -> None:
        from ..method.selfchecks import check_teacher

        check_teacher(self._recipe, self._model, examples)

    def teach(self, examples: Sequence[Example], writer: TargetWriter) -> Taught:
        from ..method.teach import taught

        return taught(self._teacher, examples, writer)

    def pass_over(self, batch: Sequence[Example]) -> Pass:
        """For another process: each tensor on the CPU, with memory of its own, or the whole batch would go along."""
        done = self._teacher.pass_over(batch)
        rows = [
            replace(row, tensors={name: one.to("cpu", copy=True).contiguous() for name, one in row.tensors.items()})
            for row in done.rows
        ]
        return replace(done, rows=rows)

    def digest(self, batch: Sequence[Example]) -> str:
        """Of what is kept of the batch."""
        from safetensors.torch import save

        rows = self.pass_over(batch).rows
        named = {f"{row.id}.{name}": one for row in rows for name, one in row.tensors.items()}
        return hashlib.sha256(save(named)).hexdigest()


class Agreement:
    """All replicas give the same bits for the same batch, or the files would tell which of them was the faster."""

    def __init__(self, examples: Sequence[Example], batch: Sequence[Example]) -> None:
        self._examples, self._batch = examples[:CHECKED], batch
        self._first: tuple[str, str] | None = None
        self._lock = threading.Lock()

    def __call__(self, replica: Replica) -> None:
        replica.ask("check", self._examples)
        found = replica.ask("digest", self._batch)
        with self._lock:
            self._first = self._first or (replica.root, found)
            other, first = self._first
        if found != first:
            raise UserError(
                f"{replica.root} and {other} make different targets of the same pairs (sha256 {found[:12]} and"
                f" {first[:12]}): take machines of one kind, with the same card and number of threads, or set"
                " sampler.replicas=1."
            )


def taught_by_replicas(recipe: Recipe, examples: Sequence[Example], writer: TargetWriter) -> tuple[Taught, str]:
    """As `method.teach.teach`, with the name of the backend that has loaded the replicas' models.

    Raises:
        UserError: the cluster has no room for them, they differ, or none can be started.
    """
    from ..backends.dispatch import Dispatcher
    from ..backends.replicas import ABREAST, as_seen_everywhere, replicas
    from ..method.teach import batches_of, write

    batches = batches_of(examples, recipe.teach)
    there = replace(recipe, model=as_seen_everywhere(recipe.model))
    check = Agreement(examples, batches[0])
    held = replicas(recipe.model, recipe.sampler, "transformers", partial(LoadedTeacher, there), check)
    asked = Dispatcher(held, pause=1.0, abreast=ABREAST, kind="replica")

    def pass_over(batch: Sequence[Example]) -> Pass:
        done: Pass = asked.ask(lambda one: one.ask("pass_over", batch))
        return done

    say(f"Starting {len(held)} replicas of the teacher by Ray ...")
    try:
        asked.start()
        name, size = asked.ask(lambda one: one.ask("about"))
        passes = in_order(pass_over, batches, ABREAST * len(held), AHEAD * len(held))
        return write(passes, batches, size, recipe.teach, recipe.train.teacher_temperature, writer), name
    finally:
        for one in held:
            one.close()
