"""What a reader has to know before the figures: that there are too few of them, or fewer than the recipe asks for.

A smoke run is one from which nothing can be concluded, whatever comes out of it: its benchmarks are so small that no
difference could be significant, or its students have learnt from next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..io.markdown import escaped
from ..published import FEW, PAIRS, STEPS
from ..recipe.schema import Recipe
from .tables import difference_table

LEVEL = 0.05  # of the tests in the report


def cautions(recipe: Recipe, report: Mapping[str, Any]) -> list[str]:
    """One sentence each, as Markdown; the gravest first."""
    small, empty = _small_benchmarks(report), _short_trainings(report)
    found = []
    if empty or (small and len(small) == len(report["decoding"])):
        found.append(f"**Nothing can be concluded from this run**: {'; '.join([*empty, *small.values()])}.")
    else:
        found += [f"**Nothing can be concluded from one benchmark**: {why}." for why in small.values()]
    curation = report.get("curation", {"brought": 1})
    found_pairs = min(curation.get("accepted", 0), recipe.curate.pairs)
    if not curation["brought"] and found_pairs < recipe.curate.pairs:
        asked = curation["questions"] + curation["skipped"]
        of_questions = "questions with a pair" if recipe.curate.refinements > 1 else "pairs"
        found.append(
            f"**Fewer pairs than asked for**: {found_pairs:,} of {recipe.curate.pairs:,} {of_questions}, from all"
            f" {asked:,} questions that there were. More questions, or more rollouts a question, give more."
        )
    return found


def _small_benchmarks(report: Mapping[str, Any]) -> dict[str, str]:
    """Those on which no outcome whatever would be significant, by the least p that the report's tests can give for so
    many questions, times the rows that Holm's correction is over.
    """
    rows = max(len(difference_table(report["differences"])) - 1, 1)
    counts = {score["benchmark"]: score["n_questions"] for score in report["scores"]}
    least = {name: min(1.0, rows * 2.0 ** (1 - counts.get(name, 0))) for name in report["decoding"]}
    return {
        name: f"{escaped(name)} has {_count(counts.get(name, 0), 'question')}, with which no difference could be"
        f" significant (p is never below {p:.2g})"
        for name, p in least.items()
        if p > LEVEL
    }


def _short_trainings(report: Mapping[str, Any]) -> list[str]:
    found = []
    pairs = report.get("curation", {}).get("pairs", PAIRS)
    if pairs < FEW * PAIRS:
        found.append(f"{_count(pairs, 'pair')} to learn from, where the paper had {PAIRS}")
    for method, training in report["training"].items():
        if training["steps"] < FEW * STEPS:
            found.append(f"{escaped(method)} was trained for {_count(training['steps'], 'step')}")
    return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)
