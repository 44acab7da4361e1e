"""Presets: whose choices are a recipe's defaults, where the paper's text and its released code differ.

`paper` is the text, and the defaults of `config`. `author_code` is the script that the authors released; a preset is
nothing but values of ordinary keys, and a recipe's own keys win over it. docs/presets.md has all differences.
"""

from __future__ import annotations

from typing import Any

# What the released code's rollouts and refinements inherit from Qwen2.5-3B-Instruct's generation_config.
_INHERITED = {"top_p": 0.8, "repetition_penalty": 1.05}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "author_code": {
        "prompts": {"wording": "released", "student": "joined", "reply": "retokenized"},
        "curate": {
            "rollout": {"temperature": 0.8, "top_k": 50, **_INHERITED},
            "refine": {"temperature": 0.4, "top_k": 50, **_INHERITED},
            "contrast": "first",
            "unboxed": "excluded",
            "equality": "string",
        },
        "train": {"denominator": "token", "temperature": 2.0, "lora": {"dtype": "model"}},
    },
}
