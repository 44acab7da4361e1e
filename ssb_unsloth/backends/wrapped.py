"""The model inside of PEFT's wrapping."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn

from ..machine.positions import longest


def causal_lm(model: nn.Module) -> Any:
    """The transformers model inside, with its LoRA layers in place if it has any."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def embedded(model: nn.Module) -> int:
    """How many token ids the model has an embedding for."""
    return int(causal_lm(model).get_input_embeddings().weight.shape[0])


def positions(model: nn.Module) -> int | None:
    """How many tokens the model has positions for; None where its config does not say."""
    return longest(vars(causal_lm(model).config.get_text_config()))
