"""A recipe out of its layers: everything that is wrong is said at once, with its path and the nearest valid key."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_texts import KEYS, POCKET, SMALLEST

from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.loading import DEFAULTS, load, save, variant


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
        # train.refresh, which its own misspelt keys give, wants rollouts.
        load(POCKET, [*(f"{wrong}=1" for wrong in misspelt.values()), "teach.replies=rollouts"])
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
        ("train: {lora: {target_modules: 3}}", "train.lora.target_modules"),
        ("train: {lora: {target_modules:}}", "train.lora.target_modules"),
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


@pytest.mark.parametrize("wanted", ["auto", "all-linear", ".*\\.(q|v)_proj", ["q_proj", "no", "0x1"]])
def test_where_lora_goes_is_a_word_a_regular_expression_or_a_list(wanted, tmp_path):
    path = tmp_path / "recipe.yaml"
    given = f"[{', '.join(wanted)}]" if isinstance(wanted, list) else wanted
    quoted = given if isinstance(wanted, list) else f"'{given}'"
    path.write_text(f"{SMALLEST}train: {{lora: {{target_modules: {quoted}}}}}\n")
    assert load(path).train.lora.target_modules == wanted
    r = load(POCKET, [f"train.lora.target_modules={given}"])
    assert r.train.lora.target_modules == wanted
    save(r, tmp_path / "saved.yaml")
    assert load(tmp_path / "saved.yaml") == r


def test_every_missing_key_is_named(complaint):
    lines = complaint("evaluate: {benchmarks: {test: {split: test}}}\n")
    assert [line.split(":")[0] for line in lines] == [
        "evaluate.benchmarks.test.source",
        "model.name",
        "name",
        "problems.source",
    ]


def test_overrides_win_over_the_file_and_the_last_one_wins():
    r = load(
        POCKET,
        [
            "seed=1",
            "seed=2",
            "train.learning_rate=1e-4",
            "train.lora.target_modules=[q_proj]",
            "problems.source=a=b.jsonl",
        ],
    )
    assert (r.seed, r.train.learning_rate) == (2, 1e-4)
    assert (r.train.lora.target_modules, r.problems.source) == (["q_proj"], "a=b.jsonl")
    assert r.train.epochs == load(POCKET).train.epochs


def test_an_override_can_add_a_benchmark():
    r = load(POCKET, ["evaluate.benchmarks.more={source: pocket, max_tokens: 100}"])
    assert list(r.evaluate.benchmarks) == [*load(POCKET).evaluate.benchmarks, "more"]


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


@pytest.mark.parametrize("overrides", [[], ["seed=5", "problems.limit=null", "evaluate.references=[base, base]"]])
def test_a_saved_recipe_reads_back_unchanged(tmp_path, overrides):
    recipe = load(POCKET, overrides)
    save(recipe, tmp_path / "resolved.yaml")
    assert load(tmp_path / "resolved.yaml") == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["resolved.yaml"]
    text = (tmp_path / "resolved.yaml").read_text(encoding="utf-8")
    assert "max_grad_norm" in text  # also what was left at its default


def leaves(tree, path=""):
    for key, value in tree.items():
        yield from leaves(value, f"{path}{key}.") if isinstance(value, dict) and value else [f"{path}{key}"]


def test_omegaconfs_mark_for_what_is_missing_is_no_value_of_any_key(complaint):
    for key in leaves(DEFAULTS):
        (line,) = [line for line in complaint(SMALLEST, f"{key}=???") if line.startswith(f"{key}: ")]
        assert "missing" in line
    for word in ("seeds=['???']", "evaluate.references=['???']", "variants.a.train.epochs=???", "model=???"):
        assert any("missing" in line for line in complaint(SMALLEST, word))


def test_lora_is_null_or_a_section_in_every_layer(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        f"base: {POCKET}\npreset: author_code\ntrain: {{lora: null}}\nvariants: {{l: {{train: {{lora: {{r: 4}}}}}}}}\n"
    )
    whole = load(path)
    assert whole.train.lora is None
    assert variant(whole, "l").train.lora.r == 4
    save(whole, tmp_path / "saved.yaml")
    assert load(tmp_path / "saved.yaml") == whole
    assert load(path, ["train.lora.r=8"]).train.lora.r == 8
    assert load(POCKET, ["train.lora.r=8", "train.lora=null"]).train.lora is None
    assert variant(load(POCKET, ["variants={w: {train: {lora: null}}}"]), "w").train.lora is None
    for wrong in ("8", "[1]", "none", "no"):
        with pytest.raises(UserError, match=r"train\.lora: .*expected a mapping or null"):
            load(POCKET, [f"train.lora={wrong}"])
