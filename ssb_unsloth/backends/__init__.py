"""What changes every month stays behind one file each: the samplers (vLLM, transformers) and the model's loading.

A sampler takes prompts as token ids and gives completions. Each request has a seed of its own, so what comes out does
not depend on which other requests it is sampled with, or on their order.
"""

from __future__ import annotations

import hashlib
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


def derive_seed(seed: int, *parts: object) -> int:
    """A 31-bit seed for one request or draw, the same wherever and whenever it is made."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
