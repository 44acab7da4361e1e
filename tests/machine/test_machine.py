"""Machines that are made to look like others: an A100, a T4, a B200, a bare WSL; and what is compiled there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssb_unsloth import cli
from ssb_unsloth.commands.doctor import examine, try_import
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine import auto, environment, hardware, versions
from ssb_unsloth.machine import findings as machine
from ssb_unsloth.machine.check import check_before_stage
from ssb_unsloth.recipe.loading import load

ROOT = Path(__file__).parents[2]
CARDS = {
    "a100": "0, GPU-a, NVIDIA A100-PCIE-40GB, 40960, 40339, 580.82.07, 8.0",
    "t4": "0, GPU-t, Tesla T4, 15360, 15095, 580.82.07, 7.5",
    "h100": "0, GPU-h, NVIDIA H100 80GB HBM3, 81559, 81000, 580.82.07, 9.0",
    "b200": "0, GPU-b, NVIDIA B200, 183359, 182000, 580.82.07, 10.0",
    "rtx5090": "0, GPU-r, NVIDIA GeForce RTX 5090, 32607, 32000, 580.82.07, 12.0",
    "new": "0, GPU-n, NVIDIA Something New, 49152, 49000, 600.1, 13.0",
}


@pytest.fixture
def a_machine(nvidia_smi, tmp_path, monkeypatch):
    """a_machine(card, nvcc, ...): only the programs that are named are on PATH; torch is a CUDA build."""
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX", "FLASHINFER_NVCC", "VLLM_USE_FLASHINFER_SAMPLER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "CUDA", str(tmp_path / "no-cuda"))
    monkeypatch.setattr(environment.sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").write_text("")
    for module in (hardware, versions):
        monkeypatch.setattr(module, "torch_build", lambda: ("2.13.0", "13.0"))

    def make(card, nvcc=None, programs=("gcc", "c++"), ninja=True):
        nvidia_smi(CARDS[card])
        monkeypatch.setenv("PATH", str(tmp_path))
        for shell in ("sh", "cat", "sleep"):
            if not (tmp_path / shell).exists():
                (tmp_path / shell).symlink_to(shutil.which(shell, path="/usr/bin:/bin"))
        for name in programs:
            script(tmp_path / name, "")
        if nvcc:
            script(tmp_path / "bin" / "nvcc", f"echo 'Cuda compilation tools, release {nvcc}, V{nvcc}.48'")
            monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        if ninja:
            script(tmp_path / "venv" / "bin" / "ninja", "")

    return make


def script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def recipe(tmp_path, *overrides):
    path = tmp_path / "r.yaml"
    path.write_text("name: r\nmodel: {name: Qwen/Qwen2.5-0.5B-Instruct}\nproblems: {source: openai/gsm8k}\n")
    return load(path, overrides)


def find(findings, name):
    return next(f for f in findings.findings if f.name == name)


# -- What the processes are given


def test_every_process_that_is_started_finds_the_environments_programs_and_vllms_settings(tmp_path):
    """A stage's own command, started as the sweep does, without an activated environment; the rest of PATH stays."""
    code = (
        "import multiprocessing, os, shutil, sys\n"
        "def show(): print(shutil.which('ninja'), os.environ['VLLM_USE_FLASHINFER_SAMPLER'], os.environ['PATH'])\n"
        "if __name__ == '__main__':\n"
        "    from ssb_unsloth import cli\n"
        "    cli.main(['recipes'])\n"
        "    p = multiprocessing.get_context('spawn').Process(target=show); p.start(); p.join()\n"
    )
    (tmp_path / "started.py").write_text(code)
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")} | {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "started.py")], capture_output=True, text=True, env=env, cwd=ROOT
    )
    ninja, flashinfer, path = done.stdout.splitlines()[-1].split()
    assert ninja == str(Path(sys.prefix) / "bin" / "ninja")
    assert flashinfer == "0"
    assert path.endswith("/usr/bin:/bin")


def test_the_card_that_is_looked_at_is_the_one_that_is_used(monkeypatch):
    """CUDA's own order is the fastest first: of a T4 and an A100 its first is not nvidia-smi's."""
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    environment.prepare()
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    environment.prepare()
    assert os.environ["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_what_the_user_has_set_wins(monkeypatch):
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    monkeypatch.setenv("PATH", "/usr/bin")
    environment.prepare()
    environment.prepare()
    assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "1"
    assert os.environ["PATH"] == f"{sys.prefix}/bin:/usr/bin"


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM is for Linux")
def test_vllm_knows_the_settings_by_these_names():
    from importlib.util import find_spec

    text = (Path(find_spec("vllm").submodule_search_locations[0]) / "envs.py").read_text()
    assert [name for name in environment.VLLM if f'"{name}"' not in text] == []


# -- What FlashInfer compiles


@pytest.mark.parametrize("card", ["a100", "h100", "b200", "rtx5090", "t4"])
def test_with_a_driver_and_gcc_alone_nothing_asks_for_nvcc(a_machine, tmp_path, card):
    a_machine(card)
    findings = examine(recipe(tmp_path), machine_only=True)
    assert find(findings, "flashinfer").state(("gpu",)) != "wrong"
    chosen = auto.choose(recipe(tmp_path), hardware.here()).sampler
    assert chosen.attention_backend == ("TRITON_ATTN" if card == "t4" else "FLASH_ATTN")
    assert environment.by_flashinfer(chosen, hardware.here().capability, environment.VLLM) == []


@pytest.mark.parametrize(
    ("card", "nvcc", "backend"),
    [
        ("b200", "13.0", "FLASHINFER"),
        ("b200", "12.8", "FLASHINFER"),
        ("b200", "12.4", "FLASH_ATTN"),  # does not know the card
        ("b200", None, "FLASH_ATTN"),
        ("a100", "13.0", "FLASH_ATTN"),
        ("rtx5090", "13.0", "FLASH_ATTN"),
    ],
)
def test_on_blackwell_flashinfer_is_taken_where_its_compiler_is(a_machine, tmp_path, card, nvcc, backend):
    a_machine(card, nvcc)
    assert auto.choose(recipe(tmp_path), hardware.here()).sampler.attention_backend == backend
    finding = find(examine(recipe(tmp_path), machine_only=True), "flashinfer")
    assert ("compiles its attention" in finding.found) is (backend == "FLASHINFER")
    assert ("FlashAttention is taken" in finding.found) is (card == "b200" and backend == "FLASH_ATTN")


@pytest.mark.parametrize(
    ("card", "nvcc", "programs", "ninja", "said"),
    [
        ("b200", None, ("gcc", "c++"), True, "there is no nvcc"),
        ("rtx5090", "12.8", ("gcc", "c++"), True, "is of CUDA 12.8, and this card needs 12.9 or newer"),
        ("a100", "13.0", ("gcc",), True, "there is no c++"),
        ("h100", "13.0", ("gcc", "c++"), False, "there is no ninja"),
        ("h100", "13.0", ("gcc", "c++"), True, None),
        ("t4", None, ("gcc",), False, None),  # vLLM does not use it there
    ],
)
def test_the_doctor_sees_what_flashinfer_will_compile_and_whether_it_can(
    a_machine, tmp_path, monkeypatch, card, nvcc, programs, ninja, said
):
    a_machine(card, nvcc, programs, ninja)
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    asked = recipe(tmp_path, "sampler.attention_backend=FLASHINFER")
    finding = find(examine(asked, machine_only=True), "flashinfer")
    assert finding.blocks == (("gpu",) if said else ())
    if said:
        assert said in finding.found
        assert "its attention and its sampler" in finding.found
        assert "set sampler.attention_backend=FLASH_ATTN VLLM_USE_FLASHINFER_SAMPLER=0, or install" in finding.fix
    asked.sampler.engine = "transformers"
    assert not [f for f in examine(asked, machine_only=True).findings if f.name == "flashinfer"]
    asked.variants = {"grpo": {"train": {"method": "grpo"}}}  # samples by vLLM all the same
    assert find(examine(asked, machine_only=True), "flashinfer").blocks == (("gpu",) if said else ())


def test_kernels_that_came_compiled_need_no_compiler(a_machine, monkeypatch):
    a_machine("b200")
    assert environment.missing_for_flashinfer((10, 0))
    monkeypatch.setattr(environment, "find_spec", lambda name: name == "flashinfer_jit_cache" or None)
    assert environment.missing_for_flashinfer((10, 0)) == ""


# -- Formats


@pytest.mark.parametrize(
    ("card", "overrides", "way"),
    [
        ("t4", ("preset=author_code",), "train.lora.dtype=float32"),
        ("t4", ("model.dtype=bfloat16",), "model.dtype=auto"),
        ("t4", ("preset=author_code", "model.dtype=bfloat16"), "model.dtype=auto train.lora.dtype=float32"),
        ("t4", ("variants={theirs: {preset: author_code}}",), "variants.theirs.train.lora.dtype=float32"),
        ("t4", (), None),
        ("a100", ("preset=author_code", "model.dtype=bfloat16"), None),
        ("new", ("preset=author_code",), None),
        ("t4", ("model.name=google/gemma-3-1b-it",), "model.dtype=float32 (or take another card)"),
        ("t4", ("model.name=google/gemma-3-1b-it", "model.dtype=float32"), None),
        ("a100", ("model.name=google/gemma-3-1b-it",), None),
    ],
)
def test_formats_that_cannot_work_on_a_card_are_said_with_the_way_out_and_no_stage_begins(
    a_machine, tmp_path, card, overrides, way
):
    a_machine(card)
    asked = recipe(tmp_path, *overrides)
    found = [f for f in examine(asked, machine_only=True).findings if f.name == "formats"]
    assert len(found) == (way is not None)
    chosen = auto.choose(asked, hardware.here())
    if way is None:
        machine.refuse_formats(chosen, hardware.here())
        return
    assert found[0].fix == f"set {way}"
    with pytest.raises(UserError, match=r"train\.lora\.dtype" if "lora" in way else r"model\.dtype"):
        check_before_stage(chosen)
    fixed = recipe(tmp_path, *overrides, *way.split(" (")[0].split())
    machine.refuse_formats(auto.choose(fixed, hardware.here()), hardware.here())


def test_torch_really_refuses_to_scale_gradients_of_float16_weights():
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer, scaler = torch.optim.SGD([weight], lr=0.1), torch.amp.GradScaler("cpu")
    scaler.scale(weight.float().sum()).backward()
    with pytest.raises(ValueError, match="unscale FP16 gradients"):
        scaler.unscale_(optimizer)


# -- WSL


@pytest.fixture
def in_wsl(monkeypatch):
    def say(release):
        real = machine.platform.uname()
        monkeypatch.setattr(machine.platform, "uname", lambda: real._replace(release=release))

    return say


def test_a_bare_wsl_is_told_what_to_do_in_windows_and_never_to_install_a_driver_in_linux(
    a_machine, in_wsl, tmp_path, monkeypatch
):
    in_wsl("5.15.167.4-microsoft-standard-WSL2")
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    findings = examine(recipe(tmp_path), machine_only=True)
    assert "wsl --shutdown" in find(findings, "gpu").fix
    a_machine("a100")
    findings = examine(recipe(tmp_path), machine_only=True)
    assert "WSL 2" in find(findings, "system").found
    assert "no UVA" in find(findings, "wsl").found
    assert find(findings, "wsl").fix == "`export VLLM_WSL2_ENABLE_PIN_MEMORY=1`"
    assert find(findings, "wsl").state(("gpu",)) == "note"
    monkeypatch.setenv("VLLM_WSL2_ENABLE_PIN_MEMORY", "1")
    assert not [f for f in examine(recipe(tmp_path), machine_only=True).findings if f.name == "wsl"]
    a_machine("a100")
    monkeypatch.setitem(CARDS, "a100", CARDS["a100"].replace("580.82.07", "570.10"))
    a_machine("a100")
    assert "in Windows (none in Linux)" in find(examine(recipe(tmp_path), machine_only=True), "driver").fix


@pytest.mark.parametrize(
    ("release", "name", "fix"),
    [
        ("4.4.0-19041-Microsoft", "system", "--set-version"),
        ("4.19.104-microsoft-standard-WSL2", "wsl", "wsl --update"),
    ],
)
def test_an_old_wsl_is_to_be_updated(a_machine, in_wsl, tmp_path, release, name, fix):
    a_machine("a100")
    in_wsl(release)
    assert fix in find(examine(recipe(tmp_path), machine_only=True), name).fix


def test_windows_nvidia_smi_is_found_where_it_is_not_on_path(nvidia_smi, tmp_path, monkeypatch):
    nvidia_smi(CARDS["t4"])
    (tmp_path / "lib").mkdir()
    (tmp_path / "nvidia-smi").rename(tmp_path / "lib" / "nvidia-smi")
    monkeypatch.setattr(hardware, "WSL_PROGRAMS", str(tmp_path / "lib"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert hardware.find_cards().cards[0].name == "Tesla T4"


# -- Packages


@pytest.mark.parametrize(("cuda", "state"), [(1208, "note"), (1300, "ok")])
def test_xformers_of_another_cuda_is_said_to_be_harmless(a_machine, tmp_path, monkeypatch, cuda, state):
    a_machine("a100")
    folder = tmp_path / "site" / "xformers"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "cpp_lib.json").write_text(json.dumps({"version": {"cuda": cuda, "torch": "2.10.0"}}))
    monkeypatch.syspath_prepend(folder.parent)
    finding = find(examine(recipe(tmp_path), machine_only=True), "xformers")
    assert finding.state(("gpu",)) == state
    (folder / "cpp_lib.json").write_text("{}")
    assert not [f for f in examine(recipe(tmp_path), machine_only=True).findings if f.name == "xformers"]


def test_the_remedies_are_readmes_commands_and_leave_the_cpu_set_alone():
    readme = (ROOT / "README.md").read_text()
    for command in versions.install_gpu_set().split(" && "):
        assert f"`{command}`" in readme
    assert "make setup" in versions.remedy("cpu")
    sources = [path.read_text() for path in (ROOT / "ssb_unsloth").rglob("*.py")]
    assert not [text for text in sources if "-r constraints/" in text or "install the extra" in text]


UNSLOTH = """
from importlib.util import find_spec
__version__ = "1.0" if find_spec("vllm") is None else "with vLLM"
try:
    import vllm
    __version__ = "with vLLM"
except ImportError:
    pass
"""


def test_unsloth_is_imported_without_vllm_which_can_be_imported_afterwards(tmp_path, monkeypatch):
    """It imports vLLM only to patch it for an engine of its own; 20 to 60 s more in each stage."""
    (tmp_path / "unsloth.py").write_text(UNSLOTH)
    (tmp_path / "vllm.py").write_text("__version__ = '2.0'")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    assert try_import("unsloth")[0].startswith("1.0, imported in")
    assert try_import("vllm")[0].startswith("2.0, imported in")
    code = "from ssb_unsloth.backends.unsloth import prepare; prepare(); import vllm; print(vllm.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2.0", done.stderr
    code = f"import vllm; {code.replace('prepare(); ', 'print(prepare().__version__); ')}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["with", "vLLM", "2.0"]  # what is there already is not hidden


def test_an_unknown_card_can_be_used_and_the_keys_for_its_times_are_named(a_machine, tmp_path, capsys):
    a_machine("new")
    finding = find(examine(recipe(tmp_path), machine_only=True), "gpu")
    assert "card.tflops" in finding.fix
    assert finding.blocks == ()
    assert cli.main(["plan", str(tmp_path / "r.yaml"), "card.tflops=200", "card.bandwidth=900", "card.price=1"]) == 0
    assert "at 1 per hour" in capsys.readouterr().out
