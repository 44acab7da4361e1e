"""The sentence about a run that can be quoted: what its student did to accuracy, with what has to be said beside it."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe.schema import BASE, Recipe
from .tables import Row, p_value


def headline(recipe: Recipe, scores: Sequence[Row], differences: Sequence[Row]) -> str:
    """What the recipe's own student did on the recipe's first benchmark, sampled where it was, else greedily; "" where
    it was not compared with the base. With several seeds it speaks of their mean, with several rounds of the last.
    """
    method, rounds = recipe.train.method, recipe.rounds
    model = f"{method}-round{rounds}" if rounds > 1 else method
    its = [d for d in differences if (d["model"], d["reference"], d["scoring"]) == (model, BASE, "equivalent")]
    if not its:
        return ""
    known = [d["benchmark"] for d in its]
    first = next((name for name in recipe.evaluate.benchmarks if name in known), known[0])
    found = max((d for d in its if d["benchmark"] == first), key=lambda d: d["temperature"])
    base, student = (_accuracy(scores, found, name) for name in (BASE, model))
    subject = method.upper() + (f" after {rounds} rounds" if rounds > 1 else "")
    before, after = (f"{100 * row['value']:.1f}" for row in (base, student))
    if not found["significant"]:
        said = f"made no significant difference to accuracy on {first}: {before} % before, {after} % after"
    else:
        verb = "raised" if found["value"] > 0 else "lowered"
        said = f"{verb} accuracy on {first} from {before} to {after} %"
    decoding = f"T = {found['temperature']:g}" if found["temperature"] else "greedy"
    asked = f"n = {found['n_questions']:,}"
    if student["n_samples"] > 1:
        asked += f" questions with {student['n_samples']:,} replies each"
    seeds = f"mean of {student['n_seeds']} seeds; " if student["n_seeds"] > 1 else ""
    p = p_value(found["p_holm"])
    return (
        f"{subject} {said} ({decoding}, {asked}; {seeds}95 % interval of the difference"
        f" {100 * found['low']:+.1f} to {100 * found['high']:+.1f} points, p {p if '<' in p else '= ' + p} after Holm's"
        " correction)."
    )


def _accuracy(scores: Sequence[Row], at: Row, model: str) -> Row:
    """A model's accuracy where `at` is; of several seeds the row of their mean."""
    place = (model, at["benchmark"], at["temperature"], "equivalent", "pass@1")
    rows = [s for s in scores if (s["model"], s["benchmark"], s["temperature"], s["scoring"], s["metric"]) == place]
    return next((s for s in rows if s["seed"] is None), rows[0])
