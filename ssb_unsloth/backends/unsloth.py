"""Loading by Unsloth, its LoRA, and its way to GGUF. The only file that imports it.

Unsloth replaces parts of transformers, peft and trl while it is imported, so it has to come before them in a process;
every stage is one of its own. What it gives is still a transformers model in PEFT's wrapping: modeling.py, the trainer
and the saved adapter are the same as without it. Its forward differs in three things that matter here:
- Sequences longer than `max_seq_length` are cut; `modeling.hidden_states` refuses those.
- A `max_seq_length` above the model's own would rescale its positions; `load` never asks for that.
- Given `labels`, the language model's forward returns no logits; nothing here passes labels.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import UserError
from ..io.progress import hide_loading_bars
from ..machine.auto import choose_model
from ..machine.hardware import here
from ..machine.lora_targets import select
from ..recipe.schema import SEVEN, LoraConfig, ModelConfig
from .classes import auto_class, config_of
from .sources import model_path

if TYPE_CHECKING:
    from torch import nn

AFTER = ("transformers", "peft", "trl")  # what Unsloth patches
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssb_unsloth" / "unsloth_compiled_cache"
DEFAULTS = {  # read when unsloth is imported; what the user has set wins
    "UNSLOTH_COMPILE_LOCATION": str(CACHE),  # else a folder in whatever directory the command is run in
    "UNSLOTH_DISABLE_STATISTICS": "1",
}


def prepare() -> Any:
    """Import Unsloth and return it.

    Raises:
        UserError: transformers, peft or trl was there first, or Unsloth cannot be imported here.
    """
    early = [name for name in AFTER if name in sys.modules]
    if early and "unsloth" not in sys.modules:
        raise UserError(
            f"Unsloth has to be imported before {' and '.join(early)}, which this process has imported already: import"
            " unsloth first of all, use the command `ssb` (each stage is a new process), or set"
            " model.backend=transformers."
        )
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        with contextlib.redirect_stdout(sys.stderr), _without_vllm():  # its greetings; results are on standard output
            import unsloth
    except Exception as error:  # ImportError where versions do not fit, NotImplementedError and others without a GPU
        raise UserError(
            f"Unsloth cannot be imported: {_first_line(error)} `ssb doctor` says what is missing here;"
            " model.backend=transformers does without it."
        ) from error
    return unsloth


@contextlib.contextmanager
def _without_vllm() -> Iterator[None]:
    """Unsloth imports vLLM, if only to patch it for an engine of its own that nothing here uses: 20 to 60 s a stage."""
    if "vllm" in sys.modules:
        yield
        return
    cast(dict[str, Any], sys.modules)["vllm"] = None  # so that it is not found, and not tried
    try:
        yield
    finally:
        sys.modules.pop("vllm", None)


def load(
    model: ModelConfig, max_length: int, lora: LoraConfig | None, seed: int, gradient_checkpointing: bool
) -> nn.Module:
    """The model as `backends.TrainingBackend.load` describes it.

    Raises:
        UserError: Unsloth cannot load it or put LoRA on it: it does not know the architecture, or a file is missing.
    """
    import torch

    FastLanguageModel = prepare().FastLanguageModel
    from transformers import AutoModelForCausalLM

    hide_loading_bars()
    where = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        with contextlib.redirect_stdout(sys.stderr), _without_vllm():
            whole = config_of(model)
            if auto_class(whole) is not AutoModelForCausalLM:  # it would put LoRA on the tower too
                raise UserError(
                    f"{model.name!r} is a model for pictures too ({whole.model_type}), and Unsloth would train other"
                    " parts of it than the language model: set model.backend=transformers."
                )
            config = whole.get_text_config()
            loaded, _ = FastLanguageModel.from_pretrained(
                model_path(model),
                max_seq_length=min(max_length, getattr(config, "max_position_embeddings", None) or max_length),
                dtype=getattr(torch, choose_model(model, here()).dtype),
                load_in_4bit=model.quantization == "4bit",
                load_in_8bit=model.quantization == "8bit",
                device_map={"": "cuda:0" if torch.cuda.is_available() else "cpu"},
                use_exact_model_name=True,  # the recipe's model, which the sampler loads too, and not Unsloth's copy
                offload_embedding=False,  # a tied head is the embedding, and the loss multiplies by it
                use_gradient_checkpointing=False,  # `get_peft_model` below sets it
                **where,
            )
            return loaded.eval() if lora is None else _add_lora(loaded, lora, seed, gradient_checkpointing)
    except torch.OutOfMemoryError:
        raise
    except UserError:
        raise
    except Exception as error:  # Unsloth says no in many ways: NotImplementedError, RuntimeError, KeyError, ...
        raise UserError(
            f"Unsloth cannot load {model.name!r}: {_first_line(error)} If it does not know this model, set"
            " model.backend=transformers."
        ) from error


def _add_lora(model: Any, lora: LoraConfig, seed: int, gradient_checkpointing: bool) -> nn.Module:
    import torch

    if lora.use_dora:
        raise UserError("train.lora.use_dora: Unsloth's fast layers are not made for DoRA, which PEFT's own are.")
    chosen = select(model, lora.target_modules)
    student: Any = prepare().FastLanguageModel.get_peft_model(
        model,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=chosen.short if {*chosen.short} <= {*SEVEN} else _pattern(chosen.targets),
        use_rslora=lora.use_rslora,
        bias="none",
        random_state=seed,
        # Its own kind keeps activations in the host's memory, which takes a GPU to copy from.
        use_gradient_checkpointing="unsloth"
        if gradient_checkpointing and torch.cuda.is_available()
        else gradient_checkpointing,
    )
    others = {*student.targeted_module_names} ^ chosen.targets.keys() | {*student.targeted_parameter_names}
    if others:  # as the experts, which it trains beside what it is asked for
        raise UserError(
            f"Unsloth would train other layers than train.lora.target_modules means here, as {min(others)}; set"
            " model.backend=transformers."
        )
    student.peft_config["default"].target_modules = {*chosen.short}  # the same layers, as it is saved
    trained: nn.Module = student
    return trained


def _pattern(names: Iterable[str]) -> str:
    """A regular expression for these layers alone. In a list Unsloth takes only names that it knows as attention's or
    an MLP's.
    """
    return "|".join(map(re.escape, names))


def save_gguf(merged: Path, target: Path, quantization: str) -> None:
    """The model folder `merged` as the file `target`, through Unsloth's `save_pretrained_gguf`.

    It fetches and builds llama.cpp in ~/.unsloth where it has none. Takes a CUDA GPU, since the model is loaded there.

    `quantization`: "f16" and "bf16" convert without rounding; "q8_0", "q4_k_m" and others are llama.cpp's.

    Raises:
        UserError: Unsloth cannot load or convert it.
    """
    merged, target = merged.resolve(), target.resolve()
    # It writes its tokenizer into the folder that it converts, and the GGUF beside the folder it is told of, under a
    # name of its own; so all happens in a copy, whose weights are links.
    with tempfile.TemporaryDirectory(dir=target.parent) as aside, contextlib.chdir(aside):
        copy = shutil.copytree(merged, Path(aside, "model"), copy_function=_link_weights)
        model: Any = load(ModelConfig(name=str(copy)), 2048, lora=None, seed=0, gradient_checkpointing=False)
        from transformers import AutoTokenizer

        try:
            with contextlib.redirect_stdout(sys.stderr):
                told = model.save_pretrained_gguf(
                    str(Path(aside, "student")), AutoTokenizer.from_pretrained(copy), quantization_method=quantization
                )
            shutil.move(Path(aside, told["gguf_files"][0]), target)
        except Exception as error:  # from a missing compiler to a tokenizer that llama.cpp does not know
            raise UserError(_first_line(error)) from error


def _link_weights(source: str, to: str) -> str:
    if source.endswith(".safetensors"):
        with contextlib.suppress(OSError):  # a disk without links
            os.link(source, to)
            return to
    return shutil.copy2(source, to)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."


if __name__ == "__main__":  # for `ssb export`, whose own process has imported transformers: MERGED TARGET QUANTIZATION
    try:
        save_gguf(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    except UserError as mistake:
        sys.exit(str(mistake))
