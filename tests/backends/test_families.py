"""The recipes' model families: the real chat template on a tiny random model, through the whole chain."""

import json
from pathlib import Path

import pytest
from families import DATA, FAMILIES, whole_chain, write
from transformers import AutoTokenizer

from ssb_unsloth.backends.chat_template import end_of_turn, render
from ssb_unsloth.backends.transformers import load_tokenizer
from ssb_unsloth.errors import UserError
from ssb_unsloth.prompts import student_messages, teacher_messages
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import ModelConfig
from ssb_unsloth.records import Generation, generations_file, read_jsonl
from ssb_unsloth.run.rundir import RunDir

RECIPES = Path(__file__).parents[2] / "recipes"
QUESTION, REPLY = "Mia has 9 shells. Tom gives 3 to Mia. How many?", "9+3=12, not 9-3. The answer is \\boxed{12}."
every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: write(family, tmp_path_factory.mktemp(family.template)) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {
        name: load_tokenizer(
            ModelConfig(name=str(folders[name]), template=load(RECIPES / family.recipe).model.template)
        )
        for name, family in FAMILIES.items()
    }


def finished(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


@every_family
def test_the_prompt_is_a_prefix_of_the_finished_turn_and_the_reply_and_its_end_follow(tokenizers, name):
    tokenizer = tokenizers[name]
    for messages in (student_messages(QUESTION), teacher_messages(QUESTION, REPLY, "\\boxed{6}")):
        prompt = render(tokenizer, messages)
        whole = finished(tokenizer, [*messages, {"role": "assistant", "content": REPLY}])
        assert whole[: len(prompt)] == prompt
        reply = [*tokenizer.encode(REPLY, add_special_tokens=False), end_of_turn(tokenizer)]
        assert whole[len(prompt) :][: len(reply)] == reply


@every_family
def test_the_end_of_turn_is_the_templates_and_not_always_the_eos(tokenizers, name):
    family, tokenizer = FAMILIES[name], tokenizers[name]
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == family.end
    assert tokenizer.eos_token == family.eos
    assert (family.end != family.eos) == (name == "gemma-3")


@every_family
def test_the_tutor_prompt_and_the_question_stand_in_the_prompt_once(tokenizers, name):
    text = tokenizers[name].decode(render(tokenizers[name], student_messages(QUESTION)))
    assert text.count("expert math tutor") == text.count(QUESTION) == 1


def test_qwen3_opens_the_reply_with_an_empty_think_block_only_where_thinking_is_off(folders, tokenizers):
    off = tokenizers["qwen3"].decode(render(tokenizers["qwen3"], student_messages(QUESTION)))
    assert off.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    thinking = load_tokenizer(ModelConfig(name=str(folders["qwen3"])))
    assert thinking.decode(render(thinking, student_messages(QUESTION))).endswith("<|im_start|>assistant\n")


def test_llamas_prompt_does_not_change_from_day_to_day(folders, tokenizers):
    assert "Today Date: 26 Jul 2024" in tokenizers["llama-3.2"].decode(
        render(tokenizers["llama-3.2"], student_messages(QUESTION))
    )
    dated = load_tokenizer(ModelConfig(name=str(folders["llama-3.2"])))
    assert "Today Date: 01 Jan 2026" in dated.decode(render(dated, student_messages(QUESTION)))


def test_gemma_has_no_turn_for_the_system(tokenizers):
    text = tokenizers["gemma-3"].decode(render(tokenizers["gemma-3"], student_messages(QUESTION)))
    assert text.startswith("<bos><start_of_turn>user\n**Role:**")
    assert text.count("<start_of_turn>") == 2


def test_the_variables_stay_in_a_tokenizer_that_is_saved(tokenizers, tmp_path):
    tokenizers["qwen3"].save_pretrained(str(tmp_path))
    saved = AutoTokenizer.from_pretrained(str(tmp_path))
    assert render(saved, student_messages(QUESTION)) == render(tokenizers["qwen3"], student_messages(QUESTION))


def test_a_template_that_refuses_a_system_message_is_told_so(folders):
    tokenizer = load_tokenizer(ModelConfig(name=str(folders["gemma-3"])))
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match=r"refuses messages of the roles system, user: System role not supported"):
        render(tokenizer, student_messages(QUESTION))


@pytest.mark.slow
@every_family
def test_a_family_goes_through_the_whole_chain_by_its_own_recipe(folders, tmp_path, name):
    """Curate by pairs that were made elsewhere, for a random model gets nothing right; then teach, train, evaluate."""
    rows = [json.loads(line) for line in (DATA / "train_rows.jsonl").read_text().splitlines()]
    pairs = [
        {"question": r["question"], "right": REPLY, "wrong": "\\boxed{1}", "reply": f"{n} cups. \\boxed{{{n}}}"}
        for n, r in enumerate(rows[:4])
    ]
    recipe = whole_chain(RECIPES / FAMILIES[name].recipe, folders[name], pairs, tmp_path)
    run = RunDir(tmp_path / "run")
    assert run.manifest("train")["summary"]["steps"] == 2
    replies = {}
    for model in ("base", "ssb", "sft", "published"):
        kept = read_jsonl(run.stage("evaluate") / generations_file(model, recipe.seed, "gsm8k", 0.0), Generation)
        replies[model] = [generation.text for generation in kept]
    assert replies["published"] == replies["ssb"] != replies["base"]
    assert len(replies["base"]) == 2
    report = (run.stage("report") / "report.md").read_text(encoding="utf-8")
    assert "4 pairs of your own were read" in report
    assert "\\boxed{3}" in (run.stage("report") / "examples.md").read_text(encoding="utf-8")
