"""What `ssb doctor` finds about the machine: its system, its card and driver, and whether what is compiled can be.

Standard library only, because it is asked before anything is installed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError
from ..recipe.methods import METHODS
from ..recipe.schema import ModelConfig, Recipe, SamplerConfig
from . import auto, hardware, versions
from .cards import Card
from .environment import TOOLKIT, WITHOUT_FLASHINFER, by_flashinfer, missing_for_flashinfer, wsl
from .geometry import geometry

POCKET, GPU = "pocket", "gpu"
BOTH = (POCKET, GPU)
FLOAT16_OVERFLOWS = {"gemma2", "gemma3", "gemma3_text"}  # vLLM 0.32 refuses them in it (config/model.py)
STOP = "stop the processes that `nvidia-smi` lists"
WSL_PINNED = (
    4,
    19,
    121,
)  # the first kernel of WSL 2 that CUDA can have pinned memory in (vLLM 0.32, platforms/cuda.py)


@dataclass(frozen=True)
class Finding:
    name: str
    found: str
    fix: str = ""  # a command, or what to do
    blocks: tuple[str, ...] = ()  # the kinds of recipe that cannot run because of it

    def state(self, kinds: tuple[str, ...]) -> str:
        return "wrong" if set(self.blocks) & set(kinds) else "note" if self.fix else "ok"


def look(recipe: Recipe | None) -> Iterator[Finding]:
    """All findings about the machine, as far as the recipe makes a difference for that recipe."""
    yield from _system()
    found = hardware.find_cards()
    if found.cards:
        yield from _card(found.cards)
        if recipe is not None:
            yield from (Finding("formats", said, fix, BOTH) for said, fix in wrong_formats(recipe, found.cards[0]))
    else:
        yield Finding("gpu", found.problem, _mend_driver(found), (GPU,))
    yield from _compiler()
    if found.cards:
        yield from _flashinfer(recipe, found.cards[0])
        yield from _xformers()


def _system() -> Iterator[Finding]:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", f"{version} ({sys.executable})")
    else:
        yield Finding("python", version, "install Python 3.11, 3.12 or 3.13, then `make setup PYTHON=python3.12`", BOTH)
    system = f"{platform.system()} {platform.machine()}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        yield Finding("system", f"{system}; the GPU set is for Linux x86_64", "use such a machine for a GPU", (GPU,))
    elif not wsl():
        yield Finding("system", system)
    else:
        yield from _within_windows(system, platform.uname().release)


def _within_windows(system: str, release: str) -> Iterator[Finding]:
    if "wsl2" not in release.lower():
        fix = "in Windows, `wsl --set-version NAME 2`; `wsl --list` has the name"
        yield Finding("system", f"{system} in WSL 1 ({release}), which has no GPU", fix, (GPU,))
        return
    yield Finding("system", f"{system} in WSL 2 ({release})")
    said = "vLLM takes no pinned memory here (no UVA), and copies instead: slower, not wrong"
    if versions.numbers(release) < WSL_PINNED:
        yield Finding("wsl", f"{said}; the kernel is too old to have it", "in Windows, `wsl --update`")
    elif os.environ.get("VLLM_WSL2_ENABLE_PIN_MEMORY") != "1":
        yield Finding("wsl", said, "`export VLLM_WSL2_ENABLE_PIN_MEMORY=1`")


def _card(cards: tuple[Card, ...]) -> Iterator[Finding]:
    card, build = cards[0], hardware.torch_build()
    more = f" (the first of {len(cards)}; CUDA_VISIBLE_DEVICES takes another)" if len(cards) > 1 else ""
    capability = card.capability
    said = f"{card.name}{more}, " + (f"{card.memory_mib / 1024:.1f} GiB" if card.memory_mib else "memory not told")
    if capability is not None and capability < hardware.OLDEST:
        said += f", compute capability {capability[0]}.{capability[1]}; CUDA 13 needs 7.5 (T4) or newer"
        yield Finding("gpu", said, "use a newer card", (GPU,))
    elif card.tflops is None:
        said += "; its speed is not known here, so a plan has no times for it"
        yield Finding("gpu", said, "nothing has to be done; card.tflops and card.bandwidth in the recipe give them")
    else:
        yield Finding("gpu", said)
    if card.free_mib is not None:
        used = card.memory_mib - card.free_mib
        fix = STOP if used > max(1024, card.memory_mib / 100) else ""  # the driver keeps some, of a large card more
        yield Finding("gpu memory", f"{card.free_mib / 1024:.1f} GiB free, {used / 1024:.1f} GiB in use", fix)
    yield Finding("bfloat16", "yes" if card.bfloat16 else "no; float16 is taken")
    yield _driver(card.driver, build)
    if build is not None and build[1] is None:
        yield Finding("torch build", cpu_build(build[0], card.name), f"`{versions.install_gpu_set()}`", (GPU,))
    elif build is not None:
        yield Finding("torch build", f"torch {build[0]}, CUDA {build[1]}")


def cpu_build(torch: str, card: str) -> str:
    return f"torch {torch} is a CPU build, and would leave the {card} idle."


def _driver(driver: str, build: tuple[str, str | None] | None) -> Finding:
    """The driver against the CUDA that torch was compiled for, or that the locked set brings."""
    cuda = (build and build[1]) or "13.0"
    oldest = hardware.DRIVERS.get(cuda.split(".")[0])
    if oldest is None or versions.numbers(driver) >= oldest:
        return Finding("driver", f"{driver}, enough for CUDA {cuda}")
    fix = f"`sudo apt install nvidia-driver-{oldest[0]}-server` and reboot, or ask who runs the machine"
    if wsl():
        fix = f"install NVIDIA's driver {oldest[0]} or newer in Windows (none in Linux), then there `wsl --shutdown`"
    return Finding("driver", f"{driver}; torch's CUDA {cuda} needs {oldest[0]} or newer", fix, (GPU,))


def _mend_driver(found: hardware.Found) -> str:
    if "CUDA_VISIBLE_DEVICES" in found.problem:
        return "`unset CUDA_VISIBLE_DEVICES`"
    if wsl():
        return "install NVIDIA's driver 580 or newer in Windows (none in Linux), then there `wsl --shutdown`"
    if "version mismatch" in found.problem:
        return "`sudo reboot`: the driver was updated and the old one is still loaded"
    if "MIG mode" in found.problem:
        return "`sudo nvidia-smi -mig 0` ends it, `sudo nvidia-smi mig -cgi 0 -C` makes a part; or ask who runs it"
    if found.broken:
        return "`sudo apt install --reinstall nvidia-driver-580-server` and reboot, or ask who runs the machine"
    return "use a machine with an NVIDIA GPU and its driver 580 or newer; without one, `make demo` runs the pocket"


# -- The formats


def refuse_formats(recipe: Recipe, card: Card | None) -> None:
    """Raises UserError, before a stage begins, for 16-bit formats that cannot train or sample on the card."""
    for said, fix in wrong_formats(recipe, card):
        raise UserError(f"{said}; {fix}.")


def refuse_lengths(recipe: Recipe) -> None:
    """Raises UserError, before a stage begins, where longer texts are asked for than the model has positions for."""
    for said, fix in wrong_lengths(recipe):
        raise UserError(f"{said}; {fix}.")


def wrong_lengths(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What is longer than the model's own length, which vLLM refuses and transformers computes wrongly in silence."""
    try:
        most = geometry(recipe.model)[0].longest
    except UserError:  # said elsewhere
        return
    asked = recipe.sampler.max_model_len
    if most is not None and asked > most:
        said = f"sampler.max_model_len: {asked:,} tokens are more than the {most:,} that {recipe.model.name} has"
        yield f"{said} positions for", f"set sampler.max_model_len={most}, and each max_tokens below that"


def wrong_formats(recipe: Recipe, card: Card | None) -> Iterator[tuple[str, str]]:
    """What is wrong with the recipe's students, and the way out; what fixes the recipe fixes its variants."""
    if card is None:
        return
    told: set[str] = set()
    from ..recipe.loading import variant

    for where, student in {"": recipe, **{f"variants.{n}.": variant(recipe, n) for n in recipe.variants}}.items():
        said, ways = _wrong_format(student, card)
        if said and said not in told:
            told.add(said)
            yield said, f"set {' '.join(where + way for way in ways)}"


def _wrong_format(recipe: Recipe, card: Card) -> tuple[str, list[str]]:
    """bfloat16 where the card has none; trained weights in float16, whose gradients torch refuses to scale (both are
    what `preset: author_code` meets on a T4); and float16 for a model that overflows in it.
    """
    dtype, lora = auto.choose_model(recipe.model, card).dtype, recipe.train.lora
    cast = lora is None or lora.dtype == "model"
    if dtype == "float32" or (dtype == "bfloat16" and card.bfloat16):
        return "", []
    if _overflows(recipe):
        said = f"{recipe.model.name} overflows in float16, and {card.name} has no bfloat16"
        return said, ["model.dtype=float32 (or take another card)"]
    trained = [] if lora is None else ["train.lora.dtype=float32"] * cast
    if dtype == "bfloat16":
        return f"model.dtype is bfloat16, which {card.name} does not have", ["model.dtype=auto", *trained]
    if lora is None:
        said = f"train.lora is null, and the model is float16 on {card.name}: torch does not scale such gradients"
        return said, ["model.dtype=float32 (or give train.lora, or take another card)"]
    said = f"train.lora.dtype is model, and so float16 on {card.name}: torch does not scale such gradients"
    return (said, trained) if cast else ("", [])


def _overflows(recipe: Recipe) -> bool:
    try:
        return geometry(recipe.model)[0].family in FLOAT16_OVERFLOWS
    except UserError:  # said elsewhere
        return False


# -- What is compiled


def _compiler() -> Iterator[Finding]:
    """Triton compiles a launcher for its kernels, Unsloth's and vLLM's among them, when they first run."""
    compiler = next((path for name in ("gcc", "cc", "clang") if (path := shutil.which(name))), None)
    header = Path(sysconfig.get_path("include")) / "Python.h"
    package = f"gcc python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    if compiler and header.exists():
        yield Finding("c compiler", compiler)
    else:
        said = "there is none" if not compiler else f"{compiler}, and no {header}"
        yield Finding("c compiler", f"{said}; Triton needs both", f"`sudo apt install {package}`", (GPU,))


def _starts_vllm(recipe: Recipe) -> bool:
    """GRPO samples by vLLM on a GPU, whatever samples elsewhere."""
    from ..recipe.loading import variant

    students = [recipe, *(variant(recipe, name) for name in recipe.variants)]
    grpo = any(METHODS[s.train.method].samples and s.train.grpo.use_vllm is not False for s in students)
    return grpo or recipe.sampler.samples_by not in ("transformers", "servers")


def _flashinfer(recipe: Recipe | None, card: Card) -> Iterator[Finding]:
    """What FlashInfer will compile when vLLM starts, and whether it can: it takes nvcc, which no other part needs."""
    if recipe is not None and not _starts_vllm(recipe):
        return
    config = recipe.sampler if recipe is not None else SamplerConfig()
    model = auto.choose_model(recipe.model, card) if recipe is not None else ModelConfig(dtype="bfloat16")
    chosen = auto.choose_sampler(config, card, model.dtype)
    parts, missing = by_flashinfer(chosen, card.capability), missing_for_flashinfer(card.capability)
    if parts and missing:
        said = f"vLLM will have FlashInfer compile {' and '.join(parts)}, which it cannot: {missing}"
        without = " ".join(WITHOUT_FLASHINFER[part] for part in parts)
        yield Finding("flashinfer", said, f"set {without}, or {TOOLKIT}", (GPU,))
    elif parts:
        yield Finding("flashinfer", f"compiles {' and '.join(parts)} at the first start, for some minutes, and can")
    elif card.capability is not None and card.capability[0] == 10 and config.attention_backend == "auto":
        said = f"vLLM prefers its attention on this card, which cannot be compiled: {missing}; FlashAttention is taken"
        yield Finding("flashinfer", said, f"nothing has to be done; for the other, {TOOLKIT}")
    else:
        yield Finding("flashinfer", "nothing of vLLM is compiled by it")


def _xformers() -> Iterator[Finding]:
    """Unsloth uses xformers where it fits, and else PyTorch's own attention."""
    spec, build = find_spec("xformers"), hardware.torch_build()
    if spec is None or spec.origin is None or build is None or build[1] is None:
        return
    try:
        about = json.loads((Path(spec.origin).parent / "cpp_lib.json").read_text(encoding="utf-8"))["version"]
        major = int(about["cuda"]) // 100
    except (OSError, ValueError, KeyError, TypeError):  # built without CUDA, or another layout
        return
    name = f"xformers {versions.installed('xformers')}"
    if str(major) == build[1].split(".")[0]:
        yield Finding("xformers", f"{name}, for CUDA {major} as torch")
    else:
        said = f"{name} is built for CUDA {major}, torch for {build[1]}; Unsloth takes PyTorch's attention"
        yield Finding("xformers", said, "nothing has to be done; `pip uninstall xformers` takes its warning away")
