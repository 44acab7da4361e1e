"""`ssb recipes`: which recipes there are; `ssb recipes new` writes one."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from ..io.terminal import tell


def main(arguments: argparse.Namespace) -> int:
    if arguments.action == "new":
        from . import new_recipe

        return new_recipe.main(arguments)
    folders = [Path("recipes"), Path(__file__).parents[2] / "recipes"]
    folder = next((f for f in folders if f.is_dir()), None)
    if folder is None:
        raise UserError("No folder of recipes here; run this in a checkout of the project.")
    for path in sorted(folder.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        tell(f"{path}  {first.lstrip('# ')}")
    return 0
