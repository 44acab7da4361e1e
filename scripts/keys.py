"""Write docs/keys.md: every key of a recipe, from the schema that reads it.

    python scripts/keys.py

Type, default and range are the dataclasses' own; the meaning, and where a default comes from, is the comment beside the
field in ssb_unsloth/recipe/schema.py, which is the one home of both.
"""

from __future__ import annotations

import ast
import dataclasses
import tokenize
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from ssb_unsloth.recipe import schema
from ssb_unsloth.recipe.ranges import Range

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "keys.md"
HEAD = """# Every key of a recipe

`ssb recipes show NAME` prints the same for one recipe, with the value of each key and the file or command line that
it comes from. A key is written `section.key=value` on the command line. *required* stands where there is no default.
What a default rests on is said with it: the paper, by its section; its released code; or "ours". This page is written
by `scripts/keys.py` from the schema.
"""


def comments(source: str) -> dict[tuple[str, str], str]:
    """What the comments say of each field, by class and field: those above it, then the one behind it."""
    said = {
        token.start[0]: (token.string.lstrip("# ").strip(), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for section in ast.parse(source).body:
        if not isinstance(section, ast.ClassDef):
            continue
        for one in section.body:
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                above, line = [], one.lineno - 1
                while line in said and said[line][1]:
                    above.insert(0, said[line][0])
                    line -= 1
                behind = [said[n][0] for n in range(one.lineno, (one.end_lineno or one.lineno) + 1) if n in said]
                found[section.name, one.target.id] = " ".join([*above, *behind])
    return found


def keys(section: type, path: str, said: dict[tuple[str, str], str]) -> Iterator[tuple[str, list[str]]]:
    """(section, row) of every key below a section: its own first, then those of the sections in it."""
    hints, within = get_type_hints(section), []
    for one in dataclasses.fields(section):
        of, key = hints[one.name], f"{path}{one.name}"
        inner = next((kind for kind in (of, *get_args(of)) if dataclasses.is_dataclass(kind)), None)
        owner = next(c.__name__ for c in section.__mro__ if (c.__name__, one.name) in said)
        meaning = said[owner, one.name] or said.get(("SamplingConfig", one.name), "")
        if inner is None:
            kind = _kind(of) + _range(one.metadata.get("range"))
            yield path, [f"`{key}`", kind, _default(one), meaning]
            continue
        mapping = get_origin(of) is dict
        if meaning or mapping or type(None) in get_args(of):
            yield path, [f"`{key}`", "a mapping" if mapping else "a section", _default(one), meaning]
        within.append((inner, f"{key}.NAME." if mapping else f"{key}."))
    for inner, below in within:
        yield from keys(inner, below, said)


def _kind(of: Any) -> str:
    if get_origin(of) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(of))
    if get_origin(of) in (Union, types.UnionType):
        parts = [_kind(part) for part in get_args(of) if part is not type(None)]
        return " or ".join(parts) + (" or null" if type(None) in get_args(of) else "")
    if get_origin(of) in (list, tuple):
        return f"list of {_kind(get_args(of)[0])}"
    if get_origin(of) is dict or of is dict:
        return "mapping"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(of, "any")


def _range(found: Range | None) -> str:
    if found is None:
        return ""
    bounds = {"above": found.above, "at least": found.at_least, "below": found.below, "at most": found.at_most}
    return "".join(f", {word} {bound:,}" for word, bound in bounds.items() if bound is not None)


def _default(one: dataclasses.Field[Any]) -> str:
    value = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
    if value is dataclasses.MISSING or value == MISSING:
        return "*required*"
    if dataclasses.is_dataclass(value):
        return "as below"
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return f"`{text}`" if text else '`""`'


def page() -> str:
    said = comments(Path(schema.__file__).read_text(encoding="utf-8"))
    parts, heading = [HEAD], None
    for path, row in keys(schema.Recipe, "", said):
        if path != heading:
            heading = path
            parts.append(f"\n## {path.rstrip('.') or 'The recipe itself'}\n")
            parts += ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
        parts.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")
