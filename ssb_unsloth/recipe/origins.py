"""Where each value of a recipe comes from: a default, a preset, a file or the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .benchmarks import BENCHMARKS
from .file import overrides_merged, with_prose
from .loading import layers, load
from .presets import PRESETS
from .renamed import with_todays_names
from .schema import BenchmarkConfig, Recipe

DEFAULT = "default"
Leaf = tuple[tuple[str, ...], Any, str]  # the key with its sections, its value, where that comes from


def leaves(path: Path, overrides: Sequence[str] = ()) -> list[Leaf]:
    """Every key of a recipe in the schema's order, with its value and what says so.

    Raises:
        UserError: as `loading.load`.
    """
    recipe = load(path, overrides)
    command = with_prose(overrides_merged(overrides, Recipe), Path())
    named = [*((file.name, layer) for file, layer in layers(path)), ("command line", command)]
    said = [one for name, layer in named for one in _with_preset(name, with_todays_names(layer))]
    return [(keys, value, _origin(keys, recipe, said)) for keys, value in _walk(dataclasses.asdict(recipe))]


def _with_preset(name: str, layer: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A layer, above the preset that it names."""
    if (preset := PRESETS.get(str(layer.get("preset")))) is not None:
        yield f"preset {layer['preset']}", preset
    yield name, layer


def _walk(tree: dict[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _walk(value, (*keys, key))
        else:
            yield (*keys, key), value


def _origin(keys: tuple[str, ...], recipe: Recipe, said: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The last layer that says the key, or says something in place of a section that it stands in."""
    for name, layer in reversed(said):
        value: Any = layer
        for place, key in enumerate(keys):
            if not isinstance(value, dict):
                return name
            if key not in value:
                break
            value = value[key]
            if place == len(keys) - 1:
                return name
    if keys[:2] == ("evaluate", "benchmarks") and len(keys) > 3:
        benchmark: BenchmarkConfig = recipe.evaluate.benchmarks[keys[2]]
        if keys[3] == "name" or keys[3] in BENCHMARKS.get(benchmark.name or "", {}):
            return f"benchmark {benchmark.name}" if benchmark.name else DEFAULT
    return DEFAULT
