"""Real Unsloth, interpreted on a CPU in a process of its own, against plain transformers in this one.

What the backbone, the teacher, the loss and its gradients have to be is computed here from transformers' own logits,
one unpadded sequence at a time, and shares nothing with the package.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from backend_checks import FAST, SHAPE, SLOW, TOLERANCE, check_training, close, save_tiny
from backend_figures import LORA, disturb, examples, write
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from vllm_script import VLLM

from ssb_unsloth.backends.sampler import Adapter, Request
from ssb_unsloth.backends.transformers import load_model
from ssb_unsloth.backends.transformers_sampler import TransformersSampler
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.schema import ModelConfig, SamplingConfig

SUPPORT = Path(__file__).parents[1] / "support"
LAUNCHER = str(SUPPORT / "unsloth_cpu.py")


def run_in_unsloth(*words, cwd=None, code=0):
    done = subprocess.run(
        [sys.executable, LAUNCHER, *map(str, words)], capture_output=True, text=True, timeout=900, cwd=cwd
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def compared(cases, folder):
    """{(family, dtype): (by transformers, by Unsloth, the model's folder)}; one Unsloth process for all cases."""
    asked = []
    for family, dtype in cases:
        here = folder / f"{family}-{dtype}"
        save_tiny(family, here / "model")
        theirs = here / "transformers"
        write(str(here / "model"), "transformers", dtype, theirs)
        asked.append(
            {
                "path": str(here / "model"),
                "backend": "unsloth",
                "dtype": dtype,
                "folder": str(here / "unsloth"),
                "other": str(theirs / "adapter"),
            }
        )
    (folder / "cases.json").write_text(json.dumps(asked))
    run_in_unsloth(SUPPORT / "backend_figures.py", folder / "cases.json", cwd=folder)
    return {
        (family, dtype): (
            load_file(folder / f"{family}-{dtype}" / "transformers" / "figures.safetensors"),
            load_file(folder / f"{family}-{dtype}" / "unsloth" / "figures.safetensors"),
            folder / f"{family}-{dtype}" / "model",
        )
        for family, dtype in cases
    }


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return compared(FAST, tmp_path_factory.mktemp("fast"))


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return compared(SLOW, tmp_path_factory.mktemp("slow"))


def oracle(path, dtype):
    """Student's and teacher's states and logits, Eq. 6 in float64, and its gradients, from transformers alone."""

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))

    transformers.set_seed(7)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    student = get_peft_model(
        base(), LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=modules, task_type="CAUSAL_LM")
    )
    disturb(student)
    teacher, found, losses = base(), {"hidden": [], "logits": [], "teacher": []}, []
    for e in examples()[:2]:
        n = len(e.reply_ids)
        said = student(input_ids=torch.tensor([e.student_ids + e.reply_ids]), output_hidden_states=True)
        with torch.no_grad():
            told = teacher(input_ids=torch.tensor([e.teacher_ids + e.reply_ids]), output_hidden_states=True)
        for name, states in (("hidden", said.hidden_states), ("teacher", told.hidden_states)):
            found[name].append(states[-1][0, -n - 1 : -1].detach().float())
        found["logits"].append(said.logits[0, -n - 1 : -1].detach().float())
        p = torch.softmax(told.logits[0, -n - 1 : -1].double() / 2, -1)
        log_q = torch.log_softmax(said.logits[0, -n - 1 : -1].double() / 2, -1)
        losses.append(4 * (p * (p.log() - log_q)).sum(-1).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = {f"gradient {n}": p.grad.float() for n, p in student.named_parameters() if p.grad is not None}
    return {**{name: torch.cat(rows) for name, rows in found.items()}, "loss": loss.detach().float(), **gradients}


def check_against_the_oracle(found, path, dtype):
    expected = oracle(path, dtype)
    gradients = {name for name in expected if name.startswith("gradient")}
    assert gradients == {name for name in found if name.startswith("gradient")}
    assert len(gradients) == 2 * 7 * SHAPE["num_hidden_layers"]
    assert (expected["hidden"] - expected["teacher"]).norm() > 0.1 * expected["teacher"].norm()
    for name in expected:
        close(found[name], expected[name], TOLERANCE[dtype] * (1 if name in ("hidden", "teacher", "logits") else 2))


@pytest.mark.parametrize(("family", "dtype"), FAST)
def test_states_teacher_loss_and_gradients_are_those_of_transformers(fast, family, dtype):
    _, ours, path = fast[family, dtype]
    check_against_the_oracle(ours, path, dtype)


@pytest.mark.parametrize(("family", "dtype"), FAST)
def test_five_steps_lead_where_those_of_transformers_lead(fast, family, dtype):
    theirs, ours, _ = fast[family, dtype]
    check_training(theirs, ours, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), SLOW)
def test_other_families_agree_too(slow, family, dtype):
    theirs, ours, path = slow[family, dtype]
    check_against_the_oracle(ours, path, dtype)
    check_training(theirs, ours, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_adapter_saved_by_one_backend_loads_in_the_other(fast, dtype):
    theirs, ours, path = fast["qwen2", dtype]
    close(ours["loaded"], theirs["trained"], TOLERANCE[dtype])
    base = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(base, path.parent / "unsloth" / "adapter").eval()
    with torch.no_grad():
        said = model(input_ids=torch.tensor([examples()[0].teacher_ids]), output_hidden_states=True)
    close(said.hidden_states[-1][0].float(), ours["trained"], TOLERANCE[dtype])
    saved = {f.name for f in (path.parent / "unsloth" / "adapter").iterdir()}
    assert saved >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not any(name.endswith((".bin", ".pt")) for name in saved)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The pocket through `ssb curate`, and through `ssb teach` and `ssb train` by Unsloth: the train stage's folder."""
    runs = tmp_path_factory.mktemp("runs")
    words = [SUPPORT.parents[1] / "recipes" / "pocket.yaml", "--runs", runs, "model.backend=unsloth"]
    words += ["sampler.engine=transformers", "problems.limit=48", "curate.wave=48", "curate.pairs=1"]
    words += ["curate.rollout.max_tokens=60", "curate.refine.max_tokens=60", "train.batch_size=1", "train.epochs=3"]
    words += ["train.learning_rate=2e-2", "train.probe_steps=3", "train.probe_questions=1", "train.token_pairs=0"]
    subprocess.run([sys.executable, "-m", "ssb_unsloth", "curate", *map(str, words)], check=True, timeout=600)
    for stage in ("teach", "train"):
        run_in_unsloth("-m", "ssb_unsloth", stage, *words, cwd=runs)
    return runs / "pocket" / "train"


@pytest.mark.slow
def test_the_stages_lead_from_recipe_to_adapter(trained):
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["summary"]["backend"] == "unsloth"
    assert manifest["summary"]["steps"] == 3
    assert json.loads((trained.parent / "teach" / "manifest.json").read_text())["summary"]["backend"] == "unsloth"
    history = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert [math.isfinite(row["loss"]) for row in history if "loss" in row] == [True] * 3
    assert [row["step"] for row in history if "reply_tokens" in row] == [0, 3]
    weights = load_file(trained / "adapter" / "adapter_model.safetensors")
    assert len(weights) == 2 * 7 * 4
    assert all(weight.any() for name, weight in weights.items() if "lora_B" in name)


@pytest.mark.slow
def test_vllm_serves_the_adapter_that_unsloth_trained(trained, tokenizer, tmp_path):
    problems = generate("validation", 20, 0)
    plain = TransformersSampler(load_model(ModelConfig(name="pocket", dtype="float32")), tokenizer, batch_size=20)
    requests = [Request(plain.render(student_messages(p.question)), 0) for p in problems]
    script, asked, answered = (tmp_path / name for name in ("script.py", "asked.json", "answered.json"))
    script.write_text(VLLM)
    asked.write_text(
        json.dumps(
            {
                "messages": student_messages("Mia has 3 shells."),
                "requests": [[r.prompt_ids, r.seed] for r in requests],
                "adapters": [str(trained / "adapter")],
            }
        )
    )
    subprocess.run([sys.executable, script, asked, answered], check=True, timeout=600)
    vllm = json.loads(answered.read_text())
    (theirs,) = vllm["adapters"]
    greedy = SamplingConfig(temperature=0, max_tokens=30)
    ours = [r.token_ids for r in plain.sample(requests, greedy, Adapter("ssb", trained / "adapter"))]
    assert theirs != vllm["base"]
    # Two orders of float32 sums may part where two tokens are equally likely, and go on apart from there.
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 18
