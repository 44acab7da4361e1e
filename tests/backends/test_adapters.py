"""Adapters of every kind: merged they are the same model as beside their base, and those of another base are named."""

import copy
import json
import math
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from ssb_unsloth.backends.adapters import WEIGHTS, assert_fits, merge
from ssb_unsloth.backends.sampler import Adapter, Request
from ssb_unsloth.backends.sources import check_rank
from ssb_unsloth.backends.transformers import save_merged
from ssb_unsloth.backends.transformers_sampler import TransformersSampler
from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.recipe.schema import ModelConfig, SamplingConfig

KINDS = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True, "r": 4, "lora_alpha": 7},
    "patterns": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 5}},
    "dora": {"target_modules": ["q_proj", "v_proj"], "use_dora": True},
    "biases": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both ends": {"target_modules": ["embed_tokens", "lm_head"]},
    "both ends, kept tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "whole ends": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "whole, kept tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [7, 9]}},
}
BY_VLLM = ("plain", "rslora", "patterns", "dora")  # dora: merged, in an engine of its own
FAMILIES = {
    "qwen2": {},
    "llama": {},
    "gemma2": {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16, "sliding_window": 64},
}


def make_base(folder, family="qwen2", tied=True, width=32, layers=2):
    """A tiny random model, saved. Returns its folder."""
    config = AutoConfig.for_model(
        family,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width // 2,
        vocab_size=528,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **FAMILIES[family],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # wider than the usual start, so that distributions are far from uniform
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    return folder


def make_adapter(base, folder, **given):
    """An adapter on that base with every one of its tensors drawn. Returns its folder."""
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 2, "lora_alpha": 3, "task_type": "CAUSAL_LM", **given})
    student = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    student.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """bases(family, tied, ...): the folder of a base, made once."""
    made = {}

    def get(family="qwen2", tied=True, **shape):
        key = (family, tied, *shape.items())
        if key not in made:
            made[key] = make_base(tmp_path_factory.mktemp(family), family, tied, **shape)
        return made[key]

    return get


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model):
    """Of all tokens that an adapter may have trained, and of others."""
    with torch.no_grad():
        return model(torch.tensor([[7, 9, *range(20, 40), 9, 7]])).logits


@pytest.mark.parametrize(("kind", "tied"), [*((kind, True) for kind in KINDS), ("head", False), ("tokens", False)])
def test_merged_is_the_same_model_as_beside_the_base_in_memory_and_on_disk(bases, tmp_path, kind, tied):
    base = bases("qwen2", tied)
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    beside = logits(PeftModel.from_pretrained(loaded(base), adapter).eval())
    assert (beside - logits(loaded(base))).abs().max() > 1  # it has learnt something
    merged = merge(loaded(base), adapter)
    torch.testing.assert_close(logits(merged), beside, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), beside, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("kind", ["head", "embedding", "whole embedding"])
def test_ends_that_are_one_matrix_become_two_in_every_family(bases, tmp_path, family, kind):
    base = bases(family)
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    beside = logits(PeftModel.from_pretrained(loaded(base), adapter).eval())
    merge(loaded(base), adapter).save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), beside, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "scales"),
    [
        ("plain", {"q_proj": 3 / 2}),
        ("rslora", {"q_proj": 7 / math.sqrt(4)}),
        ("patterns", {"q_proj": 5 / 2, "v_proj": 1}),
    ],
)
def test_what_is_added_is_b_times_a_by_alpha_over_r(bases, tmp_path, kind, scales):
    base = bases()
    adapter = make_adapter(base, tmp_path, **KINDS[kind])
    weights, before = load_file(adapter / WEIGHTS), loaded(base).state_dict()
    after = merge(loaded(base), adapter).state_dict()
    for module, scale in scales.items():
        for layer in range(2):
            name = f"model.layers.{layer}.self_attn.{module}"
            a, b = (weights[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
            torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + scale * b @ a)


def test_a_merge_that_would_change_the_model_is_refused(bases, tmp_path, monkeypatch):
    """As PEFT's own of an adapter on a head that is also the embedding."""
    base = bases()
    adapter = make_adapter(base, tmp_path, **KINDS["head"])
    monkeypatch.setattr("ssb_unsloth.backends.adapters._untie", lambda model: None)
    with pytest.raises(UserError, match="another model than beside it"):
        merge(loaded(base), adapter)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_put_on_right_or_refused_by_name(bases, tmp_path, kind, tokenizer):
    base = bases("qwen2", False)
    adapter, model = make_adapter(base, tmp_path, **KINDS[kind]), ModelConfig(name=str(base))
    assert_fits(model, adapter, "transformers")
    if kind in BY_VLLM:
        assert_fits(model, adapter, "vllm")
    else:
        with pytest.raises(UserError, match=r"theirs: .*which vLLM does not put on; set sampler\.engine=transformers"):
            assert_fits(model, adapter, "vllm", "theirs")
    request = Request(list(range(20, 30)), 0)
    (reply,) = TransformersSampler(loaded(base), tokenizer, 1).sample(
        [request], SamplingConfig(temperature=0, max_tokens=6), Adapter("theirs", adapter), quiet=True
    )
    beside, ids = PeftModel.from_pretrained(loaded(base), adapter).eval(), list(request.prompt_ids)
    for token in reply.token_ids:
        assert int(beside(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"width": 48}, r"lora_. *\.weight|is 2 x 48, where 2 x 32 fits"),
        ({"layers": 3}, r"its tensors have no place there, as .*layers\.2\."),
        ({"layers": 1}, r"it lacks \d+ tensors for what it says it was put on, as .*layers\.1\."),
        ({"family": "gemma2", "width": 48}, r"is no adapter of|cannot be put on"),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_an_adapter_of_another_base_is_named(bases, tmp_path, shape, said, engine):
    adapter = make_adapter(bases(**shape), tmp_path, **KINDS["plain"])
    with pytest.raises(UserError, match=said) as error:
        assert_fits(ModelConfig(name=str(bases())), adapter, engine, "evaluate.adapters.theirs")
    assert str(error.value).startswith(f"evaluate.adapters.theirs: {adapter}")
    with pytest.raises(UserError, match=said):
        save_merged(ModelConfig(name=str(bases())), adapter, tmp_path / "merged")


def spoil(folder, change):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(r=4), r"is 2 x \d\d, where 4 x \d\d fits"),
        (lambda c: c.update(rank_pattern={"down_proj": 5}), "fits"),
        (lambda c: c.update(target_modules=["q_proj"]), "its tensors have no place there"),
        (lambda c: c.update(target_modules=["q_proj", "down_proj", "o_proj"]), r"it lacks 4 tensors .* as .*o_proj"),
        (lambda c: c.update(target_modules=["nothing"]), "cannot be put on .*nothing"),
        (lambda c: c.update(target_modules=7), "cannot be put on"),
        (lambda c: c.update(use_dora=True), r"it lacks 4 tensors .*lora_magnitude_vector"),
        (lambda c: c.update(peft_type="LOHA"), "an adapter of the kind LOHA; expected LORA"),
        (lambda c: c.update(layer_replication=[[0, 2], [0, 2]]), "layer_replication, which the samplers here do not"),
        (lambda c: c.update(rank_pattern={"q_proj": "many"}), "cannot be put on"),
        (lambda c: c.pop("r"), "no LoRA adapter"),
    ],
)
def test_a_configuration_that_is_not_the_weights_is_named(bases, tmp_path, change, said):
    adapter = make_adapter(bases(), tmp_path, **KINDS["plain"])
    spoil(adapter, change)
    with pytest.raises(UserError, match=said):
        assert_fits(ModelConfig(name=str(bases())), adapter, "transformers")


def test_weights_that_are_damaged_or_too_many_are_named(bases, tmp_path):
    adapter, model = make_adapter(bases(), tmp_path, **KINDS["plain"]), ModelConfig(name=str(bases()))
    path = adapter / WEIGHTS
    whole = path.read_bytes()
    weights = load_file(path)
    save_file({**weights, "base_model.model.model.embed_tokens.weight": torch.zeros(528, 32)}, path)
    with pytest.raises(UserError, match=r"1 of its tensors have no place there, as .*embed_tokens\.weight"):
        assert_fits(model, adapter, "transformers")
    for data in (whole[:40], b"", whole[: len(whole) - 8], b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read as safetensors"):
            assert_fits(model, adapter, "transformers")
    path.unlink()
    with pytest.raises(UserError, match="holds no adapter_model"):
        assert_fits(model, adapter, "transformers")


def test_the_highest_rank_of_a_pattern_counts(bases, tmp_path):
    adapter = Adapter("a", make_adapter(bases(), tmp_path, **KINDS["plain"], rank_pattern={"q_proj": 20}))
    check_rank(adapter, 32)
    with pytest.raises(UserError, match=r"rank 20, above sampler\.max_lora_rank \(16\)"):
        check_rank(adapter, 16)


def test_a_command_says_so_before_an_engine_starts(bases, tmp_path, capsys):
    adapter = make_adapter(bases(), tmp_path / "theirs", **KINDS["plain"])
    words = [
        "evaluate",
        "pocket",
        "--benchmark",
        "pocket-test",
        "--adapter",
        str(adapter),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "theirs: " in said
    assert "is no adapter of 'pocket'" in said
    assert "Starting" not in said
    assert "%|" not in said


def test_the_pockets_own_adapters_fit_it(tmp_path):
    shutil.copytree(MODEL_DIR, tmp_path / "pocket")
    adapter = make_adapter(tmp_path / "pocket", tmp_path / "adapter", target_modules="all-linear")
    for engine in ("vllm", "transformers"):
        assert_fits(ModelConfig(name="pocket"), adapter, engine)
    merged = copy.deepcopy(merge(loaded(MODEL_DIR), adapter))
    assert (logits(merged) - logits(loaded(MODEL_DIR))).abs().max() > 1e-2
