"""Tiny configurations of architectures that are unlike Llama's, and the layers of theirs that LoRA is put on."""

from __future__ import annotations

from typing import Any

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    "pad_token_id": 0,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1}
HYBRID = SMALL | MAMBA | {"shared_intermediate_size": 40, "num_local_experts": 0, "layer_types": ["mamba", "attention"]}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "phi3": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64},
    "gpt_neox": SMALL,
    "lfm2": SMALL | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "granitemoehybrid": HYBRID,
    "gemma3": {"text_config": SMALL, "vision_config": VISION, "mm_tokens_per_image": 4},
    "qwen2_moe": SMALL | {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "mixtral": SMALL | {"num_local_experts": 4},
    "falcon_h1": SMALL | MAMBA | {"mamba_d_ssm": 64, "mamba_chunk_size": 8},
}
KINDS: dict[str, dict[str, int]] = {  # by `auto`; the same by `all-linear` but for Falcon-H1
    "llama": dict.fromkeys(SEVEN, 2),
    "phi3": {"o_proj": 2, "qkv_proj": 2, "gate_up_proj": 2, "down_proj": 2},
    "gpt2": {"c_attn": 2, "c_proj": 4, "c_fc": 2},
    "gpt_neox": {"query_key_value": 2, "dense": 2, "dense_h_to_4h": 2, "dense_4h_to_h": 2},
    "lfm2": {"in_proj": 1, "out_proj": 2, "w1": 2, "w3": 2, "w2": 2, "q_proj": 1, "k_proj": 1, "v_proj": 1},
    "granitemoehybrid": {"in_proj": 1, "input_linear": 2, "output_linear": 2} | dict.fromkeys(SEVEN[:4], 1),
    "gemma3": dict.fromkeys(SEVEN, 2),
    "qwen2_moe": dict.fromkeys(SEVEN, 2),
    "mixtral": dict.fromkeys(SEVEN[:4], 2),
    "falcon_h1": dict.fromkeys(SEVEN, 2),
}


def build(family: str, device: str = "cpu") -> Any:
    """The model of that family, with random weights, or on the device "meta" without any."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.for_model(family, **ARCHITECTURES[family])
    auto: Any = AutoModelForImageTextToText if family == "gemma3" else AutoModelForCausalLM
    torch.manual_seed(0)
    with torch.device(device):
        return auto.from_config(config)
