"""What a recipe's text can say, and what strangers write: each is read as it is written, or refused by a sentence."""

from pathlib import Path

import pytest
from recipe_texts import POCKET, SMALLEST

from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import Recipe


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


@pytest.mark.parametrize("override", ["seed", "=1", "seed=[1", "seed=${", "seed={a"])
def test_an_override_that_cannot_be_read_is_quoted(override):
    with pytest.raises(UserError) as error:
        load(POCKET, [override])
    assert override in str(error.value)


def test_a_value_can_refer_to_another(recipe):
    assert recipe(SMALLEST + "seed: ${train.epochs}\ntrain: {epochs: 7}\n").seed == 7


TEXT_KEYS = [  # every key that holds text and nothing else, but for the names
    *("problems.source", "problems.config", "problems.split", "problems.question", "problems.gold"),
    *("model.revision", "curate.pairs_file", "train.drift_texts", "sampler.attention_backend"),
    *("evaluate.benchmarks.test.source", "evaluate.benchmarks.test.gold", "evaluate.adapters.other"),
    *("variants.one.problems.source", "variants.one.model.revision"),
]

PLACES = ("source", "pairs_file", "drift_texts", "adapters.other")  # which may not be empty
TEXTS = ["data/a #1/q.jsonl", "0123456", "no", "on", "1e5", "1:30:00", "2024-01-01", "{a: 1}", "[x", "'quoted'", "a: b"]
TEXTS += ["~", "", " x ", "#", "&a", "*a", "!!int 3", "0x10", "null,", "true", "%a", "@b", "`c`", "é\u3000", "???x"]


def at(recipe: Recipe, key: str) -> object:
    value: object = recipe
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


@pytest.mark.parametrize("text", TEXTS)
def test_an_override_of_a_text_key_arrives_as_typed(recipe, text):
    given = {key: "x" if not text and key.endswith(PLACES) else text for key in TEXT_KEYS}
    r = recipe(SMALLEST, *(f"{key}={value}" for key, value in given.items()))
    assert {key: at(r, key) for key in TEXT_KEYS} == given


def test_null_unsets_a_text_key_that_can_be_null(recipe):
    assert recipe(SMALLEST, "model.revision=x", "model.revision=null").model.revision is None
    assert recipe(SMALLEST, "problems.gold=null", "curate.gold=majority").problems.gold is None
    assert recipe(SMALLEST, "problems.question=null").problems.question == "null"


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


def test_a_number_is_read_as_a_reader_of_today_reads_it():
    assert load(Path("recipes/pocket.yaml"), ["train.epochs=010", "seed=007"]).train.epochs == 10
    with pytest.raises(UserError, match="seed: "):
        load(Path("recipes/pocket.yaml"), ["seed=1:30"])


def test_a_recipes_name_that_is_none_is_a_sentence():
    with pytest.raises(UserError, match="cannot be the name of a file"):
        load(Path("x" * 5000 + ".yaml"))
