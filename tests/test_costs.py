"""What each student cost: shared stages count for everyone who needed them, rounds add up."""

from pathlib import Path

import matplotlib.image
import pytest

from ssb_unsloth import config, figures
from ssb_unsloth.costs import student_rows, student_table
from ssb_unsloth.students import students

POCKET = Path(__file__).parent.parent / "recipes" / "pocket.yaml"
COSTS = {"base": (1, 0), "curate": (10, 1000), "teach": (2, 300), "train": (5, 500)}  # seconds, tokens


@pytest.fixture
def everyone(tmp_path):
    """Five students whose stages were made by hand: ssb, sft, grpo and a second round."""
    path = tmp_path / "mine.yaml"
    variants = "{sft: {train: {method: sft}}, grpo: {train: {method: grpo}}, two: {rounds: 2}}"
    path.write_text(f"base: {POCKET}\nvariants: {variants}")
    found = students(config.load(path), tmp_path / "run")
    for student in found:
        for stage in student.chain:
            if not student.owns(stage):
                continue
            with student.run.write(stage, "key", {}) as work:
                work.tokens = COSTS[stage][1]
                if stage == "train":
                    grpo = student.recipe.train.method == "grpo"
                    work.summary = {"steps": 9, "first_loss": 1.0, "last_loss": 0.5, "drift": None if grpo else 0.25}
                    work.summary |= {"sampled_tokens": 7000} if grpo else {}
    return found


def test_each_student_is_charged_for_all_that_it_needed(everyone):
    rows = {row["model"]: row for row in student_rows(everyone)}
    spent = {name: (row["sampled"], row["read"]) for name, row in rows.items()}
    assert spent == {
        "ssb": (1000, 800),
        "sft": (1000, 500),
        "grpo": (7000, 500),
        "two-round1": (1000, 800),
        "two-round2": (2000, 1600),
    }


def test_the_table_has_means_over_seeds(everyone):
    rows = student_rows(everyone)
    other = [{**row, "seed": 5, "read": row["read"] + 100} for row in rows]
    table = {line[0]: line for line in student_table([*rows, *other])}
    assert table["sft"][2:6] == ["2", "9", "1,000", "550"]
    assert table["sft"][-1] == "0.2500"
    assert table["grpo"][-1] == "not measured"


def test_the_figure_is_drawn(everyone, tmp_path):
    rows = student_rows(everyone)
    common = {"scoring": "equivalent", "metric": "pass@1", "benchmark": "test", "temperature": 0.8, "seed": 1}
    scores = [{**common, "model": row["model"], "value": 0.5, "low": 0.4, "high": 0.6} for row in rows]
    figures.cost(scores, rows, tmp_path / "cost.png")
    few = matplotlib.image.imread(tmp_path / "cost.png")
    assert few.std() > 0.02
    many = [{**row, "model": f"{row['model']}-{i}"} for row in rows for i in range(5)]
    figures.cost(scores, many, tmp_path / "many.png")
    taller = matplotlib.image.imread(tmp_path / "many.png").shape[0] - few.shape[0]
    assert taller > 25 * 20  # dots for the name of each student more
