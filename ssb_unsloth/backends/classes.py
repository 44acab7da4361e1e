"""Which class of transformers loads a checkpoint: a language model by itself, or one that reads pictures too.

The language part of the latter is trained and sampled from; its other parts are loaded as they are, so that a saved
adapter or merged model is one of the same class, which vLLM and PEFT load again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..recipe.schema import ModelConfig
from .sources import model_path

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def config_of(model: ModelConfig) -> PretrainedConfig:
    """The model's config.

    Raises:
        OSError, ValueError: it cannot be had, or is of no kind that transformers knows.
    """
    from transformers import AutoConfig

    config: PretrainedConfig = AutoConfig.from_pretrained(
        model_path(model), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    return config


def auto_class(config: Any) -> Any:
    """AutoModelForCausalLM, or AutoModelForImageTextToText for a checkpoint that is of such a class.

    Some kinds (Gemma 3) can be loaded by either; then what `architectures` says counts, since the names of weights and
    of an adapter's layers are those of that class.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    own, kind = (getattr(config, "architectures", None) or [""])[0], config.model_type
    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    alone = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if whole is not None and not remote and (alone is None or own == whole):
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def reads_pictures(model: ModelConfig) -> bool:
    """Whether its class is one for pictures too; not so where its config cannot be had, which its loader will say."""
    from transformers import AutoModelForImageTextToText

    try:
        return auto_class(config_of(model)) is AutoModelForImageTextToText
    except (OSError, ValueError):
        return False
