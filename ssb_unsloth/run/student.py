"""One student of a recipe: its name, its own recipe, its folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..backends.sources import in_folder
from ..recipe.schema import ModelConfig, Recipe
from .rundir import RunDir

ADAPTER, MODEL = "adapter", "model"  # what training leaves in its stage's folder: the one or the other


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

    @property
    def adapter(self) -> Path | None:
        """The trained adapter; None where all weights were trained."""
        return None if self.recipe.train.lora is None else self.run.stage("train") / ADAPTER

    @property
    def model(self) -> ModelConfig:
        """What is loaded to ask it: the base that its adapter is put on, or the model that it is itself."""
        base = self.recipe.model
        return base if self.adapter is not None else in_folder(base, self.run.stage("train") / MODEL)

    def owns(self, stage: str) -> bool:
        """Whether the stage's folder is its own, and not another student's."""
        return stage not in self.run.places
