"""What vLLM says when it does not start, as a sentence with its cause and the key to change.

Its errors come wrapped: pydantic's end in an address, others in advice for vLLM's own command line. The patterns are of
vLLM 0.31 and 0.32 and of what it calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..errors import UserError
from ..machine.cards import Card
from ..machine.environment import TOOLKIT, WITHOUT_FLASHINFER, by_flashinfer, missing_for_flashinfer
from ..recipe.schema import ModelConfig, SamplerConfig
from .sources import unloadable

SHARE, GRPO_SHARE = "sampler.gpu_memory_utilization", "train.grpo.gpu_memory_utilization"
FREE = "{share} (now {config.gpu_memory_utilization}) to what is free, or stop what `nvidia-smi` lists"
SMALLER = f"Set sampler.max_model_len below {{config.max_model_len}}, {FREE}; or take a smaller model.name."
WITHOUT = "set sampler.engine=transformers."
RULES = (  # what is said, and what to do; {model} and {config} are what the recipe became on this card
    (
        r"max_model_len \(\d+\) is greater than the derived max_model_len \(\D*(\d+)",
        "Set sampler.max_model_len={0} or less: the model's own length; longer texts would be beyond its positions.",
    ),
    (r"not supported for quantization method", "Set model.dtype (now {model.dtype}) to one of those."),
    (
        r"Bfloat16 is only supported on GPUs|does not support float16|does not support bfloat16",
        "Set model.dtype to another format than {model.dtype}: auto takes what the card has, float32 runs everywhere.",
    ),
    (
        r"backend (\w+) is not valid for this configuration.*dtype not supported",
        "Set sampler.attention_backend=TRITON_ATTN, or model.dtype to another format than {model.dtype}.",
    ),
    (
        r"backend (\w+) is not valid for this configuration|No valid attention backend|Unknown attention backend",
        "Set sampler.attention_backend=auto or, where that has chosen {config.attention_backend}, TRITON_ATTN, which"
        " runs everywhere.",
    ),
    (
        r"trust_remote_code|contains custom code which must be executed",
        "Read that code; if you trust it, set model.trust_remote_code=true and model.revision to what you have read.",
    ),
    (
        r"estimated maximum model length is (\d+)",
        "Set sampler.max_model_len={0} or less, {share} (now {config.gpu_memory_utilization}) to more where more is"
        " free, or take a smaller model.name.",
    ),
    (r"Free memory on device", f"Set {FREE}."),
    (
        r"Error in memory profiling",
        "Another program gave memory back meanwhile: stop what `nvidia-smi` lists, then start again.",
    ),
    (
        r"No available memory for the cache|To serve at least one request|not enough memory|out of memory"
        r"|allocate memory|MemoryError",
        SMALLER,
    ),
    (
        r"Failed to infer device type|Device string must not be empty|No CUDA GPUs are available|no NVIDIA driver"
        r"|NVIDIA driver on your system is too old|CUDA unknown error|CUDA driver initialization failed"
        r"|libcuda\.so|NVML|CUDA driver version is insufficient|no CUDA-capable device",
        "vLLM finds no GPU: `ssb doctor` says why; sampler.engine=transformers samples without vLLM.",
    ),
    (
        r"no kernel image|device kernel image is invalid|is not defined for option 'gpu-name'"
        r"|undefined symbol|_OpNamespace",
        f"This vLLM was not compiled for this card, driver or torch: `ssb doctor` compares them; or {WITHOUT}",
    ),
    (
        r"does not recognize this architecture",
        "Set model.name to a model that the installed transformers knows.",
    ),
    (r"failed to be inspected", f"vLLM knows this model, and its file cannot be imported: `ssb doctor`; or {WITHOUT}"),
    (
        r"architectures? .*(not supported|was supported)|no vLLM implementation|not compatible with vLLM"
        r"|Cannot find model module|does not support LoRA|does not support `--runner generate`"
        r"|no module or parameter named",
        f"vLLM does not know this model: {WITHOUT}",
    ),
    (
        r"quantization method",
        "Set model.name to the same model with other weights, or sampler.engine=transformers.",
    ),
    (
        r"Cannot find any model weights|Weight files .* missing|deserializing header|not initialized from checkpoint",
        "The files of model.name are not all there, or not whole: load them again.",
    ),
    (
        r"Could not find nvcc|Ninja build failed|'ninja'|flashinfer",
        f"FlashInfer could not be compiled: set {' '.join(WITHOUT_FLASHINFER.values())}, or {TOOLKIT}.",
    ),
    (
        r"Failed to find C compiler|Python\.h|(gcc|cc|clang)'.* returned non-zero exit",
        "Triton needs a C compiler and Python's header: `ssb doctor` names the command that installs both.",
    ),
    (r"max_lora_rank", "Set sampler.max_lora_rank (now {config.max_lora_rank}) to a rank that vLLM takes."),
)
HUB = (
    r"gated repo|valid model identifier|valid git identifier|couldn't connect|(Repository|Revision) Not Found"
    r"|offline mode|outgoing traffic|Could not detect config format"
)


def explained(
    error: Exception, model: ModelConfig, config: SamplerConfig, settings: Mapping[str, Any] = MappingProxyType({})
) -> UserError:
    """The sentence for what vLLM raised while it started, with these settings of GRPO's over the recipe's sampler."""
    what, share = f"vLLM cannot start on {model.name!r}", SHARE
    if "gpu_memory_utilization" in settings:
        config, share = replace(config, gpu_memory_utilization=settings["gpu_memory_utilization"]), GRPO_SHARE
    said = list(_said(error))
    for text in said:
        if re.search(HUB, text, re.I):
            return unloadable(f"{what}: its files", model, text)
        for pattern, remedy in RULES:
            found = re.search(pattern, text, re.I | re.S)
            if found is not None:
                told = remedy.format(*found.groups(), model=model, config=config, share=share)
                return UserError(f"{what}: {_short(text)}. {told}")
    otherwise = "`ssb doctor` looks at this machine; sampler.engine=transformers does without vLLM."
    return UserError(f"{what}: {_short(said[0])}. {otherwise}")


def not_imported(error: Exception) -> UserError:
    """The sentence for a vLLM that cannot be imported: for want of a library, or of another version of a package."""
    said = _short(next(_said(error)))
    return UserError(
        f"vLLM cannot be imported: {said}. `ssb doctor` says why; sampler.engine=transformers does without."
    )


def refuse_what_cannot_be_compiled(config: SamplerConfig, card: Card | None) -> None:
    """Raises UserError for what FlashInfer would compile and cannot, before vLLM has loaded the model."""
    capability = card.capability if card is not None else None
    parts, missing = by_flashinfer(config, capability), missing_for_flashinfer(capability)
    if parts and missing:
        without = " ".join(WITHOUT_FLASHINFER[part] for part in parts)
        raise UserError(
            f"vLLM would have FlashInfer compile {' and '.join(parts)}, which it cannot: {missing}. Set {without}, or"
            f" {TOOLKIT}."
        )


def _said(error: BaseException | None) -> Iterator[str]:
    """What the error says, and what each error before it said, the last one first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        listed = getattr(error, "errors", None)  # pydantic's: without where they are and what the input was
        texts = [entry.get("msg", "") for entry in listed()] if callable(listed) else [str(error)]
        text = "; ".join(re.sub(r"^(Value|Assertion) error, ", "", text) for text in texts if text)
        yield text or type(error).__name__
        error = error.__cause__ or error.__context__


def _short(text: str) -> str:
    """Its first sentences, in one line."""
    line = " ".join(text.split())
    kept = ""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", line):
        if kept and len(kept) + len(sentence) > 240:
            break
        kept = f"{kept} {sentence}".strip()
    return kept[:400].rstrip(".:; ")
