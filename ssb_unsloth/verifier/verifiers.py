"""The verifiers that go by a name (`problems.verifier` in a recipe), and the one door to them.

A new one is a file here and its row. Nothing is imported before it is asked for, since the recipe and the command line
read the table.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from .protocol import Verifier

MATH = "math"  # where nothing else is said

VERIFIERS: dict[str, str] = {  # name -> the module whose VERIFIER it is; one with a dot before it lies here
    MATH: ".mathematical",
}


def verifier_named(name: str) -> Verifier:
    """The verifier of that name; its module is imported at the first time.

    Raises:
        UserError: there is none of that name.
    """
    if name not in VERIFIERS:
        raise UserError(unknown(name))
    verifier: Verifier = import_module(VERIFIERS[name], __package__).VERIFIER
    return verifier


def unknown(name: str) -> str:
    """What to say of a name that is none."""
    return f"no verifier {name!r}; known: {', '.join(VERIFIERS)}."
