"""Multi-head latent attention (DeepSeek): keys and values are made of a short vector, which is what an engine keeps."""

from __future__ import annotations

from .config import Config
from .parts import Decoder, Layer, Linear, feed_forward, other


def latent_attention(c: Config, under: str = "self_attn") -> Layer:
    rank, rope, nope = c.size("kv_lora_rank"), c.size("qk_rope_head_dim"), c.size("qk_nope_head_dim")
    value, bias, query = c.size("v_head_dim"), c.flag("attention_bias"), c.get("q_lora_rank")
    keys = c.heads * (nope + rope)
    if query is None:
        linears = [Linear(f"{under}.q_proj", c.H, keys)]
    else:
        query = c.size("q_lora_rank")
        linears = [Linear(f"{under}.q_a_proj", c.H, query, bias), Linear(f"{under}.q_b_proj", query, keys)]
    linears += [
        Linear(f"{under}.kv_a_proj_with_mqa", c.H, rank + rope, bias),
        Linear(f"{under}.kv_b_proj", rank, c.heads * (nope + value)),
        Linear(f"{under}.o_proj", c.heads * value, c.H, bias),
    ]
    # Of the two products of attention one is as wide as the keys, the other as the values.
    return Layer(
        tuple(linears),
        other=rank + (query or 0),
        Q=(keys + c.heads * value + 1) // 2,
        KV=max(keys, c.heads * value),
        cache=keys + c.heads * value,
        latent=rank + rope,
    )


def dense(c: Config) -> Decoder:
    """Youtu, MiniCPM 3: without experts."""
    layer = latent_attention(c) + feed_forward(c.H, c.I, bias=c.flag("mlp_bias")) + other(2 * c.H)
    return Decoder((layer,) * c.L, c.H)
