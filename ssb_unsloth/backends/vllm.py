"""Sampling by vLLM, in this process. The only file that imports it.

Every stage is a process of its own, so an engine in the process starts faster and gives its memory back when the stage
ends. Prefix caching is on: the K rollouts of a question share the work on their prompt.

On a GPU adapters are put on by vLLM, many in one engine. On a CPU their small products, with a copy of the matrices for
every token, take five times as long as the model, so the engine is given weights with the adapter merged into them: in
float32, where that changes no more than the order of a sum. So it is given those that vLLM does not put on, on any
machine: DoRA, and all on an architecture for which it has no LoRA.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..io.disk import REFUSALS
from ..io.progress import Batch, say
from ..machine.auto import choose_model, choose_sampler
from ..machine.environment import prepare
from ..machine.hardware import check_cards, here
from ..prompts import Messages
from ..recipe.schema import ModelConfig, SamplerConfig, SamplingConfig
from .adapters import merged_for_vllm
from .chat_template import completion, render, stop_ids
from .classes import reads_pictures
from .sampler import Adapter, Completion, Keep, Request
from .sources import check_rank, model_path
from .transformers import load_generation_config, load_tokenizer, save_merged
from .vllm_errors import explained, not_imported, refuse_what_cannot_be_compiled

if TYPE_CHECKING:
    from torch import Tensor


NO_LORA = "does not support LoRA"  # vLLM's words (0.32, v1/worker/lora_model_runner_mixin.py)


def library() -> Any:
    """vLLM with what is used of it, imported; its settings are read then, so they are made first.

    Raises:
        UserError: it cannot be imported.
    """
    prepare()
    try:
        import vllm
        import vllm.inputs
        import vllm.lora.request
        import vllm.platforms

        vllm.LLM, vllm.SamplingParams  # noqa: B018  # vLLM itself imports them when they are first named
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise not_imported(error) from error
    return vllm


def start(model: ModelConfig, config: SamplerConfig, seed: int, adapters: bool, **settings: Any) -> Any:
    """vLLM's engine (`vllm.LLM`) on a model, with what the recipe says and, over it, vLLM's own `settings`.

    Raises:
        UserError: it cannot start; the cause, and the key to change.
    """
    check_cards(config.tensor_parallel)
    say("Starting vLLM ...")
    card = here()
    model = choose_model(model, card)
    config = choose_sampler(config, card, model.dtype)
    if model.quantization != "none":  # vLLM 0.32 has no bitsandbytes any more
        say(f"vLLM samples from the weights as they are: model.quantization={model.quantization} is for training.")
    try:
        refuse_what_cannot_be_compiled(config, card)
        engine = library().LLM(
            model_path(model),
            revision=model.revision,
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
            max_model_len=config.max_model_len,
            attention_backend=None if config.attention_backend == "auto" else config.attention_backend,
            enable_prefix_caching=True,
            enable_lora=adapters,
            max_lora_rank=config.max_lora_rank,
            generation_config="vllm",  # nothing inherited from the model's generation_config
            disable_log_stats=True,
            use_tqdm_on_load=False,
            seed=seed,
            **{
                "gpu_memory_utilization": float(config.gpu_memory_utilization),
                **({"language_model_only": True} if reads_pictures(model) else {}),  # nothing here feeds its tower
                **(_for_cpu(config) if _on_cpu() else {}),
                **(_over_cards(config.tensor_parallel) if config.tensor_parallel > 1 else {}),
                **settings,
            },
        )
        _leave_transformers_as_it_was()
        return engine
    except UserError:
        raise
    except Exception as error:  # vLLM says no in many ways: pydantic's, torch's, its own
        if isinstance(error, OSError) and error.errno in REFUSALS:  # the disk's: said where the stage ends
            raise
        raise explained(error, model, config, settings) from error


def _leave_transformers_as_it_was() -> None:
    """Let models that are not vLLM's be made and run beside it: the one in training beside GRPO's engine, the base that
    an adapter is merged into.

    Families that vLLM has no code of its own for (0.32: OLMo 2, SmolLM3) it builds from transformers' class, and puts
    its compiler into that class for the whole process: `__init__` asks for an engine's settings, `__call__` for what
    was made of them. Its own instances say for themselves whether they are compiled; the class says no for all others.
    """
    from transformers import PreTrainedModel

    classes: list[Any] = [PreTrainedModel]
    for known in classes:  # which grows: all classes below it
        classes += known.__subclasses__()
        init = vars(known).get("__init__")
        if inspect.isfunction(init) and init.__module__.startswith("vllm."):
            known.do_not_compile = True
            known.__init__ = _outside_of_an_engine(inspect.getclosurevars(init).nonlocals["old_init"], init)


def _outside_of_an_engine(plain: Callable[..., None], engines: Callable[..., None]) -> Callable[..., None]:
    """`engines` while one is being built, else `plain`: an `__init__`."""

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        building = library().config.get_current_vllm_config_or_none() is not None
        (engines if building else plain)(self, *args, **kwargs)

    return init


def _on_cpu() -> bool:
    return bool(library().platforms.current_platform.is_cpu())


def _for_cpu(config: SamplerConfig) -> dict[str, Any]:
    return {
        # There is no graph to capture, and compiling takes longer than it saves.
        "enforce_eager": True,
        # A prompt cut into chunks makes vLLM rewind the request's generator, which only CUDA's can do (0.32).
        "enable_chunked_prefill": False,
        # Small batches stay in the cache.
        "max_num_batched_tokens": max(config.max_model_len, 256),
        "max_num_seqs": 256,
    }


def _over_cards(count: int) -> dict[str, Any]:
    """Each layer over so many cards, with a process for each. vLLM (0.32, entrypoints/llm.py) takes no
    `data_parallel_size` within one process: for that a server is started with it (docs/servers.md).
    """
    return {"tensor_parallel_size": count, "distributed_executor_backend": "mp"}


def sample_ids(
    engine: Any,
    prompts: Sequence[list[int]],
    decoding: SamplingConfig,
    seeds: Sequence[int],
    stop: Sequence[int],
    logprobs: int | None = None,
    shown: Batch | None = None,
    **how: Any,
) -> list[Any]:
    """vLLM's RequestOutput for each prompt of token ids, sampled with its own seed; `shown` is told of every step."""
    vllm = library()
    parameters = [
        vllm.SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=decoding.top_k,
            repetition_penalty=decoding.repetition_penalty,
            max_tokens=decoding.max_tokens,
            seed=seed,
            stop_token_ids=list(stop),
            logprobs=logprobs,
            detokenize=False,  # `chat_template.completion` does it, as for the other sampler
        )
        for seed in seeds
    ]
    asked = [vllm.inputs.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
    if shown is None:
        return list(engine.generate(asked, parameters, use_tqdm=False, **how))
    engine.enqueue(asked, parameters, use_tqdm=False, **how)
    outputs: list[Any] = []
    while engine.llm_engine.has_unfinished_requests():  # as `generate` has it, whose own bar knows of no tokens
        ended = [output for output in engine.llm_engine.step() if output.finished]
        outputs += ended
        shown.step([len(output.outputs[0].token_ids) for output in ended], lambda: _under_way(engine))
    return sorted(outputs, key=lambda output: int(output.request_id))


def _under_way(engine: Any) -> list[int]:
    """The tokens so far of each reply that has not ended (vLLM 0.32, v1/engine/output_processor.py)."""
    states = engine.llm_engine.output_processor.request_states
    return [state.detokenizer.num_output_tokens() for state in states.values()]


def give_weights(engine: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Put other weights into a running engine, by their names in the checkpoint."""
    if _on_cpu():  # where linear layers keep theirs in another layout
        engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
    else:
        engine.llm_engine.model_executor.driver_worker.model_runner.model.load_weights(weights)
    engine.reset_prefix_cache()  # it holds what the weights before made


class VLLMSampler:
    def __init__(self, model: ModelConfig, config: SamplerConfig, seed: int, adapters: bool) -> None:
        self._model, self._max_lora_rank = choose_model(model, here()), config.max_lora_rank
        self._tokenizer = load_tokenizer(model)
        self._stop = stop_ids(self._tokenizer, load_generation_config(model))
        self._adapters: dict[Adapter, Any] = {}
        self._merged: Adapter | None = None  # the adapter that is in the engine's weights
        self._merges = not adapters or (_on_cpu() and self._model.dtype == "float32")
        try:
            self._engine = start(model, config, seed, not self._merges)
        except UserError as error:
            if self._merges or NO_LORA not in str(error):
                raise
            say("vLLM has no LoRA for this architecture, so it is given weights with the adapter merged into them.")
            self._merges = True
            self._engine = start(model, config, seed, adapters=False)

    def render(self, messages: Messages) -> list[int]:
        return render(self._tokenizer, messages)

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,  # the engine gives all at once
        quiet: bool = False,
    ) -> list[Completion]:
        prompts, seeds = [r.prompt_ids for r in requests], [r.seed for r in requests]
        lora = self._put_on(adapter)
        with Batch(title, len(requests), decoding.max_tokens, quiet) as shown:
            outputs = sample_ids(self._engine, prompts, decoding, seeds, self._stop, shown=shown, lora_request=lora)
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
        if adapter is not None and merged_for_vllm(adapter.path):
            say(f"{adapter.name}: vLLM does not put DoRA on, so it samples from weights with the adapter merged in.")
        with tempfile.TemporaryDirectory() as folder:
            save_merged(self._model, None if adapter is None else adapter.path, Path(folder))
            self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self._engine.reset_prefix_cache()  # it holds what the weights before made
        self._merged = adapter

    def _request(self, adapter: Adapter) -> Any:
        """An id of its own for each adapter: reusing one would serve the cached prefixes of another."""
        from vllm.lora.request import LoRARequest

        if adapter not in self._adapters:
            number = len(self._adapters) + 1
            self._adapters[adapter] = LoRARequest(f"{adapter.name}-{number}", number, str(adapter.path))
        return self._adapters[adapter]
