"""Recipes: everything that is wrong is said at once, with its path and the nearest valid key."""

import dataclasses
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.config import BenchmarkConfig, Recipe, load, save
from ssb_unsloth.errors import UserError

POCKET = Path(__file__).parent.parent / "recipes" / "pocket.yaml"
SMALLEST = "name: mine\nmodel: {name: pocket}\nproblems: {source: pocket}\n"


@pytest.fixture
def recipe(tmp_path):
    """recipe(text, overrides): the loaded recipe of that text."""

    def read(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, overrides)

    return read


@pytest.fixture
def complaint(recipe):
    """complaint(text, overrides): what is said about the recipe, line by line, without the heading."""

    def read(text: str, *overrides: str) -> list[str]:
        with pytest.raises(UserError) as error:
            recipe(text, *overrides)
        heading, *lines = str(error.value).splitlines()
        assert "recipe.yaml" in heading
        assert f"{len(lines)} thing" in heading
        return [line.strip() for line in lines]

    return read


def key_paths(kind: type, prefix: str = "") -> list[str]:
    """Every key of a recipe with its path, sections included."""
    found = []
    for name, type_ in typing.get_type_hints(kind).items():
        found.append(prefix + name)
        if dataclasses.is_dataclass(type_):
            found += key_paths(type_, f"{prefix}{name}.")
    return found


KEYS = key_paths(Recipe) + key_paths(BenchmarkConfig, "evaluate.benchmarks.test.")


def test_the_smallest_recipe_takes_the_papers_values_for_the_rest(recipe):
    r = recipe(SMALLEST)
    assert (r.curate.pairs, r.curate.rollouts) == (256, 4)
    assert (r.train.epochs, r.train.batch_size, r.train.lora.r) == (3, 4, 32)
    assert (r.curate.rollout.temperature, r.curate.refine.temperature) == (0.8, 0.4)


def test_everything_that_is_wrong_is_said_at_once(complaint):
    lines = complaint(
        """
nmae: mine
model: {name: pocket, dtype: float8}
problems: {source: pocket, limit: -1}
train:
  epochs: three
  lora: {rank: 8, r: 0}
  learning_rte: 1e-4
curate: {rollouts: 1}
"""
    )
    expected = {
        "nmae": "did you mean name?",
        "model.dtype": "float32",
        "problems.limit": "-1",
        "train.epochs": "expected int",
        "train.lora.rank": "unknown key",
        "train.lora.r": "0",
        "train.learning_rte": "did you mean train.learning_rate?",
        "curate.rollouts": "at least 2",
        "name": "missing",
    }
    assert {line.split(":")[0] for line in lines} == set(expected)
    for path, text in expected.items():
        assert any(line.startswith(f"{path}:") and text in line for line in lines), path


@settings(max_examples=4, deadline=None, derandomize=True)
@given(place=st.floats(0, 0.999))
def test_any_misspelt_key_is_reported_with_the_right_one(place):
    misspelt = {}
    for path in KEYS:
        section, dot, key = path.rpartition(".")
        letter = int(place * len(key))
        misspelt[path] = f"{section}{dot}{key[: letter + 1]}{key[letter:]}"  # one letter twice
    with pytest.raises(UserError) as error:
        load(POCKET, [f"{wrong}=1" for wrong in misspelt.values()])
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert sorted(lines) == sorted(f"{wrong}: unknown key; did you mean {path}?" for path, wrong in misspelt.items())


def test_a_key_that_resembles_none_is_answered_with_the_known_ones(complaint):
    (line,) = complaint(SMALLEST + "zzzz: 1\n")
    assert line.startswith("zzzz: unknown key; known: name, ")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("seed: x", "seed"),
        ("seed: 1.5", "seed"),
        ("seed: true", "seed"),
        ("seed:", "seed"),
        ("seed: [1]", "seed"),
        ("seed: {a: 1}", "seed"),
        ("train: {greedy: 1}", "train.greedy"),
        ("train: {gradient_checkpointing: perhaps}", "train.gradient_checkpointing"),
        ("train: {learning_rate: fast}", "train.learning_rate"),
        ("train: {denominator: tokens}", "train.denominator"),
        ("train: {report_to: tensorboard}", "train.report_to"),
        ("train: {lora: {target_modules: [[q_proj]]}}", "train.lora.target_modules"),
        ("train:", "train"),
        ("train: 3", "train"),
        ("train: [1]", "train"),
        ("train: {lora: 8}", "train.lora"),
        ("evaluate: {benchmarks: [test]}", "evaluate.benchmarks"),
        ("evaluate: {benchmarks: {test: pocket}}", "evaluate.benchmarks.test"),
        ("evaluate: {benchmarks: {test: {source: pocket, samples: many}}}", "evaluate.benchmarks.test.samples"),
        ("seed: ${nowhere}", "seed"),
        ("seed: ${train.report_to}", "seed"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(complaint, text, path):
    (line,) = complaint(f"{SMALLEST}{text}\n")
    assert line.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("seed=-1", "seed"),
        ("name=a/b", "name"),
        ("name=..", "name"),
        ("name=''", "name"),
        ("problems.limit=0", "problems.limit"),
        ("curate.pairs=0", "curate.pairs"),
        ("curate.wave=-4", "curate.wave"),
        ("curate.rollouts=1", "curate.rollouts"),
        ("train.grpo.questions_per_step=0", "train.grpo.questions_per_step"),
        ("train.grpo.steps=0", "train.grpo.steps"),
        ("curate.rollout.temperature=0", "curate.rollout.temperature"),
        ("curate.rollout.temperature=-1", "curate.rollout.temperature"),
        ("curate.refine.temperature=.nan", "curate.refine.temperature"),
        ("curate.refine.top_p=0", "curate.refine.top_p"),
        ("curate.refine.top_p=1.1", "curate.refine.top_p"),
        ("curate.refine.top_k=-1", "curate.refine.top_k"),
        ("curate.refine.repetition_penalty=0", "curate.refine.repetition_penalty"),
        ("curate.refine.max_tokens=0", "curate.refine.max_tokens"),
        ("curate.refine.max_tokens=512", "curate.refine.max_tokens"),  # all of max_model_len: no room for a prompt
        ("sampler.gpu_memory_utilization=1.5", "sampler.gpu_memory_utilization"),
        ("train.epochs=0", "train.epochs"),
        ("train.learning_rate=0", "train.learning_rate"),
        ("train.learning_rate=.nan", "train.learning_rate"),
        ("train.learning_rate=.inf", "train.learning_rate"),
        ("train.weight_decay=-0.1", "train.weight_decay"),
        ("train.temperature=0", "train.temperature"),
        ("train.sharpen=0", "train.sharpen"),
        ("train.kd_weight=0", "train.kd_weight"),  # and no cross-entropy
        ("train.ce_weight=-1", "train.ce_weight"),
        ("train.micro_batch_size=3", "train.micro_batch_size"),
        ("train.lora.dropout=1", "train.lora.dropout"),
        ("train.lora.r=64", "train.lora.r"),
        ("evaluate.benchmarks.test.samples=0", "evaluate.benchmarks.test.samples"),
        ("evaluate.benchmarks.test.temperature=0", "evaluate.benchmarks.test.temperature"),
        ("evaluate.benchmarks.test.limit=0", "evaluate.benchmarks.test.limit"),
        ("evaluate.benchmarks.test.max_tokens=512", "evaluate.benchmarks.test.max_tokens"),
    ],
)
def test_a_value_that_cannot_work_is_named(override, path):
    with pytest.raises(UserError) as error:
        load(POCKET, [override])
    (line,) = str(error.value).splitlines()[1:]
    assert line.strip().startswith(f"{path}:")


def test_a_benchmark_without_any_decoding_is_refused():
    with pytest.raises(UserError, match="nothing would be sampled"):
        load(POCKET, ["evaluate.benchmarks.test.temperature=null", "evaluate.benchmarks.test.greedy=false"])


def test_sharpening_what_is_one_hot_is_refused():
    with pytest.raises(UserError, match="changes nothing"):
        load(POCKET, ["teach.targets=one_hot", "train.sharpen=2"])


@pytest.mark.parametrize("name", ["a/b", "a.b", "a[0]", "a b", ""])
def test_a_benchmarks_name_can_name_a_file(complaint, name):
    (line,) = complaint(f"{SMALLEST}evaluate: {{benchmarks: {{'{name}': {{source: pocket}}}}}}\n")
    assert line.startswith(f"evaluate.benchmarks.{name}: ")


def test_every_missing_key_is_named(complaint):
    lines = complaint("evaluate: {benchmarks: {test: {split: test}}}\n")
    assert [line.split(":")[0] for line in lines] == [
        "evaluate.benchmarks.test.source",
        "model.name",
        "name",
        "problems.source",
    ]


@pytest.mark.parametrize("text", ["train: [1", "a: {b: 1", "a: b: c", "\tseed: 1", "name: again", "seed: ${"])
def test_yaml_that_cannot_be_read_is_answered_with_its_line(recipe, text):
    with pytest.raises(UserError) as error:
        recipe(f"{SMALLEST}{text}\n")
    assert "recipe.yaml: not valid YAML" in str(error.value)
    assert "line 4" in str(error.value) or "seed" in str(error.value)


@pytest.mark.parametrize("text", ["- name\n- seed\n", "[]"])
def test_a_recipe_that_is_no_mapping_is_refused(recipe, text):
    with pytest.raises(UserError, match="expected a mapping"):
        recipe(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="no such recipe"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml"):
        load(tmp_path / "latin.yaml")


def test_overrides_win_over_the_file_and_the_last_one_wins():
    r = load(
        POCKET,
        ["seed=1", "seed=2", "train.learning_rate=1e-4", "train.report_to=[tensorboard]", "problems.source=a=b.jsonl"],
    )
    assert (r.seed, r.train.learning_rate) == (2, 1e-4)
    assert (r.train.report_to, r.problems.source) == (["tensorboard"], "a=b.jsonl")
    assert r.train.epochs == load(POCKET).train.epochs


def test_an_override_can_add_a_benchmark():
    r = load(POCKET, ["evaluate.benchmarks.more={source: pocket, max_tokens: 100}"])
    assert list(r.evaluate.benchmarks) == [*load(POCKET).evaluate.benchmarks, "more"]


@pytest.mark.parametrize("override", ["seed", "=1", "seed=[1", "seed=${", "seed={a"])
def test_an_override_that_cannot_be_read_is_quoted(override):
    with pytest.raises(UserError) as error:
        load(POCKET, [override])
    assert override in str(error.value)


def test_a_value_can_refer_to_another(recipe):
    assert recipe(SMALLEST + "seed: ${train.epochs}\ntrain: {epochs: 7}\n").seed == 7


@pytest.mark.parametrize("value", ["5", "[1, 2]", "text", "null"])
@pytest.mark.parametrize("section", ["curate", "train", "prompts"])
def test_a_section_that_is_none_is_named_also_under_a_preset_and_over_a_base(tmp_path, complaint, section, value):
    (tmp_path / "below.yaml").write_text(SMALLEST + f"{section}: {{}}\ntrain: {{epochs: 2}}\n" * (section != "train"))
    for text in (SMALLEST, SMALLEST + "preset: author_code\n", "base: below.yaml\n"):
        (line,) = complaint(f"{text}{section}: {value}\n")
        assert line.startswith(f"{section}: ")
        assert line.endswith("expected a mapping.")
    (line,) = complaint(SMALLEST + f"variants: {{a: {{preset: author_code, {section}: {value}}}}}\n")
    assert line.startswith(f"variants.a.{section}: ")


@pytest.mark.parametrize("preset", ["[paper]", "{a: 1}", "3", "${nothing}", "null"])
def test_a_preset_that_is_none_is_named(complaint, preset):
    (line,) = complaint(SMALLEST + f"preset: {preset}\n")
    assert line.startswith("preset: ")


def test_null_takes_away_an_entry_of_the_base_or_all_of_them(recipe):
    text = SMALLEST + "variants: {a: {rounds: 2}, b: {rounds: 3}}\nevaluate: {benchmarks: {pocket-test: {}}}\n"
    assert list(recipe(text).variants) == ["a", "b"]
    assert list(recipe(text, "variants.a=null").variants) == ["b"]
    without = recipe(text, "variants=null", "evaluate.benchmarks=null")
    assert (without.variants, without.evaluate.benchmarks) == ({}, {})


@pytest.mark.parametrize("overrides", [[], ["seed=5", "problems.limit=null", "train.report_to=[tensorboard]"]])
def test_a_saved_recipe_reads_back_unchanged(tmp_path, overrides):
    recipe = load(POCKET, overrides)
    save(recipe, tmp_path / "resolved.yaml")
    assert load(tmp_path / "resolved.yaml") == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["resolved.yaml"]
    text = (tmp_path / "resolved.yaml").read_text(encoding="utf-8")
    assert "max_grad_norm" in text  # also what was left at its default


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("train.grpo.generations=1", "train.grpo.generations"),
        ("train.grpo.micro_batch_size=7", "train.grpo.micro_batch_size"),
        ("train.grpo.max_tokens=512", "train.grpo.max_tokens"),
        ("train.grpo.beta=-1", "train.grpo.beta"),
        ("train.grpo.gpu_memory_utilization=1.5", "train.grpo.gpu_memory_utilization"),
    ],
)
def test_grpos_settings_are_looked_at_where_grpo_is_asked_for(override, path):
    load(POCKET, [override])
    with pytest.raises(UserError, match=path.replace(".", r"\.") + ": "):
        load(POCKET, [override, "train.method=grpo"])
