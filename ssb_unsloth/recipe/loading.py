"""From the text of recipes to a Recipe: file over base and preset, `key=value` overrides, variants; and back."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import math
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from ..io import disk
from .benchmarks import BENCHMARKS
from .checks import LONGEST_NAME, impossible, names_a_file, servers_among, too_many
from .file import item_of, merged, overrides_merged, read, with_prose, with_references, without_null
from .presets import PRESETS
from .renamed import RENAMED, todays_name, with_todays_names
from .schema import BASE, DEFAULT_PROMPT, BenchmarkConfig, Recipe
from .shipped import base_of, data_file

LARGEST = 2**31 - 1  # number that a recipe can hold; seeds go up to it
DEFAULTS = typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(Recipe)))


def load(path: Path, overrides: Sequence[str] = (), servers: bool = False) -> Recipe:
    """Read a recipe, put it on top of the one that its `base` names, and apply `key=value` overrides.

    `servers`: whether `model.name` may be the URL of a vLLM server, which can be asked and not trained.

    Raises:
        UserError: a file cannot be read, or anything in it, in the overrides or in a variant is wrong; all of it in one
            message.
    """
    given: dict[str, Any] = {}
    for _, layer in layers(path):
        given = merged(given, _layer(layer))
    return resolve(given, overrides, str(path), servers)


def layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The recipe's files with what each says itself, the one that `base` names first.

    Raises:
        UserError: one cannot be read, or a base has a base.
    """
    own = with_prose(read(path, Recipe), path.parent)
    if "base" not in own:
        return [(path, own)]
    base_path = base_of(str(own.pop("base")), path)
    base = with_prose(read(base_path, Recipe), base_path.parent)
    if "base" in base:
        raise UserError(f"{base_path}: a recipe that is a `base` cannot have one itself; there is one level.")
    return [(base_path, base), (path, own)]


def resolve(given: dict[str, Any], overrides: Sequence[str], where: str, servers: bool = False) -> Recipe:
    """The recipe of these keys, with `key=value` overrides put over them. `where` they stand, for the message.

    Raises:
        UserError: as `load`.
    """
    whole = merged(with_todays_names(given), _layer(with_prose(overrides_merged(overrides, Recipe), Path())))
    for section, key in ((whole.get("evaluate"), "benchmarks"), (whole, "variants")):
        if isinstance(section, dict) and key in section:
            section[key] = _without_nulls(section[key])
    _find_data(whole)

    wrong: list[str] = []
    recipe = _resolve(with_references(whole, DEFAULTS, wrong), wrong)
    if not wrong:
        everyone = [recipe]
        for name in recipe.variants:
            resolved, lines = _variant(recipe, name)
            wrong += [f"variants.{name}{'.' * (line[0] != ':')}{line}" for line in lines]
            everyone += [resolved] if resolved is not None else []
        wrong += [*too_many(recipe, everyone), *([] if servers else servers_among(everyone))]
    if wrong:
        heading = f"{where}: {len(wrong)} thing{'s' * (len(wrong) > 1)} to fix:"
        raise UserError("\n".join([heading, *(f"  {line}" for line in wrong)]))
    return recipe


def _find_data(whole: dict[str, Any]) -> None:
    """Put the package's files in place of those that a shipped recipe names, where ssb runs outside of a checkout."""
    evaluated = whole.get("evaluate")
    benchmarks = evaluated.get("benchmarks") if isinstance(evaluated, dict) else None
    for section in (whole.get("problems"), *(benchmarks.values() if isinstance(benchmarks, dict) else ())):
        if isinstance(section, dict) and isinstance(source := section.get("source"), str):
            section["source"] = data_file(source)


def variant(recipe: Recipe, name: str) -> Recipe:
    """The recipe with one variant's keys put over its own; `load` has looked at them all."""
    resolved, wrong = _variant(recipe, name)
    if resolved is None or wrong:
        raise UserError(f"variants.{name}: {'; '.join(wrong)}")
    return resolved


def _variant(recipe: Recipe, name: str) -> tuple[Recipe | None, list[str]]:
    overrides = recipe.variants[name]
    if not isinstance(overrides, dict) or not names_a_file(name, "-_."):
        return None, [": expected a name of letters, digits, -, _ and dots, and a mapping of the keys that differ."]
    if name in (BASE, DEFAULT_PROMPT):
        return None, [": the table has a row of that name already; give it another one."]
    fixed = sorted({"name", "seed", "seeds", "variants", "evaluate", "card"} & set(overrides))
    if fixed:
        return None, [f"{key}: belongs to the whole recipe and cannot differ in a variant." for key in fixed]
    given = merged(dataclasses.asdict(dataclasses.replace(recipe, variants={})), _layer(overrides))
    wrong: list[str] = []
    return _resolve(given, wrong), wrong


def _without_nulls(table: Any) -> Any:
    """null takes away what the base has: an entry of a table, or all of them."""
    if isinstance(table, dict):
        return {name: entry for name, entry in table.items() if entry is not None}
    return {} if table is None else table


def _resolve(given: dict[str, Any], wrong: list[str]) -> Recipe:
    """`given` with every key that it leaves out at its default. What is wrong with it is added to `wrong`."""
    recipe = OmegaConf.structured(Recipe)
    _fill(recipe, given, Recipe, "", wrong)
    for key in sorted(OmegaConf.missing_keys(recipe)):
        if not any(line.startswith(key) for line in wrong):
            wrong.append(f"{key}: missing; a recipe has to give it.")
        OmegaConf.update(recipe, key, "missing")  # of the right type, so that the other keys can be looked at
    resolved = OmegaConf.to_object(recipe)
    assert isinstance(resolved, Recipe)
    wrong += impossible(resolved)
    return resolved


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer (a file, a variant or the overrides) by today's names, on top of the preset that it names: its own keys
    win over the preset, and the preset over what lies below. An unknown preset, a reference to one, or a key under two
    names is `_fill`'s to report.
    """
    layer = with_todays_names(layer)
    preset = layer.get("preset")
    if isinstance(preset, str) and "${" in preset:
        layer = {**layer, "preset": "a reference"}
    return merged(PRESETS.get(str(preset), {}), layer)


def save(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe: every key, also those left at their default. `load` reads it back unchanged."""
    text = _sealed(OmegaConf.to_yaml(OmegaConf.structured(recipe)))
    if not path.is_file() or path.read_bytes() != text.encode():
        disk.write_text(path, text)


def is_as_saved(path: Path) -> bool:
    """Whether the recipe's file is still what `save` wrote, byte for byte."""
    text = path.read_bytes().decode("utf-8", "replace")
    return text == _sealed(text.partition("\n")[2])


def _sealed(text: str) -> str:
    return f"# Written by ssb; SHA-256 of the lines below: {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


_types = functools.cache(typing.get_type_hints)


def _fill(section: Any, given: Any, kind: type, path: str, wrong: list[str]) -> None:
    """Set `given`'s leaves in the section one by one, so that every error is seen and not only the first. `path`: where
    in the recipe it is, with a dot at its end.
    """
    types = _types(kind)
    for key, value in given.items():
        here = f"{path}{key}"
        if key in RENAMED.get(path.removesuffix("."), {}):
            wrong.append(f"{here}: is called {todays_name(here)} now, which is given too; leave this one out.")
        elif key not in types:
            near = difflib.get_close_matches(str(key), types, n=1)
            wrong.append(
                f"{here}: unknown key; " + (f"did you mean {path}{near[0]}?" if near else f"known: {', '.join(types)}.")
            )
        elif dataclasses.is_dataclass(inner := without_null(types[key])) and isinstance(value, dict):
            if section[key] is None:  # a section that is null unless it is given
                section[key] = OmegaConf.structured(inner)
            _fill(section[key], value, typing.cast(type, inner), here + ".", wrong)
        elif _table_of(types[key]) is not None and isinstance(value, dict):
            _fill_table(section[key], value, _table_of(types[key]), here, wrong)
        elif (reason := _unfit(value, types[key])) is not None:
            wrong.append(f"{here}: {reason}; expected {_spell(types[key])}.")
        else:
            try:
                OmegaConf.update(section, str(key), value, merge=False)
            except OmegaConfBaseException as error:
                wrong.append(f"{here}: {str(error).splitlines()[0][:200]}; expected {_spell(types[key])}.")


def _table_of(kind: Any) -> type | None:
    """The dataclass that a table's entries are of, where a key is a table of such."""
    item = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else None
    return item if dataclasses.is_dataclass(item) and isinstance(item, type) else None


def _fill_table(section: Any, table: dict[str, Any], item: Any, here: str, wrong: list[str]) -> None:
    for name, entry in table.items():
        if not names_a_file(name, "-_"):
            wrong.append(
                f"{here}.{name}: a name of letters, digits, - and _, at most {LONGEST_NAME}, is needed, since files are"
                " named after it."
            )
            continue
        if not isinstance(entry, dict):
            wrong.append(f"{here}.{name}: expected a mapping with the keys of {item.__name__}.")
            continue
        if item is BenchmarkConfig:
            entry = _with_preset(name, entry, f"{here}.{name}", wrong)
        section[name] = OmegaConf.structured(item)
        _fill(section[name], entry, item, f"{here}.{name}.", wrong)


def _unfit(value: Any, kind: Any) -> str | None:
    """What OmegaConf would not say in a sentence: a mapping for a number, numbers beyond all bounds."""
    if value == "???":
        return "??? is OmegaConf's word for what is missing"
    if isinstance(value, dict):
        return None if typing.get_origin(kind) is dict or kind is Any else "a mapping"
    if isinstance(value, list):
        if kind is Any:
            return None
        item = item_of(kind)
        return "a list" if item is None else next((no for one in value if (no := _unfit(one, item)) is not None), None)
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number of too many digits"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number to compute with"
    return None


def _with_preset(key: str, entry: dict[str, Any], here: str, wrong: list[str]) -> dict[str, Any]:
    """A benchmark's keys upon those of the preset that its name, or else its own key, stands for."""
    name = entry.get("name") or (key if key in BENCHMARKS else None)
    if name is None:
        return entry
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(str(name), BENCHMARKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BENCHMARKS)}."
        wrong.append(f"{here}.name: no benchmark {name!r}; {hint} Leave the name out for a source of your own.")
        return {"source": "unknown", **entry}
    return {**BENCHMARKS[name], **entry, "name": name}


def _spell(type_: Any) -> str:
    if typing.get_origin(type_) is Literal:
        return " or ".join(map(str, typing.get_args(type_)))
    if (section := without_null(type_)) is not type_:
        return f"{_spell(section)} or null"
    if dataclasses.is_dataclass(type_) or typing.get_origin(type_) is dict:
        return "a mapping"
    return getattr(type_, "__name__", None) if isinstance(type_, type) else str(type_).replace("None", "null")  # type: ignore[return-value]
