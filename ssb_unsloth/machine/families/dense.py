"""Families of one kind of block: attention and one feed-forward. What each has otherwise than Llama stands in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .config import Config
from .parts import GATED, QKV, Decoder, Layer, attention, feed_forward, other

Bias = bool | str  # always, never, or by a key of the config


@dataclass(frozen=True)
class Row:
    """Attributes:
    qkv, out, under: names in the attention, and its own; of one name in `qkv`, the three are one matrix.
    mlp, mlp_under: the same of the feed-forward; fused: gate and up are one matrix.
    norms, last: of width H, in each block and behind all; biased: they have a bias.
    head_norms: of queries and keys, "dim" for one head's width, "width" for all heads', "heads" if a head has its own.
    positions: rows of learnt positions beyond the config's, None for none.
    """

    qkv: tuple[str, ...] = QKV
    out: str = "o_proj"
    under: str = "self_attn"
    mlp: tuple[str, ...] = GATED
    mlp_under: str = "mlp."
    fused: bool = False
    norms: int = 2
    last: int = 1
    biased: bool = False
    head_norms: str = ""
    head_norms_key: str = ""  # of the config, where they are not always there
    head_norms_biased: bool = False
    bias: Bias = "attention_bias"
    out_bias: Bias = "attention_bias"
    mlp_bias: Bias = False
    head_bias: bool = False
    positions: int | None = None
    wide: str = "intermediate_size"  # the key of the feed-forward's width, 4 H where it is null
    grouped: bool = True  # queries share keys, as num_key_value_heads says
    more: int = 0  # norms of width H beside the blocks
    scalars: int = 0  # single parameters in each block
    sinks: bool = False  # one for each head
    root: str = "model"
    blocks: str = "layers"


TWO = ("up_proj", "down_proj")
H_TO_4H = ("dense_h_to_4h", "dense_4h_to_h")
ALL: dict[str, Any] = {"bias": True, "out_bias": True, "mlp_bias": True}
PLAIN: dict[str, Any] = {"bias": False, "out_bias": False}
GPT: dict[str, Any] = {
    "grouped": False,
    "biased": True,
    "mlp_bias": True,
    "root": "transformer",
    "blocks": "h",
    "wide": "n_inner",
}
LLAMA = Row(mlp_bias="mlp_bias")
GLM = Row(bias="attention_bias", out_bias=False, fused=True, mlp=("gate_up_proj", "down_proj"))
GPT2 = Row(("c_attn",), "c_proj", "attn", ("c_fc", "c_proj"), positions=0, bias=True, out_bias=True, **GPT)
GPTJ = Row(QKV, "out_proj", "attn", ("fc_in", "fc_out"), norms=1, head_bias=True, **PLAIN, **GPT)
OLMO2 = Row(head_norms="width")
COHERE = Row(norms=1, head_norms="heads", head_norms_key="use_qk_norm")

ROWS = {
    "llama": LLAMA,
    "mistral": Row(**PLAIN),
    "ministral": Row(**PLAIN),
    "ministral3": Row(**PLAIN),
    "cwm": Row(**PLAIN),
    "qwen2": Row(bias=True, out_bias=False),
    "qwen3": Row(head_norms="dim"),
    "gemma": Row(),
    "gemma2": Row(norms=4),
    "gemma3_text": Row(norms=4, head_norms="dim"),
    "vaultgemma": Row(),
    "granite": LLAMA,
    "granite_swa": Row(mlp_bias="mlp_bias", sinks=True),
    "hyperclovax": Row(mlp_bias="mlp_bias"),
    "helium": Row(out_bias=False),
    "smollm3": LLAMA,
    "seed_oss": Row(out_bias="attention_out_bias", mlp_bias="mlp_bias"),
    "ernie4_5": Row(bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
    "hunyuan_v1_dense": Row(head_norms="dim"),
    "exaone4": Row(head_norms="dim", **PLAIN),
    "cohere": COHERE,
    "cohere2": Row(norms=1),
    "olmo": Row(norms=0, last=0),
    "olmo2": OLMO2,
    "olmo3": OLMO2,
    "arcee": Row(mlp=TWO, mlp_bias="mlp_bias"),
    "apertus": Row(mlp=TWO, head_norms="dim", mlp_bias="mlp_bias", scalars=2),
    "nemotron": Row(mlp=TWO, biased=True, mlp_bias="mlp_bias"),
    "jais2": Row(mlp=TWO, biased=True, mlp_bias="mlp_bias"),
    "nanochat": Row(mlp=("fc1", "fc2"), norms=0, last=0),
    "starcoder2": Row(mlp=("c_fc", "c_proj"), biased=True, bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
    "stablelm": Row(biased=True, bias="use_qkv_bias", out_bias=False),
    "phi": Row(out="dense", mlp=("fc1", "fc2"), norms=1, biased=True, head_bias=True, **ALL),
    "phi3": Row(("qkv_proj",), mlp=("gate_up_proj", "down_proj"), fused=True, **PLAIN),
    "glm": GLM,
    "glm4": Row(out_bias=False, fused=True, mlp=("gate_up_proj", "down_proj"), norms=4),
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": Row(
        QKV,
        "out_proj",
        "attn.attention",
        ("c_fc", "c_proj"),
        positions=0,
        bias=False,
        out_bias=True,
        **{**GPT, "wide": "intermediate_size"},
    ),
    "gptj": GPTJ,
    "codegen": Row(("qkv_proj",), "out_proj", "attn", ("fc_in", "fc_out"), norms=1, head_bias=True, **PLAIN, **GPT),
    "gpt_neox": Row(
        ("query_key_value",), "dense", "attention", H_TO_4H, grouped=False, biased=True, mlp_bias=True, root="gpt_neox"
    ),
    "bloom": Row(
        ("query_key_value",),
        "dense",
        "self_attention",
        H_TO_4H,
        bias=True,
        out_bias=True,
        more=1,
        **{**GPT, "wide": ""},
    ),
    "persimmon": Row(
        ("query_key_value",),
        "dense",
        mlp=H_TO_4H,
        grouped=False,
        biased=True,
        head_norms="dim",
        head_norms_key="qk_layernorm",
        head_norms_biased=True,
        **ALL,
    ),
    "mpt": Row(
        ("Wqkv",), "out_proj", "attn", TWO, "ffn.", grouped=False, **PLAIN, root="transformer", blocks="blocks", wide=""
    ),
    "opt": Row(
        QKV,
        "out_proj",
        mlp=("fc1", "fc2"),
        mlp_under="",
        grouped=False,
        biased=True,
        bias="enable_bias",
        out_bias="enable_bias",
        mlp_bias="enable_bias",
        positions=2,
        wide="ffn_dim",
        root="model.decoder",
    ),
}


def decoder(c: Config, row: Row | None = None) -> Decoder:
    """The decoder of a family in ROWS."""
    row = row or ROWS[c.family]
    layer = attending(c, row) + _feed_forward(c, row) + other(_norms(c, row))
    beside = _norm(c, row) * (row.last + row.more)
    positions = 0 if row.positions is None else (c.size("max_position_embeddings") + row.positions) * c.H
    return Decoder(
        (layer,) * c.L, beside + positions, row.blocks, row.root, head_bias=row.head_bias, embeddings=positions
    )


def attending(c: Config, row: Row) -> Layer:
    """The attention of a block, with what it normalizes."""
    Q, KV = c.Q, _key_width(c, row)
    part = attention(
        c.H, Q, KV, under=row.under, names=row.qkv, out=row.out, bias=said(c, row.bias), out_bias=said(c, row.out_bias)
    )
    norms = {"": 0, "dim": 2 * c.head_dim, "width": Q + KV, "heads": Q + KV}[row.head_norms]
    if row.head_norms_key and not c.flag(row.head_norms_key):
        norms = 0
    return part + other(norms * (2 if row.head_norms_biased else 1) + (c.heads if row.sinks else 0))


def _key_width(c: Config, row: Row) -> int:
    if c.family == "gpt_bigcode" and c.flag("multi_query"):
        return c.head_dim
    return c.KV if row.grouped else c.Q


def _feed_forward(c: Config, row: Row) -> Layer:
    I = c.size(row.wide, 4 * c.H) if row.wide else 4 * c.H  # noqa: E741
    if c.family == "mpt":
        I = c.size("expansion_ratio", 4) * c.H  # noqa: E741
    bias = said(c, row.mlp_bias)
    return feed_forward(c.H, I, row.mlp, under=row.mlp_under, fused=row.fused, bias=bias) + other(row.scalars)


def _norms(c: Config, row: Row) -> int:
    count = row.norms
    if c.family == "stablelm" and c.flag("use_parallel_residual"):
        count = 1
    if c.family == "hyperclovax" and c.flag("use_post_norm"):
        count = 4
    return count * _norm(c, row)


def _norm(c: Config, row: Row) -> int:
    return c.H * (2 if row.biased else 1)


def said(c: Config, bias: Bias) -> bool:
    """Whether there is a bias."""
    return c.flag(bias) if isinstance(bias, str) else bias


def falcon(c: Config) -> Decoder:
    """Falcon: keys by one head, by a few (its newer form), or by all; one or two norms before parallel halves."""
    new, parallel = c.flag("new_decoder_architecture"), c.flag("parallel_attn")
    heads = c.size("num_kv_heads", c.heads) if new else 1 if c.flag("multi_query") else c.heads
    bias, wide = c.flag("bias"), c.size("ffn_hidden_size", 4 * c.H)
    part = attention(
        c.H,
        c.H,
        heads * (c.H // c.heads),
        under="self_attention",
        names=("query_key_value",),
        out="dense",
        bias=bias,
        out_bias=bias,
    )
    two = c.size("num_ln_in_parallel_attn", 2) == 2 if new else not parallel
    layer = part + feed_forward(c.H, wide, H_TO_4H, bias=bias) + other(2 * c.H * (2 if two else 1))
    return Decoder((layer,) * c.L, 2 * c.H, "h", "transformer")
