"""Presets: whose choices a recipe makes, where the paper's text and its released code differ.

`paper` is the text, and the same as the defaults of `schema`; `author_code` is the script that the authors released. A
preset is nothing but values of ordinary keys. It wins over what lies below the place that names it (a recipe over its
`base`, a variant over its recipe, the command line over them all), and loses to the keys beside it. docs/presets.md has
all differences.
"""

from __future__ import annotations

from typing import Any


def _sampling(temperature: float, top_p: float, top_k: int, repetition_penalty: float) -> dict[str, float]:
    return {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "prompts": {"wording": "paper", "student": "chat", "reply": "sampled"},
        "curate": {
            # One T_roll without a value: the released code's two. What is not said is off.
            "rollout": _sampling(0.8, top_p=1.0, top_k=0, repetition_penalty=1.0),
            "refine": _sampling(0.4, top_p=1.0, top_k=0, repetition_penalty=1.0),
            "contrast": "random",
            "unboxed": "wrong",
            "equality": "math",
        },
        "train": {"denominator": "example", "kd_temperature": 2.0, "lora": {"dtype": "float32"}},
    },
    "author_code": {
        "prompts": {"wording": "released", "student": "joined", "reply": "retokenized"},
        "curate": {
            # top_p and the penalty are what generate() inherits from Qwen2.5-3B-Instruct's generation_config.
            "rollout": _sampling(0.8, top_p=0.8, top_k=50, repetition_penalty=1.05),
            "refine": _sampling(0.4, top_p=0.8, top_k=50, repetition_penalty=1.05),
            "contrast": "first",
            "unboxed": "excluded",
            "equality": "string",
        },
        "train": {"denominator": "token", "kd_temperature": 2.0, "lora": {"dtype": "model"}},
    },
}
