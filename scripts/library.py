"""Write docs/library.md: the public names of the package, from their docstrings.

python scripts/library.py
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import ssb_unsloth
from ssb_unsloth.method import losses

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "library.md"
HEAD = """# As a library

`from ssb_unsloth import NAME`. Nothing heavy is imported before a name is asked for, and the loss needs nothing but
torch. Two files run as they stand: `examples/train_by_hand.py` and `examples/loss_alone.py`. Shapes: N rows (the
reply tokens of a batch, end to end), H hidden size, V vocabulary, B examples, k words kept of a teacher. What is
wrong in an argument is said in one sentence, as ValueError or `UserError`. This page is written by
`scripts/library.py` from the docstrings.
"""


def public() -> list[str]:
    return [name for name in ssb_unsloth.__all__ if name != "__version__"]


def entry(name: str) -> str:
    """A name's heading, how it is called, and its docstring as it stands."""
    found = getattr(ssb_unsloth, name)
    doc = inspect.getdoc(found) or ""
    return f"## {name}\n\n```text\n{_call(name, found)}\n\n{doc}\n```\n" + _members(found)


def _call(name: str, found: Any) -> str:
    if inspect.isclass(found) and not dataclasses.is_dataclass(found):
        found = found.__init__
    own = [p for p in inspect.signature(found).parameters.values() if p.name != "self"]
    if dataclasses.is_dataclass(found) and isinstance(found, type):  # without what it inherits
        own = [p for p in own if p.name in inspect.get_annotations(found)]
    return f"{name}(" + "".join(f"\n    {_argument(parameter)}," for parameter in own) + "\n)"


def _argument(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "")
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}: {parameter.annotation}{default}"


def _members(found: Any) -> str:
    """Public methods of its own that say something, one line each."""
    if not inspect.isclass(found):
        return ""
    rows = []
    for name, member in vars(found).items():
        member = member.__func__ if isinstance(member, classmethod) else member
        if not name.startswith("_") and inspect.isfunction(member) and member.__doc__:
            rows.append(f"| `{name}` | {' '.join(member.__doc__.split())} |")
    return "\n| method | |\n| --- | --- |\n" + "\n".join(rows) + "\n" if rows else ""


def page() -> str:
    convention = (losses.__doc__ or "").partition("\n\n")[2].strip()
    return "\n".join([HEAD, *map(entry, public()), f"## The convention of the loss\n\n```text\n{convention}\n```\n"])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")
