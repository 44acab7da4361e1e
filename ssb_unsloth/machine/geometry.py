"""A model's shape from its config.json, and what follows from it: parameters, LoRA, cache, activations, operations.

Standard library only: a plan is made before torch is installed. `families` knows the layers of an architecture, and the
counts are tested against transformers' own models; one that it does not know is counted on its own modules where torch
is (`counted`), and planned as a Llama, which is said, where it is not.
Shapes: H hidden, L layers, V vocabulary, Q and KV the widths of all query heads and of all key heads, I feed-forward.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..io.files import local, read_object
from ..pocket import model_folder
from ..recipe.schema import ModelConfig
from . import counted, hub
from .families import FAMILIES, family_of
from .families.config import SIZES, Config
from .families.parts import Decoder, Layer, Linear
from .families.towers import tower
from .lora_targets import Sizes, choose, last
from .positions import longest

SHIPPED = Path(__file__).with_name("geometries.json")
How = Literal["family", "modules", "llama"]


@dataclass(frozen=True)
class Geometry:
    """Attributes:
    family: the config's model_type, of the language part.
    decoder: its layers.
    tied: input embedding and head are one matrix.
    longest: tokens that it has positions for, None where the config does not say.
    tower: parameters that are loaded beside the language model, for pictures and sound; 0 where there is
        none, None where it is not known.
    how: whether the family is known, the model's modules were counted, or it is planned as if it were a Llama.
    """

    family: str
    H: int
    V: int
    decoder: Decoder
    tied: bool
    longest: int | None = None
    tower: int | None = 0
    how: How = "family"
    language: str = ""  # the decoder's path, where it stands in a larger model
    name: str = "the model"

    @property
    def L(self) -> int:
        return len(self.decoder.layers)

    @cached_property
    def layers(self) -> Counter[Layer]:
        """How many of each kind."""
        return Counter(self.decoder.layers)

    @property
    def linear_layers(self) -> Sizes:
        """Inputs and outputs of each linear layer of the blocks and beside them, by its full name; not the head."""
        return {name: (x.inputs, x.outputs) for name, x in self._linears()}

    def _linears(self) -> Iterator[tuple[str, Linear]]:
        root, blocks = self.root, self.decoder.blocks
        for i, layer in enumerate(self.decoder.layers):
            for linear in layer.linears:
                yield f"{root}.{blocks}.{i}.{linear.name}", linear
        for linear in self.decoder.outer:
            yield f"{root}.{linear.name}", linear

    @property
    def root(self) -> str:
        return self.language or self.decoder.root

    @cached_property
    def I(self) -> int:  # noqa: E743
        """The widest that a layer computes with for a token."""
        return max((layer.I for layer in self.layers), default=0)

    @cached_property
    def quantized(self) -> int:
        """Weights in linear layers, which is what bitsandbytes makes smaller; fused experts are none."""
        return sum(n * sum(x.weight for x in layer.linears) for layer, n in self.layers.items()) + self._outer

    @property
    def _outer(self) -> int:
        return sum(x.weight for x in self.decoder.outer)

    @cached_property
    def linear(self) -> int:
        """Weights that each token is multiplied with, without the head."""
        return sum(n * layer.multiplied for layer, n in self.layers.items()) + self._outer

    @cached_property
    def parameters(self) -> int:
        """All that are loaded: embeddings (once if tied), layers, and a tower."""
        blocks = sum(n * layer.parameters for layer, n in self.layers.items())
        beside = self.decoder.beside + sum(x.parameters for x in self.decoder.outer) + (self.tower or 0)
        head = self.V * self.decoder.head_bias
        return self.V * self.H * (1 if self.tied else 2) + head + blocks + beside

    @cached_property
    def active(self) -> int:
        """Those of the language model that a token meets: without the experts that it is not sent to."""
        return self.parameters - (self.tower or 0) - sum(n * layer.idle for layer, n in self.layers.items())

    @cached_property
    def between(self) -> int:
        """Those of the language model without its embeddings, of tokens or layers, and its head."""
        blocks = sum(n * layer.parameters for layer, n in self.layers.items())
        return blocks + sum(x.parameters for x in self.decoder.outer) + self.decoder.beside - self.decoder.embeddings

    def targets(self, wanted: str | Sequence[str]) -> Sizes:
        """The layers that the recipe's `target_modules` mean, by the rule of `lora_targets`.

        Raises:
            UserError: they hit nothing, or are no names.
        """
        ends = {f"{self.root}.embed_tokens": (self.V, self.H), "lm_head": (self.H, self.V)}
        linears = list(self._linears())
        plain = {name: (x.inputs, x.outputs) for name, x in linears if x.plain}
        return choose(wanted, plain, {**self.linear_layers, **ends}, self.name)

    def lora_parameters(self, r: int, modules: str | Sequence[str]) -> int:
        """r x (inputs + outputs) for each layer that is hit."""
        return sum(r * (a + b) for a, b in self.targets(modules).values())

    def hit(self, wanted: str | Sequence[str]) -> dict[str, int]:
        """How many layers of each last name these are."""
        return dict(Counter(last(name) for name in self.targets(wanted)))

    def left_out(self, wanted: str | Sequence[str]) -> dict[str, int]:
        """What LoRA does not stand on, in words, and its parameters; without embeddings, norms and convolutions."""
        hit, left = self.targets(wanted), defaultdict[str, list[int]](list)
        for name, linear in self._linears():
            if name not in hit:
                left[last(name) + ("" if linear.plain else " (router, or read by a kernel)")].append(linear.parameters)
        said = {f"{len(counts):,} x {name}": sum(counts) for name, counts in left.items()}
        experts = [(n, e) for layer, n in self.layers.items() for e in layer.experts]
        if experts:
            number = sum(n for n, _ in experts)
            said[f"{number:,} x experts in one tensor"] = sum(n * e.count * e.each for n, e in experts)
        if "lm_head" not in hit:
            said["the head"] = self.V * self.H
        if self.tower:
            said["the tower"] = self.tower
        return said

    def weight_bytes(self, itemsize: int, quantization: str = "none") -> int:
        """With 4 bits linear layers take half a byte a weight and 1/64 more for the scales (bitsandbytes' nf4, blocks
        of 64, scales quantized again); with 8 bits one byte. All else stays as it is."""
        per_linear = {"none": itemsize, "8bit": 1.0, "4bit": 0.5 + 1 / 64}[quantization]
        return int(self.quantized * per_linear + (self.parameters - self.quantized) * itemsize)

    def cache_bytes(self, itemsize: int, latent: bool = False) -> int:
        """Key and value of one token in all layers, sliding windows as if they had no end; `latent`: where an engine
        keeps what DeepSeek's attention makes them of."""
        return itemsize * sum(n * (layer.latent if latent else layer.cache) for layer, n in self.layers.items())

    def state_bytes(self) -> int:
        """What is kept of a sequence, whatever its length, in float32: states of Mamba and of linear attention."""
        return 4 * sum(n * layer.state for layer, n in self.layers.items())

    def _saved(self, layer: Layer, itemsize: int, r: int) -> int:
        rank = itemsize * r * sum(x.plain for x in layer.linears)
        I, Q, KV = layer.I, layer.Q, layer.KV  # noqa: E741
        H = self.H * (1 + layer.gathered / 4)
        if itemsize == 2:  # under autocast
            return int(18 * H) + 8 * I + 6 * Q + 4 * KV + rank
        return int(16 * H) + 16 * I + 8 * Q + 8 * KV + rank

    def saved_bytes(self, itemsize: int, r: int) -> int:
        """What autograd keeps of one token in one layer, the one that keeps most, with LoRA on all of its projections
        and the base frozen.

        Counted on transformers 5.17 with PEFT 0.21 by `torch.autograd.graph.saved_tensors_hooks` (test_plan.py):
        norms in float32, each product's input and output, both factors of the gated unit, the rank-r products.
        """
        return max((self._saved(layer, itemsize, r) for layer in self.layers), default=0)

    def saved_in_all(self, itemsize: int, r: int) -> int:
        """The same of all layers."""
        return sum(n * self._saved(layer, itemsize, r) for layer, n in self.layers.items())

    def forward_operations(self, tokens: float, logits: float, mean_length: float) -> float:
        """Of a forward pass over so many tokens with so many rows of logits: two a weight, and causal attention, each
        token looking back over half of `mean_length`, with two products of Q; six for each element of a state."""
        attended = sum(n * (4 * layer.Q * mean_length / 2 + 6 * layer.state) for layer, n in self.layers.items())
        return tokens * (2 * self.linear + attended) + logits * 2 * self.V * self.H


def from_config(config: dict[str, Any], name: str) -> Geometry:
    """The geometry that a config.json describes; for a model of text and pictures, that of its text part.

    Raises:
        UserError: it lacks a size, or has one that is none.
    """
    inner = next((config[key] for key in INNER if isinstance(config.get(key), dict)), None)
    values = {**config, **(inner or {})}
    if inner is not None and "model_type" not in inner:
        values["model_type"] = f"{config.get('model_type', '')}_text"
    c = Config({**values, "model_type": family_of(str(values.get("model_type", "")))}, name, nested=inner is not None)
    whole = inner is not None or any(isinstance(config.get(key), dict) for key in TOWERS)
    beside = tower(config, c.H, name) if whole else 0
    how: How = "family"
    if c.family in FAMILIES:
        shape = _decoder(FAMILIES[c.family], c)
    elif counted.countable() and (found := counted.count(config, c)) is not None:
        (shape, beside), how = found, "modules"
    else:
        how, c = "llama", _as_llama(values, name)
        shape = _decoder(FAMILIES["llama"], c)
    outer = Config(config, name)
    known = c.get("max_position_embeddings") if how == "family" else None
    return Geometry(
        family=str(values.get("model_type", "")),
        H=c.H,
        V=c.size("vocab_size"),
        decoder=shape,
        tied=outer.tied if outer.has("tie_word_embeddings") else c.tied,
        longest=longest(values, known),
        tower=beside,
        how=how,
        language="model.language_model" if whole and how == "family" else "",
        name=name,
    )


INNER = ("text_config", "llm_config", "language_config")
TOWERS = ("vision_config", "audio_config")


def _decoder(family: Callable[[Config], Decoder], c: Config) -> Decoder:
    try:
        shape = family(c)
        if shape.layers:
            return shape
        error: object = "it has no layers"
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as what:
        error = what
    raise UserError(f"The config.json of {c.name} describes no decoder that SSB can plan for: {error}.")


def _as_llama(values: dict[str, Any], name: str) -> Config:
    missing = [key for key in SIZES if key not in values and Config(values, name).get(key) is None]
    if missing:
        raise UserError(f"The config.json of {name} lacks {', '.join(missing)}: no decoder that SSB can plan for.")
    return Config({**values, "model_type": "llama"}, name)


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
    if (own := model_folder(model.name)) is not None:
        return read_object(own / "config.json"), "the package"
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
