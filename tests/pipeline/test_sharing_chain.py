"""From one run to another: what was shared is read back, and a student by it is the one by the run's own targets."""

from pathlib import Path

import pytest

from ssb_unsloth.cli import main

pytestmark = pytest.mark.slow

POCKET = str(Path(__file__).parents[2] / "recipes" / "pocket.yaml")
SMALL = [
    *("problems.limit=64", "curate.pairs=6", "curate.wave=32", "train.epochs=2", "train.probe_steps=0"),
    *("train.learning_rate=4e-3", "evaluate.benchmarks.test.limit=8", "evaluate.benchmarks.test-hard=null"),
    *("sampler.engine=transformers", "train.token_pairs=0"),
]
ADAPTER = "train/adapter/adapter_model.safetensors"


def ssb(*words):
    """In this process: a stage's own is not what is looked at here."""
    assert main([str(word) for word in words]) == 0


def chain(runs, *changes, stages=("curate", "teach", "train")):
    for name in stages:
        ssb(name, POCKET, "--runs", runs, *SMALL, *changes)
    return runs / "pocket"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return chain(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    for what in ("targets", "rollouts"):
        ssb("push", run, "--what", what, "--to", folder / what)
    return folder


def test_a_student_by_published_targets_is_the_one_by_its_own(run, shared, tmp_path):
    targets = shared / "targets"
    other = chain(tmp_path, f"curate.pairs_file={targets}", f"teach.targets_from={targets}")
    for name in ("curate/pairs.jsonl", ADAPTER, *(f"teach/{path.name}" for path in targets.glob("*.safetensors"))):
        assert (other / name).read_bytes() == (run / name).read_bytes(), name


def test_the_same_run_takes_them_in_place_of_its_teacher_and_nothing_is_stale(run, shared, capsys):
    for name in ("curate", "teach", "train"):
        ssb(name, POCKET, "--runs", run.parent, *SMALL, f"teach.targets_from={shared / 'targets'}")
        assert f"{name}: up to date" in capsys.readouterr().err


def test_from_published_rollouts_the_same_pairs_are_refined(run, shared, tmp_path):
    other = chain(tmp_path, f"curate.rollouts_file={shared / 'rollouts'}", stages=("curate",))
    for name in ("rollouts.jsonl", "questions.jsonl", "refinements.jsonl", "pairs.jsonl"):
        assert (other / "curate" / name).read_bytes() == (run / "curate" / name).read_bytes(), name
