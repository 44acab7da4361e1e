"""Recipes from text, and what is said about them."""

import pytest

from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import Recipe


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
