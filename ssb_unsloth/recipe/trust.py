"""Whose code a recipe may name: a verifier `package.module:name` is run, if the recipe did not come from elsewhere.

The recipe is the user's own where its file lies in the working directory or below, and was not written by a run, nor
laid there by a download of the hub's library. Any other one has to say `model.trust_remote_code: true`, as it has to
for the code of a model's repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..verifier.verifiers import is_own, parts
from .schema import Recipe

_WRITTEN = b"# Written by ssb"  # how a run's recipe.yaml begins (`loading.save`)


def refuse_others_code(recipe: Recipe, path: Path) -> None:
    """Raises UserError where the recipe of that file names code and may not.

    Args:
        recipe: Read from `path`; what overrides on the command line name is looked at too.
    """
    own = next((name for name in _names(recipe) if is_own(name)), None)
    if own is None or recipe.model.trust_remote_code or _is_ones_own(path):
        return
    raise UserError(
        f"{path}: names the verifier {own}, which is code, and this recipe does not lie in the working directory, or a"
        " run or a download wrote it. Read that code; then copy the recipe here, or set model.trust_remote_code=true."
    )


def _names(recipe: Recipe) -> Iterator[str]:
    for problems in (recipe.problems, *recipe.evaluate.benchmarks.values()):
        yield parts(problems.verifier)[0]
    yield from _within(recipe.variants)


def _within(tree: Any) -> Iterator[str]:
    """The names of verifiers that stand in variants."""
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if key == "verifier" and isinstance(value, str):
            yield value
        elif key == "verifier" and isinstance(value, dict) and isinstance(value.get("name"), str):
            yield value["name"]
        else:
            yield from _within(value)


def _is_ones_own(path: Path) -> bool:
    real = path.resolve()
    downloaded = any(part.startswith(("models--", "datasets--", "spaces--")) for part in real.parts)
    downloaded = downloaded or any((folder / ".cache" / "huggingface" / "download").is_dir() for folder in real.parents)
    if downloaded or not real.is_relative_to(Path.cwd().resolve()):
        return False
    with real.open("rb") as file:
        return file.read(len(_WRITTEN)) != _WRITTEN
