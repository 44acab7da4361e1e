"""Families with a mixture of experts: all are loaded, a token meets a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .config import Config
from .dense import Bias, Row, attending, said
from .latent import latent_attention
from .parts import Decoder, Layer, Linear, experts, feed_forward, other

COMMON = Row()


@dataclass(frozen=True)
class Sparse:
    """Attributes:
    block: attention, norms and biases.
    count, used, wide: the config's keys for how many experts there are, a token takes, and how wide each is.
    under: the experts' path. linear_router: its name, where the router is a linear layer.
    shared: path of experts that every token takes; shared_wide: the key of their width, or shared_count, of their
    number. gate: a linear layer weighs them.
    dense_first: the key of how many blocks at the beginning have a plain feed-forward.
    """

    block: Row = COMMON
    count: str = "num_local_experts"
    used: str = "num_experts_per_tok"
    wide: str = "intermediate_size"
    under: str = "mlp.experts"
    matrices: int = 3
    biased: bool = False  # experts and router
    linear_router: str = ""
    shared: str = ""
    shared_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    shared_fused: bool = False
    shared_wide: str = ""
    shared_count: str = ""
    gate: str = ""
    dense_first: str = ""
    correction: bool = False  # a parameter for each expert beside the router
    latent: bool = False
    head_bias: Bias = False


SHARED_MLP: dict[str, Any] = {
    "shared": "shared_mlp.",
    "shared_names": ("input_linear", "output_linear"),
    "shared_fused": True,
}
SHARED_MLP |= {"shared_wide": "shared_intermediate_size"}
SHARED: dict[str, Any] = {
    "shared": "mlp.shared_experts.",
    "shared_count": "n_shared_experts",
    "dense_first": "first_k_dense_replace",
}
QWEN: dict[str, Any] = {"count": "num_experts", "wide": "moe_intermediate_size"}
QWEN_SHARED: dict[str, Any] = {"shared": "mlp.shared_expert.", "shared_wide": "shared_expert_intermediate_size"}
QWEN_SHARED |= {"gate": "mlp.shared_expert_gate"}
ROUTED: dict[str, Any] = {"count": "n_routed_experts", "wide": "moe_intermediate_size", **SHARED}
PLAIN = Row(bias=False, out_bias=False)
OLMOE = Row(head_norms="width")

ROWS = {
    "mixtral": Sparse(PLAIN),
    "minimax_m2": Sparse(Row(bias=False, out_bias=False, head_norms="width"), wide="intermediate_size"),
    "qwen2_moe": Sparse(Row(bias="qkv_bias", out_bias=False), **QWEN, **QWEN_SHARED),
    "qwen3_moe": Sparse(Row(head_norms="dim"), **QWEN),
    "olmoe": Sparse(OLMOE, count="num_experts"),
    "flex_olmo": Sparse(OLMOE, count="num_experts"),
    "gpt_oss": Sparse(Row(sinks=True), biased=True),
    "granitemoe": Sparse(under="block_sparse_moe.experts"),
    "granitemoeshared": Sparse(under="block_sparse_moe.experts", **SHARED_MLP),
    "phimoe": Sparse(Row(biased=True), linear_router="mlp.router"),
    "glm4_moe": Sparse(Row(out_bias=False, head_norms="dim", head_norms_key="use_qk_norm"), **ROUTED),
    "dots1": Sparse(Row(head_norms="dim"), **ROUTED),
    "deepseek_v2": Sparse(Row(mlp_bias="mlp_bias"), latent=True, **ROUTED),
    "deepseek_v3": Sparse(latent=True, **ROUTED),
    "ernie4_5_moe": Sparse(
        Row(bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
        count="moe_num_experts",
        used="moe_k",
        wide="moe_intermediate_size",
        shared="mlp.shared_experts.",
        shared_count="moe_num_shared_experts",
        dense_first="moe_layer_start_index",
        correction=True,
        head_bias="use_bias",
    ),
}


def decoder(c: Config) -> Decoder:
    """The decoder of a family in ROWS."""
    row = ROWS[c.family]
    attended = latent_attention(c) if row.latent else attending(c, row.block)
    common = attended + other((4 if row.block.biased else 2) * c.H)
    sparse, plain = common + routed(c, row), common + feed_forward(c.H, c.I, bias=said(c, row.block.mlp_bias))
    layers = tuple(sparse if _is_sparse(c, row, i) else plain for i in range(c.L))
    return Decoder(layers, c.H * (2 if row.block.biased else 1), head_bias=said(c, row.head_bias))


def routed(c: Config, row: Sparse) -> Layer:
    """The feed-forward of a block with experts: routed ones, and those that every token takes."""
    count, used, wide = c.size(row.count), c.size(row.used), c.size(row.wide)
    router: int | Linear = count * (c.H + row.biased)
    if row.linear_router:
        router = Linear(row.linear_router, c.H, count, plain=False)
    layer = experts(
        c.H, wide, count, min(count, used), under=row.under, matrices=row.matrices, bias=row.biased, router=router
    ) + other(count if row.correction else 0)
    if not row.shared:
        return layer
    width = c.size(row.shared_wide, 0, 0) if row.shared_wide else wide * c.size(row.shared_count, 0, 0)
    bias = said(c, row.block.mlp_bias)
    if width:
        layer += feed_forward(c.H, width, row.shared_names, under=row.shared, fused=row.shared_fused, bias=bias)
    return layer + Layer((Linear(row.gate, c.H, 1, plain=False),) if row.gate else ())


def _is_sparse(c: Config, row: Sparse, i: int) -> bool:
    if row.dense_first and i < c.size(row.dense_first, 0, 0):
        return False
    if c.family == "ernie4_5_moe":
        last = c.get("moe_layer_end_index")
        last = c.L - 1 if last in (None, -1) else last
        return i <= last and (i + 1) % c.size("moe_layer_interval", 1) == 0
    if row.count != "num_experts" or not c.has("decoder_sparse_step"):
        return True
    return i not in c.places("mlp_only_layers") and (i + 1) % c.size("decoder_sparse_step", 1) == 0
