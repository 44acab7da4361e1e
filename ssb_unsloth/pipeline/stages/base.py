"""The student of the round before, its adapter merged into the weights: the base of this round."""

from __future__ import annotations

import shutil
from typing import Any

from ...recipe.schema import Recipe
from ...run.rundir import Work
from ...run.student import ADAPTER, MODEL
from ..stage import BEFORE, Scope, Stage


class Base(Stage):
    name = "base"

    def reads(self, recipe: Recipe) -> tuple[str, ...]:
        return (BEFORE,)

    def determined_by(self, scope: Scope) -> dict[str, Any]:
        return {}

    def make(self, scope: Scope, work: Work) -> None:
        from ...backends.transformers import save_merged

        assert scope.run.model_before is not None
        before = scope.run.stage(BEFORE)
        if (before / MODEL).is_dir():  # all its weights were trained
            shutil.copytree(before / MODEL, work.folder / "model")
        else:
            save_merged(scope.run.model_before, before / ADAPTER, work.folder / "model")


STAGE = Base()
