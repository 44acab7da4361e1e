"""The laptop experiment: a generator of word problems, and a tiny language model trained from scratch on them.

The model is constructed: its pre-training text teaches it to misread certain wordings and to write a better solution
when shown a right and a wrong one. It lets every stage run for real in minutes; it is no evidence about a 3B model.
`python -m ssb_unsloth.pocket.build --out DIR` rebuilds it from nothing.

May import: errors, io, records, prompts.
May be imported by: machine, backends, data, run, training, commands.
"""

from __future__ import annotations

from pathlib import Path

NAME = "pocket"  # what a recipe calls this model, these problems, and texts to measure drift on
MODEL_DIR: Path = Path(__file__).parent / "model"
"""The shipped model: an ordinary Hugging Face folder."""
MODELS = {NAME: MODEL_DIR, "pocket-tasks": Path(__file__).parent / "tasks" / "model"}  # by what a recipe calls them


def is_pocket(name: str | None) -> bool:
    """Whether a recipe names what comes with the package; a file or folder of that name is written `./pocket`."""
    return name == NAME


def model_folder(name: str | None) -> Path | None:
    """The folder of the model that comes with the package under that name; None if none does."""
    return MODELS.get(name or "")
