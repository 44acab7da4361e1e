"""Sampling by vLLM, in this process. The only file that imports it.

Every stage is a process of its own, so an engine in the process starts faster and gives its memory back when the stage
ends. Prefix caching is on: the K rollouts of a question share the work on their prompt.

On a GPU adapters are put on by vLLM, many in one engine. On a CPU their small products, with a copy of the matrices for
every token, take five times as long as the model, so the engine is given weights with the adapter merged into them: in
float32, where that changes no more than the order of a sum.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import ModelConfig, SamplerConfig, SamplingConfig
from ..environment import prepare
from ..errors import UserError
from ..hardware import choose_model, choose_sampler, here
from ..progress import bar_for, say
from ..prompts import Messages
from . import Adapter, Completion, Keep, Request, check_rank, model_path
from .chat_template import completion, render, stop_ids
from .transformers import load_generation_config, load_tokenizer, save_merged


def library() -> Any:
    """vLLM with what is used of it, imported; its settings are read then, so they are made first."""
    prepare()
    import vllm
    import vllm.inputs
    import vllm.lora.request
    import vllm.platforms

    vllm.LLM, vllm.SamplingParams  # noqa: B018  # vLLM itself imports them when they are first named
    return vllm


class VLLMSampler:
    def __init__(self, model: ModelConfig, config: SamplerConfig, seed: int, adapters: bool) -> None:
        say("Starting vLLM ...")
        vllm = library()
        model, config = choose_model(model, here()), choose_sampler(config, here())
        self._vllm = vllm
        self._tokenizer = load_tokenizer(model)
        self._stop = stop_ids(self._tokenizer, load_generation_config(model))
        self._adapters: dict[Adapter, Any] = {}
        self._max_lora_rank = config.max_lora_rank
        on_cpu = vllm.platforms.current_platform.is_cpu()
        self._model, self._merges = model, on_cpu and model.dtype == "float32"
        self._merged: Adapter | None = None  # the adapter that is in the engine's weights
        cpu_only: dict[str, Any] = {
            # There is no graph to capture, and compiling takes longer than it saves.
            "enforce_eager": True,
            # A prompt cut into chunks makes vLLM rewind the request's generator, which only CUDA's can do (0.32).
            "enable_chunked_prefill": False,
            # Small batches stay in the cache.
            "max_num_batched_tokens": max(config.max_model_len, 256),
            "max_num_seqs": 256,
        }
        if model.quantization != "none":  # vLLM 0.32 has no bitsandbytes any more
            say(f"vLLM samples from the weights as they are: model.quantization={model.quantization} is for training.")
        try:
            self._engine = vllm.LLM(
                model_path(model),
                revision=model.revision,
                dtype=model.dtype,
                trust_remote_code=model.trust_remote_code,
                seed=seed,
                max_model_len=config.max_model_len,
                gpu_memory_utilization=float(config.gpu_memory_utilization),
                attention_backend=None if config.attention_backend == "auto" else config.attention_backend,
                enable_prefix_caching=True,
                enable_lora=adapters and not self._merges,
                max_lora_rank=config.max_lora_rank,
                generation_config="vllm",  # nothing inherited from the model's generation_config
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **(cpu_only if on_cpu else {}),
            )
        except (ValueError, RuntimeError, OSError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"vLLM cannot start on {model.name!r}: {lines[-1]}") from error

    def render(self, messages: Messages) -> list[int]:
        return render(self._tokenizer, messages)

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,  # the engine gives all at once
    ) -> list[Completion]:
        parameters = [
            self._vllm.SamplingParams(
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=decoding.top_k,
                repetition_penalty=decoding.repetition_penalty,
                max_tokens=decoding.max_tokens,
                seed=request.seed,
                stop_token_ids=self._stop,
                detokenize=False,  # `completion` does it, as for the other sampler
            )
            for request in requests
        ]
        outputs = self._engine.generate(
            [self._vllm.inputs.TokensPrompt(prompt_token_ids=request.prompt_ids) for request in requests],
            parameters,
            lora_request=self._put_on(adapter),
            use_tqdm=bar_for(title, "reply"),
        )
        return [completion(self._tokenizer, output.outputs[0].token_ids, self._stop) for output in outputs]

    def close(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._engine.llm_engine.engine_core.shutdown()
        del self._engine
        cleanup_dist_env_and_memory()

    def _put_on(self, adapter: Adapter | None) -> Any:
        """vLLM's request for the adapter; None without one, and where the weights have it in them."""
        if adapter is not None:
            check_rank(adapter, self._max_lora_rank)
        if self._merges:
            self._merge(adapter)
            return None
        return None if adapter is None else self._request(adapter)

    def _merge(self, adapter: Adapter | None) -> None:
        """Give the engine the base's weights with this adapter merged into them, or the base's own."""
        if adapter == self._merged:
            return
        with tempfile.TemporaryDirectory() as folder:
            save_merged(self._model, None if adapter is None else adapter.path, Path(folder))
            self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self._engine.reset_prefix_cache()  # it holds what the weights before made
        self._merged = adapter

    def _request(self, adapter: Adapter) -> Any:
        """An id of its own for each adapter: reusing one would serve the cached prefixes of another."""
        if adapter not in self._adapters:
            number = len(self._adapters) + 1
            self._adapters[adapter] = self._vllm.lora.request.LoRARequest(
                f"{adapter.name}-{number}", number, str(adapter.path)
            )
        return self._adapters[adapter]
