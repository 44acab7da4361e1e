"""Where LoRA goes: the linear layers of a model's language part, and which of them a recipe's wish means.

Works on any module, with weights or without (torch's meta device), before PEFT has put adapters on its layers and after
it. torch is imported when it is called. Names are those that layers have without adapters; sizes are (inputs, outputs).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..recipe.schema import ALL_LINEAR, AUTO, SEVEN, LoraConfig

if TYPE_CHECKING:
    from torch import nn

KEY = "train.lora.target_modules"
# Parts of a name. Whatever stands outside of the decoder is no language part either, so this is for those inside of it.
_TOWER = re.compile(r"vision|visual|image|video|audio|speech|multi_?modal|mm_projector")
_ROUTER = re.compile(r"router|(^|_)gate$")

Sizes = dict[str, tuple[int, int]]
Wanted = str | Sequence[str]


@dataclass(frozen=True)
class Selection:
    """What a wish means on a model.

    Attributes:
        targets: the layers that are trained, by full name.
        short: names for PEFT's `target_modules` that mean exactly these: endings where that is possible.
        left_out: what is not trained, in words, and its parameters; without embeddings, norms and convolutions.
        missing: what of it "all-linear" would take.
    """

    targets: Sizes
    short: list[str]
    left_out: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> dict[str, int]:
        """How many layers of each last name."""
        return dict(Counter(map(last, self.targets)))

    def parameters(self, r: int, dora: bool = False) -> int:
        """Trained ones at this rank: r x (inputs + outputs) a layer, and with DoRA a magnitude for each output."""
        return sum(r * (inputs + outputs) + dora * outputs for inputs, outputs in self.targets.values())

    def sentence(self, lora: LoraConfig) -> str:
        """What is said where training starts."""
        left = ", ".join(f"{what} ({count:,})" for what, count in self.left_out.items())
        more = f"; target_modules: {ALL_LINEAR} takes {', '.join(self.missing)} too" if self.missing else ""
        return (
            f"{kind_of(lora)} of rank {lora.r} on {spell(self.kinds)}: {self.parameters(lora.r, lora.use_dora):,}"
            f" parameters; left out: {left or 'nothing'}{more}"
        )


def linear_layers(model: nn.Module) -> Sizes:
    """The linear layers of the language model: no head, no embedding, no router, no tower for images or sound, and of a
    Mamba layer only `in_proj`, since its kernel takes the other matrices past whatever is put on them.

    Quantized layers and GPT-2's Conv1D are linear; experts that are one tensor of three dimensions are no layers.
    """
    layers, language = multiplied(model), language_part(model)
    return {n: sizes for n, sizes in layers.items() if language(n) and not (_routes(n, sizes) or _scans(model, n))}


def lora_targets(model: nn.Module, wanted: Wanted = AUTO, name: str = "the model") -> list[str]:
    """Full names of the layers that `wanted` means on this model, in its order; `select` says more.

    Raises:
        UserError: see `select`.
    """
    return list(select(model, wanted, name).targets)


def select(model: nn.Module, wanted: Wanted = AUTO, name: str = "the model") -> Selection:
    """The layers that the recipe's `target_modules` mean on this model.

    `wanted`: "auto", the seven projections where the model has them all, else "all-linear", what `linear_layers` gives;
    another text is a regular expression over their whole names; a list has names or endings of names, and can name
    routers, embedding and head too. None reaches a tower. `name`: what messages call the model.

    Raises:
        UserError: a regular expression that is none, or a wish or a name in a list that hits nothing.
    """
    linear = linear_layers(model)
    targets = choose(wanted, linear, linear if isinstance(wanted, str) else _nameable(model), name)
    short = _short(targets, [module for module, _ in _modules(model)], wanted)
    missing = list(dict.fromkeys(last(n) for n in linear if n not in targets))
    return Selection(targets, short, _left_out(model, targets), missing)


def spell(kinds: dict[str, int]) -> str:
    """As "28 x q_proj, 28 x k_proj"."""
    return ", ".join(f"{count:,} x {kind}" for kind, count in kinds.items()) or "none"


def kind_of(lora: LoraConfig) -> str:
    """The adapter's kind by its own name."""
    return " and ".join(["rsLoRA"] * lora.use_rslora + ["DoRA"] * lora.use_dora) or "LoRA"


# -- Wishes


def choose(wanted: Wanted, linear: Sizes, nameable: Sizes, name: str) -> Sizes:
    """The layers that `wanted` means, of names and sizes alone: `linear` as `linear_layers` gives them, and `nameable`,
    which a list may name. Needs no torch.

    Raises:
        UserError: see `select`.
    """
    targets = _by_text(wanted, linear, name) if isinstance(wanted, str) else _by_names(wanted, nameable, linear, name)
    if not targets:
        raise _nothing(f"{name} has no linear layer in its language model", linear)
    return targets


def _by_text(wanted: str, linear: Sizes, name: str) -> Sizes:
    if wanted == ALL_LINEAR:
        return linear
    if wanted == AUTO:
        seven = {n: sizes for n, sizes in linear.items() if last(n) in SEVEN}
        return seven if {*map(last, seven)} == {*SEVEN} else linear
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise UserError(f"{KEY}: {wanted!r} is no regular expression ({error}). {_choices()}.") from None
    targets = {n: sizes for n, sizes in linear.items() if pattern.fullmatch(n)}
    if not targets:
        raise _nothing(f"no linear layer of {name} has a name that {wanted!r} matches as a whole", linear)
    return targets


def _by_names(wanted: Sequence[str], nameable: Sizes, linear: Sizes, name: str) -> Sizes:
    missing = [ending for ending in wanted if not any(_ends(n, ending) for n in nameable)]
    if missing or not wanted:
        raise _nothing(f"{name} has no layer {', '.join(missing) or 'where none is named'}", linear)
    return {n: sizes for n, sizes in nameable.items() if any(_ends(n, ending) for ending in wanted)}


def _nothing(what: str, linear: Sizes) -> UserError:
    example = f" (in full, as {next(iter(linear))})" if linear else ""
    return UserError(f"{KEY}: {what}; its layers are {spell(Counter(map(last, linear)))}{example}. {_choices()}.")


def _choices() -> str:
    return f"Set {AUTO}, {ALL_LINEAR}, a list of names of such layers, or a regular expression over their full names"


def _short(targets: Sizes, names: list[str], wanted: Wanted) -> list[str]:
    """The recipe's own list, or last names, where PEFT would find the same by them in the whole model."""
    own = [] if isinstance(wanted, str) else list(wanted)
    words = list(dict.fromkeys(map(last, targets)))
    in_order = [name for name in SEVEN if name in words] + [name for name in words if name not in SEVEN]
    for endings in (own, in_order):
        if {name for name in names if any(_ends(name, ending) for ending in endings)} == targets.keys():
            return endings
    return list(targets)


# -- Names


def last(name: str) -> str:
    """The last part of a name that is a word: of `mlp.0` it is both."""
    parts = name.split(".")
    words = [place for place, part in enumerate(parts) if not part.isdigit()]
    return ".".join(parts[words[-1] if words else 0 :])


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


# -- Models


def _bare(model: nn.Module) -> Any:
    """The transformers model inside of PEFT's wrapping."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules as they are without adapters: a layer that PEFT has wrapped stands for itself."""
    wrapped: tuple[str, ...] = ()
    for name, module in _bare(model).named_modules():
        if wrapped and name.startswith(wrapped):
            continue
        base = getattr(module, "base_layer", None)
        if base is not None:
            wrapped = (f"{name}.",)  # what lies in it comes next
        yield name, module if base is None else base


def multiplied(model: nn.Module) -> Sizes:
    """All that multiply by a matrix, the head among them."""
    found: Sizes = {}
    for name, module in _modules(model):
        sizes: tuple[Any, ...]
        if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers': inputs x outputs
            sizes = tuple(module.get_parameter("weight").shape)
        else:  # torch's own, and every quantized one that PEFT knows
            sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
        match sizes:
            case (int(inputs), int(outputs)) if name:
                found[name] = inputs, outputs
    return found


def _nameable(model: nn.Module) -> Sizes:
    """What a list can name: linear layers and embeddings outside of towers, but for what a kernel reads."""
    import torch

    language, head, found = language_part(model), _head(model), multiplied(model)
    for name, module in _modules(model):
        if isinstance(module, torch.nn.Embedding):
            found[name] = module.num_embeddings, module.embedding_dim
    names = [name for name, _ in _modules(model) if name in found and (language(name) or name == head)]
    return {name: found[name] for name in names if not _scans(model, name)}


def language_part(model: nn.Module) -> Any:
    """Whether a module's name is one of the decoder's, and not of a tower in it, nor the head's."""
    decoder, head = _decoder(model), _head(model)

    def inside(name: str) -> bool:
        if name == head or not (not decoder or name.startswith(f"{decoder}.")):
            return False
        return not any(_TOWER.search(part) for part in name[len(decoder) :].split("."))

    return inside


def _decoder(model: nn.Module) -> str:
    """The name of the module that is the language model without its head; "" where it is the whole."""
    bare = _bare(model)
    getter = getattr(bare, "get_decoder", None)
    found = getter() if callable(getter) else getattr(bare, getattr(bare, "base_model_prefix", "model"), bare)
    return next((name for name, module in bare.named_modules() if module is found), "")


def _head(model: nn.Module) -> str | None:
    bare = _bare(model)
    getter = getattr(bare, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    return next((name for name, module in bare.named_modules() if head is not None and module is head), None)


def _routes(name: str, sizes: tuple[int, int]) -> bool:
    """A layer that says which expert is asked, or how much: by its name, and narrower than what it reads."""
    return sizes[1] < sizes[0] and any(_ROUTER.search(part) for part in name.split("."))


def _scans(model: nn.Module, name: str) -> bool:
    """A matrix of a Mamba layer that its kernel takes itself."""
    mixer = _bare(model).get_submodule(name.rpartition(".")[0])
    return last(name) != "in_proj" and hasattr(mixer, "A_log") and hasattr(mixer, "D")


def _left_out(model: nn.Module, targets: Sizes) -> dict[str, int]:
    """Linear layers, fused experts and towers that are not trained, and their parameters."""
    language, head, layers = language_part(model), _head(model), multiplied(model)
    groups: dict[str, list[int]] = {}
    for name, module in _modules(model):
        own = list(module.parameters(recurse=False))
        if name in targets or not own:
            continue
        if name in layers:
            what = _of_layer(model, name, layers[name], language(name), name == head)
        elif language(name):
            own, what = [p for p in own if p.dim() == 3 and "conv" not in name], "experts in one tensor"
        else:
            what = _of_tower(name)
        if what and own:
            groups.setdefault(what, []).append(_count(own, layers.get(name)))
    return {
        what if what.startswith("the ") else f"{len(counts):,} x {what}": sum(counts) for what, counts in groups.items()
    }


def _of_layer(model: nn.Module, name: str, sizes: tuple[int, int], language: bool, head: bool) -> str:
    if head:
        return "the head"
    if not language:
        return _of_tower(name)
    if _routes(name, sizes):
        return last(name) if "router" in last(name) else f"{last(name)} (router)"
    return f"{last(name)} (read by Mamba's kernel)" if _scans(model, name) else last(name)


def _of_tower(name: str) -> str:
    """The part of a name that says which tower or projector it is."""
    parts = name.split(".")
    return f"the {next((part for part in parts if _TOWER.search(part)), parts[min(1, len(parts) - 1)])}"


def _count(parameters: list[Any], sizes: tuple[int, int] | None) -> int:
    """Of a layer by its sizes, since quantized ones are packed."""
    if sizes is None:
        return sum(p.numel() for p in parameters)
    return sizes[0] * sizes[1] + sum(p.numel() for p in parameters if p.dim() == 1)
