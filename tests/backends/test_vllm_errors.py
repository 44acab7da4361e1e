"""What is said when vLLM does not start: the cause and the key, for its own messages and for those that it wraps."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pydantic
import pytest
import torch

from ssb_unsloth.backends import vllm_errors
from ssb_unsloth.backends.vllm_errors import explained, refuse_what_cannot_be_compiled
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine.cards import CARDS
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig

MODEL = ModelConfig("some/model", dtype="bfloat16")
SAMPLER = SamplerConfig(max_model_len=8192, gpu_memory_utilization=0.9, attention_backend="FLASH_ATTN")
BFLOAT16 = (
    "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute"
    " capability 7.5. You can use float16 instead by explicitly setting the `dtype` flag in CLI, for example:"
    " --dtype=half."
)
FREE = (
    "Free memory on device cuda:0 (2.11/39.39 GiB) on startup is less than desired GPU memory utilization (0.9, 35.45"
    " GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
CACHE = (
    "To serve at least one request with the model's max seq len (8192), (0.28 GiB KV cache is needed, which is larger"
    " than the available KV cache memory (0.1 GiB). Based on the available memory, the estimated maximum model length"
    " is 2912. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
)
INVALID = "Selected backend FLASH_ATTN is not valid for this configuration. Reason: ['{}']"
NO_CONFIG = "Could not detect config format for no config file found. With config_format 'auto', ensure your model"
ENGINE = "sampler.engine=transformers"
CUSTOM = (
    "Failed to load the model config. If the model is a custom model not yet available in the HuggingFace transformers"
    " library, consider setting `trust_remote_code=True` in LLM or using the `--trust-remote-code` flag in the CLI."
)


@pytest.mark.parametrize(
    ("error", "kept", "key"),
    [
        (ValueError(BFLOAT16), "Your Tesla T4 GPU has compute capability 7.5", "model.dtype"),
        (ValueError("The model type 'gemma3' does not support float16. Reason: Numerical"), "gemma3", "model.dtype"),
        (ValueError(FREE), "2.11/39.39 GiB", "sampler.gpu_memory_utilization"),
        (ValueError(CACHE), "0.28 GiB KV cache is needed", "sampler.max_model_len"),
        (ValueError("No available memory for the cache blocks. Try"), "No available memory", "sampler.max_model_len"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2.00 GiB."), "2.00 GiB", "sampler.max_model_len"),
        (RuntimeError(CUSTOM), "Failed to load the model config", "model.trust_remote_code=true"),
        (RuntimeError("Failed to infer device type, please set"), "Failed to infer device type", "finds no GPU"),
        (RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs are available", "finds no GPU"),
        (RuntimeError("Found no NVIDIA driver on your system."), "no NVIDIA driver", "finds no GPU"),
        (ImportError("libcuda.so.1: cannot open shared object file"), "libcuda.so.1", "finds no GPU"),
        (RuntimeError("Could not find nvcc and default cuda_home='/cuda' doesn't exist"), "nvcc", "FLASH_ATTN"),
        (FileNotFoundError(2, "No such file or directory", "ninja"), "ninja", "VLLM_USE_FLASHINFER_SAMPLER=0"),
        (
            ValueError(INVALID.format("dtype not supported")),
            "FLASH_ATTN",
            "sampler.attention_backend=TRITON_ATTN, or model.dtype",
        ),
        (
            ValueError(INVALID.format("head_size")),
            "head_size",
            "sampler.attention_backend=auto",
        ),
        (
            ValueError("Model architectures ['OddForCausalLM'] are not supported for now. Supported: a, b"),
            "OddForCausalLM",
            "sampler.engine=transformers",
        ),
        (ValueError("Model architecture OddForCausalLM was supported in vLLM until v0.10.2"), "v0.10.2", ENGINE),
        (ValueError("The Transformers implementation of 'Odd' is not compatible with vLLM."), "compatible", ENGINE),
        (ValueError("Model class OddForCausalLM does not support LoRA yet."), "LoRA", ENGINE),
        (ValueError("Model architectures ['Odd'] failed to be inspected. Please check"), "inspected", "ssb doctor"),
        (ValueError("model type `odd` but Transformers does not recognize this architecture."), "`odd`", "model.name"),
        (ValueError("The quantization method gptq is not supported for the current GPU."), "gptq", "model.name"),
        (ValueError("torch.bfloat16 is not supported for quantization method gptq."), "gptq", "model.dtype"),
        (RuntimeError("Cannot find any model weights with `some/model`"), "model weights", "model.name"),
        (OSError("Weight files referenced in index but missing: ['model-2.safetensors']"), "model-2", "model.name"),
        (ValueError("Error while deserializing header: incomplete metadata"), "incomplete metadata", "model.name"),
        (OSError("abc is not a valid git identifier (branch name, tag name"), "abc", "model.revision"),
        (OSError("Cannot find the requested files in the disk cache and outgoing traffic"), "disk cache", "HF_"),
        (ValueError(NO_CONFIG), "no config file found", "model.name"),
        (AssertionError("Error in memory profiling. Initial free memory 14.2 GiB, current"), "14.2", "nvidia-smi"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "can't", "sampler.max_model_len"),
        (MemoryError(), "MemoryError", "sampler.max_model_len"),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 12020)."), "12020", "ssb doctor"),
        (RuntimeError("CUDA unknown error - this may be due to an"), "unknown error", "finds no GPU"),
        (RuntimeError("CUDA error: no kernel image is available for execution"), "kernel image", "ssb doctor"),
        (RuntimeError("ptxas fatal : Value 'sm_103a' is not defined for option 'gpu-name'"), "sm_103a", "ssb doctor"),
        (ImportError("_C.abi3.so: undefined symbol: _ZN3c10"), "undefined symbol", "not compiled for"),
        (subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c"]), "/usr/bin/gcc", "C compiler"),
        (OSError("some/model is not a local folder and is not a valid model identifier"), "valid model", "model.name"),
        (RuntimeError("Failed to find C compiler. Please specify via CC"), "C compiler", "ssb doctor"),
        (ZeroDivisionError("something new"), "something new", "sampler.engine=transformers"),
        (AssertionError(), "AssertionError", "sampler.engine=transformers"),
    ],
)  # fmt: skip
def test_each_cause_is_kept_and_the_key_is_named(error, kept, key):
    said = str(explained(error, MODEL, SAMPLER))
    assert said.startswith("vLLM cannot start on 'some/model': ")
    assert kept in said
    assert key in said.split(kept, 1)[1]
    assert "\n" not in said
    assert "pydantic" not in said


def test_the_remedy_is_one_that_helps():
    """What is asked of the memory is named by the key that asks for it, and `auto` is no way out of what it chose."""
    need = str(explained(ValueError(CACHE), MODEL, SAMPLER))
    assert "Set sampler.max_model_len=2912 or less" in need
    free = str(explained(ValueError(FREE), MODEL, SAMPLER))
    assert "max_model_len" not in free
    for cause in (FREE, CACHE, "CUDA out of memory."):
        grpo = str(explained(ValueError(cause), MODEL, SAMPLER, {"gpu_memory_utilization": 0.3, "max_num_seqs": 64}))
        assert "train.grpo.gpu_memory_utilization (now 0.3)" in grpo
        assert "sampler.gpu_memory_utilization" not in grpo
    invalid = str(explained(ValueError(INVALID.format("head_size not supported")), MODEL, SAMPLER))
    assert "where that has chosen FLASH_ATTN, TRITON_ATTN" in invalid


def test_what_pydantic_and_others_wrap_around_a_cause_is_taken_off():
    def wrong(value):
        raise ValueError(
            "User-specified max_model_len (8192) is greater than the derived max_model_len"
            " (max_position_embeddings=2048 or model_max_length=None in model's config.json)."
        )

    class Config(pydantic.BaseModel):
        length: int
        check = pydantic.field_validator("length")(wrong)

    with pytest.raises(pydantic.ValidationError) as caught:
        Config(length=8192)
    said = str(explained(caught.value, MODEL, SAMPLER))
    assert "Set sampler.max_model_len=2048 or less" in said
    assert "User-specified max_model_len (8192)" in said
    assert not re.search("pydantic|validation error|Value error|input_value", said)
    outer = RuntimeError("Engine core initialization failed. See root cause above.")
    outer.__cause__ = ValueError(FREE)
    assert "2.11/39.39 GiB" in str(explained(outer, MODEL, SAMPLER))


def test_a_vllm_that_cannot_be_imported_is_a_sentence(tmp_path):
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    code = "from ssb_unsloth.backends.vllm import library\nlibrary()"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(vllm_errors.__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    last = done.stderr.strip().splitlines()[-1]
    assert "vLLM cannot be imported: libcudart.so.13: cannot open shared object file. `ssb doctor`" in last


def test_what_cannot_be_compiled_is_refused_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(vllm_errors, "missing_for_flashinfer", lambda capability: "there is no nvcc")
    monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER", raising=False)
    refuse_what_cannot_be_compiled(SAMPLER, CARDS["a100-40gb"])
    refuse_what_cannot_be_compiled(SAMPLER, None)
    flashinfer = SamplerConfig(attention_backend="FLASHINFER")
    with pytest.raises(UserError, match=r"there is no nvcc\. Set sampler\.attention_backend=FLASH_ATTN, or"):
        refuse_what_cannot_be_compiled(flashinfer, CARDS["b200"])


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM is for Linux")
def test_these_are_vllms_words():
    folder = Path(find_spec("vllm").submodule_search_locations[0])
    places = {
        "config/model.py": ["is greater ", "than the derived max_model_len", "does not support float16"],
        "platforms/cuda.py": ["Bfloat16 is only supported on GPUs", "is not valid for", "No valid attention backend"],
        "v1/attention/backend.py": ["dtype not supported"],
        "v1/worker/utils.py": ["Free memory on device"],
        "v1/worker/gpu_worker.py": ["Error in memory profiling"],
        "v1/core/kv_cache_utils.py": [
            "No available memory for the cache",
            "To serve at least one request",
            "the estimated maximum model length is",
        ],
        "config/vllm.py": ["is not supported for the current GPU", "is not supported for quantization "],
        "model_executor/model_loader/default_loader.py": [
            "Cannot find any model weights",
            "were not initialized from ",
        ],
        "model_executor/model_loader/weight_utils.py": ["Weight files referenced in index but missing"],
        "model_executor/models/utils.py": ["There is no module or parameter named"],
        "config/device.py": ["Failed to infer device type"],
        "model_executor/models/registry.py": [
            "are not supported for now",
            "was supported in vLLM until",
            "to be inspected",
            "is not compatible with vLLM",
            "Cannot find model module",
        ],
        "transformers_utils/config.py": ["trust_remote_code=True", "Could not detect config format"],
    }
    for place, words in places.items():
        text = (folder / place).read_text()
        assert [w for w in words if w not in text] == [], place


REAL = """
import json, sys
from ssb_unsloth.backends.vllm import VLLMSampler
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig
from ssb_unsloth.errors import UserError
for name, model, sampler in json.loads(sys.argv[1]):
    try:
        VLLMSampler(ModelConfig(**model), SamplerConfig(**sampler), 0, False)
        print(json.dumps([name, None]))
    except UserError as error:
        print(json.dumps([name, str(error)]))
"""


@pytest.mark.slow
def test_the_real_vllm_that_does_not_start(tmp_path):
    """The pocket's model with one thing wrong at a time."""

    def model(name, **config):
        folder = tmp_path / name
        folder.mkdir()
        for file in MODEL_DIR.iterdir():
            (folder / file.name).symlink_to(file)
        (folder / "config.json").unlink()
        own = json.loads((MODEL_DIR / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**own, **config}))
        return {"name": str(folder), "dtype": "float32"}

    pocket, short = {"name": "pocket", "dtype": "float32"}, {"max_model_len": 256}
    odd = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}, "architectures": ["OddForCausalLM"]}
    custom = model("custom", **odd)
    (tmp_path / "custom" / "odd.py").write_text("from transformers import PretrainedConfig as OddConfig\\n")
    cases = [
        ("length", pocket, {"max_model_len": 100_000}),
        ("architecture", model("architecture", architectures=["OddForCausalLM"]), short),
        ("custom", custom, short),
        ("backend", pocket, {**short, "attention_backend": "NO_SUCH"}),
    ]
    words = [sys.executable, "-c", REAL, json.dumps(cases)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    said = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert "sampler.max_model_len=" in said["length"]
    assert "OddForCausalLM" in said["architecture"]
    assert "sampler.engine=transformers" in said["architecture"]
    assert "model.trust_remote_code=true" in said["custom"]
    assert "sampler.attention_backend=auto" in said["backend"]
    assert not [text for text in said.values() if "pydantic" in text]
