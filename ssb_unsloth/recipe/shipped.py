"""The recipes that come with the package, by name: the folder recipes/ of a checkout, which a wheel carries too.

A recipe is named by its file, or, where no such file is there, by a shipped one's name: `pocket` and `pocket.yaml` are
both the shipped recipe, unless a pocket.yaml lies in the working directory.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import UserError
from ..io.files import local

ENDINGS = (".yaml", ".yml")
PACKAGE = Path(__file__).parents[1]

# What `ssb recipes` puts under one heading; what is in none comes under the last.
GROUPS = {
    "Without a GPU, in minutes": ("pocket", "pocket-choice", "pocket-code"),
    "A free T4 (Colab)": ("qwen2.5-0.5b-t4",),
    "The paper's experiment, on a card of 40 GB": (
        "qwen2.5-3b-gsm8k",
        "qwen2.5-3b-gsm8k-author-code",
        "qwen2.5-3b-gsm8k-beyond",
    ),
    "The evidence on the pocket's model (docs/evidence.md)": (
        "evidence-tuning",
        "evidence",
        "evidence-ablations",
        "evidence-rare",
        "evidence-rule",
    ),
    "Other base models": (),
}


def folder() -> Path:
    """Where the shipped recipes lie: beside the package in a checkout, within it where it was installed."""
    installed = PACKAGE / "recipes"
    return installed if installed.is_dir() else PACKAGE.parent / "recipes"


def shipped() -> dict[str, Path]:
    """The shipped recipes' files by name."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def find(name: str) -> Path:
    """The file that a recipe's name on the command line stands for.

    Raises:
        UserError: no file is there, and no recipe of that name comes with the package.
    """
    if (path := local(name, "RECIPE")).exists() and (path.is_file() or path.suffix in ENDINGS):
        return path
    if (known := _shipped(name)) is not None:
        return known
    raise none_such(name, path)


def none_such(name: str, path: Path) -> UserError:
    """What to say where no file is at `path`, and no shipped recipe has its name."""
    near = difflib.get_close_matches(path.stem if path.suffix in ENDINGS else path.name, shipped(), n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    return UserError(f"{name}: no such recipe.{meant} `ssb recipes` lists those that come with the package.")


def is_recipe(word: str) -> bool:
    """Whether a word of the command line names a recipe, and not a model."""
    return word.endswith(ENDINGS) or _shipped(word) is not None


def base_of(name: str, beside: Path) -> Path:
    """The file that `base: name` of the recipe `beside` means: one beside that file, or a shipped one.

    Raises:
        UserError: there is neither.
    """
    path = beside.parent / local(name, f"{beside}: base")
    if (found := path if path.exists() else _shipped(name)) is None:
        raise none_such(f"{beside}: base: {name}", path)
    return found


def prompt_file(name: Path, folder_: Path) -> Path:
    """The text that a recipe in `folder_` names: one there, or a shipped recipe's, which a copy of it names too."""
    path, ours = folder_ / name, folder() / name
    return ours if ours.is_file() and not path.exists() else path


def data_file(source: str) -> str:
    """A `source` as it is; where it is one of a shipped recipe (`recipes/...`) and not in the working directory, the
    package's own file, so that such a recipe runs anywhere.
    """
    ours = folder() / source.removeprefix("recipes/")
    return str(ours) if source.startswith("recipes/") and not local(source).exists() and ours.is_file() else source


def describe(path: Path) -> str:
    """What a recipe says of itself: the first line of its file."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def _shipped(name: str) -> Path | None:
    """A shipped recipe by its name, by that of its file, or as a checkout's `recipes/NAME.yaml`."""
    for path in shipped().values():
        if name in (path.stem, path.name, f"recipes/{path.name}"):
            return path
    return None
