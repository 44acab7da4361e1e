"""A run of next to nothing ends with a report that says so, whatever odd small numbers it is given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
SMALL = [
    *("sampler.engine=transformers", "problems.limit=64", "curate.wave=16", "train.epochs=1", "train.probe_steps=1"),
    *("train.grpo.questions=8", "train.grpo.questions_per_step=4", "train.grpo.generations=2", "train.grpo.steps=1"),
    *("evaluate.benchmarks.test.limit=1", "evaluate.benchmarks.test-hard=null"),
]


def smoke(folder, *overrides):
    words = ["run", str(RECIPE), "--runs", str(folder), *SMALL, *overrides]
    done = subprocess.run([sys.executable, "-m", "ssb_unsloth", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Nothing can be concluded from this run: " in done.stdout
    report = folder / "pocket" / "report"
    assert report.joinpath("report.md").read_text().count("> **Nothing can be concluded from this run**: ") == 1
    return json.loads((report / "report.json").read_text())


@pytest.mark.slow
def test_one_pair_one_step_one_question_and_more_asked_for_than_there_is(tmp_path):
    overrides = ("curate.pairs=1", "train.batch_size=8", "train.probe_questions=100", "train.token_pairs=100")
    report = smoke(tmp_path, *overrides)
    assert (report["curation"]["pairs"], report["training"]["ssb"]["steps"]) == (1, 1)
    assert len(report["cautions"]) == 1


@pytest.mark.slow
def test_every_method_and_every_kind_of_target(tmp_path):
    kinds = {"online": [], "top_k": ["teach.top_k=2"], "logits": [], "one_hot": []}
    variants = [f"variants.{name}.train.method={name}" for name in ("sft", "rft", "ssd", "grpo")]
    for kind, more in kinds.items():
        name = kind.replace("_", "-")
        variants += [f"variants.{name}.{key}" for key in (f"teach.targets={kind}", *more)]
    report = smoke(tmp_path, "curate.pairs=2", "train.batch_size=2", *variants)
    assert {row["model"] for row in report["students"]} == {"ssb", "sft", "rft", "ssd", "grpo", *kinds} - {
        "top_k",
        "one_hot",
    } | {"top-k", "one-hot"}


@pytest.mark.slow
def test_seeds_rounds_samples_and_nothing_measured(tmp_path):
    overrides = ("curate.pairs=3", "train.batch_size=2", "train.probe_questions=0", "train.token_pairs=0")
    sampled = ("evaluate.benchmarks.test.samples=2", "evaluate.benchmarks.test.k=[1,2]", "evaluate.default_prompt=true")
    report = smoke(tmp_path, *overrides, *sampled, "seeds=[1,2]", "rounds=2", "train.logging_steps=50")
    assert report["seeds"] == [1, 2]


@pytest.mark.slow
def test_grpo_alone_and_several_refinements_sampled_alone(tmp_path):
    assert "curation" not in smoke(tmp_path / "grpo", "train.method=grpo", "train.grpo.questions=4")
    overrides = ("curate.pairs=2", "curate.refinements=3", "train.micro_batch_size=1", "train.drift_texts=pocket")
    smoke(tmp_path / "refinements", *overrides, "evaluate.benchmarks.test.greedy=false")
