"""Tiny random checkpoints for text and pictures, with the pocket's vocabulary and chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096},
}
TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 2}
TOWER |= {"patch_size": 4, "image_size": 16}
BLOCKS = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
}
ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e4}}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {  # language part, tower, the whole
    "gemma3": (
        {"model_type": "gemma3_text", "query_pre_attn_scalar": 16},
        {"model_type": "siglip_vision_model", **TOWER},
        {"mm_tokens_per_image": 4},
    ),
    "mistral3": (
        {"model_type": "ministral3"},
        {"model_type": "pixtral", "head_dim": 12, **TOWER},
        {"tie_word_embeddings": False},
    ),
    "qwen2_5_vl": (ROPE, {"fullatt_block_indexes": [1], **BLOCKS}, {}),
    "qwen3_vl": (ROPE, {"num_position_embeddings": 16, "deepstack_visual_indexes": [0], **BLOCKS}, {}),
}


def write(kind: str, folder: Path) -> Path:
    """A model folder as the hub would give it, without a processor for pictures."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    from ssb_unsloth.pocket import MODEL_DIR

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text, vision, more = KINDS[kind]
    text = {**TEXT, "vocab_size": len(tokenizer) + 16, **ids, **text}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **more)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder
