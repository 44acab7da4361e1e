"""Loading by plain transformers and PEFT, and a sampler on it: for small models, for tests, and where vLLM is not."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import UserError
from ..io.progress import bar, hide_loading_bars
from ..machine.hardware import choose_model, here
from ..prompts import Messages
from ..recipe.schema import LoraConfig, ModelConfig, SamplingConfig
from . import Adapter, Completion, Keep, Request, model_path, unloadable
from .adapters import assert_fits, merge
from .chat_template import completion, end_of_turn, pad_id, render, set_date, set_variables, stop_ids

if TYPE_CHECKING:
    import peft
    import torch
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        UserError: it cannot be loaded, has no chat template, or no end of turn.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_path(model), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise unloadable(f"The tokenizer of {model.name!r}", model, error) from None
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):  # several, by name
        template = template.get("default")
    if template is None:
        raise UserError(f"Model {model.name!r} has no chat template; SSB needs an instruction-tuned model.")
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of {model.name!r} names no eos token, so a reply could never end.")
    tokenizer.chat_template = set_date(set_variables(template, model.template), model.date)
    end_of_turn(tokenizer)  # looked for at once
    return tokenizer


def load_model(model: ModelConfig) -> torch.nn.Module:
    """The causal language model, in the recipe's dtype and quantization, on the GPU where there is one.

    Raises:
        UserError: it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    hide_loading_bars()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, choose_model(model, here()).dtype)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
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


def peft_config(lora: LoraConfig) -> peft.LoraConfig:
    """The recipe's adapter as PEFT takes it."""
    import peft

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )


def add_lora(model: torch.nn.Module, lora: LoraConfig, seed: int, gradient_checkpointing: bool) -> torch.nn.Module:
    """A fresh adapter on the model, by PEFT, which keeps its weights in float32 on a 16-bit base."""
    import peft
    from transformers import set_seed

    set_seed(seed)  # the adapter's first weights are drawn here
    student: Any = peft.get_peft_model(cast(Any, model), peft_config(lora))
    if gradient_checkpointing:
        student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained: torch.nn.Module = student.eval()
    return trained


def save_merged(model: ModelConfig, adapter: Path | None, folder: Path, dtype: str | None = None) -> None:
    """The base with the adapter merged into its weights, and its tokenizer: a model of its own, in sharded safetensors.
    Without an adapter, the base.

    Merged on the CPU in float32 and rounded once to `dtype` (by default the one that the run computes in). The base is
    taken unquantized, also where the run had it in 8 or 4 bits.

    Raises:
        UserError: the base cannot be loaded, the adapter is not one of this base, or the merged weights are not finite.
    """
    import torch
    from transformers import AutoModelForCausalLM

    hide_loading_bars()
    if adapter is not None:
        assert_fits(model, adapter, "transformers")
    try:
        base: Any = AutoModelForCausalLM.from_pretrained(
            model_path(model),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=torch.float32,
        )
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {model.name!r}", model, error) from None
    merged: Any = base if adapter is None else merge(base, adapter)
    merged.to(getattr(torch, dtype or choose_model(model, here()).dtype))
    merged.save_pretrained(folder, max_shard_size="4GB")
    load_tokenizer(model).save_pretrained(folder)


def only_stops(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Leave nothing in the model's own generation_config but the tokens that end a reply, which are returned; for a
    trainer that samples by itself. And let the tokenizer pad with a token that the model has."""
    from transformers import GenerationConfig

    from ..method.modeling import embedded

    stops = stop_ids(tokenizer, getattr(model, "generation_config", None))
    cast(Any, model).generation_config = GenerationConfig(eos_token_id=stops)
    cast(Any, tokenizer).pad_token_id = pad_id(tokenizer, embedded(model))
    return stops


class TransformersSampler:
    """Samples from a model in memory, which may be one that is being trained.

    Seeds are kept by the Gumbel trick: the largest of (logits / temperature + Gumbel noise) is a draw from the softmax,
    and the noise comes from a generator of the request's own.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        from ..method.modeling import embedded

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
            # Prompts of similar length share a batch, so that little of it is padding.
            order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
            for start in range(0, len(order), self._batch_size):
                chosen = order[start : start + self._batch_size]
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
