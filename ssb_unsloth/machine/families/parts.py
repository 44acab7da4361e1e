"""What layers are made of: projections by name, experts, norms; and what each keeps of a token and of a sequence.

Sizes are (inputs, outputs), counts are of parameters or of elements. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

QKV = ("q_proj", "k_proj", "v_proj")
GATED = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Linear:
    """A linear layer of its own in transformers' model; `name` is its path within the block."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    plain: bool = True  # LoRA may stand here unasked: no router, and no matrix that a Mamba kernel reads by itself

    @property
    def weight(self) -> int:
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        return self.weight + self.outputs * self.bias


@dataclass(frozen=True)
class Experts:
    """`count` experts in tensors of three dimensions, of which a token takes `used`; `each` has so many parameters."""

    name: str
    count: int
    used: int
    each: int


@dataclass(frozen=True)
class Layer:
    """A block, or a part of one: parts are added up.

    Attributes:
        other: parameters of norms, kernels, decay rates and routers that are no linear layers.
        Q, KV: widths of all queries and of all keys, where tokens attend to all before them.
        I: width of what the feed-forward and the mixer compute with for a token; of experts, the used ones.
        cache: elements kept of each token; latent: the same where an engine keeps what they are computed from.
        state: elements kept of a sequence, whatever its length.
        gathered: hidden states that are copied for a token's experts, in units of H.
    """

    linears: tuple[Linear, ...] = ()
    experts: tuple[Experts, ...] = ()
    other: int = 0
    Q: int = 0
    KV: int = 0
    I: int = 0  # noqa: E741  the field's own letter
    cache: int = 0
    latent: int = 0
    state: int = 0
    gathered: int = 0

    def __add__(self, part: Layer) -> Layer:
        return Layer(**{f.name: getattr(self, f.name) + getattr(part, f.name) for f in fields(self)})

    @property
    def parameters(self) -> int:
        return sum(x.parameters for x in self.linears) + sum(e.count * e.each for e in self.experts) + self.other

    @property
    def idle(self) -> int:
        """Parameters that a token does not meet."""
        return sum((e.count - e.used) * e.each for e in self.experts)

    @property
    def multiplied(self) -> int:
        """Weights that a token is multiplied with."""
        return sum(x.weight for x in self.linears) + sum(e.used * e.each for e in self.experts)


@dataclass(frozen=True)
class Decoder:
    """A language model without its embedding and head: its blocks one after another, and what stands beside them."""

    layers: tuple[Layer, ...]
    beside: int = 0  # parameters: last norm, positions, embeddings of other kinds
    blocks: str = "layers"  # the path from the decoder to a block, without its number
    root: str = "model"  # of the decoder
    outer: tuple[Linear, ...] = ()  # linear layers beside the blocks
    head_bias: bool = False
    embeddings: int = 0  # of `beside`: those of positions and of layers


def other(count: int) -> Layer:
    return Layer(other=count)


def attention(
    H: int,
    Q: int,
    KV: int,
    *,
    under: str = "self_attn",
    names: Sequence[str] = QKV,
    out: str = "o_proj",
    bias: bool = False,
    out_bias: bool = False,
    gate: bool = False,
    inputs: int | None = None,
) -> Layer:
    """Queries, keys and values by three projections or, of one name, by one; `gate`: as many outputs again gate Q."""
    q = Q * (2 if gate else 1)
    outputs = (q + 2 * KV,) if len(names) == 1 else (q, KV, KV)
    linears = [Linear(f"{under}.{name}", inputs or H, n, bias) for name, n in zip(names, outputs, strict=True)]
    linears.append(Linear(f"{under}.{out}", Q, H, out_bias))
    return Layer(tuple(linears), Q=Q, KV=KV, cache=2 * KV, latent=2 * KV)


def feed_forward(
    H: int,
    I: int,  # noqa: E741
    names: Sequence[str] = GATED,
    *,
    under: str = "mlp.",
    fused: bool = False,
    bias: bool = False,
) -> Layer:
    """Of three matrices (gate, up, down); two where gate and up are `fused`; two where there is no gate."""
    *ups, down = names
    linears = [Linear(f"{under}{name}", H, I * (2 if fused else 1), bias) for name in ups]
    return Layer((*linears, Linear(f"{under}{down}", I, H, bias)), I=I)


def experts(
    H: int,
    I: int,  # noqa: E741
    count: int,
    used: int,
    *,
    under: str = "mlp.experts",
    matrices: int = 3,
    bias: bool = False,
    router: int | Linear = 0,
) -> Layer:
    """Routed experts in fused tensors, with their router: a matrix of its own kind, or a linear layer."""
    each = matrices * H * I + (I * (matrices - 1) + H if bias else 0)
    routed = Layer(other=router) if isinstance(router, int) else Layer((router,))
    return routed + Layer(experts=(Experts(under, count, used, each),), I=used * I, gathered=used)
