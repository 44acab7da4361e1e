"""What each student cost: shared stages count for everyone who needed them, rounds add up."""

import time
from pathlib import Path

import matplotlib.image
import pytest

from ssb_unsloth.pipeline.students import students
from ssb_unsloth.recipe import loading
from ssb_unsloth.report import figures
from ssb_unsloth.report.costs import student_rows
from ssb_unsloth.report.tables import student_table
from ssb_unsloth.run import clock
from ssb_unsloth.run.rundir import RunDir

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
COSTS = {"base": (1, 0), "curate": (100, 1000), "teach": (2, 300), "train": (50, 500)}  # seconds, tokens
SPENT = {"curate": {"rollouts": 40, "refinements": 30}, "train": {"measuring": 20}}  # of the seconds
ROLLOUT_TOKENS = 600  # of curation's


@pytest.fixture
def everyone(tmp_path, monkeypatch):
    """Students of every method, and a second round, whose stages were made by hand."""
    path = tmp_path / "mine.yaml"
    methods = ", ".join(f"{name}: {{train: {{method: {name}}}}}" for name in ("sft", "rft", "ssd", "grpo"))
    path.write_text(f"base: {POCKET}\nvariants: {{{methods}, two: {{rounds: 2}}}}")
    found = students(loading.load(path), tmp_path / "run")
    for student in found:
        for stage in student.chain:
            if not student.owns(stage):
                continue
            monkeypatch.setattr(clock.Watch, "seconds", COSTS[stage][0])
            monkeypatch.setattr(clock.Watch, "spent", SPENT.get(stage, {}))
            with student.run.lock(), student.run.write(stage, "key", {}) as work:
                work.tokens = COSTS[stage][1]
                if stage == "curate":
                    work.summary = {"rollout_tokens": ROLLOUT_TOKENS}
                if stage == "train":
                    grpo = student.recipe.train.method == "grpo"
                    work.summary = {"steps": 9, "first_loss": 1.0, "last_loss": 0.5, "drift": None if grpo else 0.25}
                    work.summary |= {"sampled_tokens": 7000} if grpo else {"learnt_tokens": 150}
    monkeypatch.undo()
    return found


def test_each_student_is_charged_for_what_its_method_needs_and_nothing_more(everyone):
    rows = {row["model"]: row for row in student_rows(everyone)}
    spent = {name: (row["sampled"], row["read"], row["seconds"]) for name, row in rows.items()}
    assert spent == {
        "ssb": (1000, 800, 100 + 2 + 50 - 20),
        "sft": (1000, 500, 100 + 50 - 20),
        "rft": (600, 500, 100 - 30 + 50 - 20),  # no refinement
        "ssd": (150, 500, 100 - 30 - 40 * 3 / 4 + 50 - 20),  # a quarter of the rollouts: those that it learns from
        "grpo": (7000, 500, 50 - 20),
        "two-round1": (1000, 800, 132),
        "two-round2": (2000, 1600, 132 + 132 + 1),
    }


def test_what_only_measures_is_counted_apart_from_what_is_learnt(tmp_path):
    run = RunDir(tmp_path)
    with run.lock(), run.write("train", "key", {}):
        with clock.on(clock.MEASURING):
            time.sleep(0.05)
        time.sleep(0.05)
    manifest = run.manifest("train")
    assert 0.05 <= manifest["spent"]["measuring"] < manifest["cost"]["seconds"]
    with run.lock(), run.write("train", "other", {}):  # the next stage in this process begins at nought
        pass
    assert run.manifest("train")["spent"] == {}


def test_a_stage_that_is_gone_on_with_costs_what_all_attempts_took(tmp_path):
    run = RunDir(tmp_path)

    def attempt(error=None):
        with run.lock(), run.write("train", "key", {}), clock.on(clock.MEASURING):
            time.sleep(0.1)
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        attempt(KeyboardInterrupt())
    with pytest.raises(ValueError, match="again"):
        attempt(ValueError("again"))
    attempt()
    manifest = run.manifest("train")
    assert manifest["cost"]["seconds"] >= manifest["spent"]["measuring"] >= 0.3
    assert not (tmp_path / "train" / ".spent").exists()


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
    common |= {"n_questions": 40}
    scores = [{**common, "model": row["model"], "value": 0.5, "low": 0.4, "high": 0.6} for row in rows]
    figures.cost(scores, rows, tmp_path / "cost.png")
    few = matplotlib.image.imread(tmp_path / "cost.png")
    assert few.std() > 0.02
    many = [{**row, "model": f"{row['model']}-{i}"} for row in rows for i in range(5)]
    figures.cost(scores, many, tmp_path / "many.png")
    taller = matplotlib.image.imread(tmp_path / "many.png").shape[0] - few.shape[0]
    assert taller > 25 * 20  # dots for the name of each student more
