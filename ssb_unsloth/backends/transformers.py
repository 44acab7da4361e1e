"""Loading by plain transformers and PEFT, and a sampler on it: for small models, for tests, and where vLLM is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import UserError
from ..io.progress import hide_loading_bars
from ..machine.all_weights import Weights, all_weights
from ..machine.auto import choose_model
from ..machine.hardware import here
from ..machine.lora_targets import select
from ..recipe.schema import LoraConfig, ModelConfig
from .adapters import assert_fits, merge
from .chat_template import check_end, pad_id, stop_ids
from .classes import auto_class, config_of
from .sources import model_path, unloadable
from .template_choice import choose_template

if TYPE_CHECKING:
    import peft
    import torch
    from transformers import PreTrainedTokenizerBase

SHARD = "4GB"  # the largest file of weights
PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with the chat template that the recipe asks for.

    Raises:
        UserError: it cannot be loaded, has no such chat template, or no end of turn.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_path(model), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise unloadable(f"The tokenizer of {model.name!r}", model, error) from None
    choose_template(tokenizer, model)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer of {model.name!r} names no eos token, so a reply could never end; name one by"
            " model.end_of_turn."
        )
    check_end(tokenizer)
    return tokenizer


def load_model(model: ModelConfig, device: str | None = None) -> torch.nn.Module:
    """The language model, or the larger one that it is a part of (classes.py), in the recipe's dtype and quantization,
    on the device; None: on the GPU where there is one.

    Raises:
        UserError: it cannot be loaded.
    """
    import torch

    hide_loading_bars()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, choose_model(model, here()).dtype)
    try:
        loaded: Any = auto_class(config_of(model)).from_pretrained(
            model_path(model),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=dtype,
            **_quantized(model, dtype, device),
        )
    except ImportError as error:  # bitsandbytes is not there
        raise UserError(f"model.quantization: {model.quantization}: {str(error).splitlines()[0]}") from None
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {model.name!r}", model, error) from None
    placed: torch.nn.Module = loaded if model.quantization != "none" else loaded.to(device)
    return placed.eval()


def load_generation_config(model: ModelConfig) -> Any:
    """transformers' GenerationConfig of the model, as `load_model` would give it to the model.

    Raises:
        UserError: the model cannot be loaded.
    """
    from transformers import AutoConfig, GenerationConfig

    where: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        try:
            return GenerationConfig.from_pretrained(model_path(model), **where)
        except OSError:  # it has none of its own
            return GenerationConfig.from_model_config(AutoConfig.from_pretrained(model_path(model), **where))
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {model.name!r}", model, error) from None


def vocabulary_size(model: ModelConfig) -> int:
    """How many token ids the model's embedding has, those that no text makes among them.

    Raises:
        UserError: the model's config cannot be loaded.
    """
    try:
        return int(config_of(model).get_text_config().vocab_size)
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {model.name!r}", model, error) from None


def _quantized(model: ModelConfig, dtype: Any, device: str) -> dict[str, Any]:
    """bitsandbytes' settings, the same as Unsloth's: NF4 with quantized constants, the head left as it is."""
    if model.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if model.quantization == "8bit"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    )
    return {"quantization_config": config, "device_map": {"": device}}


def peft_config(lora: LoraConfig, model: torch.nn.Module) -> peft.LoraConfig:
    """The recipe's adapter as PEFT takes it, on the layers of this model that the recipe means.

    Raises:
        UserError: it has none of these.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    chosen = select(model, lora.target_modules)
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=chosen.short,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in chosen.targets),
        task_type="CAUSAL_LM",
    )


def add_lora(model: torch.nn.Module, lora: LoraConfig, seed: int, gradient_checkpointing: bool) -> torch.nn.Module:
    """A fresh adapter on the model, by PEFT, which keeps its weights in float32 on a 16-bit base."""
    import peft
    from transformers import set_seed

    set_seed(seed)  # the adapter's first weights are drawn here
    student: Any = peft.get_peft_model(cast(Any, model), peft_config(lora, model))
    if gradient_checkpointing:
        recompute(student)
    trained: torch.nn.Module = student.eval()
    return trained


def recompute(model: Any) -> None:
    """Let activations be computed again in the backward pass, and not be kept."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def freeze_the_rest(model: torch.nn.Module) -> Weights:
    """Let all weights of the model be trained that `all_weights` names, and no other.

    Raises:
        UserError: there are none.
    """
    chosen = all_weights(model)
    names = set(chosen.names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return chosen


def save_model(
    trained: torch.nn.Module, model: ModelConfig, folder: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """A model that was trained as a whole, in the dtype that it has, with its base's settings and tokenizer: a model of
    its own, in sharded safetensors. `model`: the base; `weights`: the trained one's, where it has parts of them alone.

    Raises:
        UserError: the base's tokenizer or settings cannot be loaded.
    """
    import torch

    own: Any = trained
    with torch.device("meta"):  # trainers write into a model's settings: the base's own are saved
        own.config = (
            auto_class(config_of(model)).from_config(config_of(model), trust_remote_code=model.trust_remote_code).config
        )
    own.generation_config = load_generation_config(model)
    own.save_pretrained(folder, max_shard_size=SHARD, state_dict=weights)
    load_tokenizer(model).save_pretrained(folder)
    _copy_processor(model, folder)


def save_merged(model: ModelConfig, adapter: Path | None, folder: Path, dtype: str | None = None) -> None:
    """The base with the adapter merged into its weights, and its tokenizer: a model of its own, in sharded safetensors.
    Without an adapter, the base.

    Merged on the CPU in float32 and rounded once to `dtype` (by default the one that the run computes in). The base is
    taken unquantized, also where the run had it in 8 or 4 bits.

    Raises:
        UserError: the base cannot be loaded, the adapter is not one of this base, or the merged weights are not finite.
    """
    import torch

    hide_loading_bars()
    if adapter is not None:
        assert_fits(model, adapter, "transformers")
    try:
        base: Any = auto_class(config_of(model)).from_pretrained(
            model_path(model),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=torch.float32,
        )
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {model.name!r}", model, error) from None
    merged: Any = base if adapter is None else merge(base, adapter)
    merged.to(getattr(torch, dtype or choose_model(model, here()).dtype))
    merged.save_pretrained(folder, max_shard_size=SHARD)
    load_tokenizer(model).save_pretrained(folder)
    _copy_processor(model, folder)


def _copy_processor(model: ModelConfig, folder: Path) -> None:
    """What a checkpoint for pictures says of its input; vLLM does not load one without."""
    from transformers.utils.hub import cached_file

    for name in PROCESSORS:
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        found = cached_file(model_path(model), name, revision=model.revision, **quiet)
        if found is not None:
            shutil.copyfile(found, folder / name)


def only_stops(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Leave nothing in the model's own generation_config but the tokens that end a reply, which are returned; for a
    trainer that samples by itself. And let the tokenizer pad with a token that the model has."""
    from transformers import GenerationConfig

    from .wrapped import embedded

    stops = stop_ids(tokenizer, getattr(model, "generation_config", None))
    cast(Any, model).generation_config = GenerationConfig(eos_token_id=stops)
    cast(Any, tokenizer).pad_token_id = pad_id(tokenizer, embedded(model))
    return stops
