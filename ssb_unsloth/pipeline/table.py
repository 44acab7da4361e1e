"""The stages in the order in which they run. A new one is a row here and a module of `stages/` with its object STAGE.

Nothing heavy is imported, since the command line reads this.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .stage import Stage


@dataclass(frozen=True)
class Row:
    help: str  # of its command
    of_all: bool = False  # over all students of a recipe together, once they are trained


STAGES = {
    "base": Row("merge the previous round's student into the weights (recipes with rounds)"),
    "curate": Row("sample answers, and let the model write better ones, checked, to learn from"),
    "teach": Row("store what the teacher, which sees a hint, predicts at each token"),
    "train": Row("train the LoRA student on the questions without hints"),
    "evaluate": Row("let base and student answer the benchmarks, and grade every reply", of_all=True),
    "report": Row("write tables, figures and worked examples", of_all=True),
}
OF_A_STUDENT = tuple(name for name, row in STAGES.items() if not row.of_all)
OF_ALL = tuple(name for name, row in STAGES.items() if row.of_all)


def stage(name: str) -> Stage:
    """The stage of this name."""
    found: Stage = importlib.import_module(f"{__package__}.stages.{name}").STAGE
    return found
