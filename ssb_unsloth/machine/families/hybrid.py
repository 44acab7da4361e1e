"""Families whose blocks are of several kinds: attention beside Mamba, gated delta nets, short convolutions."""

from __future__ import annotations

from .config import Config
from .dense import Row, attending
from .parts import Decoder, Layer, Linear, attention, experts, feed_forward, other
from .sparse import QWEN, QWEN_SHARED, SHARED_MLP, Sparse, routed


def _mamba2(
    c: Config,
    heads: int,
    width: int,
    groups: int,
    state: int,
    *,
    under: str,
    conv: int,
    conv_bias: bool,
    bias: bool = False,
    out_bias: bool | None = None,
    norm: bool = True,
    wanted: int | None = None,
) -> Layer:
    """One mixer: `heads` of `width`; B and C in `groups` of `state`."""
    inner = heads * width if wanted is None else wanted
    kernel = inner + 2 * groups * state
    linears = (
        Linear(f"{under}.in_proj", c.H, inner + kernel + heads, bias),
        Linear(f"{under}.out_proj", inner, c.H, bias if out_bias is None else out_bias, plain=False),
    )
    own = 3 * heads + kernel * (conv + conv_bias) + (inner if norm else 0)
    return Layer(linears, other=own, I=2 * inner + kernel, state=inner * state + kernel * conv)


def _named(c: Config, under: str, norm: bool = True) -> Layer:
    """By the keys of Bamba, Granite 4 and Falcon-H1."""
    heads, inner = c.size("mamba_n_heads"), c.get("mamba_d_ssm")
    inner = c.size("mamba_d_ssm") if inner is not None else c.size("mamba_expand") * c.H
    width = inner // heads if c.get("mamba_d_head") in (None, "auto") else c.size("mamba_d_head")
    bias = c.flag("mamba_proj_bias")
    return _mamba2(
        c,
        heads,
        width,
        c.size("mamba_n_groups"),
        c.size("mamba_d_state"),
        under=under,
        norm=norm,
        wanted=inner,
        conv=c.size("mamba_d_conv"),
        conv_bias=c.flag("mamba_conv_bias"),
        bias=bias,
        out_bias=c.flag("projectors_bias") if c.family == "falcon_h1" else bias,
    )


def bamba(c: Config) -> Decoder:
    common = feed_forward(c.H, c.I, under="feed_forward.", bias=c.flag("mlp_bias")) + other(2 * c.H)
    kinds = c.each("layer_types", c.L) or ["a" if i in c.places("attn_layer_indices") else "m" for i in range(c.L)]
    attends, mixes = attending(c, Row()) + common, _named(c, "mamba") + common
    return Decoder(tuple(attends if _attends(kind) else mixes for kind in kinds), c.H)


def _attends(kind: object) -> bool:
    return kind in ("a", "attention", "full_attention")


def granite_hybrid(c: Config) -> Decoder:
    """Granite 4: Mamba or attention, then experts (none in the small ones) and a feed-forward for all tokens."""
    row = Sparse(under="block_sparse_moe.experts", **SHARED_MLP)
    width = c.size("shared_intermediate_size")
    wide = feed_forward(c.H, width, row.shared_names, under=row.shared, fused=True)
    common = (routed(c, row) if c.size("num_local_experts", 0, 0) else wide) + other(2 * c.H)
    kinds = c.each("layer_types", c.L) or ["mamba"] * c.L
    attends, mixes = attending(c, Row()) + common, _named(c, "mamba") + common
    return Decoder(tuple(attends if _attends(kind) else mixes for kind in kinds), c.H)


def falcon_h1(c: Config) -> Decoder:
    """Attention and Mamba side by side in every block."""
    layer = attending(c, Row()) + _named(c, "mamba", norm=c.flag("mamba_rms_norm"))
    layer += feed_forward(c.H, c.I, under="feed_forward.", bias=c.flag("mlp_bias")) + other(2 * c.H)
    return Decoder((layer,) * c.L, c.H)


def nemotron_h(c: Config) -> Decoder:
    """One mixer a block: Mamba, attention, a feed-forward or experts."""
    wide = c.size("moe_shared_expert_intermediate_size", 0, 0)
    count, used, each = (c.size(key, 1) for key in ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"))
    two, bias = ("up_proj", "down_proj"), c.flag("mlp_bias")
    mixers = {
        "mamba": _mamba2(
            c,
            c.size("mamba_num_heads"),
            c.size("mamba_head_dim"),
            c.size("n_groups"),
            c.size("ssm_state_size"),
            under="mixer",
            conv=c.size("conv_kernel"),
            conv_bias=c.flag("use_conv_bias"),
            bias=c.flag("use_bias"),
        ),
        "attention": attention(c.H, c.Q, c.KV, under="mixer"),
        "mlp": feed_forward(c.H, c.size("intermediate_size", 1), two, under="mixer.", bias=bias),
        "moe": experts(c.H, each, count, min(count, used), under="mixer.experts", matrices=2, router=count * c.H)
        + feed_forward(c.H, wide, two, under="mixer.shared_experts.", bias=bias),
    }
    mixers |= {"linear_attention": mixers["mamba"], "full_attention": mixers["attention"]}
    kinds, pattern = c.get("layers_block_type"), c.get("hybrid_override_pattern")
    if kinds is None and isinstance(pattern, str):
        kinds = [{"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}.get(letter) for letter in pattern]
    kinds = kinds if isinstance(kinds, list) else ["mamba", "moe", "attention", "mlp"]
    return Decoder(tuple(c.one_of(mixers, kind, "layers_block_type") + other(c.H) for kind in kinds), c.H)


def qwen3_next(c: Config) -> Decoder:
    """Qwen3-Next and Qwen3.5: gated delta nets, every fourth block attention; experts, or one feed-forward."""
    keys = c.size("linear_num_key_heads") * c.size("linear_key_head_dim")
    heads, width = c.size("linear_num_value_heads"), c.size("linear_value_head_dim")
    values, kernel = heads * width, c.size("linear_conv_kernel_dim")
    outputs = {"in_proj_qkvz": 2 * (keys + values), "in_proj_ba": 2 * heads}
    if c.family.startswith("qwen3_5"):
        outputs = {"in_proj_qkv": 2 * keys + values, "in_proj_z": values, "in_proj_b": heads, "in_proj_a": heads}
    linears = [Linear(f"linear_attn.{name}", c.H, n) for name, n in outputs.items()]
    linears.append(Linear("linear_attn.out_proj", values, c.H))
    mixes = Layer(
        tuple(linears),
        other=2 * heads + (2 * keys + values) * kernel + width,
        I=2 * (keys + values),
        state=heads * width * c.size("linear_key_head_dim") + (2 * keys + values) * kernel,
    )
    bias = c.flag("attention_bias")
    attends = attention(c.H, c.Q, c.KV, bias=bias, out_bias=bias, gate=True) + other(2 * c.head_dim)
    row = Sparse(**QWEN, **QWEN_SHARED)
    sparse = c.size("num_experts", 0, 0) > 0
    step, plain = c.size("decoder_sparse_step", 1), c.places("mlp_only_layers")
    interval = c.size("full_attention_interval", 4)
    kinds = c.each("layer_types", c.L) or ["a" if (i + 1) % interval == 0 else "m" for i in range(c.L)]
    layers = []
    for i, kind in enumerate(kinds):
        wide = routed(c, row) if sparse and i not in plain and (i + 1) % step == 0 else feed_forward(c.H, c.I)
        layers.append((attends if _attends(kind) else mixes) + wide + other(2 * c.H))
    return Decoder(tuple(layers), c.H)


def lfm2(c: Config) -> Decoder:
    """Short convolutions, some blocks of attention; the larger ones with experts."""
    bias, kernel = c.flag("conv_bias"), c.size("conv_L_cache")
    mixes = Layer(
        (Linear("conv.in_proj", c.H, 3 * c.H, bias), Linear("conv.out_proj", c.H, c.H, bias)),
        other=c.H * (kernel + bias),
        I=2 * c.H,
        state=c.H * kernel,
    )
    attends = attention(c.H, c.Q, c.KV, out="out_proj") + other(2 * c.head_dim)
    wide = c.I
    if c.family == "lfm2" and c.flag("block_auto_adjust_ff_dim"):
        wide = 2 * wide // 3
        factor, of = c.get("block_ffn_dim_multiplier"), c.size("block_multiple_of")
        wide = int(factor * wide) if isinstance(factor, int | float) else wide
        wide = of * -(-wide // of)
    plain = feed_forward(c.H, wide, ("w1", "w3", "w2"), under="feed_forward.")
    sparse, first = plain, c.L
    if c.family == "lfm2_moe":
        row = Sparse(**QWEN, under="feed_forward.experts")
        sparse, first = routed(c, row), c.size("num_dense_layers", 0, 0)
    kinds = c.each("layer_types", c.L)
    if kinds is None:
        full = c.places("full_attn_idxs") if c.get("full_attn_idxs") is not None else list(range(c.L))
        kinds = ["a" if i in full else "c" for i in range(c.L)]
    return Decoder(
        tuple(
            (attends if _attends(k) else mixes) + (plain if i < first else sparse) + other(2 * c.H)
            for i, k in enumerate(kinds)
        ),
        c.H,
    )


def _mamba1(c: Config, expand: int, state: int, kernel: int, rank: int, under: str, norms: bool) -> Layer:
    inner = expand
    bias, conv_bias = (
        c.flag("use_bias") or c.flag("mamba_proj_bias"),
        c.flag("use_conv_bias") or c.flag("mamba_conv_bias"),
    )
    linears = (
        Linear(f"{under}.in_proj", c.H, 2 * inner, bias),
        Linear(f"{under}.x_proj", inner, rank + 2 * state, plain=False),
        Linear(f"{under}.dt_proj", rank, inner, True, plain=False),
        Linear(f"{under}.out_proj", inner, c.H, bias, plain=False),
    )
    own = inner * (state + 1 + kernel + conv_bias) + (rank + 2 * state if norms else 0)
    return Layer(linears, other=own, I=3 * inner, state=inner * (state + kernel))


def mamba(c: Config) -> Decoder:
    inner = c.size("intermediate_size", c.size("expand", 2) * c.H)
    rank = -(-c.H // 16) if c.get("time_step_rank") in (None, "auto") else c.size("time_step_rank")
    layer = _mamba1(c, inner, c.size("state_size"), c.size("conv_kernel"), rank, "mixer", False) + other(c.H)
    return Decoder((layer,) * c.L, c.H, root="backbone")


def mamba2(c: Config) -> Decoder:
    layer = _mamba2(
        c,
        c.size("num_heads"),
        c.size("head_dim"),
        c.size("n_groups"),
        c.size("state_size"),
        under="mixer",
        conv=c.size("conv_kernel"),
        conv_bias=c.flag("use_conv_bias"),
        bias=c.flag("use_bias"),
    )
    return Decoder((layer + other(c.H),) * c.L, c.H, root="backbone")


def jamba(c: Config) -> Decoder:
    """Mamba with some blocks of attention, feed-forwards with some of experts."""
    rank = -(-c.H // 16) if c.get("mamba_dt_rank") in (None, "auto") else c.size("mamba_dt_rank")
    mixes = _mamba1(
        c, c.size("mamba_expand") * c.H, c.size("mamba_d_state"), c.size("mamba_d_conv"), rank, "mamba", True
    )
    attends, plain = attention(c.H, c.Q, c.KV), feed_forward(c.H, c.I, under="feed_forward.")
    count = c.size("num_experts")
    sparse = plain
    if count > 1:
        router = Linear("feed_forward.router", c.H, count, plain=False)
        used = min(count, c.size("num_experts_per_tok"))
        sparse = experts(c.H, c.I, count, used, under="feed_forward.experts", router=router)
    layers = []
    for i in range(c.L):
        at = i % c.size("attn_layer_period") == c.size("attn_layer_offset", 0, 0)
        ex = i % c.size("expert_layer_period") == c.size("expert_layer_offset", 0, 0)
        layers.append((attends if at else mixes) + (sparse if ex else plain) + other(2 * c.H))
    return Decoder(tuple(layers), c.H)
