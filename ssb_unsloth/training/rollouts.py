"""GRPO's rollouts by vLLM in the process that trains, in place of TRL's own way there (1.15, VLLMGeneration).

TRL merges the adapter into the base's weights before each sampling and takes it off again. In 16 bit neither is exact:
250 steps move the base by 6e-4 of itself, as much as half of what LoRA moves, so the run would train on a base that
drifts. Here vLLM is given merged copies, and the base stays as it is, to the byte. TRL also starts the engine with a
seed of its own; here each reply has a seed made of the recipe's, the step, and its place in the step.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor

from ..backends.vllm import give_weights, sample_ids
from ..recipe.schema import SamplingConfig
from ..seeds import derive_seed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about the version of vLLM, of which nothing but what is here is used
    from trl.generation.vllm_generation import VLLMGeneration, extract_logprobs
    from trl.trainer import grpo_trainer

StartEngine = Callable[..., Any]  # (seed, **vLLM's settings) -> its LLM; backends.vllm.start without model and sampler


class Rollouts(VLLMGeneration):
    """What GRPOTrainer asks for replies and gives its weights to. `step` says which optimizer step it is."""

    step: Callable[[], int]

    def __init__(self, *args: Any, start: StartEngine | None, seed: int, stop: Sequence[int], **kwargs: Any) -> None:
        assert start is not None, "GRPO is to sample by vLLM, and nobody says how it is started"
        self._start, self._seed, self._stop = start, seed, list(stop)
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        self.llm = self._start(
            seed=self._seed,
            adapters=False,
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=max(4096, self.max_model_length or 0),
            logprobs_mode="processed_logprobs",  # at the sampling temperature, as the trainer's own are
        )

    def sync_weights(self) -> None:
        give_weights(self.llm, merged_weights(cast(PeftModel, self.model)))

    def generate(
        self, prompts: Sequence[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """One reply to each prompt, of which each question's stands there `num_generations` times.

        Returns prompt ids, reply ids, and of each reply token the log-probability and the id, as TRL's own does.
        """
        step = self.step()
        seeds = [derive_seed(self._seed, "grpo", step, place) for place in range(len(prompts))]
        decoding = SamplingConfig(self.temperature, self.top_p, self.top_k, self.repetition_penalty)
        decoding.max_tokens = self.max_completion_length
        with profiler or contextlib.nullcontext():
            outputs = sample_ids(self.llm, prompts, decoding, seeds, self._stop, logprobs=0)
        replies = [list(output.outputs[0].token_ids) for output in outputs]
        return [list(output.prompt_token_ids) for output in outputs], replies, *extract_logprobs(outputs)


@torch.no_grad()
def merged_weights(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """The student's weights by their names in the base, one after another: copies where the adapter is merged in.

    The sum is made in float32 and rounded once to the base's dtype. Quantized weights are those that they stand for.
    """
    base: Any = model.get_base_model()
    modules = dict(base.named_modules())
    for name, parameter in base.named_parameters():
        if model.prefix in name:
            continue
        owner, _, kind = name.rpartition(".")
        weight: Any = dequantize_module_weight(modules[owner]) if kind == "weight" else parameter
        layer = modules[owner.removesuffix(".base_layer")]
        if kind == "weight" and isinstance(layer, LoraLayer):
            change = sum(cast(Any, layer).get_delta_weight(adapter).float() for adapter in layer.active_adapters)
            weight = (weight.float() + change).to(weight.dtype)
        yield name.replace(".base_layer", ""), weight.data


@contextlib.contextmanager
def in_trl(start: StartEngine | None, seed: int, stop: Sequence[int]) -> Iterator[None]:
    """While it lasts, a GRPOTrainer that is made takes `Rollouts` for its VLLMGeneration."""
    names = vars(grpo_trainer)
    before = names["VLLMGeneration"]
    names["VLLMGeneration"] = partial(Rollouts, start=start, seed=seed, stop=stop)
    try:
        yield
    finally:
        names["VLLMGeneration"] = before
