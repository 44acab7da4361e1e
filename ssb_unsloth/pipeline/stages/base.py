"""The student of the round before, merged into its weights: the base of this round."""

from __future__ import annotations

from typing import Any

from ...recipe.schema import Recipe
from ...run.rundir import Work
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
        save_merged(scope.run.model_before, scope.run.stage(BEFORE) / "adapter", work.folder / "model")


STAGE = Base()
