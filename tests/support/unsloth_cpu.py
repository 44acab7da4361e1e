"""Unsloth's own code on a machine without a GPU: stand-ins for the device, and Triton's interpreter for its kernels.

    python tests/support/unsloth_cpu.py SCRIPT [ARGUMENT ...]      runs a script in which `import unsloth` works
    python tests/support/unsloth_cpu.py -m MODULE [ARGUMENT ...]   the same for a module

Nothing of Unsloth is replaced, only what it asks about the device:
- Triton's kernels run as NumPy on CPU tensors (TRITON_INTERPRET), slowly: for tests, never for use.
- `vllm` is hidden. With its CPU build installed, Unsloth's probe loads its C library twice and the process aborts.
- torch.cuda's questions are answered: one device, with bfloat16, with memory to spare.
- Where a kernel calls CUDA's tanh, the same formula stands in Triton's own words.
- Caches kept in a list by device index take a CPU tensor's index, which is None, for 0.
Stays out of reach: "unsloth" gradient checkpointing (it copies to pinned memory), quantized weights, FlexAttention's
backward pass (switched off, so Gemma 3 takes eager attention).
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import types


def install() -> None:
    """Import Unsloth with the stand-ins. Call it before anything else is imported."""
    os.environ.update(
        UNSLOTH_ALLOW_CPU="1",
        TRITON_INTERPRET="1",
        UNSLOTH_COMPILE_DISABLE="1",
        UNSLOTH_ENABLE_FLEX_ATTENTION="0",
        HF_HUB_OFFLINE="1",
    )
    sys.modules["vllm"] = None  # type: ignore[assignment]
    _answer_for_the_device()
    import unsloth  # noqa: F401

    _place_on_cpu()


def _answer_for_the_device() -> None:
    import torch

    properties = types.SimpleNamespace(
        name="CPU", major=8, minor=0, total_memory=24 << 30, multi_processor_count=2, warp_size=32, gcnArchName=""
    )

    class NoDevice(contextlib.nullcontext):
        idx = 0

        def __init__(self, *args, **kwargs):
            super().__init__()

    answers = {
        "get_device_properties": properties,
        "get_device_capability": (8, 0),
        "current_device": 0,
        "device_count": 1,
        "synchronize": None,
        "empty_cache": None,
        "mem_get_info": (20 << 30, 24 << 30),
        "is_bf16_supported": True,
        "current_stream": types.SimpleNamespace(cuda_stream=0),
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": 0,
        "max_memory_reserved": 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, _answer=answer, **kwargs: _answer)
    torch.cuda.device = NoDevice
    torch._C._cuda_getCurrentRawStream = lambda index=0: 0


class CpuIndex(str):
    """The string "cpu" to torch, the index 0 to a list."""

    def __index__(self):
        return 0


class NoneIsZero(list):
    def __getitem__(self, i):
        return super().__getitem__(0 if i is None else i)

    def __setitem__(self, i, value):
        super().__setitem__(0 if i is None else i, value)


def _place_on_cpu() -> None:
    import unsloth.models.llama as llama

    llama.get_device_stats = lambda *args, **kwargs: ("cpu", "cpu", 1.0)
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(("unsloth.", "unsloth_zoo."))]
    rotary = {
        cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, llama._PerDeviceRopeCache) and "__init__" in vars(cls)
    }
    for cls in rotary - {llama._PerDeviceRopeCache}:
        cls.__init__ = _lists_take_none(cls.__init__)
    answers = {
        "DEVICE_TYPE_TORCH": "cpu",
        "SUPPORTS_BFLOAT16": True,
        "get_current_device": lambda *args, **kwargs: CpuIndex("cpu"),
        "triton_tanh": _tanh,  # CUDA's own has no interpreted form
    }
    for module in modules:
        for name in answers.keys() & vars(module).keys():
            setattr(module, name, answers[name])


def _tanh(x):
    import triton.language as tl

    return 2 * tl.sigmoid(2 * x) - 1


def _lists_take_none(original):
    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        for name, value in list(vars(self).items()):
            if type(value) is list:
                setattr(self, name, NoneIsZero(value))

    return init


if __name__ == "__main__":
    install()
    if sys.argv[1] == "-m":
        sys.argv = sys.argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
