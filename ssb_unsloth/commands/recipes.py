"""`ssb recipes`: which recipes come with the package, every key of one, a copy to change, and a new one for a model and
data of one's own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..io import disk
from ..io.files import read_text
from ..io.terminal import folded, tell
from ..recipe.shipped import ENDINGS, GROUPS, describe, find, shipped

if TYPE_CHECKING:
    from ..recipe.origins import Leaf

ORIGIN = 44  # column of where a value comes from
WIDTH = 80


def main(arguments: argparse.Namespace) -> int:
    if arguments.action == "new":
        from . import new_recipe

        return new_recipe.main(arguments)
    if arguments.action == "show":
        from ..recipe.origins import leaves

        path = find(arguments.recipe)
        tell(shown(path, leaves(path, arguments.overrides)))
    elif arguments.action == "copy":
        path = copied(arguments.recipe, arguments.out)
        tell(f"{path} is a copy of {arguments.recipe}. Change it, then: ssb run {path}")
    else:
        tell(listed())
    return 0


def listed() -> str:
    """All shipped recipes under their headings, each with what it is for."""
    recipes = shipped()
    if not recipes:
        raise UserError("No recipes here: this installation of ssb_unsloth is incomplete; install it again.")
    named = {name for names in GROUPS.values() for name in names}
    widest = max(map(len, recipes)) + 4
    lines = []
    for heading, names in GROUPS.items():
        lines += ["", heading]
        for name in names or [name for name in recipes if name not in named]:
            lines.append(folded(describe(recipes[name]), f"  {name}".ljust(widest), " " * widest))
    lines += ["", "ssb run NAME           runs a recipe"]
    lines += ["ssb recipes show NAME  prints every key, and where its value comes from"]
    lines += ["ssb recipes copy NAME  copies its file into this folder, to change it"]
    return "\n".join(lines[1:])


def shown(path: Path, found: Sequence[Leaf]) -> str:
    """A recipe as YAML that can be run, each line with where its value comes from."""
    lines = [f"# {path}:", "# every key, and where its value comes from"]
    before: tuple[str, ...] = ()
    for keys, value, origin in found:
        *sections, key = keys
        for depth, section in enumerate(sections):
            if before[: depth + 1] != tuple(sections[: depth + 1]):
                lines.append(f"{'  ' * depth}{section}:")
        before = keys
        indent, line = "  " * len(sections), f"{key}: {_value(value)}"
        if len(f"{indent}{line} # {origin}") > WIDTH:  # only a value by itself may be longer
            lines += [f"{indent}# {origin}:", indent + line]
        else:
            lines.append(f"{indent}{line}".ljust(ORIGIN - 1) + f" # {origin}")
    return "\n".join(lines)


def _value(value: Any) -> str:
    from ..recipe.file import as_yaml

    if isinstance(value, str) and "${" not in value:
        return as_yaml(value)
    if isinstance(value, float) and "e" not in repr(value):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value, ensure_ascii=False)  # which YAML reads as it is


def copied(name: str, out: Path | None) -> Path:
    """Write a copy of a recipe's file into the working directory. A `base` in it is found by its name, and so are the
    prompts and questions that come with the recipe.

    Raises:
        UserError: there is no such recipe, or something is in the copy's place.
    """
    from ..recipe.file import MOST_BYTES

    source = find(name)
    path = out or Path(source.name)
    if path.suffix not in ENDINGS:
        raise UserError(f"--out {path}: a recipe's name ends in .yaml.")
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: is there already, and stays; name another with --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, read_text(source, MOST_BYTES))
    return path
