"""Plain transformers as a sampler: batches by length, each reply by its own seed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..io.progress import bar
from ..prompts import Messages
from ..recipe.schema import SamplingConfig
from .adapters import merge
from .chat_template import completion, pad_id, render, stop_ids
from .sampler import Adapter, Completion, Keep, Request, by_length

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class TransformersSampler:
    """Samples from a model in memory, which may be one that is being trained.

    Seeds are kept by the Gumbel trick: the largest of (logits / temperature + Gumbel noise) is a draw from the softmax,
    and the noise comes from a generator of the request's own.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        from .wrapped import embedded

        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._stop = stop_ids(tokenizer, getattr(model, "generation_config", None))
        self._pad = pad_id(tokenizer, embedded(model))
        self._loaded: dict[Adapter, str] = {}

    def render(self, messages: Messages) -> list[int]:
        return render(self._tokenizer, messages)

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
        quiet: bool = False,
    ) -> list[Completion]:
        import torch

        shown = bar(title, "reply", len(requests), disable=quiet)
        # no_grad, and not inference_mode: a model that is being trained keeps what it caches here.
        with torch.no_grad(), self._with_adapter(adapter) as model, shown:
            completions: dict[int, Completion] = {}
            for chosen in by_length(requests, self._batch_size):
                replies = self._sample_batch(model, [requests[i] for i in chosen], decoding)
                for place, reply in zip(chosen, replies, strict=True):
                    completions[place] = reply
                    if keep is not None:
                        keep(place, reply)
                shown.update(len(chosen))
        return [completions[i] for i in range(len(requests))]

    def close(self) -> None:
        import torch

        del self._model
        torch.cuda.empty_cache()

    def _sample_batch(self, model: Any, requests: Sequence[Request], decoding: SamplingConfig) -> list[Completion]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        width = max(len(request.prompt_ids) for request in requests)
        device = next(model.parameters()).device
        rows_BS = [[self._pad] * (width - len(r.prompt_ids)) + r.prompt_ids for r in requests]
        mask_BS = [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in requests]
        with _nothing_inherited(model):
            output = model.generate(
                input_ids=torch.tensor(rows_BS, device=device),
                attention_mask=torch.tensor(mask_BS, device=device),
                # Greedy over logits to which the processors have added noise.
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=decoding.max_tokens,
                    eos_token_id=self._stop,
                    pad_token_id=self._pad,
                ),
                logits_processor=LogitsProcessorList(_processors(decoding, [r.seed for r in requests])),
            )
        return [completion(self._tokenizer, ids, self._stop) for ids in output[:, width:].tolist()]

    @contextlib.contextmanager
    def _with_adapter(self, adapter: Adapter | None) -> Iterator[Any]:
        """The model with that adapter, or with none, for as long as the context lasts."""
        import torch
        from peft import PeftModel

        weight = next(self._model.parameters())
        if adapter is None:
            taken_off = self._loaded and isinstance(self._model, PeftModel)  # adapters that this sampler put on
            with self._model.disable_adapter() if taken_off else contextlib.nullcontext():  # type: ignore[operator]
                yield self._model
        elif weight.device.type == "cpu" and weight.dtype == torch.float32 and not isinstance(self._model, PeftModel):
            # A merged copy: on a CPU the adapter's many small products take as long as the model itself.
            yield merge(copy.deepcopy(self._model), adapter.path).eval()
        else:
            if adapter not in self._loaded:
                name = f"{adapter.name}-{len(self._loaded) + 1}"
                if isinstance(self._model, PeftModel):
                    self._model.load_adapter(str(adapter.path), adapter_name=name)
                else:
                    self._model = PeftModel.from_pretrained(self._model, str(adapter.path), adapter_name=name).eval()
                self._loaded[adapter] = name
            self._model.set_adapter(self._loaded[adapter])  # type: ignore[operator]
            yield self._model


@contextlib.contextmanager
def _nothing_inherited(model: Any) -> Iterator[None]:
    """`generate` fills what a GenerationConfig leaves open from the model's own (a repetition penalty, words that are
    suppressed): for as long as this lasts that one is empty."""
    from peft import PeftModel
    from transformers import GenerationConfig

    own = model.get_base_model() if isinstance(model, PeftModel) else model
    kept, own.generation_config = own.generation_config, GenerationConfig()
    try:
        yield
    finally:
        own.generation_config = kept


def _processors(decoding: SamplingConfig, seeds: Sequence[int]) -> list[Any]:
    """What vLLM does to logits, in its order: repetition penalty, temperature, top-k, top-p, draw."""
    import torch
    from transformers import (
        LogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    class Gumbel(LogitsProcessor):
        def __init__(self) -> None:
            self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            uniform = torch.stack([torch.rand(scores.shape[-1], generator=g) for g in self.generators])
            noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
            return scores + noise.to(scores.device, scores.dtype)

    processors: list[Any] = []
    if decoding.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.temperature > 0:
        processors.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_k > 0:
            processors.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1:
            processors.append(TopPLogitsWarper(decoding.top_p))
        processors.append(Gumbel())
    return processors
