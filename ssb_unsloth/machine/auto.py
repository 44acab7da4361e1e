"""What a recipe's `auto` becomes on a card."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .cards import Card
from .environment import missing_for_flashinfer

if TYPE_CHECKING:
    from ..recipe.schema import ModelConfig, Recipe, SamplerConfig

MOST_OF_THE_CARD = 0.92  # vLLM's own default (0.32)
KEPT_FREE_MIB = 1536  # ours: for CUDA's context, its graphs, and what the allocator cannot fit together
CPU_SHARE = 0.85  # vLLM's CPU build asks for a share and does not use it, since its cache has a size of its own


def choose(recipe: Recipe, card: Card | None) -> Recipe:
    """The recipe with each `auto` that depends on the card replaced by what is best on it; what is said stays."""
    model = choose_model(recipe.model, card)
    return replace(recipe, model=model, sampler=choose_sampler(recipe.sampler, card, model.dtype))


def choose_model(model: ModelConfig, card: Card | None) -> ModelConfig:
    """`dtype`: bfloat16 from Ampere on, float16 on older cards, float32 on a CPU."""
    if model.dtype != "auto":
        return model
    if card is None:
        return replace(model, dtype="float32")
    return replace(model, dtype="bfloat16" if card.bfloat16 else "float16")


def choose_sampler(sampler: SamplerConfig, card: Card | None, dtype: str = "bfloat16") -> SamplerConfig:
    """vLLM's share of the card's memory, and its attention back-end by the compute capability.

    The share: all of what is free but KEPT_FREE_MIB, since a stage has the card to itself; vLLM refuses to start with
    more than is free. The back-ends follow vLLM's own order of preference (0.32, platforms/cuda.py): FlashAttention
    from Ampere on, FlashInfer on the B200 where its compiler is, and Triton on the T4 and for float32 (`dtype`, the
    model's), for which neither of the others is made.
    """
    if sampler.gpu_memory_utilization == "auto":
        share = CPU_SHARE
        if card is not None and card.memory_mib:
            free = card.memory_mib if card.free_mib is None else card.free_mib
            share = min(MOST_OF_THE_CARD, int(100 * (free - KEPT_FREE_MIB) / card.memory_mib) / 100)
        sampler = replace(sampler, gpu_memory_utilization=max(share, 0.05))
    if sampler.attention_backend == "auto" and card is not None and card.capability is not None:
        backend = "FLASH_ATTN" if card.bfloat16 and dtype != "float32" else "TRITON_ATTN"
        if backend == "FLASH_ATTN" and card.capability[0] == 10 and not missing_for_flashinfer(card.capability):
            backend = "FLASHINFER"
        sampler = replace(sampler, attention_backend=backend)
    return sampler
