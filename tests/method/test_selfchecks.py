"""What is refused before a GPU works for hours: each check on real tiny models, as they are and with a fault put in."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from families import FAMILIES, write
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.method import modeling
from ssb_unsloth.method.collator import Example, make_view
from ssb_unsloth.method.distributions import Head, TeacherLogits
from ssb_unsloth.method.losses import head_logits
from ssb_unsloth.method.selfchecks import (
    check_arithmetic,
    check_head,
    check_likelihood,
    check_prompt,
    check_same,
    check_template,
    check_trained,
    skeleton,
)
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.prompts import PAPER, texts
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import ModelConfig

POCKET = ModelConfig(name="pocket", dtype="float32")
SHAPE = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 200, "max_position_embeddings": 128},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16}
SCALED = {  # an architecture, its config, and the factor of its logits
    "cohere": ({"logit_scale": 0.25}, 0.25),
    "cohere2": ({"logit_scale": 0.25}, 0.25),
    "falcon_h1": (
        {"lm_head_multiplier": 1 / 64, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
        1 / 64,
    ),
    "granite": ({"logits_scaling": 8.0}, 1 / 8),
    "granitemoe": ({"logits_scaling": 8.0, "num_local_experts": 2, "num_experts_per_tok": 1}, 1 / 8),
    "hyperclovax": ({"logits_scaling": 0.125}, 0.125),
    "minicpm3": ({"dim_model_base": 8, "head_dim": 8, "num_key_value_heads": 2, **LATENT}, 8 / 32),
    "mpt": ({"logit_scale": 0.1}, 1.0),  # its config has the key, and its model does not read it
}
CAPPED = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "gemma3_text": {"final_logit_softcapping": 3.0},
    "nanochat": {"final_logit_softcapping": 3.0, "num_key_value_heads": 2},
    "recurrent_gemma": {"logits_soft_cap": 3.0, "num_hidden_layers": 3, "attention_window_size": 16},
    "vaultgemma": {"final_logit_softcapping": 3.0},
    "xlstm": {"output_logit_soft_cap": 3.0, "num_heads": 2, "chunkwise_kernel": "chunkwise--native_autograd"},
}
PLAIN = ["gpt2", "gpt_neox", "llama", "llama4_text", "mamba", "opt", "phi", "phi3", "qwen2", "qwen3_moe", "qwen3_next"]
REFUSED = ["electra", "modernbert-decoder", "rembert", "roberta"]  # layers between the states and the head
IDS = list(range(3, 40))


def config_of(kind, extra):
    small = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "intermediate_size_mlp": 48}
    return CONFIG_MAPPING[kind](
        **{**SHAPE, **(small if kind in ("qwen3_moe", "qwen3_next", "llama4_text") else {}), **extra}
    )


def loaded(kind, extra):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_of(kind, extra), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)  # far from uniform
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            model.get_output_embeddings().bias.normal_(std=8)  # a fresh one is nought
    return model


def bones(kind, extra):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config_of(kind, extra)).eval()


@pytest.mark.parametrize("kind", SCALED)
def test_a_heads_factor_is_the_architectures_own(kind, monkeypatch):
    extra, factor = SCALED[kind]
    model = loaded(kind, extra)
    assert modeling.output_head(model).scale == pytest.approx(factor)
    check_head(model, IDS)
    check_arithmetic(bones(kind, extra), kind)
    if factor != 1:
        monkeypatch.setattr(modeling, "SCALES", {})
        with pytest.raises(UserError, match=r"not the model's own .*take another model, or train\.method sft"):
            check_head(model, IDS)
        with pytest.raises(UserError, match=f"^{kind}: .*not the model's own"):
            check_arithmetic(bones(kind, extra), kind)


@pytest.mark.parametrize("kind", CAPPED)
def test_a_heads_cap_is_the_architectures_own(kind, monkeypatch):
    model = loaded(kind, CAPPED[kind])
    assert modeling.output_head(model).softcap == 3.0
    check_head(model, IDS)
    check_arithmetic(bones(kind, CAPPED[kind]), kind)
    monkeypatch.setattr(modeling, "CAPS", ())
    with pytest.raises(UserError, match="not the model's own"):
        check_arithmetic(bones(kind, CAPPED[kind]), kind)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_head_is_a_plain_head(kind):
    check_head(loaded(kind, {}), IDS)
    check_arithmetic(bones(kind, {}), kind)


def test_a_heads_bias_is_the_architectures_own(monkeypatch):
    monkeypatch.setattr(modeling, "Head", lambda weight, bias, *rest: Head(weight, None, *rest))
    with pytest.raises(UserError, match="not the model's own"):
        check_head(loaded("phi", {}), IDS)
    with pytest.raises(UserError, match="not the model's own"):
        check_arithmetic(bones("phi", {}), "phi")


@pytest.mark.parametrize("kind", REFUSED)
def test_layers_before_the_head_are_refused_without_weights_and_with_them(kind):
    with pytest.raises(UserError, match=f"^{kind}: .*take another model, or train.method sft"):
        check_arithmetic(bones(kind, {}), kind)
    with pytest.raises(UserError, match="take another model"):
        check_head(loaded(kind, {}), IDS)


def test_a_large_architecture_needs_no_weights_to_be_asked(monkeypatch):
    check_arithmetic(bones("inkling_text", {"logits_mup_width_multiplier": 16.0}), "inkling")
    monkeypatch.setattr(modeling, "SCALES", {})
    with pytest.raises(UserError, match="not the model's own"):
        check_arithmetic(bones("inkling_text", {"logits_mup_width_multiplier": 16.0}), "inkling")


def test_sixteen_bits_round_and_are_no_difference():
    for kind, extra in (("qwen2", {}), ("granite", {"logits_scaling": 8.0}), ("gemma2", {})):
        check_head(loaded(kind, extra).to(torch.bfloat16), IDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(FAMILIES["qwen2.5"], tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pocket():
    from ssb_unsloth.backends.transformers import load_model

    return load_model(POCKET)


@pytest.fixture(scope="module")
def pairs(pocket, tokenizer):
    """Questions, hints and the pocket's own replies to them."""
    from ssb_unsloth.backends.chat_template import render
    from ssb_unsloth.backends.sampler import Request
    from ssb_unsloth.backends.transformers_sampler import TransformersSampler
    from ssb_unsloth.pocket.problems import generate
    from ssb_unsloth.prompts import student_messages, teacher_messages
    from ssb_unsloth.recipe.schema import SamplingConfig

    asked = [p.question for p in generate("validation", 4, 0)]
    hinted = [render(tokenizer, teacher_messages(q, "\\boxed{1}", "\\boxed{2}")) for q in asked]
    sampler = TransformersSampler(pocket, tokenizer, batch_size=4)
    decoding = SamplingConfig(temperature=0.4, max_tokens=60)
    replies = sampler.sample([Request(ids, seed) for seed, ids in enumerate(hinted)], decoding)
    bare = [render(tokenizer, student_messages(q)) for q in asked]
    return [Example(str(n), bare[n], hinted[n], r.token_ids) for n, r in enumerate(replies)]


def with_adapter(model):
    return get_peft_model(copy.deepcopy(model), PeftLora(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")).eval()


def test_a_teacher_knows_its_own_replies_and_not_a_strangers(pocket, pairs):
    assert check_likelihood(pocket, pairs) < 1
    torch.manual_seed(0)
    stranger = transformers.AutoModelForCausalLM.from_config(pocket.config, dtype=torch.float32).eval()
    with pytest.raises(
        UserError, match=r"absurd: 6\.\d nats a token in the mean of 4 replies.*blind guessing has 6\.3"
    ):
        check_likelihood(stranger, pairs)  # weights that were missing in the file
    sharp = copy.deepcopy(pocket)
    with torch.no_grad():
        sharp.lm_head.weight = torch.nn.Parameter(sharp.lm_head.weight * -3)
    with pytest.raises(UserError, match="absurd"):
        check_likelihood(sharp, pairs)


def test_a_fresh_student_is_its_teacher_in_the_same_context(pocket, pairs):
    student = with_adapter(pocket)
    assert check_same(student, pairs, None, 2.0) < 1e-6
    head = modeling.output_head(pocket)
    with torch.no_grad():
        stored = {p.id: modeling.reply_states(pocket, make_view([p.teacher_ids], [p.reply_ids], 0)) for p in pairs}
    assert check_same(student, pairs, lambda ids: stored[ids[0]], 2.0) < 1e-6
    assert check_same(student, pairs, lambda ids: TeacherLogits(head_logits(stored[ids[0]], head)), 1.0) < 1e-6
    shifted = {name: rows.roll(1, 0) for name, rows in stored.items()}
    other = {
        p.id: stored[q.id].repeat(9, 1)[: len(p.reply_ids)] for p, q in zip(pairs, pairs[1:] + pairs[:1], strict=True)
    }
    for wrong in (shifted, other):
        with pytest.raises(UserError, match=r"differ before the training has begun: .*ssb teach --force"):
            check_same(student, pairs, lambda ids, wrong=wrong: wrong[ids[0]], 2.0)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    with pytest.raises(UserError, match="a fresh adapter changes nothing"):
        check_same(student, pairs, None, 2.0)


def test_a_training_that_has_changed_nothing_is_refused(pocket, tokenizer):
    student = with_adapter(pocket)
    with pytest.raises(UserError, match=r"changed nothing.*train\.learning_rate"):
        check_trained(student, tokenizer, PAPER)
    with torch.no_grad():
        next(p for name, p in student.named_parameters() if "lora_B" in name)[0, 0] = 1e-3
    check_trained(student, tokenizer, PAPER)


def test_every_message_stands_in_the_prompt_once(tokenizer):
    for given in (PAPER, texts("released")):
        check_template(tokenizer, given)
    silent = copy.deepcopy(tokenizer)  # Phi-3's first template has no branch for the system
    silent.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>{{ m['content'] }}<|im_end|>"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    )
    with pytest.raises(UserError, match=r"renders the system's message not at all: it is dropped"):
        check_template(silent, PAPER)
    twice = copy.deepcopy(tokenizer)
    twice.chat_template = "{% for m in messages %}{{ m['content'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match="the system's message 2 times"):
        check_template(twice, texts("released"))
    cut = copy.deepcopy(tokenizer)
    cut.chat_template = "{% for m in messages %}{{ m['content'][:600] }}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match="the user's message not at all"):
        check_template(cut, PAPER)


def test_blanks_at_a_messages_ends_may_change():
    check_prompt("<s>a\n b\n\n<u>c", [{"role": "system", "content": " a b\n "}, {"role": "user", "content": "c"}], "X")


def test_a_config_that_makes_no_model_is_a_sentence(tmp_path):
    for config in (
        {"model_type": "unheard_of"},
        {"model_type": "llama", "hidden_size": "wide"},
        {"model_type": "clip"},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="cannot be loaded"):
            skeleton(ModelConfig(name=str(tmp_path)))


@pytest.fixture
def recipe(tmp_path):
    """The pocket's recipe on a small scale, as command words for `ssb curate`; what is added to them wins."""

    def words(*overrides, command="curate"):
        fixed = ["curate.pairs=2", "curate.questions=2", "sampler.engine=transformers", "model.backend=transformers"]
        return [command, "recipes/pocket.yaml", "--runs", str(tmp_path), *fixed, *overrides]

    return words


@pytest.fixture
def sampled(monkeypatch):
    """Whether an engine was started."""
    from ssb_unsloth.pipeline.stages import curate

    started = []
    monkeypatch.setattr(curate, "load_sampler", lambda *_, **__: started.append(1) or pytest.fail("it samples"))
    return started


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["train.lora.target_modules=[q_proj,gate_porj]"],
            "has no layer gate_porj; its layers are 4 x q_proj",
        ),
        (["evaluate.benchmarks.test.source=nowhere.jsonl"], r"nowhere\.jsonl: no such file"),
        (["evaluate.references=[bse]"], "no model 'bse' here; there are base"),
        (["evaluate.adapters.theirs=./nowhere"], r"evaluate\.adapters\.theirs: \./nowhere: no such folder"),
        (["evaluate.benchmarks.test.max_tokens=500"], r"problem \w+ takes \d+ tokens and its reply up to 500"),
        (["variants.other.train.lora.target_modules=[q_prj]"], "has no layer q_prj"),
    ],
)
def test_before_the_first_stage_a_recipe_is_refused_for_what_a_later_one_would(
    recipe, sampled, capsys, overrides, says
):
    assert main(recipe(*overrides)) == 2
    assert not sampled
    error = capsys.readouterr().err
    assert re.search(says, error), error
    assert "Traceback" not in error


def test_benchmarks_are_counted_before_the_first_stage(recipe, sampled, capsys, tmp_path):
    row = {"problem": "1 + 1?", "answer": "2", "unique_id": "a"}
    (tmp_path / "short.jsonl").write_text(json.dumps(row) + "\n")
    assert (
        main(
            recipe(
                f"evaluate.benchmarks.math500.source={tmp_path / 'short.jsonl'}",
                "evaluate.benchmarks.math500.max_tokens=9",
            )
        )
        == 2
    )
    assert "holds 1 problems and not 500" in capsys.readouterr().err


def test_without_a_benchmark_nothing_is_run(recipe, capsys):
    assert main(recipe("evaluate.benchmarks=null", command="run")) == 2
    assert "evaluate.benchmarks: empty" in capsys.readouterr().err


def test_every_student_is_looked_at_before_the_first_stage(recipe, sampled, capsys, tmp_path):
    """A variant's base model, of which the first student knows nothing."""
    bert = tmp_path / "bert"
    shutil.copytree(MODEL_DIR, bert)
    config_of("roberta", {"vocab_size": 528, "is_decoder": True}).save_pretrained(bert)
    targets = "variants.other.train.lora.target_modules=[query]"
    assert main(recipe(f"variants.other.model.name={bert}", targets)) == 2
    assert "between its hidden states and its head there is another layer" in capsys.readouterr().err


def test_a_control_that_needs_no_hidden_states_may_have_such_a_head(tmp_path):
    from ssb_unsloth.pipeline import preflight
    from ssb_unsloth.pipeline.students import students

    bert = tmp_path / "bert"
    shutil.copytree(MODEL_DIR, bert)
    config_of("roberta", {"vocab_size": 528, "is_decoder": True}).save_pretrained(bert)
    asked = load(
        Path("recipes/pocket.yaml"),
        [f"model.name={bert}", "train.method=sft", "train.lora.target_modules=[query]"],
    )
    preflight.check(asked, students(asked, tmp_path / "run"), tmp_path / "run")
