"""Which backend loads the model that is trained, and what is said where it cannot; memory running out. Faults are
injected where a CPU cannot have them."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import peft
import pytest
import torch
from backend_figures import adapter_of

from ssb_unsloth import backends
from ssb_unsloth.backends import TrainingBackend
from ssb_unsloth.backends import unsloth as unsloth_backend
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine import out_of_memory as memory
from ssb_unsloth.machine.cards import CARDS
from ssb_unsloth.machine.hardware import Found
from ssb_unsloth.recipe import schema as config
from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig, Recipe

POCKET = {"name": "pocket", "dtype": "float32"}


def test_without_a_gpu_auto_is_transformers_and_unsloth_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("UNSLOTH_ALLOW_CPU", raising=False)
    assert TrainingBackend(ModelConfig(**POCKET)).name == "transformers"
    with pytest.raises(UserError, match=r"torch finds no CUDA GPU here, or set model\.backend=transformers"):
        TrainingBackend(ModelConfig(**POCKET, backend="unsloth"))
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Unsloth is not installed: `python3 scripts/setup.py gpu && "):
        TrainingBackend(ModelConfig(**POCKET, backend="unsloth"))


def test_a_cpu_build_of_torch_beside_a_gpu_is_said(monkeypatch, capsys):
    monkeypatch.delenv("UNSLOTH_ALLOW_CPU", raising=False)
    monkeypatch.setattr(backends, "find_cards", lambda: Found((CARDS["a100-40gb"],)))
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"CPU build, though the machine has an NVIDIA GPU: `python3 scripts"):
        TrainingBackend(ModelConfig(**POCKET, backend="unsloth"))
    assert TrainingBackend(ModelConfig(**POCKET)).name == "transformers"  # `make demo` there has the CPU set on purpose
    assert "Computing on the CPU: this torch is a CPU build" in capsys.readouterr().err


def test_unsloth_after_transformers_is_an_error_that_says_so(monkeypatch):
    assert {"transformers", "peft"} <= set(sys.modules)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    with pytest.raises(UserError, match=r"imported before transformers and peft.*model\.backend=transformers"):
        unsloth_backend.prepare()


def test_a_model_that_unsloth_does_not_know_goes_to_transformers_only_with_auto(monkeypatch, capsys):
    def refuse(*args):
        raise UserError("Unsloth cannot load 'pocket': it is not yet implemented.")

    monkeypatch.setattr(backends, "_training_backend", lambda model: "unsloth")
    monkeypatch.setattr(unsloth_backend, "prepare", lambda: None)
    monkeypatch.setattr(unsloth_backend, "load", refuse)
    backend = TrainingBackend(ModelConfig(**POCKET))
    model = backend.load(512, LoraConfig(r=4), seed=1)
    assert backend.name == "transformers"
    assert isinstance(model, peft.PeftModel)
    assert len(adapter_of(model)) == 2 * 7 * 4
    said = capsys.readouterr().err
    assert "not yet implemented" in said
    assert "Now with transformers, since model.backend is auto." in said
    with pytest.raises(UserError, match="not yet implemented"):
        TrainingBackend(ModelConfig(**POCKET, backend="unsloth")).load(512)


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_gradient_checkpointing_by_the_backend_leaves_the_gradients(make_model, tokenizer, tmp_path, family):
    from ssb_unsloth.method.modeling import hidden_states

    make_model(family).save_pretrained(tmp_path)
    ids = torch.arange(3, 23).reshape(2, 10)
    found = []
    for checkpointing in (False, True):
        backend = TrainingBackend(ModelConfig(name=str(tmp_path), dtype="float32", backend="transformers"))
        model = backend.load(64, LoraConfig(r=4), seed=1, gradient_checkpointing=checkpointing).train()
        assert model.get_base_model().is_gradient_checkpointing == checkpointing
        hidden_states(model, ids, torch.ones_like(ids))[..., 0].sum().backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_a_quantized_base_trains_a_float32_adapter(tmp_path):
    """bitsandbytes quantizes on a CPU too."""
    from ssb_unsloth.method.modeling import as_teacher, hidden_states, output_head

    model = TrainingBackend(ModelConfig(**POCKET, quantization="4bit")).load(64, LoraConfig(r=4), seed=1)
    kinds = {type(m).__name__ for m in model.modules()}
    assert "Linear4bit" in kinds
    assert output_head(model).weight.dtype == torch.float32
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    ids = torch.arange(3, 13)[None]
    plain = TrainingBackend(ModelConfig(**POCKET)).load(64)
    with as_teacher(model):
        quantized, exact = (hidden_states(m, ids, torch.ones_like(ids)) for m in (model, plain))
    assert 0 < (quantized - exact).norm() < 0.5 * exact.norm()


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, "GatedRepo", "Accept its licence at http://127.0.0.1"),
        (404, "RepoNotFound", "Correct model.name"),
        (None, "", "name its folder in model.name"),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_a_sentence_with_the_remedy(tmp_path, status, kind, said):
    """The hub's real client, against a small server, or told to go without one."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.send_header("X-Error-Code", kind)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    where["HF_HUB_OFFLINE"] = "1" if status is None else "0"
    words = ["recipes/pocket.yaml", "model.name=some/model", "sampler.engine=transformers", "--runs", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "ssb_unsloth", "curate", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **where},
    )
    server.shutdown()
    assert done.returncode == 2
    assert "'some/model' cannot be loaded: " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_sequences_that_were_cut_are_refused(make_model):
    from ssb_unsloth.method.modeling import hidden_states

    model = make_model("qwen2")
    model.model.register_forward_hook(lambda module, args, out: (out[0][:, :7],))  # as Unsloth does
    ids = torch.arange(3, 13)[None]
    with pytest.raises(UserError, match=r"10 tokens was cut to 7.*sampler\.max_model_len"):
        hidden_states(model, ids, torch.ones_like(ids))


CUDA_SAYS = (
    "CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of 14.56 GiB of which 1.05 GiB is free."
    " Including non-PyTorch memory, this process has 13.50 GiB memory in use."
)


@pytest.mark.parametrize(
    ("stage", "overrides", "expected"),
    [
        ("teach", {}, "teach.batch_tokens=4096 or model.quantization=4bit"),
        ("train", {}, "train.micro_batch_size=2 or train.gradient_checkpointing=true"),
        ("train", {"micro_batch_size": 1, "gradient_checkpointing": True}, "model.quantization=4bit"),
        ("train", {"method": "grpo", "micro_batch_size": 1}, "train.grpo.micro_batch_size=32 or train.gradient_check"),
        ("train", {"method": "grpo", "grpo": config.GrpoConfig(micro_batch_size=16)}, "train.grpo.micro_batch_size=8"),
        ("evaluate", {}, "sampler.max_model_len=2048 or sampler.gpu_memory_utilization=0.7"),
    ],
)
def test_out_of_memory_names_the_stage_the_size_and_two_keys(stage, overrides, expected):
    recipe = Recipe(name="r", train=config.TrainConfig(**overrides))
    with pytest.raises(UserError) as caught, memory.explained(stage, recipe, Path("x")):
        raise RuntimeError("engine died") from torch.OutOfMemoryError(CUDA_SAYS)
    said = str(caught.value)
    assert f"Stage {stage}: the GPU is out of memory (tried to allocate 2.32 GiB, total capacity of 14.56 GiB" in said
    assert expected in said
    assert "What was finished is kept" in said
    with pytest.raises(ValueError, match="other"), memory.explained(stage, recipe, Path("x")):
        raise ValueError("other")


def test_a_stage_without_memory_exits_with_a_sentence_and_keeps_what_was_finished(tmp_path):
    """The fault is put into the teacher pass of the real command."""
    script = tmp_path / "ssb.py"
    script.write_text(
        "import sys, torch\n"
        "from ssb_unsloth import cli\n"
        "from ssb_unsloth.method import teach\n"
        "def fail(*args): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB.')\n"
        "teach.states = fail\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    words = ["recipes/pocket.yaml", "--runs", str(tmp_path), "sampler.engine=transformers", "problems.limit=48"]
    words += ["curate.pairs=2", "curate.wave=48", "curate.rollout.max_tokens=60", "curate.refine.max_tokens=60"]
    subprocess.run([sys.executable, "-m", "ssb_unsloth", "curate", *words], check=True, capture_output=True)
    done = subprocess.run([sys.executable, script, "teach", *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Stage teach: the GPU is out of memory (tried to allocate 9.00 GiB)" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "pocket" / "curate" / "manifest.json").exists()
    assert not (tmp_path / "pocket" / "teach").exists()


def test_the_gpu_tests_are_collected_and_without_a_gpu_they_are_errors():
    words = [sys.executable, "-m", "pytest", "tests/gpu", "-k", "triton"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "SSB_REQUIRE_GPU": "1"})
    if torch.cuda.is_available():
        assert done.returncode == 0, done.stdout[-3000:]
        return
    assert done.returncode == 1, done.stdout[-3000:]
    assert "These tests need a CUDA GPU" in done.stdout
    assert "6 errors" in done.stdout
    assert "skipped" not in done.stdout
