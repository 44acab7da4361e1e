"""docs/keys.md is the schema's, and says of every key what it means."""

import re

import pytest
from omegaconf import OmegaConf

from scripts import keys
from ssb_unsloth.recipe.schema import BenchmarkConfig, Recipe

ROWS = re.findall(r"^\| `([\w.]+)` \| (.*) \| (.*) \| (.*) \|$", keys.page(), re.M)


def leaves(tree, path=""):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def test_the_page_is_the_schemas():
    assert keys.PAGE.read_text(encoding="utf-8") == keys.page(), "run `python scripts/keys.py`"


def test_every_key_that_a_recipe_can_have_is_there_once():
    tree = OmegaConf.to_container(OmegaConf.structured(Recipe))
    given = {*leaves(tree), *(f"evaluate.benchmarks.NAME.{key}" for key in OmegaConf.structured(BenchmarkConfig))}
    names = [name for name, *_ in ROWS]
    assert len(names) == len(set(names))
    assert given <= set(names)


@pytest.mark.parametrize(("name", "kind", "default", "meaning"), ROWS, ids=[name for name, *_ in ROWS])
def test_a_key_has_values_a_default_and_a_meaning(name, kind, default, meaning):
    assert "any" not in kind or name.endswith(("verifier", "choices"))
    assert default
    assert len(meaning) > 2
