"""A model's shape from its config.json, and what follows from it: parameters, LoRA, cache, activations, operations.

Standard library only: a plan is made before torch is installed. The counts are tested against transformers' own models.
Shapes: H hidden, I intermediate, L layers, Q and KV the widths of all query heads and of all key heads, V vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.files import local, read_object
from ..pocket import MODEL_DIR, is_pocket
from ..recipe.schema import ModelConfig
from . import hub

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
SHIPPED = Path(__file__).with_name("geometries.json")
# What a family adds to the common layer of Llama: a bias on query, key and value; norms over the heads; norms a layer.
BIASED = {"qwen2"}
HEAD_NORMS = {"qwen3", "gemma3", "gemma3_text"}
FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text"}
TIED_UNLESS_SAID = {"gemma", "gemma2", "gemma3", "gemma3_text", "cohere"}
KNOWN = {"qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3", "gemma3_text", "granite"}


@dataclass(frozen=True)
class Geometry:
    family: str
    H: int
    I: int  # noqa: E741  the field's own letter
    L: int
    Q: int
    KV: int
    V: int
    head_dim: int
    tied: bool
    biased: bool

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one layer: inputs and outputs."""
        H, I, Q, KV = self.H, self.I, self.Q, self.KV  # noqa: E741
        return {
            "q_proj": (H, Q),
            "k_proj": (H, KV),
            "v_proj": (H, KV),
            "o_proj": (Q, H),
            "gate_proj": (H, I),
            "up_proj": (H, I),
            "down_proj": (I, H),
        }

    @property
    def linear(self) -> int:
        """Parameters in the projections of all layers: what each token is multiplied with, and what is quantized."""
        return self.L * sum(a * b for a, b in self.projections.values())

    @property
    def parameters(self) -> int:
        """All of them: embeddings (once if tied), projections, biases, norms."""
        norms = self.H * (4 if self.family in FOUR_NORMS else 2)
        norms += 2 * self.head_dim if self.family in HEAD_NORMS else 0
        bias = self.Q + 2 * self.KV if self.biased else 0
        return self.V * self.H * (1 if self.tied else 2) + self.linear + self.L * (norms + bias) + self.H

    def lora_parameters(self, r: int, modules: str | list[str]) -> int:
        """r x (inputs + outputs) for each module of each layer; of all where `modules` is a word."""
        every = isinstance(modules, str)
        return self.L * sum(r * (a + b) for name, (a, b) in self.projections.items() if every or name in modules)

    def weight_bytes(self, itemsize: int, quantization: str = "none") -> int:
        """With 4 bits the projections take half a byte each and 1/64 more for the scales (bitsandbytes' nf4, blocks of
        64, scales quantized again); with 8 bits one byte. All else stays as it is."""
        per_linear = {"none": itemsize, "8bit": 1.0, "4bit": 0.5 + 1 / 64}[quantization]
        return int(self.linear * per_linear + (self.parameters - self.linear) * itemsize)

    def cache_bytes(self, itemsize: int) -> int:
        """Key and value of one token in all layers."""
        return 2 * self.L * self.KV * itemsize

    def saved_bytes(self, itemsize: int, r: int) -> int:
        """What autograd keeps of one token in one layer with LoRA on all seven projections, the base frozen.

        Counted on transformers 5.17 with PEFT 0.21 by `torch.autograd.graph.saved_tensors_hooks` (test_plan.py):
        norms in float32, each product's input and output, both factors of the gated unit, the rank-r products.
        """
        if itemsize == 2:  # under autocast
            return 18 * self.H + 8 * self.I + 6 * self.Q + 4 * self.KV + 14 * r
        return 16 * self.H + 16 * self.I + 8 * self.Q + 8 * self.KV + 28 * r

    def forward_operations(self, tokens: float, logits: float, mean_length: float) -> float:
        """Of a forward pass over so many tokens with so many rows of logits: two a weight, and causal attention, each
        token looking back over half of `mean_length`, with two products of Q."""
        return tokens * (2 * self.linear + self.L * 4 * self.Q * mean_length / 2) + logits * 2 * self.V * self.H


def from_config(config: dict[str, Any], name: str) -> Geometry:
    """The geometry that a config.json describes; for a model of text and pictures, that of its text part.

    Raises:
        UserError: it lacks a size, or describes a mixture of experts.
    """
    inner = config.get("text_config")
    config = {**config, **(inner if isinstance(inner, dict) else {})}
    family = str(config.get("model_type", ""))
    missing = [key for key in SIZES if key not in config]
    if missing:
        raise UserError(f"The config.json of {name} lacks {', '.join(missing)}: no decoder that SSB can plan for.")
    optional = [key for key in ("head_dim", "num_key_value_heads") if config.get(key) is not None]
    for key in (*SIZES, *optional):
        if type(config[key]) is not int or not 0 < config[key] < 2**31:
            raise UserError(
                f"The config.json of {name}: {key} is {str(config[key])[:40]!r}; expected a number above 0."
            )
    if config.get("num_experts") or config.get("num_local_experts"):
        raise UserError(f"{name} is a mixture of experts; `ssb plan` counts dense models only.")
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return Geometry(
        family=family,
        H=config["hidden_size"],
        I=config["intermediate_size"],
        L=config["num_hidden_layers"],
        Q=heads * head_dim,
        KV=(config.get("num_key_value_heads") or heads) * head_dim,
        V=config["vocab_size"],
        head_dim=head_dim,
        tied=config.get("tie_word_embeddings", family in TIED_UNLESS_SAID),
        biased=config.get("attention_bias", family in BIASED),
    )


def shipped(name: str) -> dict[str, Any] | None:
    """What the package itself knows of a hub model."""
    table: dict[str, Any] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return table.get(name) if "/" in name else None


def geometry(model: ModelConfig) -> tuple[Geometry, str]:
    """The model's geometry, and where it was read: its folder, the hub's cache, this package, or the hub.

    Raises:
        UserError: it is nowhere to be had.
    """
    config, source = _config(model)
    return from_config(config, model.name), source


def _config(model: ModelConfig) -> tuple[dict[str, Any], str]:
    if is_pocket(model.name):
        return read_object(MODEL_DIR / "config.json"), "the package"
    folder = local(model.name, "model.name")
    if folder.exists() or model.name.startswith((".", "/", "~")):
        if not (folder / "config.json").is_file():
            raise UserError(f"model.name: {folder} holds no config.json, so it is no model folder.")
        return read_object(folder / "config.json"), str(folder)
    kept = hub.cached(model.name, model.revision)
    if kept is not None and (kept / "config.json").is_file():
        return read_object(kept / "config.json"), "the hub's cache"
    known = shipped(model.name)
    if known is not None:
        return known, "the package's table"
    remedy = "Set model.name to a local folder, or connect to the hub."
    if hub.offline():
        raise UserError(f"{model.name} is not in the hub's cache, and HF_HUB_OFFLINE is set. {remedy}")
    try:
        config = hub.get_json(f"{model.name}/resolve/{model.revision or 'main'}/config.json")
    except hub.HubError as error:
        if error.status in (401, 403):
            raise UserError(
                f"{model.name} is gated or does not exist: accept its licence at {hub.endpoint()}/{model.name}, then"
                " `hf auth login` or set HF_TOKEN."
            ) from None
        raise UserError(f"The config.json of {model.name} cannot be had: {error}. {remedy}") from None
    return config, "the hub"


SMALL = 100_000_000  # parameters; ours: a CPU can do with a model up to here


def needs_gpu(shape: Geometry) -> bool:
    """Whether a CPU would take days: above SMALL parameters."""
    return shape.parameters > SMALL
