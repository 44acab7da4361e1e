"""The geometry of a model that `families` does not know, counted on its own modules: built by transformers from its
config, without memory for its weights. The only file of this room that imports torch and transformers.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from .families.config import Config
from .families.parts import Decoder, Experts, Layer, Linear
from .lora_targets import language_part, linear_layers, multiplied

MIXES = re.compile(r"linear|mamba|conv|recurrent|rwkv|ssm")  # in a layer's type: it keeps no keys
BLOCK = re.compile(r"(.*?)\.(\d+)\.(.*)")


def countable() -> bool:
    """Whether what it takes is installed."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def count(config: dict[str, Any], c: Config) -> tuple[Decoder, int] | None:
    """The decoder, and the parameters beside the language model; None where transformers knows no such model, or only
    by a repository's own code, which is not run here.

    Parameters and linear layers are those of the modules. What is kept of a token follows from the config: keys and
    values of the heads that it names, in layers whose type is not one of linear attention, Mamba or convolution.
    """
    model = _model(config)
    return None if model is None else _decoder(model, c)


def _model(config: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    values = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
    with _quiet():
        for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
            try:
                own = AutoConfig.for_model(str(config.get("model_type")), **values)
                with torch.device("meta"):
                    return auto.from_config(own)
            except Exception:
                continue
    return None


def _decoder(model: Any, c: Config) -> tuple[Decoder, int]:
    import torch

    plain, sizes, language = linear_layers(model), multiplied(model), language_part(model)
    found = [match[1] for name in plain if (match := BLOCK.fullmatch(name))]
    root, _, blocks = Counter(found).most_common(1)[0][0].rpartition(".") if found else ("", "", "")
    prefix = f"{root}.".lstrip(".")
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    seen = {id(end.weight) for end in ends if end is not None}
    layers: dict[int, Layer] = defaultdict(Layer)
    beside, outer, tower, embeddings = 0, [], 0, 0
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        new = sum(p.numel() for p in own.values() if id(p) not in seen)
        seen |= {id(p) for p in own.values()}
        match = BLOCK.fullmatch(name.removeprefix(prefix))
        if not own or (not new and name not in plain):
            continue
        if not language(name):
            tower += new if module not in ends else 0
            beside += new if module in ends else 0  # the head's bias
        elif match is None or match[1] != blocks:
            if name in sizes:
                outer.append(_linear(name.removeprefix(prefix), sizes[name], own, name in plain))
            else:
                beside += new
                embeddings += new if isinstance(module, torch.nn.Embedding) else 0
        elif name in sizes:
            linear = _linear(match[3], sizes[name], own, name in plain)
            # Blocks may share their weights.
            layers[int(match[2])] += Layer((linear,), other=new - linear.parameters)
        else:
            layers[int(match[2])] += _others(match[3], own, new, c)
    kinds = c.get("layer_types") or c.get("layers_block_type") or []
    whole = [layers[i] for i in range(1 + max(layers, default=-1))]
    kept = [layer + _kept(layer, str(kinds[i]) if i < len(kinds) else "", c) for i, layer in enumerate(whole)]
    return Decoder(tuple(kept), beside, blocks, root, tuple(outer), embeddings=embeddings), tower


def _linear(name: str, sizes: tuple[int, int], own: dict[str, Any], plain: bool) -> Linear:
    return Linear(name, *sizes, bias=len(own) > 1, plain=plain)


def _others(name: str, own: dict[str, Any], new: int, c: Config) -> Layer:
    """Norms, kernels, routers; and experts, whose tensors have three dimensions."""
    stacked = [p for p in own.values() if p.dim() == 3 and "expert" in name]
    if not stacked:
        return Layer(other=new)
    number = stacked[0].shape[0]
    used = min(number, c.size("num_experts_per_tok", number))
    each = sum(p.numel() for p in stacked) // number
    return Layer(experts=(Experts(name, number, used, each),), other=new - each * number)


def _kept(layer: Layer, kind: str, c: Config) -> Layer:
    """Widths, as far as the config tells them."""
    wide = max((x.outputs for x in layer.linears), default=0)
    wide += sum(e.used * e.each // (3 * c.H) for e in layer.experts)
    attends = any(re.search(r"attn|attention|query|q_proj|qkv", x.name) for x in layer.linears)
    if MIXES.search(kind) or not attends or not _is_number(c.get("num_attention_heads")):
        return Layer(I=wide)
    return Layer(I=wide, Q=c.Q, KV=c.KV, cache=2 * c.KV, latent=2 * c.KV)


def _is_number(value: Any) -> bool:
    return type(value) is int and value > 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' remarks on a config."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
