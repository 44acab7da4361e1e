"""LoRA adapters and the base that they are put on: whether they fit, and how the two become one.

What an adapter holds is compared with what PEFT would save of one with its configuration on this base, name by name and
shape by shape: PEFT itself leaves out what finds no place, and an engine may say so only after minutes, or never.
"""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..recipe.schema import ModelConfig
from .classes import auto_class, config_of
from .sources import adapter_config, unloadable

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "adapter_model.safetensors"
NOWHERE = ("alora_invocation_tokens", "arrow_config", "layer_replication", "use_bdlora", "use_qalora")
ELSEWHERE = {  # what vLLM does not put on: how its tensors are named, and what it is called
    "trainable_tokens_delta": "trainable tokens",
    "lora_embedding_": "LoRA on the embedding",
    ".bias": "trained biases",
}
PROBE = 24  # tokens that are run to see whether merging has changed anything
CLOSE = 1e-3  # largest difference of a logit, as a share of the largest logit: float32, and another order of sums

Shapes = dict[str, tuple[int, ...]]


def assert_fits(model: ModelConfig, adapter: Path, engine: str, key: str = "adapter") -> None:
    """Look at whether the adapter is one of this model, and one that the engine puts on as it was trained.

    `engine`: "vllm", "servers" or "transformers". Neither weights of the model nor of the adapter are loaded.

    Raises:
        UserError: it is not; `key` says where it was named.
    """
    config = adapter_config(adapter, key)
    if config.get("peft_type", "LORA") != "LORA":
        raise UserError(f"{key}: {adapter} is an adapter of the kind {config['peft_type']}; expected LORA.")
    for name in NOWHERE:
        if config.get(name):
            raise UserError(f"{key}: {adapter} was trained with {name}, which the samplers here do not know.")
    found, expected = _stored(adapter, key), _expected(model, adapter, key)
    whole = f"{key}: {adapter} is no adapter of {model.name!r}"
    if strange := sorted(found.keys() - expected.keys()):
        raise UserError(f"{whole}: {len(strange):,} of its tensors have no place there, as {strange[0]}.")
    if missing := sorted(expected.keys() - found.keys()):
        raise UserError(f"{whole}: it lacks {len(missing):,} tensors for what it says it was put on, as {missing[0]}.")
    for name, shape in found.items():
        if shape != expected[name]:
            raise UserError(f"{whole}: {name} is {_by(shape)}, where {_by(expected[name])} fits.")
    reasons = [] if engine == "transformers" else _not_by_vllm(config, found)
    if engine == "servers" and merged_for_vllm(adapter):  # nobody merges it into their weights
        reasons.append("DoRA")
    if reasons:
        raise UserError(
            f"{key}: {adapter} has {', '.join(reasons)}, which vLLM does not put on; set sampler.engine=transformers."
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _stored(adapter: Path, key: str) -> Shapes:
    from safetensors import SafetensorError, safe_open

    path = adapter / WEIGHTS
    if not path.is_file():
        raise UserError(f"{key}: {adapter} holds no {WEIGHTS}; an adapter as a pickle is not read.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}).") from None


def _expected(model: ModelConfig, adapter: Path, key: str) -> Shapes:
    """What PEFT would save of an adapter with this configuration on this model; on no device, so without memory."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    base = copy.deepcopy(_without_weights(json.dumps(asdict(model))))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config: Any = LoraConfig.from_pretrained(str(adapter))
            config.init_lora_weights = True  # others would look at the weights, which are not there
            config.base_model_name_or_path = None
            student = get_peft_model(base, config, low_cpu_mem_usage=True)
            state: Mapping[str, Tensor] = get_peft_model_state_dict(student, save_embedding_layers=False)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{key}: {adapter} cannot be put on {model.name!r}: {reason[:300]}") from None
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@functools.lru_cache(maxsize=2)
def _without_weights(model: str) -> nn.Module:
    """The model's modules alone. `model`: its ModelConfig as JSON."""
    import torch

    named = ModelConfig(**json.loads(model))
    trust = {"trust_remote_code": named.trust_remote_code}
    try:
        config = config_of(named)
        with torch.device("meta"):
            empty: nn.Module = auto_class(config).from_config(config, **trust)
    except (OSError, ValueError) as error:
        raise unloadable(f"Model {named.name!r}", named, error) from None
    return empty


def merged_for_vllm(adapter: Path) -> bool:
    """Whether vLLM does not put this adapter on, and is given the base with the adapter merged into it: DoRA. A folder
    that holds no adapter is left to whoever loads it.
    """
    return (adapter / "adapter_config.json").is_file() and bool(adapter_config(adapter).get("use_dora"))


def _not_by_vllm(config: Mapping[str, Any], found: Shapes) -> list[str]:
    """By vLLM 0.32, lora/peft_helper.py, and what it does with embeddings."""
    reasons = [what for part, what in ELSEWHERE.items() if any(part in name for name in found)]
    if config.get("modules_to_save"):
        reasons.append(f"modules_to_save {config['modules_to_save']}")
    if any(".lm_head.lora_" in name for name in found):
        reasons.append("LoRA on the head")
    if isinstance(config.get("init_lora_weights"), str) and config["init_lora_weights"].lower() not in (
        "gaussian",
        "eva",
        "orthogonal",
    ):
        reasons.append(f"init_lora_weights {config['init_lora_weights']}")
    return reasons


def merge(base: nn.Module, adapter: Path) -> nn.Module:
    """The base with the adapter in its weights: the same model as the two, which is looked at. The base is used up.

    Where input embedding and head are one matrix, and the adapter changes the one or the other, they become two.

    Raises:
        UserError: the merged weights are not finite, or make another model than base and adapter.
    """
    import torch
    from peft import PeftModel

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of what happens to ends that are one matrix: below they become two
        student: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
        tokens = _trained_tokens(student)
        before = _logits(student, tokens)
        if not tokens:  # PEFT gives those to both ends already
            _untie(student.get_base_model())
        try:
            merged: Any = student.merge_and_unload(safe_merge=True)
        except ValueError:  # PEFT's: "NaNs detected in the merged weights"
            raise UserError(f"{adapter}: merged weights are not finite; the training has diverged.") from None
        after = _logits(merged, tokens)
    if not (after - before).abs().max() <= CLOSE * before.abs().max():
        raise UserError(f"{adapter}: merged into its base it would be another model than beside it, so it is not.")
    ends = merged.get_input_embeddings(), merged.get_output_embeddings()
    if None not in ends and ends[0].weight is not ends[1].weight:  # or whoever loads it would make them one again
        merged.config.tie_word_embeddings = merged.config.get_text_config().tie_word_embeddings = False
    result: nn.Module = merged
    return result


def _trained_tokens(student: Any) -> list[int]:
    given = student.peft_config["default"].trainable_token_indices or []
    return [token for own in given.values() for token in own] if isinstance(given, dict) else list(given)


def _untie(model: Any) -> None:
    """Give the head a matrix of its own where it is the input embedding's and an adapter changes either."""
    import torch

    outer = [model.get_input_embeddings(), model.get_output_embeddings()]
    embedding, head = map(_innermost, outer)
    if head is not None and embedding.weight is head.weight and outer != [embedding, head]:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _innermost(module: Any) -> Any:
    """The base's own module below whatever PEFT has put around it."""
    while module is not None and hasattr(module, "base_layer"):
        module = module.base_layer
    return getattr(module, "original_module", module)


def _logits(model: Any, tokens: list[int]) -> Tensor:
    """The logits of a short sequence in which these tokens are, in float32."""
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    chosen = torch.randint(vocabulary, (PROBE,), generator=torch.Generator().manual_seed(0)).tolist()
    ids = torch.tensor([[*tokens[:PROBE], *chosen]], device=next(model.parameters()).device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return logits
