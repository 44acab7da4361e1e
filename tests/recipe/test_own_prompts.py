"""Prompts of a recipe's own: from where they are read, what is refused, and which stages depend on them."""

from dataclasses import asdict, replace

import pytest

from ssb_unsloth.backends import load_sampler
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.prompts import PAPER, teacher_messages
from ssb_unsloth.recipe.loading import load, save, variant
from ssb_unsloth.recipe.schema import CurateConfig, ModelConfig, PromptsConfig, SamplerConfig, SamplingConfig
from ssb_unsloth.records import Pair, read_jsonl
from ssb_unsloth.run import keys

HEAD = "name: x\nmodel: {name: pocket}\nproblems: {source: pocket}\n"
REFINE = "Q:\n<question>\n\nGood:\n<right>\n\nBad: <wrong>\n\nNow you. End in <answer_form>.\n"


def test_a_text_stands_in_the_recipe_or_in_a_file_beside_the_place_that_names_it(tmp_path):
    for folder in ("base", "mine", "here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tutor.txt").write_text(f"Tutor of {folder},\nin <answer_form>.\n\n")
    (tmp_path / "base" / "refine.md").write_bytes(REFINE.replace("\n", "\r\n").encode())
    (tmp_path / "base" / "base.yaml").write_text(HEAD + "prompts: {tutor: tutor.txt, refine: refine.md}\n")
    path = tmp_path / "mine" / "recipe.yaml"
    path.write_text(
        "base: ../base/base.yaml\n"
        "variants:\n  other: {prompts: {tutor: tutor.txt}}\n"
        "  inline:\n    prompts:\n      tutor: |\n        Two\n        lines.\n"
    )
    recipe = load(path)
    assert recipe.prompts.tutor == "Tutor of base,\nin <answer_form>."
    assert recipe.prompts.refine == REFINE.removesuffix("\n")
    assert recipe.prompts.texts.tutor == "Tutor of base,\nin \\boxed{...}."
    assert variant(recipe, "other").prompts.tutor == "Tutor of mine,\nin <answer_form>."
    assert variant(recipe, "inline").prompts.tutor == "Two\nlines."
    over = load(path, [f"prompts.tutor={tmp_path / 'here' / 'tutor.txt'}", "prompts.answer_form=so \\boxed{...}"])
    assert over.prompts.texts.tutor == "Tutor of here,\nin so \\boxed{...}."
    save(over, tmp_path / "saved.yaml")  # the run's own copy needs none of the files
    assert load(tmp_path / "saved.yaml") == over


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("{tutor: none.txt}", "none.txt: no such file"),
        ("{tutor: name.txt}", r"name\.txt: prompts\.tutor holds nothing but the name of a file, 'tutor\.txt'"),
        ("{tutor: reference.txt}", r"reference\.txt: holds \$\{, which is a reference"),
        ("{tutor: control.txt}", r"prompts\.tutor: holds the control character"),
        ("{refine: 'no gaps'}", r"prompts\.refine: has the gap <question> 0 times"),
        ("{answer_form: '... it is'}", r"prompts\.answer_form: '\.\.\. it is' is no form in which problems\.verifier"),
        (
            "{answer_form: 'Answer: ...'}\nevaluate: {benchmarks: {c: {source: c.csv, verifier: code}}}",
            r"benchmarks\.c\.verifier \(code\)",
        ),
        ("{answer_form: '\\boxed{}'}", r"prompts\.answer_form: .*expected three dots"),
    ],
)
def test_a_text_that_cannot_be_shown_is_refused_by_its_key(tmp_path, prompts, message):
    (tmp_path / "reference.txt").write_text("The set ${x}$")
    (tmp_path / "name.txt").write_text("tutor.txt\n")
    (tmp_path / "control.txt").write_text("a \x1b[2J b")
    (tmp_path / "recipe.yaml").write_text(HEAD + f"prompts: {prompts}\n")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "recipe.yaml")


def test_the_defaults_are_the_papers_and_were_always_the_same_to_a_stage():
    config = PromptsConfig()
    assert config.texts == PAPER
    before = {"wording": "paper", "student": "chat", "control_text": "skip", "reply": "sampled"}
    assert keys.of_prompts(config) == before
    assert keys.of_student_prompt(config) == {"wording": "paper"}


def test_a_text_belongs_to_the_stages_that_show_it():
    plain = PromptsConfig()
    for other in (
        replace(plain, tutor="T"),
        replace(plain, refine=REFINE),
        replace(plain, answer_form=r"**\boxed{...}**"),
    ):
        assert keys.of_prompts(other) != keys.of_prompts(plain)
        seen = other.texts.tutor != plain.texts.tutor  # the evaluation asks under the tutor prompt alone
        assert (keys.of_student_prompt(other) != keys.of_student_prompt(plain)) == seen
    assert set(keys.of_prompts(replace(plain, tutor="T"))) == {*keys.of_prompts(plain), "tutor"}
    assert set(asdict(plain)) == {*keys.of_prompts(plain), "tutor", "refine", "answer_form", "thinking"}


@pytest.mark.slow
def test_the_pocket_curates_under_texts_of_ones_own(tmp_path):
    tutor = PAPER.tutor.replace(r"\boxed{...}", "<answer_form>") + " Be brief."
    texts = PromptsConfig(tutor=tutor, refine=PAPER.refine + "\n\nEnd in <answer_form>.").texts
    short = SamplingConfig(max_tokens=100)
    config = CurateConfig(pairs=2, wave=12, rollout=short, refine=replace(short, temperature=0.4))
    model, engine = ModelConfig(name="pocket", dtype="float32"), SamplerConfig(engine="transformers", max_model_len=512)
    asked = []

    def sampler():
        made = load_sampler(model, engine, 1, adapters=False)
        render = made.render
        made.render = lambda messages: (asked.append(messages), render(messages))[1]
        return made

    Curator(config, sampler, 512, 1, tmp_path, texts=texts).run(generate("bootstrap", 24, 0))
    pairs = read_jsonl(tmp_path / "pairs.jsonl", Pair)
    assert pairs
    assert all(teacher_messages(pair.question, pair.right, pair.wrong, texts) in asked for pair in pairs)
    assert {messages[0]["content"] for messages in asked} == {PAPER.tutor + " Be brief."}
    assert {messages[1]["content"].endswith("End in \\boxed{...}.") for messages in asked} == {True, False}
