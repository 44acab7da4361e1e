"""What stands beside the language model of a checkpoint for pictures: its parameters, which are loaded, not trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .config import Config


def tower(config: dict[str, Any], H: int, name: str) -> int | None:
    """Parameters of the tower and of what projects into the language model's H; None where its kind is not known."""
    kind, vision = config.get("model_type"), config.get("vision_config")
    if not isinstance(kind, str) or kind not in TOWERS or not isinstance(vision, dict) or config.get("audio_config"):
        return None
    family, count = TOWERS[kind]
    return count(Config({**vision, "model_type": family}, f"{name} (its vision_config)", nested=True), config, H)


def _norm(width: int) -> int:
    return 2 * width


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def siglip(c: Config, config: dict[str, Any], H: int) -> int:
    """Gemma 3: SigLIP, with its pooling head unless that is said to be left out; one matrix and one norm."""
    own, patch = c.H, c.size("patch_size")
    mlp = _linear(own, c.I) + _linear(c.I, own)
    embedded = _linear(c.size("num_channels") * patch**2, own) + (c.size("image_size") // patch) ** 2 * own
    layers = c.L * (2 * _norm(own) + 4 * _linear(own, own) + mlp)
    pooled = own + 4 * _linear(own, own) + _norm(own) + mlp if c.flag("vision_use_head", True) else 0
    return embedded + layers + _norm(own) + pooled + own * H + own


def pixtral(c: Config, config: dict[str, Any], H: int) -> int:
    """Mistral 3: Pixtral without biases, neighbouring patches merged."""
    own, merged = c.H, _number(config, "spatial_merge_size", 2)
    bias = bool(config.get("multimodal_projector_bias"))
    layers = c.L * (2 * own + 4 * own * own + 3 * own * c.I)
    projector = own + own * merged**2 * own + own * H + H * H + 2 * H * bias
    return c.size("num_channels") * c.size("patch_size") ** 2 * own + own + layers + projector


def qwen2_5(c: Config, config: dict[str, Any], H: int) -> int:
    own, merged = c.H, c.H * c.size("spatial_merge_size") ** 2
    layer = 2 * own + _linear(own, 3 * own) + _linear(own, own) + 2 * _linear(own, c.I) + _linear(c.I, own)
    merger = own + _linear(merged, merged) + _linear(merged, c.size("out_hidden_size"))
    return _patches(c) * own + c.size("depth") * layer + merger


def qwen3(c: Config, config: dict[str, Any], H: int) -> int:
    """Qwen3-VL, with mergers for layers between, and Qwen3.5, without."""
    own, merged = c.H, c.H * c.size("spatial_merge_size") ** 2
    layer = 2 * _norm(own) + _linear(own, 3 * own) + _linear(own, own) + _linear(own, c.I) + _linear(c.I, own)
    merger = _linear(merged, merged) + _linear(merged, c.size("out_hidden_size"))
    deep = len(c.places("deepstack_visual_indexes")) * (merger + _norm(merged))
    embedded = _linear(_patches(c), own) + c.size("num_position_embeddings") * own
    return embedded + c.size("depth") * layer + merger + _norm(own) + deep


def _patches(c: Config) -> int:
    return c.size("in_channels") * c.size("temporal_patch_size") * c.size("patch_size") ** 2


def _number(config: dict[str, Any], key: str, otherwise: int) -> int:
    value = config.get(key)
    return value if type(value) is int else otherwise


TOWERS: dict[str, tuple[str, Callable[[Config, dict[str, Any], int], int]]] = {
    "gemma3": ("siglip_vision_model", siglip),
    "mistral3": ("pixtral", pixtral),
    "qwen2_5_vl": ("qwen2_5_vl_vision", qwen2_5),
    "qwen3_vl": ("qwen3_vl_vision", qwen3),
    "qwen3_vl_moe": ("qwen3_vl_moe_vision", qwen3),
    "qwen3_5": ("qwen3_5_vision", qwen3),
    "qwen3_5_moe": ("qwen3_5_moe_vision", qwen3),
}
