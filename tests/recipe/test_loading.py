"""Recipes: everything that is wrong is said at once, with its path and the nearest valid key."""

import dataclasses
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.loading import DEFAULTS, load, save
from ssb_unsloth.recipe.schema import BenchmarkConfig, Recipe

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
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
        ("train.kd_temperature=0", "train.kd_temperature"),
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


@pytest.mark.parametrize("overrides", [[], ["seed=5", "problems.limit=null", "evaluate.references=[base, base]"]])
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


# -- What strangers write ----------------------------------------------------------------------------------------------

TEXT_KEYS = [  # every key that holds text and nothing else, but for the names
    *("problems.source", "problems.config", "problems.split", "problems.question", "problems.gold"),
    *("model.revision", "curate.pairs_file", "train.drift_texts", "sampler.attention_backend"),
    *("evaluate.benchmarks.test.source", "evaluate.benchmarks.test.gold", "evaluate.adapters.other"),
    *("variants.one.problems.source", "variants.one.model.revision"),
]
TEXTS = ["data/a #1/q.jsonl", "0123456", "no", "on", "1e5", "1:30:00", "2024-01-01", "{a: 1}", "[x", "'quoted'", "a: b"]
TEXTS += ["~", "", " x ", "#", "&a", "*a", "!!int 3", "0x10", "null,", "true", "%a", "@b", "`c`", "é\u3000", "???x"]


def at(recipe: Recipe, key: str) -> object:
    value: object = recipe
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


@pytest.mark.parametrize("text", TEXTS)
def test_an_override_of_a_text_key_arrives_as_typed(recipe, text):
    r = recipe(SMALLEST, *(f"{key}={text}" for key in TEXT_KEYS))
    assert {key: at(r, key) for key in TEXT_KEYS} == dict.fromkeys(TEXT_KEYS, text)


def test_null_unsets_a_text_key_that_can_be_null(recipe):
    assert recipe(SMALLEST, "model.revision=x", "model.revision=null").model.revision is None
    assert recipe(SMALLEST, "problems.gold=null").problems.gold == "null"


@pytest.mark.parametrize("text", ["0123456", "no", "1e5", "1:30:00", "2024-01-01", "0x10", "yes", "1_000", ".5"])
def test_a_text_key_of_a_file_holds_what_is_written(recipe, text):
    r = recipe(f"name: mine\nmodel: {{name: pocket, revision: {text}}}\nproblems: {{source: pocket, gold: {text}}}\n")
    assert (r.model.revision, r.problems.gold) == (text, text)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "${oc.env:HOME,x}",
        "x-${oc.env:HOME}-y",
        "${oc.decode:'1'}",
        "${oc.create:{a: 1}}",
        "${oc.select:seed}",
        "${oc.dict.keys:model}",
        "${oc.deprecated:seed}",
        "${${oc.env:HOME}}",
        "${train.${oc.env:HOME}}",
        "${seed}${oc.env:HOME}",
        "\\${oc.env:HOME}",
        "${oc.env:${seed}}",
        "${ oc.env:HOME }",
        "${",
        "${}",
        "${.seed}",
        "${a[0]}",
    ],
)
def test_no_resolver_is_run_wherever_it_stands(tmp_path, value):
    """In a file, a base, an override, a list, a free mapping, a variant, a benchmark, a name of any of them."""
    text = f"'{value.replace(chr(39), chr(39) * 2)}'"
    (tmp_path / "below.yaml").write_text(SMALLEST + f"threads: {text}\n")
    places = {
        "file.yaml": SMALLEST.replace("source: pocket", f"source: {text}"),
        "list.yaml": SMALLEST + f"train: {{report_to: [{text}]}}\n",
        "free.yaml": SMALLEST.replace("name: pocket", f"name: pocket, template: {{a: {text}}}"),
        "variant.yaml": SMALLEST + f"variants: {{a: {{seed: {text}}}}}\n",
        "benchmark.yaml": SMALLEST + f"evaluate: {{benchmarks: {{a: {{source: {text}}}}}}}\n",
        "adapter.yaml": SMALLEST + f"evaluate: {{adapters: {{a: {text}}}}}\n",
        "key.yaml": SMALLEST + f"evaluate: {{adapters: {{{text}: x}}}}\n",
        "above.yaml": "base: below.yaml\nseed: 1\n",
        "base.yaml": SMALLEST + f"base: {text}\n",
    }
    for name, written in places.items():
        (tmp_path / name).write_text(written)
        with pytest.raises(UserError, match=r"no reference to a key") as error:
            load(tmp_path / name)
        assert str(Path.home()) not in str(error.value)
    for key in ("seed", "problems.source", "name", "model.template.a", "variants.a.seed", "train.report_to", "zzz"):
        with pytest.raises(UserError, match=r"no reference to a key|valid YAML"):
            load(POCKET, [f"{key}={value}"])


def test_references_are_resolved_wherever_they_stand(recipe):
    r = recipe(
        SMALLEST.replace("name: mine", "name: run-${seed}-${train.epochs}")
        + "seed: 7\n"
        + "train: {epochs: '${seed}', lora: {r: 16, alpha: '${train.lora.r}', target_modules: ['${model.dtype}']}}\n"
        + "variants: {a: {train: {epochs: '${train.lora.r}'}}}\n"
    )
    assert (r.name, r.train.epochs, r.train.lora.alpha, r.train.lora.target_modules) == ("run-7-7", 7, 16, ["auto"])
    assert r.variants["a"]["train"]["epochs"] == 16


@pytest.mark.parametrize(
    "text",
    [
        "seed: ${seed}",
        "seed: ${threads}\nthreads: ${seed}",
        "variants: {a: {model: {template: '${variants.a.model}'}}}",
        "train: ${train}",
    ],
)
def test_a_reference_to_itself_is_named(complaint, text):
    lines = complaint(f"{SMALLEST}{text}\n")
    assert any("leads back to itself" in line for line in lines)


@pytest.mark.parametrize("value", ["{a0: xxxxxxxxxx, LINKS}", "{a0: [1, 1], LISTS}"])
def test_references_that_double_each_other_are_refused_at_once(recipe, value):
    links = ", ".join(f"a{n + 1}: '${{model.template.a{n}}}${{model.template.a{n}}}'" for n in range(60))
    lists = ", ".join(f"a{n + 1}: ['${{model.template.a{n}}}', '${{model.template.a{n}}}']" for n in range(60))
    text = SMALLEST.replace("name: pocket", f"name: pocket, template: {value}")
    with pytest.raises(UserError):
        recipe(text.replace("LINKS", links).replace("LISTS", lists))


@pytest.mark.parametrize(
    "text",
    [
        "b0: &b0 [x]\n" + "".join(f"b{n + 1}: &b{n + 1} [*b{n}, *b{n}]\n" for n in range(40)),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a {<<: *a}",
        "a: " + "[" * 5000,
        "a: " + "{a: " * 200 + "1" + "}" * 200,
        "a: " + "x" * 200_000,
        "a: !!python/object/apply:os.system ['true']",
        "seed: !!binary aaaa",
        "seed: !!timestamp 2020-01-01",
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
        'name: "a\\0b"',
        'problems: {source: "a\\0b.jsonl"}',
        'problems: {source: "a\\e[31mb.jsonl"}',
        "seed: " + "9" * 5000,
        "seed: " + "9" * 400,
        "train: {learning_rate: " + "9" * 400 + "}",
        "sampler: {gpu_memory_utilization: " + "9" * 400 + "}",
        "train: {lora: {target_modules: [{a: 1}]}}",
        "sampler: {gpu_memory_utilization: {a: 1}}",
        "problems: {limit: {a: 1}}",
        "threads: [1]",
        "seeds: {a: 1}",
        "seeds: [{a: 1}]",
        "seeds: [" + "9" * 400 + "]",
        "evaluate: {adapters: {a: {b: c}}}",
        "evaluate: {adapters: {a: [b]}}",
        "evaluate: {benchmarks: {t: {k: {a: 1}}}}",
        "evaluate: {benchmarks: {" + "t" * 300 + ": {source: pocket}}}",
        "model: {name: pocket, template: [1]}",
        "model: {name: pocket, template: {a: {b: 1}}}",
        "variants: [1]",
        "variants: {a: 1}",
        "1: 2",
        "null: 2",
        "train: {1: 2, no: 3}",
        "rounds: 1000000",
        "variants: {a: {rounds: 1000000}}",
        "variants: {" + ", ".join(f"v{n}: {{rounds: 100}}" for n in range(9)) + "}",
        "seeds: [" + ", ".join(map(str, range(5000))) + "]",
        "threads: 1000000000",
        "curate: {rollouts: 2000000000}",
        "base: '~nouser/x.yaml'",
        'base: "a\\0b"',
        "base: [1]",
        "base: " + "x" * 5000,
        "name: " + "n" * 300,
    ],
)
def test_what_a_recipe_cannot_say_is_a_sentence(tmp_path, text):
    keys = {line.split(":")[0] for line in text.splitlines()}
    written = "".join(f"{line}\n" for line in SMALLEST.splitlines() if line.split(":")[0] not in keys) + text + "\n"
    (tmp_path / "recipe.yaml").write_text(written)
    with pytest.raises(UserError) as error:
        load(tmp_path / "recipe.yaml")
    said = str(error.value)
    assert len(said) < 20_000
    assert "\0" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@host:8000/v1",
        "https://hunter2@host/v1#name",
        "http://host/v1?api_key=hunter2",
        "http://host/v1?x=1&access_token=hunter2",
        "https://bucket/x?X-Amz-Signature=hunter2",
        "HTTPS://me:hunter2@host",
    ],
)
@pytest.mark.parametrize("key", ["model.name", "problems.source", "evaluate.adapters.a", "curate.pairs_file", "nokey"])
def test_a_password_in_a_url_is_refused_and_not_shown(tmp_path, key, url):
    with pytest.raises(UserError, match="carries a password or a key") as error:
        load(POCKET, [f"{key}={url}"])
    assert "hunter2" not in str(error.value)
    section, _, name = key.rpartition(".")
    nested = f"{{{name}: '{url}'}}"
    for part in reversed(section.split(".") if section else []):
        nested = f"{{{part}: {nested}}}"
    (tmp_path / "recipe.yaml").write_text(nested)
    with pytest.raises(UserError, match="carries a password or a key") as error:
        load(tmp_path / "recipe.yaml")
    assert "hunter2" not in str(error.value)


def test_a_server_is_asked_and_not_trained(tmp_path):
    with pytest.raises(UserError, match=r"model\.name: http://host:1/v1 is a server"):
        load(POCKET, ["model.name=http://host:1/v1"])
    with pytest.raises(UserError, match=r"model\.name: http://host:1/v1 is a server"):
        load(POCKET, ["variants.a.model.name=http://host:1/v1"])
    assert load(POCKET, ["model.name=http://host:1/v1"], servers=True).model.name == "http://host:1/v1"


def test_a_number_is_read_as_a_reader_of_today_reads_it():
    assert load(Path("recipes/pocket.yaml"), ["train.epochs=010", "seed=007"]).train.epochs == 10
    with pytest.raises(UserError, match="seed: "):
        load(Path("recipes/pocket.yaml"), ["seed=1:30"])


@pytest.mark.parametrize("word", ["messages=1", "if=1", "true=1", "x=.nan", "x=-.inf", "add_generation_prompt=false"])
def test_a_template_variable_that_would_break_the_template_is_refused(word):
    with pytest.raises(UserError, match=rf"model\.template\.{word.partition('=')[0]}: expected a variable's name"):
        load(Path("recipes/pocket.yaml"), [f"model.template.{word}"])


def test_a_recipes_name_that_is_none_is_a_sentence():
    with pytest.raises(UserError, match="cannot be the name of a file"):
        load(Path("x" * 5000 + ".yaml"))


def leaves(tree, path=""):
    for key, value in tree.items():
        yield from leaves(value, f"{path}{key}.") if isinstance(value, dict) and value else [f"{path}{key}"]


def test_omegaconfs_mark_for_what_is_missing_is_no_value_of_any_key(complaint):
    for key in leaves(DEFAULTS):
        (line,) = [line for line in complaint(SMALLEST, f"{key}=???") if line.startswith(f"{key}: ")]
        assert "missing" in line
    for word in ("seeds=['???']", "evaluate.references=['???']", "variants.a.train.epochs=???", "model=???"):
        assert any("missing" in line for line in complaint(SMALLEST, word))
