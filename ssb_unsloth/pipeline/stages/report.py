"""Tables, figures and worked examples from what the other stages left."""

from __future__ import annotations

from typing import Any

from ...recipe.schema import Recipe
from ...run import keys
from ...run.rundir import Work
from ..stage import Scope, Stage


class Report(Stage):
    name = "report"
    uses_model = False

    def reads(self, recipe: Recipe) -> tuple[str, ...]:
        return ("evaluate",)

    def determined_by(self, scope: Scope) -> dict[str, Any]:
        return {"recipe": keys.of_recipe(scope.recipe)}

    def make(self, scope: Scope, work: Work) -> None:
        from ...report.write import write_report

        everyone = scope.trained()
        for student in everyone:
            for stage in ("curate", "train"):  # what a report reads; whoever is short of disk may delete the targets
                if stage in student.chain:
                    student.run.check(stage)
        write_report(scope.recipe, scope.run, work.folder, everyone)


STAGE = Report()
