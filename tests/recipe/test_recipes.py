"""The recipes that come with the package."""

import math
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from ssb_unsloth.machine.cards import CARDS
from ssb_unsloth.machine.plan import make_plan
from ssb_unsloth.recipe.loading import load, variant
from ssb_unsloth.recipe.presets import PRESETS

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
OF_BASES = [path for path in RECIPES if path.stem == "small-gsm8k" or "base: small-gsm8k.yaml" in path.read_text()]
HEAD = {
    "Card": r"(?P<card>[\w-]+), (?P<gb>16|24|40) GB; (?P<gib>\d+) GiB by `ssb plan`\.",
    "Licence": r"(Apache 2\.0|MIT|Llama 3\.2 Community License|Gemma Terms of Use);"
    r" (not gated|gated\b.*)\.( From memory: docs/models\.md\.)?",
    "Peculiar": r"\S.+",
}
every_base = pytest.mark.parametrize("path", OF_BASES, ids=lambda path: path.stem)
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))


@every_recipe
def test_a_recipe_loads_and_names_its_run_after_its_file(path):
    assert load(path).name == path.stem


@every_recipe
def test_a_recipes_first_line_says_in_a_sentence_what_it_is_for(path):
    assert re.fullmatch(r"# [A-Z].{20,}\.", path.read_text(encoding="utf-8").splitlines()[0])


@every_recipe
def test_a_recipe_says_the_command_that_runs_it(path):
    assert re.search(rf"ssb (run|sweep) recipes/{path.relative_to(FOLDER)}", path.read_text(encoding="utf-8"))


@every_recipe
def test_every_section_of_a_recipe_explains_something(path):
    sections = re.findall(r"^(\w+):[ \t]*(?:#.*)?\n((?:[ \t]+.*\n|\n)*)", path.read_text(encoding="utf-8"), re.M)
    assert sections
    assert [name for name, body in sections if "#" not in body] == []


@every_recipe
def test_a_recipe_with_a_base_states_only_what_differs(path):
    text = path.read_text(encoding="utf-8")
    given = yaml.safe_load(text)
    if "base" not in given:
        return
    assert len(text.partition("\nvariants:")[0].splitlines()) <= 40
    base = yaml.safe_load((path.parent / given["base"]).read_text(encoding="utf-8"))
    assert "base" not in base
    theirs = dict(leaves(base))
    same = [key for key, value in leaves(given) if key in theirs and theirs[key] == value]
    assert same == []


@every_base
def test_a_base_models_recipe_says_card_licence_and_peculiarities_in_at_most_40_lines(path):
    text = path.read_text(encoding="utf-8")
    for key, form in HEAD.items():
        assert re.search(rf"^# {key}: {form}$", text, re.M), key
    assert path.stem == "small-gsm8k" or len(text.splitlines()) <= 40


@every_base
def test_a_base_models_recipe_is_planned_offline_and_fits_the_card_that_it_names(path, monkeypatch):
    """The figure in its head is the plan's."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = re.search(rf"^# Card: {HEAD['Card']}$", path.read_text(encoding="utf-8"), re.M)
    card = CARDS[said["card"]]
    plan = make_plan(load(path), card)
    assert plan.fits
    assert plan.refused == []
    assert math.ceil(max(stage.bytes for stage in plan.stages) / 2**30) == int(said["gib"])
    assert abs(card.memory_mib / 1024 - int(said["gb"])) < 2


def leaves(tree, path=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_every_value_of_the_papers_recipe_has_a_comment_with_its_source():
    unsaid = []
    for line in (FOLDER / "qwen2.5-3b-gsm8k.yaml").read_text(encoding="utf-8").splitlines():
        key, _, comment = line.partition(" # ")
        is_value = re.match(r"\s*\w+: \S", key) and not key.startswith(("#", "name:"))
        if is_value and not re.match(r"(paper §\d|released code|ours|as train\.)", comment):
            unsaid.append(line)
    assert unsaid == []


def test_the_papers_recipe_states_every_value_that_the_paper_and_its_code_state():
    recipe = load(FOLDER / "qwen2.5-3b-gsm8k.yaml")
    train, lora = recipe.train, recipe.train.lora
    assert (recipe.curate.rollouts, recipe.curate.pairs, recipe.curate.questions) == (4, 256, 7473)
    assert (lora.r, lora.alpha, lora.dropout, len(lora.target_modules)) == (32, 32, 0.0, 7)
    assert train.epochs * recipe.curate.pairs // train.batch_size == 192
    assert (train.learning_rate, train.lr_scheduler, train.warmup_steps) == (2e-4, "linear", 0)
    assert train.kd_temperature == 2.0
    assert (recipe.curate.rollout.temperature, recipe.curate.refine.temperature) == (0.8, 0.4)
    assert (recipe.sampler.max_model_len, recipe.seed) == (8192, 3407)
    assert set(recipe.evaluate.benchmarks) == {"math500", "aime2024"}
    assert [benchmark.count for benchmark in recipe.evaluate.benchmarks.values()] == [500, 30]
    assert variant(recipe, "sft").train.method == "sft"
    assert variant(recipe, "grpo").train.grpo.questions == 2000


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_on_the_command_line_wins_over_the_recipes_values_and_loses_to_keys_beside_it(preset):
    overrides = [f"preset={preset}", "curate.refine.top_k=3"]
    chosen = OmegaConf.structured(load(FOLDER / "qwen2.5-3b-gsm8k-author-code.yaml", overrides))
    for key, value in leaves(PRESETS[preset]):
        assert OmegaConf.select(chosen, key) == (3 if key == "curate.refine.top_k" else value), key


def test_the_two_recipes_of_the_3b_model_are_the_two_presets():
    for name, preset in (("", "paper"), ("-author-code", "author_code")):
        chosen = OmegaConf.structured(load(FOLDER / f"qwen2.5-3b-gsm8k{name}.yaml"))
        assert [key for key, value in leaves(PRESETS[preset]) if OmegaConf.select(chosen, key) != value] == []


def test_the_pocket_recipe_is_among_them_and_names_are_unique():
    names = [path.stem for path in RECIPES]
    assert "pocket" in names
    assert len(set(names)) == len(names)


def test_the_pocket_recipe_needs_no_network():
    recipe = load(FOLDER / "pocket.yaml")
    sources = [recipe.problems.source, *(b.source for b in recipe.evaluate.benchmarks.values())]
    assert {recipe.model.name, *sources} == {"pocket"}


def test_the_documentation_says_of_each_licence_whether_it_was_confirmed():
    text = (FOLDER.parent / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| `.*\|$", text, re.M)]
    confirmed = {name: row[4] for row in rows if len(row) == 5 for name in re.findall(r"`([\w.-]+)`", row[0])}
    named = {path.stem for path in OF_BASES if path.stem != "small-gsm8k"} | {"qwen2.5-3b-gsm8k"}
    assert set(confirmed) == named
    assert all(confirmed.values())
    for path in OF_BASES:
        unsure = "from memory" in confirmed.get(path.stem, "")
        assert ("From memory: docs/models.md." in path.read_text(encoding="utf-8")) == unsure, path.stem
