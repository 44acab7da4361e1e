"""A causal language model in two halves, as the loss needs it: backbone to hidden states, head to logits.

Works alike for plain transformers models, PEFT's wrapping of them, and Unsloth's patched ones.
Shapes: B batch, S sequence, N reply tokens of a batch end to end, V vocabulary, H hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from ..backends.wrapped import causal_lm, positions
from ..errors import UserError
from .collator import View
from .distributions import Head

# What an architecture does to its logits, by the beginning of its model_type: the config's key, and whether logits are
# multiplied by its value or divided. The same key means either, and in MPT's config nothing at all.
SCALES = {
    "cohere": ("logit_scale", True),
    "falcon_h1": ("lm_head_multiplier", True),
    "granite": ("logits_scaling", False),
    "hyperclovax": ("logits_scaling", True),
    "inkling": ("logits_mup_width_multiplier", False),
    "minicpm3": ("logits_scaling", False),
}
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma's, RecurrentGemma's, xLSTM's


def backbone(model: nn.Module) -> Any:
    """The part of the model that gives the hidden states."""
    lm = causal_lm(model)
    decoder = lm.get_decoder()
    return lm.model if decoder is lm else decoder  # transformers does not find it in Llama 4's text model


def hidden_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states [B, S, H], as the head receives them. No tensor as wide as the vocabulary is made.

    Raises:
        UserError: the sequences are longer than what the model was loaded for (Unsloth cuts them silently), or has
            positions for (transformers computes them wrongly in silence).
    """
    most = positions(model)
    if most is not None and input_ids.shape[1] > most:
        raise UserError(
            f"A sequence of {input_ids.shape[1]:,} tokens is longer than the {most:,} that the model has positions for:"
            " leave out the long pairs, or take a model for longer texts."
        )
    hidden: Tensor = backbone(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
    if hidden.shape[1] != input_ids.shape[1]:
        raise UserError(
            f"A sequence of {input_ids.shape[1]:,} tokens was cut to {hidden.shape[1]:,}, the length the model was"
            " loaded for: raise sampler.max_model_len (up to the model's own limit), or leave out the long pairs."
        )
    return hidden


def reply_states(model: nn.Module, view: View) -> Tensor:
    """The hidden states [N, H] that predict the view's reply tokens, example after example.

    In the backbone's dtype: `kd_loss` and `head_logits` take them to the head's by themselves. Gradients reach the
    model unless they are off where this is called.
    """
    device = output_head(model).weight.device
    return view.reply_rows(hidden_states(model, view.input_ids.to(device), view.attention_mask.to(device)))


def output_head(model: nn.Module) -> Head:
    """The head's weight [V, H], its bias, and what the architecture does to logits (SCALES, CAPS).

    `selfchecks.check_head` holds it to the model's own logits.

    Raises:
        UserError: the head is not one matrix (LoRA on it, or a quantized one), so hidden states do not stand for the
            teacher's distribution.
    """
    lm = causal_lm(model)
    layer = lm.get_output_embeddings()
    if type(layer) is not nn.Linear:
        raise UserError(
            f"The output head is a {type(layer).__name__}; SSB needs a plain linear one. Take lm_head out of the LoRA"
            " target modules, and keep it unquantized."
        )
    config = lm.config.get_text_config()
    key, multiplied = next((SCALES[name] for name in SCALES if config.model_type.startswith(name)), ("", True))
    factor = float(getattr(config, key, None) or 1.0)
    caps = [cap for name in CAPS if (cap := getattr(config, name, None)) is not None]
    return Head(layer.weight, layer.bias, factor if multiplied else 1 / factor, caps[0] if caps else None)


@contextlib.contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Eval mode, and back to how it was. Unsloth's `generate` leaves its inference mode on and gradient checkpointing
    off; its `for_training` undoes that."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        if was_training:
            getattr(model, "for_training", model.train)()


@contextlib.contextmanager
def as_teacher(model: nn.Module) -> Iterator[None]:
    """The frozen base: adapter off, dropout off, no gradients. The same weights serve teacher and student."""
    off = model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()
    with resting(model), torch.no_grad(), off:
        yield
