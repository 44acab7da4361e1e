"""The order of the package's rooms, and docs/house.svg, which is drawn from the imports as they are.

    python scripts/house.py            # draw the picture again, and write each room's law into its __init__
    python scripts/house.py --check    # exit code 1 if the stored picture is not what the imports give

A room is a folder of ssb_unsloth/, or one of the few files beside them. `ROOMS` is the only place that says which room
may import which; tests/project/test_house.py holds the code to it. Imports within functions count, and those for types.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "house.svg"
PACKAGE = "ssb_unsloth"

# From the ground up: each room, and what it may import. Whatever it may import stands above it in this table.
ROOMS = {
    room: tuple(may.split())
    for room, may in {
        "errors": "",
        "seeds": "",
        "published": "",
        "io": "errors",
        "records": "errors io",
        "prompts": "errors records",
        "verifier": "errors io prompts",
        "recipe": "errors io prompts verifier",
        "pocket": "errors io records prompts",
        "machine": "errors published io recipe pocket",
        "backends": "errors io prompts verifier recipe pocket machine",
        "data": "errors io records prompts recipe verifier pocket backends",
        "run": "errors io records verifier recipe pocket backends data",
        "method": "errors seeds io records prompts recipe verifier backends run",
        "training": "errors published seeds io records prompts recipe verifier pocket machine backends data run method",
        "evaluation": "errors seeds io records prompts recipe verifier backends run",
        "report": "published io records prompts recipe verifier run training evaluation",
        "pipeline": "errors published io records prompts recipe machine backends data run method training evaluation"
        " report",
        "commands": "errors published io records prompts recipe verifier pocket machine backends data run method"
        " evaluation report pipeline",
        "__init__": "method training",  # the public names, each imported when it is asked for
        "cli": "errors io recipe machine pipeline commands __init__",
        "__main__": "cli",
    }.items()
}
GROUND = ("records", "io", "seeds", "published", "errors")  # every room stands on them: drawn without arrows


@dataclass(frozen=True)
class Import:
    module: str  # whose import it is, as "method.curate"
    of: str  # the imported module
    name: str  # what is taken from it; empty for the module itself
    line: int


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name within it; the package itself is "__init__"."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    """All imports of the package's own modules by the package, at any depth of the code."""
    known = modules()
    return tuple(one for module, path in known.items() for one in _imports(module, path, known))


def _imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    here = (PACKAGE, *path.relative_to(ROOT / PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1]] if node.level else []
            taken = [(".".join([*base, *filter(None, [node.module])]), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            taken = [(alias.name, "") for alias in node.names]
        else:
            taken = [(name, "") for name in _by_name(node, here, known)]
        for of, name in taken:
            if of.partition(".")[0] == PACKAGE:
                inner = of.partition(".")[2]
                whole = f"{inner}.{name}".strip(".")
                if whole in known:
                    yield Import(module, whole, "", node.lineno)
                else:
                    yield Import(module, inner or "__init__", name, node.lineno)


def _by_name(node: ast.AST, here: tuple[str, ...], known: dict[str, Path]) -> list[str]:
    """What `importlib.import_module(f"..training.{name}", __package__)` may import: every module of that folder."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module")):
        return []
    said = re.match(r"f'(?:{__package__})?(\.+)([\w.]*\.){", ast.unparse(node.args[0]))
    if said is None:
        return []
    folder = ".".join([*here[: len(here) - len(said[1]) + 1], said[2]])
    return [f"{PACKAGE}.{name}" for name in known if f"{PACKAGE}.{name}".startswith(folder)]


def room(module: str) -> str:
    return module.partition(".")[0]


def arrows() -> Counter[tuple[str, str]]:
    """(room, the room that it imports), and by how many modules of it."""
    pairs = {(one.module, room(one.of)) for one in imports()}
    return Counter((room(module), of) for module, of in pairs if room(module) != of)


def sentence(name: str) -> str:
    """What a room is about: the first sentence of its first file's docstring."""
    path = ROOT / PACKAGE / name / "__init__.py"
    path = path if path.exists() else ROOT / PACKAGE / f"{name}.py"
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    return text.split(". ")[0].removesuffix(".")


def floors() -> list[list[str]]:
    """The rooms with a floor of their own, from the top: each stands right above the highest that it may import."""
    height: dict[str, int] = {}
    for name, may in ROOMS.items():
        height[name] = 0 if name in GROUND else 1 + max((height[other] for other in may), default=0)
    shown = [name for name in ROOMS if name not in GROUND and not name.startswith("__")]
    return [[name for name in shown if height[name] == h] for h in sorted({height[n] for n in shown}, reverse=True)]


def law(name: str) -> str:
    """Who may import whom, as a room's `__init__` says it at the end of its docstring."""
    by = [other for other, may in ROOMS.items() if name in may]
    said = (f"May import: {', '.join(ROOMS[name])}.", f"May be imported by: {', '.join(by)}.")
    return "\n".join(textwrap.fill(line, 118, subsequent_indent="    ") for line in said)


def write_laws() -> None:
    for name in ROOMS:
        path = ROOT / PACKAGE / name / "__init__.py"
        if path.exists():
            text = path.read_text(encoding="utf-8")
            about, end, rest = text.removeprefix('"""').partition('"""')
            about = about.partition("\n\nMay import:")[0].rstrip()
            path.write_text(f'"""{about}\n\n{law(name)}\n{end}{rest}', encoding="utf-8")


# ---- the picture

WIDTH, HEIGHT, GAP, LEVEL, TOP = 492, 78, 24, 104, 84
STYLE = """
  text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a }
  .name { font-size: 16px; font-weight: 600; fill: #1f2328 } .to { font-size: 11px; fill: #0969da }
  .page { fill: #ffffff } .box { fill: #f6f8fa; stroke: #8c959f } .slab { fill: none; stroke: #8c959f }
  .arrow { fill: none; stroke: #0969da; stroke-width: 1.6 } .head { fill: #0969da } .wrong { stroke: #cf222e }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .name { fill: #f0f6fc } .to { fill: #58a6ff }
    .page { fill: #0d1117 } .box { fill: #161b22; stroke: #59636e } .slab { stroke: #59636e }
    .arrow { stroke: #58a6ff } .head { fill: #58a6ff } .wrong { stroke: #ff7b72 }
  }
"""
HEAD = '<path class="head" d="M0 0L8 4L0 8z"/>'


def draw() -> str:
    """The picture as the text of an SVG file, the same for the same code."""
    levels, found = floors(), arrows()
    wide, ground = 2 * WIDTH + 3 * GAP, TOP + len(levels) * LEVEL
    place = {}
    for row, names in enumerate(levels):
        left = (wide - len(names) * WIDTH - (len(names) - 1) * GAP) // 2
        place |= {name: (left + i * (WIDTH + GAP), TOP + row * LEVEL) for i, name in enumerate(names)}
    drawn = [(a, b) for a, b in sorted(found) if a in place and b in place and _is_drawn(a, b, found)]
    boxes = [_box(name, *place[name], WIDTH, found) for names in levels for name in names]
    each = (wide - 2 * GAP - (len(GROUND) + 1) * 12) // len(GROUND)
    slab = f'<rect class="slab" x="{GAP}" y="{ground - 12}" width="{wide - 2 * GAP}" height="{HEIGHT + 24}" rx="4"/>'
    boxes += [slab, *(_box(name, GAP + 12 + i * (each + 12), ground, each, found) for i, name in enumerate(GROUND))]
    title = f"{PACKAGE}: {_size(list(modules().values()))}, {len(found)} arrows between rooms"
    tall = ground + HEIGHT + GAP + 12
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6"'
            f' orient="auto">{HEAD}</marker></defs>',
            f'<rect class="page" width="{wide}" height="{tall}"/>',
            f'<text class="name" x="{GAP}" y="32">{title}</text>',
            f'<text x="{GAP}" y="52">Imports run downwards, and every room may import the ground floor.</text>',
            f'<text x="{GAP}" y="70">A blue line lists all that a room imports; arrows show those that no way through'
            " another room implies.</text>",
            *(_arrow(a, b, place, drawn) for a, b in drawn if b in ROOMS[a]),
            *boxes,
            *(_arrow(a, b, place, drawn) for a, b in drawn if b not in ROOMS[a]),
            "</svg>\n",
        ]
    )


def _is_drawn(a: str, b: str, found: Counter[tuple[str, str]]) -> bool:
    """Whether it may not be, or `a` does not come to `b` by way of other rooms, too."""
    seen, todo = set(), [y for x, y in found if x == a and y != b and y in ROOMS[a]]
    while todo:
        if (here := todo.pop()) not in seen:
            seen.add(here)
            todo += [y for x, y in found if x == here and y in ROOMS[here]]
    return b not in ROOMS[a] or b not in seen


def _box(name: str, x: int, y: int, width: int, found: Counter[tuple[str, str]]) -> str:
    files = [path for module, path in modules().items() if room(module) == name]
    to = " ".join(other for other in reversed(ROOMS) if (name, other) in found and other not in (*GROUND, "__init__"))
    lines = 2 if to else 3
    about = textwrap.wrap(sentence(name), width=(width - 20) // 7, max_lines=lines, placeholder=" …")
    said = [f'<text x="{x + 10}" y="{y + 39 + 16 * i}">{_escaped(line)}</text>' for i, line in enumerate(about)]
    if to:
        # A line that a wide font would carry out of the box is given its length.
        held = f' textLength="{width - 20}" lengthAdjust="spacingAndGlyphs"' if 6 * len(to) > width - 20 else ""
        said.append(f'<text class="to" x="{x + 10}" y="{y + HEIGHT - 7}"{held}>→ {to}</text>')
    return "\n".join(
        [
            f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="4"/>',
            f'<text class="name" x="{x + 10}" y="{y + 20}">{name}</text>',
            f'<text x="{x + width - 10}" y="{y + 20}" text-anchor="end">{_size(files)}</text>',
            *said,
        ]
    )


def _size(files: list[Path]) -> str:
    """In hundreds of lines, so that the picture is not another one after every change."""
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    said = f"{round(lines, -2):,} lines" if lines > 50 else f"{lines} lines"
    return f"{len(files)} files, {said}" if len(files) > 1 else said


def _arrow(a: str, b: str, place: dict[str, tuple[int, int]], drawn: list[tuple[str, str]]) -> str:
    """From the lower edge of `a` to the upper edge of `b`; ends are spread along the edges, by where they go."""
    leaving = sorted((place[y][0], y) for x, y in drawn if x == a)
    coming = sorted((place[x][0], x) for x, y in drawn if y == b)
    x1 = place[a][0] + WIDTH * (1 + [name for _, name in leaving].index(b)) / (len(leaving) + 1)
    x2 = place[b][0] + WIDTH * (1 + [name for _, name in coming].index(a)) / (len(coming) + 1)
    y1, y2 = place[a][1] + HEIGHT, place[b][1]
    middle = (y1 + y2) / 2
    way = f"M{x1:.0f} {y1}C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2}"
    kind = "arrow" if b in ROOMS[a] else "arrow wrong"
    return f'<path class="{kind}" marker-end="url(#head)" d="{way}"/>'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the picture is not current")
    args = parser.parse_args()
    if args.check:
        current = PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == draw()
        print(f"{PICTURE.relative_to(ROOT)} is {'' if current else 'not '}current", file=sys.stderr)
        return int(not current)
    write_laws()  # first: the picture counts their lines
    PICTURE.write_text(draw(), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)} is written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
