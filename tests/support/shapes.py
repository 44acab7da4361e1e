"""Small shapes of the families that the plan knows: what their configs have beside SHAPE, one after another."""

from __future__ import annotations

from typing import Any

SHAPE: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 300, "max_position_embeddings": 128},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
NO_HEAD_DIM = {key: value for key, value in SHAPE.items() if key != "head_dim"}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
LATENT = {"q_lora_rank": 12, "kv_lora_rank": 10, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MIXED = ["mamba", "attention", "mamba", "mamba"]
SHARED = {"shared_expert_intermediate_size": 24}
CONV = ["conv", "full_attention", "conv", "conv"]
CASES: dict[str, list[dict[str, Any]]] = {  # family: what its tiny models have beside SHAPE, one after another
    "llama": [{"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}],
    "qwen3": [{"attention_bias": True}],
    "granite": [{"attention_bias": True, "mlp_bias": True}],
    "gemma3_text": [{"attention_bias": True, "tie_word_embeddings": False}],
    "cohere": [{"use_qk_norm": True}, {"attention_bias": True}],
    "olmo2": [{"attention_bias": True, "tie_word_embeddings": True}],
    "smollm3": [{"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}],
    "starcoder2": [{"use_bias": False}],
    "stablelm": [{"use_qkv_bias": True, "use_parallel_residual": True}],
    "seed_oss": [{"attention_out_bias": True, "mlp_bias": True}],
    "hyperclovax": [{"use_post_norm": False}, {"use_post_norm": True}],
    "ernie4_5": [{"use_bias": True}],
    "glm": [{"attention_bias": False}],
    "nemotron": [{"attention_bias": True, "mlp_bias": True}],
    "persimmon": [{"qk_layernorm": False}],
    "gpt_bigcode": [{"multi_query": False}],
    "gpt_neo": [{"num_layers": 4, "attention_types": [[["global", "local"], 2]]}],
    "opt": [{"ffn_dim": 48, "enable_bias": False}],
    "falcon": [
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        {"parallel_attn": False, "multi_query": False, "bias": True},
    ],
    "mixtral": [LOCAL],
    "minimax_m2": [LOCAL],
    "granitemoe": [{**LOCAL, "attention_bias": True}],
    "granitemoeshared": [{**LOCAL, "shared_intermediate_size": 24}],
    "phimoe": [{**LOCAL, "attention_bias": True}],
    "gpt_oss": [LOCAL],
    "qwen2_moe": [{**EXPERTS, **SHARED}, {**EXPERTS, **SHARED, "mlp_only_layers": [1], "decoder_sparse_step": 2}],
    "qwen3_moe": [EXPERTS, {**EXPERTS, "mlp_only_layers": [0]}],
    "olmoe": [{"num_experts": 4, "num_experts_per_tok": 2}],
    "flex_olmo": [{"num_experts": 4, "num_experts_per_tok": 2}],
    "glm4_moe": [ROUTED, {**ROUTED, "use_qk_norm": True, "attention_bias": True}],
    "dots1": [{**ROUTED, "n_shared_experts": 1}],
    "deepseek_v2": [{**ROUTED, **LATENT}, {**ROUTED, **LATENT, "q_lora_rank": None, "attention_bias": True}],
    "deepseek_v3": [{**ROUTED, **LATENT, "n_group": 2, "topk_group": 1}],
    "youtu": [LATENT],
    "ernie4_5_moe": [{"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "use_bias": True}],
    "granitemoehybrid": [
        {**MAMBA, "num_local_experts": 0, "layer_types": MIXED, "shared_intermediate_size": 24},
        {**MAMBA, **LOCAL, "layer_types": MIXED, "shared_intermediate_size": 24, "mamba_proj_bias": True},
    ],
    "bamba": [{**MAMBA, "attn_layer_indices": [1]}, {**MAMBA, "attn_layer_indices": [0, 3], "mlp_bias": True}],
    "falcon_h1": [
        {**MAMBA, "mamba_d_ssm": 64},
        {**MAMBA, "mamba_d_ssm": 64, "mamba_rms_norm": True, "projectors_bias": True, "attention_bias": True},
    ],
    "nemotron_h": [
        {
            **{"layers_block_type": ["mamba", "moe", "attention", "mlp"], "mamba_num_heads": 4, "mamba_head_dim": 16},
            **{"ssm_state_size": 8, "n_groups": 1, "moe_intermediate_size": 16, "n_routed_experts": 4},
            **{"moe_shared_expert_intermediate_size": 24},
        }
    ],
    "qwen3_next": [{**EXPERTS, **SHARED, **DELTA}],
    "qwen3_5_text": [DELTA],
    "qwen3_5_moe_text": [{**EXPERTS, **SHARED, **DELTA}],
    "lfm2": [{"layer_types": CONV}, {"layer_types": CONV, "block_auto_adjust_ff_dim": False, "conv_bias": True}],
    "lfm2_moe": [{**EXPERTS, "layer_types": CONV, "num_dense_layers": 2}],
    "jamba": [{"num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 4, "attn_layer_offset": 2}],
    "mamba2": [{"num_heads": 4, "head_dim": 16, "state_size": 8}],
    "gemma3n_text": [
        {"num_hidden_layers": 10, "num_kv_shared_layers": 5, "vocab_size_per_layer_input": 300},
        {"num_hidden_layers": 5, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 290, "altup_num_inputs": 2},
    ],
}
