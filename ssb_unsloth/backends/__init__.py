"""What changes every month stays behind one file each: the samplers (vLLM, its server, transformers) and the loading of
the model that teaches and is trained (Unsloth, transformers).

A sampler takes prompts as token ids and gives completions. Each request has a seed of its own, so what comes out does
not depend on which other requests it is sampled with, or on their order.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UserError
from ..io.files import local, read_object
from ..io.progress import say
from ..machine.hardware import find_cards
from ..machine.hub import endpoint
from ..machine.versions import remedy
from ..prompts import Messages
from ..recipe.schema import LORA_RANKS, LoraConfig, ModelConfig, SamplerConfig, SamplingConfig

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Request:
    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Completion:
    token_ids: list[int]  # end of turn included where the model ended its turn
    text: str  # without special tokens
    finish_reason: str  # "stop" or "length"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter saved in PEFT's format."""

    name: str
    path: Path


Keep = Callable[[int, Completion], None]  # a request's place among all, and what it was answered


class Sampler(Protocol):
    def render(self, messages: Messages) -> list[int]:
        """The prompt's token ids under the model's own chat template, ready for the reply."""
        ...

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
    ) -> list[Completion]:
        """One completion a request, in their order. Prompts must leave room for the reply within max_model_len.

        `keep` is called with a request's place and its completion as soon as it is there, in this thread, by an engine
        that has some before it has all.
        """
        ...

    def close(self) -> None:
        """Give its memory back, so that another engine can start in this process."""
        ...


def load_sampler(model: ModelConfig, config: SamplerConfig, seed: int, adapters: bool) -> Sampler:
    """The engine that the recipe names; `auto` takes vLLM where it is installed, and says so where it is not.

    `adapters`: whether it will be asked to put LoRA adapters on; vLLM sets memory and time aside for that.
    """
    if model.name.startswith(("http://", "https://")):
        from .server import ServerSampler

        return ServerSampler(model)
    engine = engine_of(config)
    if (config.engine, engine) == ("auto", "transformers"):
        say("vLLM is not installed here, so plain transformers samples: the same method, slower.")
    if engine == "vllm":
        if not find_spec("vllm"):
            raise UserError(
                f"sampler.engine: vllm, but vLLM is not installed. {remedy()} Or set sampler.engine=transformers."
            )
        from .vllm import VLLMSampler

        return VLLMSampler(model, config, seed, adapters)
    from .transformers import TransformersSampler, load_model, load_tokenizer

    return TransformersSampler(load_model(model), load_tokenizer(model), config.batch_size)


def engine_of(config: SamplerConfig) -> str:
    """The engine that `auto` stands for here: "vllm" or "transformers"."""
    if config.engine == "auto":
        return "vllm" if find_spec("vllm") else "transformers"
    return config.engine


class TrainingBackend:
    """Loads the model that teaches and is trained, by Unsloth or by plain transformers and PEFT.

    Make it before anything in the process imports transformers, peft or trl: Unsloth has to come first.

    Attributes:
        name: "unsloth" or "transformers"; after `load`, the one that loaded.

    Raises:
        UserError: the recipe insists on Unsloth, and it is not installed or has no GPU.
    """

    def __init__(self, model: ModelConfig) -> None:
        self._model = model
        self.name = _training_backend(model)
        if self.name == "unsloth":
            from .unsloth import prepare

            prepare()

    def load(
        self, max_length: int, lora: LoraConfig | None = None, seed: int = 0, gradient_checkpointing: bool = False
    ) -> nn.Module:
        """The model on its device, in eval mode; with `lora`, PEFT's wrapping of it with a fresh adapter.

        The adapter's first weights are drawn from `seed`, and are float32 whatever the base is. No sequence will be
        longer than `max_length` tokens. Activations are recomputed in the backward pass with `gradient_checkpointing`.

        Raises:
            UserError: it cannot be loaded. A model that only Unsloth cannot load is loaded by transformers where the
                recipe says `auto`.
        """
        from . import transformers

        if self.name == "unsloth":
            from . import unsloth

            try:
                return unsloth.load(self._model, max_length, lora, seed, gradient_checkpointing)
            except UserError as error:
                if self._model.backend == "unsloth":
                    raise
                say(f"{error} Now with transformers, since model.backend is auto.")
                self.name = "transformers"
        model = transformers.load_model(self._model)
        return model if lora is None else transformers.add_lora(model, lora, seed, gradient_checkpointing)


def _training_backend(model: ModelConfig) -> str:
    if model.backend == "transformers":
        return "transformers"
    import torch

    missing = ""
    if not find_spec("unsloth"):
        missing = f"Unsloth is not installed: {remedy('gpu')[:-1]}"
    elif not torch.cuda.is_available() and os.environ.get("UNSLOTH_ALLOW_CPU") != "1":  # Unsloth's own way round it
        missing = "torch finds no CUDA GPU here"
        if torch.version.cuda is None and find_cards().cards:
            missing = f"this torch is a CPU build, though the machine has an NVIDIA GPU: {remedy('gpu')[:-1]}"
    if not missing:
        return "unsloth"
    if model.backend == "unsloth":
        raise UserError(f"model.backend: unsloth, but {missing}, or set model.backend=transformers.")
    if "NVIDIA" in missing:
        say(f"Computing on the CPU: {missing}.")
    return "transformers"


def model_path(model: ModelConfig) -> str:
    """The hub id or folder that the libraries load; "pocket" is the folder within the package.

    Raises:
        UserError: a local path without a config.json.
    """
    if model.name == "pocket":
        from ..pocket import MODEL_DIR

        return str(MODEL_DIR)
    path = local(model.name, "model.name")
    if path.exists():
        if not (path / "config.json").is_file():
            raise UserError(f"model.name: {path} holds no config.json, so it is no model folder.")
        return str(path)
    if model.name.startswith((".", "/", "~")):
        raise UserError(f"model.name: {model.name}: no such folder.")
    return model.name


def unloadable(what: str, model: ModelConfig, error: Exception | str) -> UserError:
    """What to say of a model that transformers cannot load, with the remedy for each way in which the hub says no."""
    said = str(error) or type(error).__name__
    remedy = ""
    if "gated repo" in said:
        remedy = f"Accept its licence at {endpoint()}/{model.name}, then `hf auth login` or set HF_TOKEN."
    elif "valid git identifier" in said or "Revision Not Found" in said:
        remedy = f"Correct model.revision (now {model.revision})."
    elif "valid model identifier" in said or "Repository Not Found" in said:
        remedy = "Correct model.name; if the model is private, `hf auth login` or set HF_TOKEN."
    elif "Could not detect config format" in said:
        remedy = "Correct model.name: there is no config.json."
    elif "connect" in said or "outgoing traffic" in said or "offline mode" in said:
        remedy = "Connect, set HF_ENDPOINT to a mirror, or copy the model here and name its folder in model.name."
    return UserError(f"{what} cannot be loaded: {said.splitlines()[0].rstrip('.')}. {remedy}".rstrip())


def adapter_path(source: str, key: str, max_rank: int) -> Path:
    """The folder of a LoRA adapter in PEFT's format, fetched from the hub where it is no local one.

    `key` is the recipe's key that names it, `max_rank` the sampler's.

    Raises:
        UserError: there is none, it is a pickle, or its rank is above what the sampler is set up for.
    """
    path = local(source, key)
    if not path.exists():
        if source.startswith((".", "/", "~")):
            raise UserError(f"{key}: {source}: no such folder.")
        from huggingface_hub import snapshot_download

        try:
            path = Path(snapshot_download(source, allow_patterns=["adapter_config.json", "*.safetensors"]))
        except Exception as error:  # the hub client raises many kinds: offline, gated, no such name
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{key}: {source!r} cannot be loaded: {reason} Check the name and the network, or give a local folder."
            ) from None
    rank = highest_rank(adapter_config(path, key))
    if not (path / "adapter_model.safetensors").is_file():
        raise UserError(f"{key}: {source} holds no adapter_model.safetensors; an adapter as a pickle is not read.")
    if rank > max_rank:
        raise UserError(f"{key}: its rank {rank} is above sampler.max_lora_rank ({max_rank}); raise the latter.")
    return path


def adapter_config(folder: Path, key: str = "adapter") -> dict[str, Any]:
    """The adapter_config.json of a LoRA adapter, with a rank `r` above 0.

    Raises:
        UserError: there is none, or it is not one of a LoRA adapter; `key` names the folder's place.
    """
    try:
        config = read_object(folder / "adapter_config.json")
    except UserError as error:
        raise UserError(f"{key}: {folder} holds no readable adapter_config.json: {error}") from None
    rank = config.get("r")
    if type(rank) is not int or not 0 < rank < 2**31:
        raise UserError(
            f"{key}: {folder} holds no adapter_config.json with a rank r above 0, so it is no LoRA adapter."
        )
    return config


def highest_rank(config: dict[str, Any]) -> int:
    """Of all the modules of an adapter: `rank_pattern` may give some another rank than `r`."""
    pattern = config.get("rank_pattern")
    others = pattern.values() if isinstance(pattern, dict) else ()
    return max(config["r"], *(rank for rank in others if type(rank) is int), 0)


def check_rank(adapter: Adapter, most: int) -> None:
    """Raises UserError if the adapter's rank is above what the server was started for."""
    rank = highest_rank(adapter_config(adapter.path))
    if rank > most:
        fitting = next((limit for limit in LORA_RANKS if limit >= rank), rank)
        raise UserError(
            f"{adapter.path}: an adapter of rank {rank}, above sampler.max_lora_rank ({most}); set"
            f" sampler.max_lora_rank={fitting}."
        )


def derive_seed(seed: int, *parts: object) -> int:
    """A 31-bit seed for one request or draw, the same wherever and whenever it is made."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
