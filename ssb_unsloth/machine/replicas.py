"""How many replicas of a model there are to be, and the cards of each (`sampler.engine: ray`)."""

from __future__ import annotations

from ..errors import UserError
from ..recipe.schema import SamplerConfig

CORES = 2  # of a CPU, for a replica, where the recipe does not say how many there are to be


def cards_of(config: SamplerConfig, engine: str) -> int:
    """GPUs of a replica that computes with vLLM or transformers."""
    return config.tensor_parallel if engine == "vllm" else 1


def how_many(config: SamplerConfig, engine: str, cpus: int, gpus: int, where: str) -> int:
    """As many as the recipe says, or as there are GPUs for; without any, one for each two cores. `where`: what has
    them, in messages.

    Raises:
        UserError: more than there is room for.
    """
    a_replica = cards_of(config, engine)
    most = gpus // a_replica if gpus else cpus
    count = config.replicas or (most if gpus else max(1, most // CORES))
    if count > most or not count:
        kind, there = ("GPU", gpus) if gpus else ("core", cpus)
        raise UserError(
            f"sampler.replicas: {max(count, 1)} take {max(count, 1) * (a_replica if gpus else 1)} {kind}s, and"
            f" {where} has {there}; set sampler.replicas={most}."
            if most
            else f"sampler.tensor_parallel: {a_replica} GPUs a replica, and {where} has {there}; lower it."
        )
    return count
