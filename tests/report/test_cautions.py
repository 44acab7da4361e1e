"""A report says first when nothing can be concluded from it, and when there are fewer pairs than were asked for."""

import pytest

from ssb_unsloth.evaluation.stats import mcnemar_exact
from ssb_unsloth.recipe.schema import CurateConfig, Recipe
from ssb_unsloth.report.cautions import cautions


def said(questions=(200,), pairs=256, steps=192, wanted=256, accepted=None, refinements=1, brought=0):
    names = [f"b{number}" for number in range(len(questions))]
    report = {
        "decoding": {name: {} for name in names},
        "scores": [{"benchmark": name, "n_questions": n} for name, n in zip(names, questions, strict=True)],
        "differences": [],
        "training": {"ssb": {"steps": steps}},
        "curation": {
            **{"pairs": pairs, "accepted": pairs if accepted is None else accepted, "brought": brought},
            **{"questions": 990, "skipped": 10},
        },
    }
    recipe = Recipe(name="x", curate=CurateConfig(pairs=wanted, refinements=refinements))
    return "\n".join(cautions(recipe, report))


def test_a_whole_run_needs_no_caution():
    assert said() == said(pairs=26, wanted=26, steps=20, questions=(6, 500)) == ""


@pytest.mark.parametrize("n", range(1, 9))
def test_a_benchmark_is_too_small_where_winning_every_question_would_not_be_significant(n):
    assert ("Nothing can be concluded from this run" in said(questions=(n,))) == (mcnemar_exact(n, 0) > 0.05)


def test_of_several_benchmarks_the_small_one_is_named():
    assert said(questions=(4, 500)) == (
        "**Nothing can be concluded from one benchmark**: b0 has 4 questions, with which no difference could be"
        " significant (p is never below 0.12)."
    )


def test_pairs_and_steps_that_are_next_to_nothing_are_counted():
    assert said(pairs=2, wanted=2, steps=1, questions=(1,)) == (
        "**Nothing can be concluded from this run**: 2 pairs to learn from, where the paper had 256; ssb was trained"
        " for 1 step; b0 has 1 question, with which no difference could be significant (p is never below 1)."
    )


def test_fewer_pairs_than_asked_for_stand_in_the_report():
    assert "**Fewer pairs than asked for**: 180 of 256 pairs, from all 1,000 questions" in said(pairs=180)
    several = said(pairs=400, accepted=180, refinements=4)
    assert "180 of 256 questions with a pair" in several
    assert said(pairs=400, accepted=300, refinements=4) == said(pairs=180, brought=180) == ""
