"""Which layers of a model LoRA is put on, on real architectures without weights; PEFT says what its names would hit."""

import peft
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from ssb_unsloth.errors import UserError
from ssb_unsloth.machine.lora_targets import SEVEN, linear_layers, lora_targets, select

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
    "pad_token_id": 0,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1}
HYBRID = SMALL | MAMBA | {"shared_intermediate_size": 40, "num_local_experts": 0, "layer_types": ["mamba", "attention"]}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FAMILIES = {
    "llama": SMALL,
    "phi3": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64},
    "gpt_neox": SMALL,
    "lfm2": SMALL | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "granitemoehybrid": HYBRID,
    "gemma3": {"text_config": SMALL, "vision_config": VISION, "mm_tokens_per_image": 4},
    "qwen2_moe": SMALL | {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "mixtral": SMALL | {"num_local_experts": 4},
    "falcon_h1": SMALL | MAMBA | {"mamba_d_ssm": 64, "mamba_chunk_size": 8},
}
KINDS = {  # by auto; the same by all-linear but for Falcon-H1
    "llama": dict.fromkeys(SEVEN, 2),
    "phi3": {"o_proj": 2, "qkv_proj": 2, "gate_up_proj": 2, "down_proj": 2},
    "gpt2": {"c_attn": 2, "c_proj": 4, "c_fc": 2},
    "gpt_neox": {"query_key_value": 2, "dense": 2, "dense_h_to_4h": 2, "dense_4h_to_h": 2},
    "lfm2": {"in_proj": 1, "out_proj": 2, "w1": 2, "w3": 2, "w2": 2, "q_proj": 1, "k_proj": 1, "v_proj": 1},
    "granitemoehybrid": {
        "in_proj": 1,
        "input_linear": 2,
        "output_linear": 2,
        "q_proj": 1,
        "k_proj": 1,
        "v_proj": 1,
        "o_proj": 1,
    },
    "gemma3": dict.fromkeys(SEVEN, 2),
    "qwen2_moe": dict.fromkeys(SEVEN, 2),
    "mixtral": dict.fromkeys(SEVEN[:4], 2),
    "falcon_h1": dict.fromkeys(SEVEN, 2),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def bones(family):
    config = AutoConfig.for_model(family, **FAMILIES[family])
    auto = AutoModelForImageTextToText if family == "gemma3" else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config)


@every_family
def test_auto_takes_the_seven_projections_or_else_every_linear_layer_of_the_language_model(family):
    assert select(bones(family), "auto").kinds == KINDS[family]
    all_of_them = KINDS[family] | ({"in_proj": 2} if family == "falcon_h1" else {})
    assert select(bones(family), "all-linear").kinds == all_of_them


@every_family
def test_peft_finds_the_same_layers_by_the_short_names_and_saves_as_many_parameters(family):
    model = bones(family)
    chosen = select(model)
    student = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=chosen.short, task_type="CAUSAL_LM"))
    assert set(student.base_model.targeted_module_names) == set(chosen.targets)
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    assert trained == chosen.parameters(4)


@every_family
def test_a_layers_sizes_are_its_inputs_and_outputs(family):
    model = bones(family)
    for name, (inputs, outputs) in linear_layers(model).items():
        module = model.get_submodule(name)
        assert (inputs, outputs) == tuple(module.weight.shape)[:: 1 if hasattr(module, "nf") else -1]


def test_what_is_left_out_is_said_with_its_parameters():
    moe, gemma, granite = select(bones("qwen2_moe")), select(bones("gemma3")), select(bones("granitemoehybrid"))
    assert moe.left_out == {
        "2 x experts in one tensor": 2 * 4 * 3 * 24 * 32,
        "2 x shared_expert_gate (router)": 2 * 32,
        "the head": 32 * 64,
    }
    assert gemma.left_out.keys() == {"the vision_tower", "the multi_modal_projector", "the head"}
    tower = sum(p.numel() for p in bones("gemma3").model.vision_tower.parameters())
    assert gemma.left_out["the vision_tower"] == tower
    assert granite.left_out["1 x out_proj (read by Mamba's kernel)"] == 32 * 64


def test_the_recipes_own_list_stays_as_it_is_where_it_means_the_same():
    model = bones("llama")
    assert select(model).short == list(SEVEN)
    assert select(model, ["v_proj", "self_attn.q_proj"]).short == ["v_proj", "self_attn.q_proj"]
    in_full = select(bones("gemma3"), ["q_proj"])
    assert in_full.short == list(in_full.targets)  # PEFT would find the vision tower's too


def test_no_form_of_the_wish_reaches_the_vision_tower():
    model = bones("gemma3")
    for wanted in (["q_proj", "fc1"], "vision.*", ["multi_modal_projector"]):
        with pytest.raises(UserError, match=r"^train\.lora\.target_modules: "):
            select(model, wanted)
    for wanted in ("auto", "all-linear", ["q_proj", "v_proj"], ".*q_proj"):
        assert all(name.startswith("model.language_model.layers.") for name in lora_targets(model, wanted))


def test_a_regular_expression_is_over_whole_names():
    found = lora_targets(bones("llama"), r"model\.layers\.1\..*_proj")
    assert found == [name for name in linear_layers(bones("llama")) if ".1." in name]
    assert lora_targets(bones("llama"), ".*") == list(linear_layers(bones("llama")))


def test_a_list_can_name_head_embedding_and_router():
    names = ["lm_head", "embed_tokens", "shared_expert_gate"]
    assert select(bones("qwen2_moe"), names).kinds == {"embed_tokens": 1, "shared_expert_gate": 2, "lm_head": 1}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (["q_proj", "gate_porj"], "has no layer gate_porj; its layers are 2 x q_proj"),
        ([], "has no layer where none is named"),
        ("(", "'\\(' is no regular expression"),
        ("q_proj", "no linear layer of m has a name that 'q_proj' matches as a whole"),
        (["layers"], "has no layer layers"),
    ],
)
def test_a_wish_that_hits_nothing_is_told_what_there_is(wanted, says):
    with pytest.raises(UserError, match=f"^train.lora.target_modules: .*{says}.*[Ss]et auto, all-linear"):
        select(bones("llama"), wanted, "m")


def test_a_model_that_is_no_transformers_model_is_looked_at_too():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.ModuleDict({"visual": nn.Linear(4, 4), "up": nn.Linear(4, 8), "router": nn.Linear(4, 2)})

    assert linear_layers(Own()) == {"model.up": (4, 8)}
    with pytest.raises(UserError, match="the model has no linear layer in its language model"):
        select(nn.Embedding(2, 2))
