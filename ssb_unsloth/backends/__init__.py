"""What changes every month stays behind one file each: the samplers (vLLM, transformers) and the model's loading.

A sampler takes prompts as token ids and gives completions. Each request has a seed of its own, so what comes out does
not depend on which other requests it is sampled with, or on their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from ..config import ModelConfig, SamplerConfig, SamplingConfig
from ..errors import UserError
from ..progress import say
from ..prompts import Messages


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
    ) -> list[Completion]:
        """One completion a request, in their order. Prompts must leave room for the reply within max_model_len."""
        ...

    def close(self) -> None:
        """Give its memory back, so that another engine can start in this process."""
        ...


def load_sampler(model: ModelConfig, config: SamplerConfig, seed: int, adapters: bool) -> Sampler:
    """The engine that the recipe names; `auto` takes vLLM where it is installed, and says so where it is not.

    `adapters`: whether it will be asked to put LoRA adapters on; vLLM sets memory and time aside for that.
    """
    engine = config.engine
    if engine == "auto":
        engine = "vllm" if find_spec("vllm") else "transformers"
        if engine == "transformers":
            say("vLLM is not installed here, so plain transformers samples: the same method, slower.")
    if engine == "vllm":
        if not find_spec("vllm"):
            raise UserError(
                "sampler.engine: vllm, but vLLM is not installed; install the extra [gpu] (or [cpu], on Linux), or set"
                " sampler.engine=transformers."
            )
        from .vllm import VLLMSampler

        return VLLMSampler(model, config, seed, adapters)
    from .transformers import TransformersSampler, load_model, load_tokenizer

    return TransformersSampler(load_model(model), load_tokenizer(model), config.batch_size)


def model_path(model: ModelConfig) -> str:
    """The hub id or folder that the libraries load; "pocket" is the folder within the package.

    Raises:
        UserError: a local path without a config.json.
    """
    if model.name == "pocket":
        from ..pocket import MODEL_DIR

        return str(MODEL_DIR)
    path = Path(model.name).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise UserError(f"model.name: {path} holds no config.json, so it is no model folder.")
        return str(path)
    if model.name.startswith((".", "/", "~")):
        raise UserError(f"model.name: {model.name}: no such folder.")
    return model.name


def adapter_path(source: str, key: str, max_rank: int) -> Path:
    """The folder of a LoRA adapter in PEFT's format, fetched from the hub where it is no local one.

    `key` is the recipe's key that names it, `max_rank` the sampler's.

    Raises:
        UserError: there is none, it is a pickle, or its rank is above what the sampler is set up for.
    """
    path = Path(source).expanduser()
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
    try:
        rank = int(json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{key}: {source} holds no readable adapter_config.json, so it is no LoRA adapter.") from None
    if not (path / "adapter_model.safetensors").is_file():
        raise UserError(f"{key}: {source} holds no adapter_model.safetensors; an adapter as a pickle is not read.")
    if rank > max_rank:
        raise UserError(f"{key}: its rank {rank} is above sampler.max_lora_rank ({max_rank}); raise the latter.")
    return path


def derive_seed(seed: int, *parts: object) -> int:
    """A 31-bit seed for one request or draw, the same wherever and whenever it is made."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
