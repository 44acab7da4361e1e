"""Trackers are looked at when the recipe is read."""

from pathlib import Path

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ssb_unsloth import trackers
from ssb_unsloth.config import load
from ssb_unsloth.errors import UserError

POCKET = Path("recipes/pocket.yaml")


def test_the_names_are_those_of_the_installed_transformers():
    assert set(trackers.MODULES) == set(INTEGRATION_TO_CALLBACK)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("[tensorbord]", r"train\.report_to: no tracker 'tensorbord'; did you mean tensorboard\?"),
        ("[none]", r"no tracker 'none'; known: azure_ml, .*; \[\] for none"),
        ("[wandb]", r"train\.report_to: wandb needs wandb, not installed here; install it, or leave wandb out"),
        ("[tensorboard]", r"tensorboard needs tensorboard, not installed here; install the extra \[trackers\]"),
        ("[dagshub]", r"dagshub needs dagshub and mlflow"),
        ("[wandb, tensorbord]", r"2 things to mend:(.|\n)*wandb(.|\n)*tensorbord"),
    ],
)
def test_a_missing_or_misspelt_tracker_is_said_when_the_recipe_is_read(given, says, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=says):
        load(POCKET, [f"train.report_to={given}"])


def test_one_that_is_installed_is_taken(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: name in ("tensorboardX", "wandb") or None)
    given = load(POCKET, ["train.report_to=[tensorboard, wandb, kubeflow]"])
    assert given.train.report_to == ["tensorboard", "wandb", "kubeflow"]


def test_a_variants_tracker_is_looked_at_too(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"variants\.a\.train\.report_to: no tracker 'w'"):
        load(POCKET, ["variants.a.train.report_to=[w]"])
