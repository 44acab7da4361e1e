"""The same claims as on a CPU, where the CPU can only stand in: Unsloth's compiled kernels, bf16, vLLM's CUDA build.

Every model runs in a process of its own, as the stages do. Tiny models; a few minutes on any card.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backend_checks import check_training, close, save_tiny
from safetensors.torch import load_file

from ssb_unsloth.method.distributions import Head
from ssb_unsloth.method.losses import kd_loss, kd_loss_dense, row_weights

TESTS = Path(__file__).parents[1] / "support"
RECIPE = str(TESTS.parents[1] / "recipes" / "pocket.yaml")
HALF = "bfloat16" if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0) else "float16"
SMALL = ["problems.limit=96", "curate.pairs=12", "curate.wave=48", "train.epochs=2", "train.learning_rate=1e-3"]
SMALL += ["evaluate.benchmarks.test.limit=24", "evaluate.benchmarks.test-hard.limit=12", f"model.dtype={HALF}"]


def python(*words):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def figures(folder, model, backend, dtype):
    case = {"path": str(model), "backend": backend, "dtype": dtype, "folder": str(folder / backend)}
    (folder / f"{backend}.json").write_text(json.dumps([case]))
    python(TESTS / "backend_figures.py", folder / f"{backend}.json")
    return load_file(folder / backend / "figures.safetensors")


@pytest.mark.parametrize("dtype", ["float32", HALF])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma"])
def test_unsloth_agrees_with_transformers(tmp_path, family, dtype):
    save_tiny(family, tmp_path / "model")
    theirs, ours = (figures(tmp_path, tmp_path / "model", name, dtype) for name in ("transformers", "unsloth"))
    tolerance = 1e-3 if dtype == "float32" else 2e-2  # matrix products on a GPU may use TF32
    assert set(ours) == set(theirs)
    for name in ("hidden", "teacher", "logits", "loss"):
        close(ours[name], theirs[name], tolerance)
    check_training(theirs, ours, HALF if dtype != "float32" else "float32", losses=tolerance)


@pytest.mark.parametrize("dtype", ["float32", HALF])
@pytest.mark.parametrize("vocabulary", [512, 32003, 151936])
def test_the_triton_kernel_gives_what_torch_gives(dtype, vocabulary):
    torch.manual_seed(0)
    kind, rows, width = getattr(torch, dtype), 96, 64
    weight = torch.randn(vocabulary, width, device="cuda").to(kind) / 4
    student, teacher = (torch.randn(rows, width, device="cuda").to(kind) for _ in range(2))
    weights = row_weights(torch.tensor([40, 56], device="cuda"), None, "example")
    found = {}
    for name in ("torch", "triton", "dense"):
        states = student.clone().requires_grad_()
        loss = kd_loss_dense if name == "dense" else kd_loss
        options = {} if name == "dense" else {"kernel": name}
        out = loss(states, teacher, Head(weight, None, 1.0, None), weights, temperature=2.0, **options)
        out.loss.backward()
        found[name] = out.loss.detach().double(), states.grad.double()
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    for name in ("triton", "torch"):
        for value, expected in zip(found[name], found["dense"], strict=True):
            assert (value - expected).norm() <= tolerance * expected.norm(), name


CHECKPOINTING = """
import sys
sys.path.insert(0, sys.argv[2])
from ssb_unsloth.backends import TrainingBackend
from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig
found = []
backend = TrainingBackend(ModelConfig(name=sys.argv[1], dtype=sys.argv[3], backend="unsloth", quantization=sys.argv[4]))
import torch
from backend_figures import disturb
from ssb_unsloth.method.modeling import hidden_states
for checkpointing in (False, True):
    model = backend.load(1024, LoraConfig(r=4), seed=1, gradient_checkpointing=checkpointing).train()
    disturb(model)
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    ids = torch.arange(3, 483, device="cuda").reshape(2, 240)
    hidden = hidden_states(model, ids, torch.ones_like(ids)).float()
    (hidden * torch.linspace(-1, 1, hidden.shape[-1], device="cuda")).sum().backward()
    found.append(torch.cat([p.grad.flatten() for n, p in sorted(model.named_parameters()) if p.grad is not None]))
assert (found[0] - found[1]).norm() <= 2e-2 * found[0].norm(), (found[0] - found[1]).norm() / found[0].norm()
"""


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_unsloths_checkpointing_leaves_the_gradients_also_on_a_quantized_base(tmp_path, quantization):
    save_tiny("qwen2", tmp_path / "model")
    (tmp_path / "script.py").write_text(CHECKPOINTING)
    python(tmp_path / "script.py", tmp_path / "model", TESTS, HALF, quantization)


def run_stages(folder, *words):
    for stage in ("curate", "teach", "train", "evaluate", "report"):
        python("-m", "ssb_unsloth", stage, RECIPE, "--runs", folder, *SMALL, *words)
        yield stage


def check_run(run):
    manifests = {stage: json.loads((run / stage / "manifest.json").read_text()) for stage in ("teach", "train")}
    assert [m["summary"]["backend"] for m in manifests.values()] == ["unsloth", "unsloth"]
    assert all(m["cost"]["peak_device_bytes"] > 0 for m in manifests.values())
    assert manifests["train"]["summary"]["last_loss"] < manifests["train"]["summary"]["first_loss"]
    report = json.loads((run / "report" / "report.json").read_text())
    assert {score["model"] for score in report["scores"]} == {"base", "ssb"}


def test_every_stage_runs_in_half_precision(tmp_path):
    """Teach and train by Unsloth, as `auto` chooses on a GPU; transformers samples."""
    list(run_stages(tmp_path, "sampler.engine=transformers"))
    check_run(tmp_path / "pocket")


# What follows needs vLLM's CUDA build; conftest.py says so where that is not installed.


def used_bytes():
    words = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[0]) << 20


@pytest.mark.vllm
def test_vllm_samples_each_stage_gives_its_memory_back_and_the_adapter_is_served(tmp_path):
    """Alone on the card: the memory that others use would count."""
    before = used_bytes()
    for stage in run_stages(tmp_path):
        assert used_bytes() <= before + (256 << 20), stage
    run = tmp_path / "pocket"
    check_run(run)

    # The adapter that was trained, served by vLLM, changes its replies.
    from vllm_script import VLLM

    from ssb_unsloth.backends.chat_template import render
    from ssb_unsloth.backends.transformers import load_tokenizer
    from ssb_unsloth.prompts import student_messages
    from ssb_unsloth.recipe.schema import ModelConfig

    messages = student_messages("Mia has 3 shells. Tom gives 2 shells to Mia. How many shells does Mia have now?")
    ids = render(load_tokenizer(ModelConfig(name="pocket")), messages)
    asked = {"messages": messages, "requests": [[ids[: n + 8], n] for n in range(20)]}
    script, question, answered = (tmp_path / name for name in ("script.py", "asked.json", "answered.json"))
    script.write_text(VLLM)
    question.write_text(json.dumps({**asked, "adapters": [str(run / "train" / "adapter")]}))
    python(script, question, answered)
    vllm = json.loads(answered.read_text())
    assert vllm["base"] == vllm["base again"]
    assert vllm["adapters"][0] != vllm["base"]
