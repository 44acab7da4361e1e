"""LoRA on architectures that are unlike Llama's, by the loader: what is trained, what the teacher is, what is saved."""

import copy
import json

import pytest
import torch
from architectures import ARCHITECTURES, KINDS, build
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from ssb_unsloth.backends.adapters import assert_fits, merge, merged_for_vllm
from ssb_unsloth.backends.transformers import add_lora
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.modeling import as_teacher
from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig
from ssb_unsloth.training.common import save_adapter

IDS = torch.tensor([[5, 9, 11, 3, 27, 40]])
KEYS = {"plain": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def student(family, **keys):
    """A base, and it with an adapter that is not at its start."""
    base = build(family).eval()
    model = add_lora(copy.deepcopy(base), LoraConfig(r=4, alpha=8, **keys), 1, gradient_checkpointing=False)
    draw = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return base, model


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_student_learns_in_each_layer_and_the_teacher_is_the_base_to_the_bit(family):
    base, model = student(family)
    assert (logits(model) - logits(base)).abs().max() > 1e-3
    with as_teacher(model):
        assert torch.equal(logits(model), logits(base))
    model(input_ids=IDS, use_cache=False).logits.float().pow(2).mean().backward()
    learning = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert len(learning) == 2 * sum(KINDS[family].values())  # A and B of each
    assert not any(part in name for name in learning for part in ("vision", "lm_head", "expert_gate", "router"))


@pytest.mark.parametrize("keys", ["rslora", "dora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_with_dora_and_rslora_too(family, keys):
    base, model = student(family, **KEYS[keys])
    assert (logits(model) - logits(base)).abs().max() > 1e-3
    with as_teacher(model):
        assert torch.equal(logits(model), logits(base))


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        *(("llama", "rslora"), ("llama", "dora"), ("gpt2", "dora")),
        *((family, "plain") for family in ("gpt2", "phi3", "gemma3", "granitemoehybrid")),
    ],
)
def test_what_is_saved_fits_its_base_and_merges_into_it(family, keys, tmp_path):
    base, model = student(family, **KEYS[keys])
    base.save_pretrained(tmp_path / "base")
    save_adapter(model, tmp_path / "adapter")
    named = ModelConfig(name=str(tmp_path / "base"))
    for engine in ("transformers", "vllm"):
        assert_fits(named, tmp_path / "adapter", engine)
    assert merged_for_vllm(tmp_path / "adapter") == (keys == "dora")
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), logits(model))
    torch.testing.assert_close(logits(merge(base, tmp_path / "adapter")), logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("keys", "scaling"), [("plain", 8 / 4), ("rslora", 8 / 4**0.5)])
def test_vllm_scales_by_the_same_factor(keys, scaling, tmp_path):
    peft_helper = pytest.importorskip("vllm.lora.peft_helper")
    _, model = student("llama", **KEYS[keys])
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(KINDS["llama"])
    assert peft_helper.PEFTHelper.from_dict(config).vllm_lora_scaling_factor == scaling
    assert {layer.scaling["default"] for layer in model.modules() if isinstance(layer, LoraLayer)} == {scaling}


def test_what_a_kernel_would_not_see_is_refused():
    with pytest.raises(UserError, match=r"^train\.lora\.target_modules: the model has no layer mamba\.out_proj"):
        student("falcon_h1", target_modules=["mamba.out_proj"])
