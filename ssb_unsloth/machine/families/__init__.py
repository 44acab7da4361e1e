"""The decoder that a config.json describes, family by family: `model_type` -> function.

    parts    what layers are made of
    config   how a config.json is read
    dense    one kind of block; sparse: experts; latent: DeepSeek's attention; hybrid: blocks of several kinds
    layered  embeddings for each layer (Gemma 3n)

Each function is held to transformers' own model by the tests, parameter by parameter. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable

from . import dense, hybrid, latent, layered, sparse
from .config import Config
from .parts import Decoder

FAMILIES: dict[str, Callable[[Config], Decoder]] = {
    **dict.fromkeys(dense.ROWS, dense.decoder),
    **dict.fromkeys(sparse.ROWS, sparse.decoder),
    "falcon": dense.falcon,
    "youtu": latent.dense,
    "bamba": hybrid.bamba,
    "granitemoehybrid": hybrid.granite_hybrid,
    "falcon_h1": hybrid.falcon_h1,
    "nemotron_h": hybrid.nemotron_h,
    "qwen3_next": hybrid.qwen3_next,
    "qwen3_5_text": hybrid.qwen3_next,
    "qwen3_5_moe_text": hybrid.qwen3_next,
    "lfm2": hybrid.lfm2,
    "lfm2_moe": hybrid.lfm2,
    "mamba": hybrid.mamba,
    "mamba2": hybrid.mamba2,
    "jamba": hybrid.jamba,
    "gemma3n_text": layered.gemma3n,
}
# The language part of these has a model_type of its own, and the layers of another family.
SAME = {
    "gemma3": "gemma3_text",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}


def family_of(model_type: str) -> str:
    return SAME.get(model_type, model_type)
