"""One student of a recipe: its name, its own recipe, its folders."""

from __future__ import annotations

from dataclasses import dataclass

from ..recipe.schema import Recipe
from .rundir import RunDir


@dataclass
class Student:
    """One row of the table: its name, a recipe of its own (one seed, one round, no variants), and its folders."""

    name: str
    recipe: Recipe
    run: RunDir
    chain: tuple[str, ...]  # its stages, in their order
    before: Student | None = None  # the round before, whose student becomes this one's base

    @property
    def label(self) -> str:
        return f"{self.name}-s{self.recipe.seed}"

    def owns(self, stage: str) -> bool:
        """Whether the stage's folder is its own, and not another student's."""
        return stage not in self.run.places
