"""Keys that had another name before. A recipe can still give the old one, in every layer of it and in references.

In what determines a stage a value keeps the first name that its key had, so that what was finished then is fresh now;
for the same reason the training's keys, and LoRA's, stand there as they did when they were fewer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .schema import AUTO, SEVEN

RENAMED = {"train": {"temperature": "kd_temperature"}}  # by section: a key's first name to today's
_FIRST = {section: {today: first for first, today in keys.items()} for section, keys in RENAMED.items()}
LATER = (("use_rslora", False), ("use_dora", False))  # keys of train.lora that came later, and what was so before
LATER_OF_TRAIN = (  # those of train, likewise
    *(("divergence", "forward"), ("beta", 0.5), ("clip", None)),
    *(("refresh", None), ("guard", None)),
    *(("processes", 1), ("sharding", "none")),
)
_OF_VARIANT = re.compile(r"variants\.[^.]+\.")


def with_todays_names(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer of a recipe by today's names, its variants too. Where it gives a key by both names it keeps both."""
    return _named(layer, RENAMED, "")


def with_first_names(values: dict[str, Any], section: str = "") -> dict[str, Any]:
    """The values of a recipe, or of that section of it, by the first names of their keys, as they were then."""
    found = _named(values, _FIRST, section)
    train = found if section == "train" else found.get("train", {})
    for key, before in LATER_OF_TRAIN:
        if key in train and train[key] == before:
            del train[key]
    if isinstance(train.get("lora"), dict):
        train["lora"] = _as_first(train["lora"])
    return found


def _as_first(lora: dict[str, Any]) -> dict[str, Any]:
    """LoRA's section as it was first: the seven projections by name, which is what `auto` means wherever naming them is
    no mistake, and none of the later keys at their defaults.
    """
    seven = {"target_modules": list(SEVEN)} if lora.get("target_modules") == AUTO else {}
    return {key: value for key, value in {**lora, **seven}.items() if (key, value) not in LATER}


def todays_name(path: str) -> str:
    """Today's name of a key that is given with its sections, of a variant's too."""
    of_variant = _OF_VARIANT.match(path)
    start = of_variant[0] if of_variant else ""
    section, dot, key = path.removeprefix(start).rpartition(".")
    return f"{start}{section}{dot}{RENAMED.get(section, {}).get(key, key)}"


def _named(tree: dict[str, Any], names: Mapping[str, Mapping[str, str]], section: str) -> dict[str, Any]:
    found, known = {}, names.get(section, {})
    for key, value in tree.items():
        within = "" if section == "variants" else f"{section}.{key}" if section else key  # a variant is a recipe itself
        name = known.get(key, key)
        found[key if name in tree else name] = _named(value, names, within) if isinstance(value, dict) else value
    return found
