"""Keys that had another name before. A recipe can still give the old one, in every layer of it and in references.

In what determines a stage a value keeps the first name that its key had, so that what was finished then is fresh now.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

RENAMED = {"train.temperature": "train.kd_temperature"}  # the first name to today's; both in the same section
_FIRST = {today: first for first, today in RENAMED.items()}
_OF_VARIANT = re.compile(r"variants\.[^.]+\.")


def with_todays_names(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer of a recipe by today's names, its variants too. Where it gives a key by both names it keeps both."""
    return _named(layer, RENAMED, "")


def with_first_names(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """The values of a recipe, or of a section of it (`path`, with a dot at its end), by their first names."""
    return _named(values, _FIRST, path)


def todays_name(key: str) -> str:
    """Today's name of a key, or of a variant's."""
    own = _OF_VARIANT.sub("", key, count=1) if key.startswith("variants.") else key
    return key.removesuffix(own) + RENAMED.get(own, own)


def _named(tree: dict[str, Any], names: Mapping[str, str], path: str) -> dict[str, Any]:
    found = {}
    for key, value in tree.items():
        name = names.get(f"{path}{key}", key).rpartition(".")[2]
        within = "" if path == "variants." else f"{path}{key}."  # a variant's keys are a recipe's
        found[key if name in tree else name] = _named(value, names, within) if isinstance(value, dict) else value
    return found
