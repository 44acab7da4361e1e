"""GRPO's rollouts by vLLM: the base stays as it is, to the byte, and the recipe's seed decides what is sampled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ssb_unsloth.training import rollouts
from ssb_unsloth.training.rollouts import Rollouts, merged_weights

SCRIPT = Path(__file__).parents[1] / "support" / "grpo_with_vllm.py"
TARGETS = ["q_proj", "down_proj"]


def student(make_model, dtype, family="qwen2", targets=TARGETS):
    base = make_model(family).to(dtype)
    return get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))


def weights_of(model):
    """Every weight of the base under its name there, as it is."""
    named = model.get_base_model().named_parameters()
    return {name.replace(".base_layer", ""): p.detach() for name, p in named if "lora_" not in name}


def wander(model, steps=1):
    """What an optimizer does to the adapter: a random walk of Adam's size."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(steps):
            for name, p in model.named_parameters():
                if "lora_" in name:
                    p += 1e-2 * torch.randn(p.shape, generator=generator).to(p.dtype)
            yield


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
def test_the_base_is_the_same_to_the_byte_after_many_steps(make_model, dtype, family):
    model = student(make_model, dtype, family)
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    for _ in wander(model, 50):
        given = dict(merged_weights(model))
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())
    assert given.keys() == before.keys()
    changed = {name for name in given if not torch.equal(given[name], before[name])}
    assert changed == {name for name in before if name.endswith(tuple(f"{t}.weight" for t in TARGETS))}


def test_peft_s_own_merging_would_have_moved_it(make_model):
    """What TRL does before each sampling; without this drift the test above could not fail."""
    model = student(make_model, torch.bfloat16)
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    for _ in wander(model, 50):
        model.merge_adapter()
        model.unmerge_adapter()
    assert not all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_vllm_is_given_is_the_student_summed_in_float32_and_rounded_once(make_model, dtype):
    model = student(make_model, dtype)
    list(wander(model, 3))
    given = dict(merged_weights(model))
    assert {weight.dtype for weight in given.values()} == {dtype}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            a, b = (getattr(module, part)["default"].weight.double() for part in ("lora_A", "lora_B"))
            exact = module.base_layer.weight.double() + 2 * b @ a  # alpha / r = 2
            torch.testing.assert_close(given[f"{name}.weight"].double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
    plain = make_model("qwen2").to(dtype)
    plain.load_state_dict(given, strict=False)
    ids = torch.randint(5, 500, (2, 12))
    theirs, ours = (m(input_ids=ids).logits.float() for m in (model, plain))
    torch.testing.assert_close(
        theirs, ours, **({"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.1, "atol": 1})
    )


def test_each_reply_has_a_seed_of_the_recipe_the_step_and_its_place(monkeypatch):
    asked = []
    monkeypatch.setattr(rollouts, "extract_logprobs", lambda outputs: (None, None))
    monkeypatch.setattr(
        rollouts, "sample_ids", lambda engine, prompts, decoding, seeds, *_, **__: asked.append(seeds) or []
    )
    for seed, step in ((1, 0), (1, 0), (2, 0), (1, 7)):
        made = Rollouts.__new__(Rollouts)
        made._seed, made._stop, made.llm, made.step = seed, [2], None, lambda step=step: step
        made.temperature, made.top_p, made.top_k, made.repetition_penalty, made.max_completion_length = (
            1.0,
            1.0,
            0,
            1.0,
            8,
        )
        made.generate([[1, 2]] * 4, None, 2)
    assert asked[0] == asked[1]
    everything = [*asked[0], *asked[2], *asked[3]]
    assert len(set(everything)) == len(everything) == 12


def run(tmp_path, dtype, seed, steps=2):
    folder = tmp_path / f"{dtype}-{seed}-{len(list(tmp_path.iterdir()))}"
    asked = {"dtype": dtype, "seed": seed, "steps": steps, "folder": str(folder)}
    done = subprocess.run([sys.executable, str(SCRIPT), json.dumps(asked)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT ")[-1])


@pytest.mark.slow
def test_with_the_real_vllm_the_base_stays_and_the_seed_reaches_the_rollouts(tmp_path):
    """Two steps of TRL's trainer with vLLM's CPU build in its process, on the pocket in bfloat16, three times."""
    one, again, other = (run(tmp_path, "bfloat16", seed) for seed in (5, 5, 6))
    for result in (one, again, other):
        assert result["unchanged"]
        assert result["moved"] > 1e-3  # the adapter
    assert one["rollouts"] == again["rollouts"]
    assert one["rollouts"][0] != other["rollouts"][0]


@pytest.mark.slow
def test_with_the_real_vllm_the_engine_samples_from_the_student(tmp_path):
    """In float32: its log-probabilities of a reply are those of plain transformers on the merged weights."""
    result = run(tmp_path, "float32", 5)
    assert result["unchanged"]
    assert result["apart"] < 1e-3  # 3e-6 was seen
    assert result["first"][0] != result["first"][1]  # the step that came last was not in the engine yet
