"""The families' arithmetic against transformers' own models, built without memory: parameters, linear layers by name,
which of them LoRA hits, experts that are idle; then what is not known, and what a config may be wrong in."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from shapes import CASES, LATENT, LOCAL, NO_HEAD_DIM, ROUTED, SHAPE

from ssb_unsloth.commands.doctor import examine
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine import counted, lora_targets
from ssb_unsloth.machine.all_weights import all_weights
from ssb_unsloth.machine.cards import CARDS
from ssb_unsloth.machine.check import check_before_stage
from ssb_unsloth.machine.families import FAMILIES
from ssb_unsloth.machine.families.config import NAMES
from ssb_unsloth.machine.geometry import from_config
from ssb_unsloth.machine.plan import describe, make_plan
from ssb_unsloth.recipe.loading import load

SHORT = ("curate.rollout.max_tokens=64", "curate.refine.max_tokens=64", "train.grpo.max_tokens=64")
ROOT = Path(__file__).parents[2]
EXACT = [(family, extra) for family in FAMILIES for extra in CASES.get(family, [{}])]


def told(plan):
    """The page of a plan without its line breaks."""
    return " ".join(describe(plan).split())


def between_the_ends(model):
    """Parameters of no embedding and not of the head, which `train.lora: null` trains."""
    import torch

    head = model.get_output_embeddings()
    ends = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) or m is head]
    left = {id(p) for end in ends for p in end.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in left)


def real(family, extra):
    """transformers' own model and the config.json that it would save."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = NO_HEAD_DIM if family in ("falcon", "mpt", "deepseek_v2", "deepseek_v3") else SHAPE
    config = AutoConfig.for_model(family, **{**shape, **extra})
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config), json.loads(config.to_json_string(use_diff=False))


@pytest.mark.parametrize(("family", "extra"), EXACT)
def test_a_family_is_counted_as_transformers_builds_it(family, extra):
    """Parameters; linear layers by name and size; what LoRA hits; and once more from a config that says only what the
    model was made with."""
    model, saved = real(family, extra)
    g = from_config(saved, family)
    assert g.how == "family"
    theirs = lora_targets.select(model, "all-linear")
    assert g.targets("all-linear") == theirs.targets
    assert g.parameters == sum(p.numel() for p in model.parameters())
    assert g.between == all_weights(model).trained == between_the_ends(model)
    assert g.targets("auto") == lora_targets.select(model).targets
    stacked = {name: p for name, p in model.named_parameters() if "experts." in name and p.dim() > 1 and p.shape[0] > 1}
    stacked = {name: p for name, p in stacked.items() if "shared" not in name}
    assert (g.active < g.parameters) is bool(stacked)
    sparse = from_config({"model_type": family, **SHAPE, **extra}, family)
    assert sparse.parameters == g.parameters


UNKNOWN = {  # transformers knows them, and this package has no row for them
    "olmo_hybrid": {},
    "recurrent_gemma": {},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 40},
    "zamba2": {
        **{"mamba_d_state": 8, "n_mamba_heads": 4, "mamba_headdim": 16, "num_mem_blocks": 1},
        **{"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    },
}


@pytest.mark.parametrize("family", UNKNOWN)
def test_a_family_without_a_row_is_counted_on_its_own_modules(family):
    model, saved = real(family, UNKNOWN[family])
    g = from_config(saved, family)
    assert g.how == "modules"
    assert g.parameters == sum(p.numel() for p in model.parameters())
    assert g.between == all_weights(model).trained == between_the_ends(model)
    for wanted in ("auto", "all-linear"):
        assert g.targets(wanted) == lora_targets.select(model, wanted).targets
    assert (g.active < g.parameters) is (family == "llama4_text")


def test_what_cannot_be_looked_at_is_planned_as_a_llama_and_said(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "model_type": "nobody_knows"}))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\nmodel: {{name: {tmp_path}}}\nproblems: {{source: pocket}}\n")
    plan = make_plan(load(recipe, ["sampler.max_model_len=128", *SHORT]), None)
    assert plan.how == "llama"
    assert "Planned as if it were a Llama" in told(plan)
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "model_type": "recurrent_gemma"}))
    monkeypatch.setattr(counted, "countable", lambda: False)
    assert make_plan(load(recipe, ["sampler.max_model_len=128", *SHORT]), None).how == "llama"


def test_the_table_of_names_is_transformers():
    spec = importlib.util.spec_from_file_location("config_names", ROOT / "scripts" / "config_names.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert json.loads(NAMES.read_text()) == module.table(), "run scripts/config_names.py"


def test_experts_are_loaded_and_a_token_meets_a_few(tmp_path):
    """Mixtral 8x7B's published numbers: 46.7 billion parameters, 12.9 billion of them active."""
    config = {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8}
    g = from_config({**config, "num_experts_per_tok": 2, "max_position_embeddings": 32768}, "mixtral")
    assert g.parameters == 46_702_792_704
    assert g.active == pytest.approx(12.9e9, rel=0.01)
    assert 2 * g.linear == pytest.approx(g.forward_operations(1, 0, 0))
    assert g.weight_bytes(2, "4bit") > 2 * 45e9  # bitsandbytes makes linear layers smaller, and fused experts are none
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": 2}))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\nmodel: {{name: {tmp_path}}}\nproblems: {{source: pocket}}\n")
    lora = "train.lora.target_modules=[q_proj, v_proj]"
    said = told(make_plan(load(recipe, [lora, "sampler.max_model_len=4096"]), CARDS["h100"]))
    assert "46,702,792,704 parameters, 12," in said
    assert "32 x q_proj, 32 x v_proj" in said
    assert "32 x experts in one tensor (45," in said


def test_deepseek_keeps_a_short_vector_and_mamba_a_state():
    latent = from_config({"model_type": "deepseek_v3", **NO_HEAD_DIM, **ROUTED, **LATENT}, "d")
    assert latent.cache_bytes(2, latent=True) == 2 * 4 * (10 + 4)
    assert latent.cache_bytes(2) == 2 * 4 * 4 * (12 + 8)
    mamba = from_config({"model_type": "mamba2", **SHAPE, "num_heads": 4, "head_dim": 16, "state_size": 8}, "m")
    assert mamba.cache_bytes(2) == 0
    assert mamba.state_bytes() > 0


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"model_type": "llama", "max_position_embeddings": 4096}, 4096),
        ({"model_type": "llama"}, 2048),  # the class's own
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "qwen2", "rope_scaling": {"type": "yarn", "factor": 4.0}}, 32768),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 8192),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 4096),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 2048),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 131072),
        ({"model_type": "cohere", "max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({"model_type": "mamba2", "num_heads": 4, "head_dim": 16, "state_size": 8}, None),
    ],
)
def test_the_longest_text_is_what_vllm_accepts(config, most):
    shape = {key: value for key, value in SHAPE.items() if key != "max_position_embeddings"}
    assert from_config({**shape, **config}, "x").longest == most


def test_a_longer_text_than_the_models_own_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SHAPE}))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\nmodel: {{name: {tmp_path}}}\nproblems: {{source: pocket}}\n")
    asked = load(recipe, [])
    expected = r"sampler\.max_model_len: 4,096 tokens are more than the 128 .*set sampler\.max_model_len=128"
    assert re.search(expected, told(make_plan(asked, None)))
    with pytest.raises(UserError, match=expected):
        check_before_stage(asked)
    assert any(f.name == "length" and "max_model_len=128" in f.fix for f in examine(asked, machine_only=True).findings)
    check_before_stage(load(recipe, ["sampler.max_model_len=128", *SHORT]))


@pytest.mark.parametrize("value", [-1, 2.5, "12", [], True, 2**40])
@pytest.mark.parametrize("key", ["hidden_size", "head_dim", "num_local_experts"])
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(UserError, match=f"config.json of m: {key} is "):
        from_config({"model_type": "mixtral", **SHAPE, **LOCAL, key: value}, "m")
