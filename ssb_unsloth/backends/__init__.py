"""Models: what samples from them, and what loads the one that teaches and is trained. One file for each library that
changes every month.

    load_sampler     vllm, servers/, transformers_sampler, and replicas of these on a cluster; all offer what
                     `sampler.Sampler` says
    TrainingBackend  unsloth, transformers
    and beside them  template_choice, chat_template, rendered, thinking, control_tokens: what is asked, what a reply is;
                     adapters, classes, sources, wrapped: what loading takes

What is heavy is imported by the two doors above, when they are called.

May import: errors, io, prompts, verifier, recipe, pocket, machine.
May be imported by: data, run, method, training, evaluation, pipeline, commands.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import UserError
from ..io.addresses import is_server
from ..io.progress import say
from ..machine.hardware import find_cards
from ..machine.versions import remedy
from ..recipe.schema import LoraConfig, ModelConfig, SamplerConfig
from .sampler import Sampler

if TYPE_CHECKING:
    from torch import nn


def load_sampler(model: ModelConfig, config: SamplerConfig, seed: int, adapters: bool) -> Sampler:
    """The engine that the recipe names; `auto` takes vLLM where it is installed, and says so where it is not.

    `adapters`: whether it is to put LoRA adapters on; vLLM sets memory and time aside for that. Without, it
    merges an adapter that it is asked for into its weights.
    """
    if is_server(model.name):
        from .servers.by_url import ServerSampler

        return ServerSampler(model, seconds=60 * config.server_timeout)
    engine = engine_of(config)
    if engine == "servers":
        from .servers.sampler import ServersSampler

        return ServersSampler(model, config)
    if config.engine == "ray":
        from .replicas import ReplicasSampler

        one = replace(config, engine=config.replica_engine)
        return ReplicasSampler(model, config, engine, partial(load_sampler, config=one, seed=seed, adapters=adapters))
    if (config.engine, engine) == ("auto", "transformers"):
        say("vLLM is not installed here, so plain transformers samples: the same method, slower.")
    if engine == "vllm":
        if not find_spec("vllm"):
            raise UserError(
                f"sampler.engine: vllm, but vLLM is not installed. {remedy()} Or set sampler.engine=transformers."
            )
        from .vllm import VLLMSampler

        return VLLMSampler(model, config, seed, adapters)
    from .transformers import load_model, load_tokenizer
    from .transformers_sampler import TransformersSampler

    return TransformersSampler(load_model(model), load_tokenizer(model), config.batch_size)


def engine_of(config: SamplerConfig) -> str:
    """What samples: "vllm", "transformers" or "servers". `auto` stands for one of the first two; of `ray` it is what a
    replica is."""
    if config.samples_by == "auto":
        return "vllm" if find_spec("vllm") else "transformers"
    return config.samples_by


class TrainingBackend:
    """Loads the model that teaches and is trained, by Unsloth or by plain transformers and PEFT.

    Make it before anything in the process imports transformers, peft or trl: Unsloth has to come first.

    Attributes:
        name: "unsloth" or "transformers"; after `load`, the one that loaded.

    Raises:
        UserError: the recipe insists on Unsloth, and it is not installed or has no GPU.
    """

    def __init__(self, model: ModelConfig, all_weights: bool = False, several: bool = False) -> None:
        """`all_weights`: whether the whole model is to be trained; `several`: whether by several processes. Plain
        transformers does either."""
        self._model = model
        self.name = _training_backend(model)
        if self.name == "unsloth" and (all_weights or several):
            why = "All weights are trained (train.lora: null)" if all_weights else "Several processes train"
            say(f"{why}, so plain transformers loads the model, and not Unsloth.")
            self.name = "transformers"
        if self.name == "unsloth":
            from .unsloth import prepare

            prepare()

    def load(
        self,
        max_length: int,
        lora: LoraConfig | None = None,
        seed: int = 0,
        gradient_checkpointing: bool = False,
        device: str | None = None,
    ) -> nn.Module:
        """The model on its device, in eval mode; with `lora`, PEFT's wrapping of it with a fresh adapter.

        The adapter's first weights are drawn from `seed`, and are float32 whatever the base is. No sequence will be
        longer than `max_length` tokens. Activations are recomputed in the backward pass with `gradient_checkpointing`.
        `device`: where to load it, by transformers; None: on the GPU where there is one.

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
        model = transformers.load_model(self._model, device)
        if lora is not None:
            return transformers.add_lora(model, lora, seed, gradient_checkpointing)
        if gradient_checkpointing:
            transformers.recompute(model)
        return model


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
