"""Recipes to begin with, and all their keys."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssb_unsloth.recipe.file import without_null
from ssb_unsloth.recipe.schema import BenchmarkConfig, Recipe

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
SMALLEST = "name: mine\nmodel: {name: pocket}\nproblems: {source: pocket}\n"


def keys(kind: type, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """Every key of a section with its path, its type and its field, and those of the sections within it."""
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        path, type_ = f"{prefix}{field.name}", types[field.name]
        yield path, type_, field
        section = without_null(type_)
        if dataclasses.is_dataclass(section):
            yield from keys(section, f"{path}.")


FIELDS = [*keys(Recipe), *keys(BenchmarkConfig, "evaluate.benchmarks.test.")]
KEYS = [path for path, _, _ in FIELDS]
