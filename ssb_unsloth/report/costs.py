"""What each student cost, beside what it can do: for recipes that ask for more than one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..recipe.methods import METHODS
from ..run.clock import MEASURING, REFINEMENTS, ROLLOUTS
from ..run.student import Student

Row = Mapping[str, Any]


def student_rows(everyone: Sequence[Student]) -> list[dict[str, Any]]:
    """A row for each student: training, drift, and cost as if it had been made alone, shared stages included.

    `sampled` and `read`: tokens that the model wrote and read on the way to the adapter, `seconds` the stages' times;
    each as far as the student's method needs them, and without what only measures.
    """
    rows = []
    for student in everyone:
        if student.run.manifest("train") is None:  # another recipe's report: the folder holds fewer than it asks for
            continue
        summary = _manifest(student, "train")["summary"]
        rows.append(
            {
                "model": student.name,
                "seed": student.recipe.seed,
                "method": student.recipe.train.method,
                **{key: summary[key] for key in ("steps", "first_loss", "last_loss")},
                "drift": summary.get("drift"),
                **_cost(student),
            }
        )
    return rows


def _cost(student: Student) -> dict[str, float]:
    """All that the student's stages took, and its rounds before, less what it did not need of them."""
    total = _cost(student.before) if student.before is not None else {"sampled": 0, "read": 0, "seconds": 0.0}
    for stage in student.chain:
        manifest = _manifest(student, stage)
        cost, spent = manifest["cost"], manifest.get("spent", {})
        if stage == "curate":
            sampled, seconds = _of_curation(student, manifest)
            total["sampled"] += sampled
            total["seconds"] += seconds
        else:
            total["read"] += cost["tokens"]
            total["sampled"] += manifest["summary"].get("sampled_tokens", 0)
            total["seconds"] += cost["seconds"] - spent.get(MEASURING, 0.0)
    return total


def _of_curation(student: Student, manifest: Mapping[str, Any]) -> tuple[int, float]:
    """The tokens and seconds of curation that the student's method needs.

    SSB and SFT learn from refinements, which need the rollouts. RFT needs the rollouts of all questions, since which of
    them are right is not known before; SSD asks nobody, and needs those alone that it learns from: of the time for
    rollouts, as much as of their tokens.
    """
    pays, counts = METHODS[student.recipe.train.method].pays, manifest["summary"]
    seconds, spent = manifest["cost"]["seconds"], manifest.get("spent", {})
    if pays == "all":
        return manifest["cost"]["tokens"], seconds
    sampled = all_rollouts = counts.get("rollout_tokens", 0)
    seconds -= spent.get(REFINEMENTS, 0.0)
    if pays == "learnt":
        sampled = min(all_rollouts, _manifest(student, "train")["summary"]["learnt_tokens"])
        seconds -= spent.get(ROLLOUTS, 0.0) * (1 - sampled / all_rollouts if all_rollouts else 0)
    return sampled, seconds


def _manifest(student: Student, stage: str) -> dict[str, Any]:
    return student.run.manifest(stage) or {}
