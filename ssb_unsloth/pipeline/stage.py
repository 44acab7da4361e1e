"""What a stage is: which stages it reads, what determines its result, and what it does.

Each of them is a module of `stages/` with one object STAGE; `table` lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..recipe.schema import Recipe
from ..run.manifests import FORMAT, digest
from ..run.rundir import RunDir, Work
from ..run.student import Student

BEFORE = "round-before"  # the place of the train stage whose student becomes the base of this round


@dataclass(frozen=True)
class Scope:
    """What a stage works on: one student's recipe and folders, or the whole recipe's if it is over all students."""

    recipe: Recipe
    run: RunDir
    trained: Callable[[], Sequence[Student]] = tuple  # all students; UserError where one is not trained


class Stage(ABC):
    name: str
    uses_model = True  # so the machine is looked at before it
    by_file = False  # it takes from a partial folder of another key what is still right there, file by file

    def reads(self, recipe: Recipe) -> tuple[str, ...]:
        """The stages whose folders it reads."""
        return ()

    @abstractmethod
    def determined_by(self, scope: Scope) -> dict[str, Any]:
        """Its part of the recipe, and the files that it reads: with the seed and the stages before, all that its result
        depends on.
        """

    @abstractmethod
    def make(self, scope: Scope, work: Work) -> None:
        """Write the results into `work.folder`. Heavy imports are made here."""

    def origin(self, determined_by: dict[str, Any]) -> str:
        """The hash of what the replies depend on that it keeps while it runs, where that is less than what determines
        its result: after a stop they serve whatever else has changed.
        """
        return ""

    def key(self, scope: Scope) -> tuple[str, dict[str, Any]]:
        """The hash of all that determines the result, and that itself.

        Raises:
            UserError: a stage that this one reads has not been run.
        """
        inputs = {}
        for name in self.reads(scope.recipe):
            manifest = scope.run.manifest(name)
            if manifest is None:
                raise UserError(
                    f"Stage {self.name} reads what {name} writes, and {scope.run.stage(name)} is not there: run"
                    f" `ssb {name}` first."
                )
            inputs[name] = manifest["id"]
        own = self.determined_by(scope)
        determined_by = {"format": FORMAT, "seed": scope.recipe.seed, **own, "inputs": inputs}
        return digest(determined_by), determined_by
