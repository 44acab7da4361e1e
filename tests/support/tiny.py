"""A tiny random model of a family, and the pocket's recipe: what most tests begin with."""

POCKET_RECIPE = "recipes/pocket.yaml"


def tiny_model(family):
    import torch
    import transformers

    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 528,  # as many as the pocket's tokenizer has, which gives the tests their ids
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    extra = {
        "qwen2": {},
        "llama": {"tie_word_embeddings": False},
        "gemma2": {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16, "sliding_window": 64},
        "cohere": {"logit_scale": 0.25},
        "granite": {"logits_scaling": 4.0},
    }

    config = transformers.AutoConfig.for_model(family, **{**shape, **extra[family]})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():  # wider than the usual start, so that distributions are far from uniform
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model
