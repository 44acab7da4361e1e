"""Gemma 3n: an embedding for each layer, four streams of hidden states, and keys that the last blocks borrow."""

from __future__ import annotations

from .config import Config
from .parts import Decoder, Layer, Linear, attention, feed_forward, other


def gemma3n(c: Config) -> Decoder:
    streams, rank, own = c.size("altup_num_inputs"), c.size("laurel_rank"), c.size("hidden_size_per_layer_input")
    wide = c.get("intermediate_size")
    widths = c.each("intermediate_size", c.L) if isinstance(wide, list) else None
    borrowed = c.size("num_kv_shared_layers", 0, 0)
    common = Layer(
        (
            Linear("altup.correction_coefs", streams, streams),
            Linear("altup.prediction_coefs", streams, streams * streams),
            Linear("altup.modality_router", c.H, streams, plain=False),
            Linear("laurel.linear_left", c.H, rank),
            Linear("laurel.linear_right", rank, c.H),
            Linear("per_layer_input_gate", c.H, own),
            Linear("per_layer_projection", own, c.H),
        ),
        other=8 * c.H,  # six norms of the block and the one of the low-rank path, one scale
    )
    layers = []
    for i in range(c.L):
        attends = _attention(c, own_keys=not borrowed or i < c.L - borrowed)
        layers.append(attends + feed_forward(c.H, c.whole(widths[i], "intermediate_size") if widths else c.I) + common)
    embedding = c.size("vocab_size_per_layer_input") * c.L * own
    outer = (
        Linear("per_layer_model_projection", c.H, c.L * own),
        *(
            Linear(f"altup_{kind}.{i}", c.H, c.H)
            for kind in ("projections", "unembed_projections")
            for i in range(streams - 1)
        ),
    )
    return Decoder(tuple(layers), c.H + embedding + own, outer=outer, embeddings=embedding)


def _attention(c: Config, own_keys: bool) -> Layer:
    """With a norm of the queries' heads, and one of the keys' where there are keys."""
    bias = c.flag("attention_bias")
    whole = attention(c.H, c.Q, c.KV, bias=bias, out_bias=bias)
    if own_keys:
        return whole + other(2 * c.head_dim)
    linears = tuple(x for x in whole.linears if x.name.endswith(("q_proj", "o_proj")))
    return Layer(linears, other=c.head_dim, Q=c.Q)
