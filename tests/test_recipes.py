"""The recipes that come with the package."""

import re
from pathlib import Path

import pytest

from ssb_unsloth.config import load

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))


@every_recipe
def test_a_recipe_loads_and_names_its_run_after_its_file(path):
    assert load(path).name == path.stem


@every_recipe
def test_a_recipes_first_line_says_in_a_sentence_what_it_is_for(path):
    assert re.fullmatch(r"# [A-Z].{20,}\.", path.read_text(encoding="utf-8").splitlines()[0])


@every_recipe
def test_a_recipe_says_the_command_that_runs_it(path):
    assert f"ssb run recipes/{path.relative_to(FOLDER)}" in path.read_text(encoding="utf-8")


@every_recipe
def test_every_section_of_a_recipe_explains_something(path):
    sections = re.findall(r"^(\w+):[ \t]*(?:#.*)?\n((?:[ \t]+.*\n|\n)*)", path.read_text(encoding="utf-8"), re.M)
    assert sections
    assert [name for name, body in sections if "#" not in body] == []


def test_the_pocket_recipe_is_among_them_and_names_are_unique():
    names = [path.stem for path in RECIPES]
    assert "pocket" in names
    assert len(set(names)) == len(names)


def test_the_pocket_recipe_needs_no_network():
    recipe = load(FOLDER / "pocket.yaml")
    sources = [recipe.problems.source, *(b.source for b in recipe.evaluate.benchmarks.values())]
    assert {recipe.model.name, *sources} == {"pocket"}
