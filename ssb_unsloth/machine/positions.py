"""How long a text a model has positions for, as vLLM decides it (0.32, `_get_and_verify_max_len`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

KEYS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
# Kinds of rotary scaling whose factor is in max_position_embeddings already.
SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default", "mrope")


def longest(config: dict[str, Any], default: Any = None) -> int | None:
    """Tokens of the longest text; None where nothing in the config says so, and then any length is taken.

    `config` is that of the language part, `default` what its class has for max_position_embeddings.
    """
    said = [config[key] for key in KEYS if _is_number(config.get(key))]
    if not said and _is_number(default):
        said = [default]
    if not said:
        return None
    if _is_number(own := config.get("model_max_length")):  # Cohere's, which wins
        said = [own]
    most = min(said) * (1.0 if "gemma3" in str(config.get("model_type")) else _factor(config))
    return int(most) if math.isfinite(most) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**53


def _factor(config: dict[str, Any]) -> float:
    factor = 1.0
    for scaling in _scalings(config):
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in SCALED and _is_number(scaling.get("factor")):
            factor = float(scaling["factor"])
    return factor


def _scalings(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One, or one for each kind of layer."""
    for key in ("rope_parameters", "rope_scaling"):
        own = config.get(key)
        if isinstance(own, dict):
            nested = [part for part in own.values() if isinstance(part, dict)]
            yield from nested or [own]
