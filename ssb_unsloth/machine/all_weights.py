"""What `train.lora: null` trains: the weights of a model's language part, but for its embeddings and its head.

The head stays, since stored targets are read through the base's; with tied weights the input embedding is that head.
Other embeddings (of positions, of each layer) stay with it, and so does a tower for pictures or sound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..errors import UserError
from .lora_targets import language_part

if TYPE_CHECKING:
    from torch import nn

EMBEDDINGS, HEAD, OTHERS = "embeddings", "head", "what is beside the language model"
TIED = "embeddings, with the head tied to them"


@dataclass(frozen=True)
class Weights:
    """Names of the parameters that are trained, their number, and the numbers of those that stay as they are."""

    names: list[str]
    trained: int
    left: dict[str, int]

    @property
    def sentence(self) -> str:
        """What is said where training starts."""
        left = " and ".join(f"{what} ({count:,})" for what, count in self.left.items())
        return f"All weights: {self.trained:,} parameters trained; left as they are: {left or 'none'}."


def all_weights(model: nn.Module) -> Weights:
    """Of a plain model of transformers, with weights or without.

    Raises:
        UserError: it has none that could be trained.
    """
    import torch

    language, lm = language_part(model), cast(Any, model)
    head, embedding = lm.get_output_embeddings(), lm.get_input_embeddings()
    ends = TIED if head is not None and head.weight is embedding.weight else EMBEDDINGS
    names, trained, left, seen = list[str](), 0, dict[str, int](), set[int]()
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:  # tied to one that was counted
                continue
            seen.add(id(parameter))
            if isinstance(module, torch.nn.Embedding) or parameter is embedding.weight:
                what = ends
            elif module is head:
                what = HEAD
            elif not language(name):
                what = OTHERS
            else:
                names.append(f"{name}.{own}" if name else own)
                trained += parameter.numel()
                continue
            left[what] = left.get(what, 0) + parameter.numel()
    if not names:
        raise UserError("train.lora: null, and the model has no weights between embeddings and head; give train.lora.")
    return Weights(names, trained, left)
