"""Trackers are looked at when the recipe is read."""

from pathlib import Path

import finished_run
import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe import trackers
from ssb_unsloth.recipe.loading import load

POCKET = Path("recipes/pocket.yaml")


def test_the_names_are_those_of_the_installed_transformers():
    assert set(trackers.MODULES) == set(INTEGRATION_TO_CALLBACK)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("[tensorbord]", r"train\.report_to: no tracker 'tensorbord'; did you mean tensorboard\?"),
        ("[none]", r"no tracker 'none'; known: azure_ml, .*; \[\] for none"),
        ("[wand, tensorbord]", r"2 things to fix:(.|\n)*wandb(.|\n)*tensorbord"),
    ],
)
def test_a_misspelt_tracker_is_said_when_the_recipe_is_read(given, says):
    with pytest.raises(UserError, match=says):
        load(POCKET, [f"train.report_to={given}"])


@pytest.mark.parametrize("command", ["run", "sweep", "curate", "teach", "train"])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            "train.report_to=[wandb]",
            "train.report_to: wandb needs wandb, not installed here; install it, or leave wandb",
        ),
        ("train.report_to=[tensorboard]", "tensorboard needs tensorboard, not installed here; install the extra"),
        ("train.report_to=[dagshub]", "dagshub needs dagshub and mlflow"),
        ("variants.a.train.report_to=[wandb]", "wandb needs wandb"),
    ],
)
def test_a_missing_tracker_is_said_before_anything_begins(command, given, says, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert main([command, str(POCKET), given, "--runs", str(tmp_path / "runs")]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_that_is_installed_is_taken(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: name in ("tensorboardX", "wandb") or None)
    trackers.refuse_missing(["tensorboard", "wandb", "kubeflow"])
    given = load(POCKET, ["train.report_to=[tensorboard, wandb, kubeflow]"])
    assert given.train.report_to == ["tensorboard", "wandb", "kubeflow"]


def test_a_finished_run_is_read_where_its_tracker_is_not_installed(monkeypatch, tmp_path):
    """Trained on one machine, looked at and exported on another."""
    run = finished_run.make(POCKET, tmp_path / "pocket", ["train.report_to=[tensorboard]"])
    (run / "tensorboard" / "2026-11-26-193209").mkdir(parents=True)
    (run / "tensorboard" / "2026-11-26-193209" / "events").write_text("curves")
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert main(["verify", str(run)]) == 0
    assert main(["report", str(run / "recipe.yaml"), "--runs", str(tmp_path)]) == 0


def test_a_variants_tracker_is_looked_at_too():
    with pytest.raises(UserError, match=r"variants\.a\.train\.report_to: no tracker 'w'"):
        load(POCKET, ["variants.a.train.report_to=[w]"])
