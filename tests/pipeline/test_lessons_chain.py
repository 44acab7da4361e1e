"""The chain without a refinement: what the model itself wrote is learnt, from the base moved by what a hint changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssb_unsloth.method.targets import Targets
from ssb_unsloth.records import Pair, Rollout, read_jsonl

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = [
    *("problems.limit=64", "curate.pairs=8", "curate.wave=32", "train.epochs=1", "train.probe_steps=0"),
    *("train.learning_rate=4e-3", "evaluate.benchmarks.test.limit=8", "evaluate.benchmarks.test-hard=null"),
    *("sampler.engine=transformers", "curate.refinements=0", "teach.hint=right", "train.token_pairs=3"),
]


def ssb(*words, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "ssb_unsloth", *words],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A recipe and four variants that share its curation: all rollouts by guidance, a mixture, and right ones alone by
    their own tokens; with new rollouts and a guard, and with a guard of all weights."""
    runs = tmp_path_factory.mktemp("runs")
    mixture = "variants.mix={teach: {right: tokens, window: 6, weights: disagreement}}"
    alone = "variants.tokens={teach: {replies: right, each: 1, guidance: null, right: tokens}}"
    guard = "guard: {questions: 8, every: 2}"
    fresh = f"variants.fresh={{teach: {{each: 1}}, train: {{epochs: 2, refresh: {{every: epoch}}, {guard}}}}}"
    whole = f"variants.whole={{teach: {{each: 1}}, train: {{lora: null, learning_rate: 1e-4, {guard}}}}}"
    ssb(
        *("run", str(ROOT / "recipes" / "pocket.yaml"), "--runs", str(runs), *SMALL),
        *("teach.replies=rollouts", "teach.guidance=1", mixture, alone, fresh, whole),
    )
    return runs / "pocket"


def told(run, student, stage):
    folder = run / "students" / student / stage if student else run / stage
    return json.loads((folder / "manifest.json").read_text())["summary"]


def test_nothing_is_refined_and_every_own_rollout_is_taught(run):
    pairs = read_jsonl(run / "curate" / "pairs.jsonl", Pair)
    questions = {pair.problem_id for pair in pairs}
    own = [r for r in read_jsonl(run / "curate" / "rollouts.jsonl", Rollout) if r.problem_id in questions]
    assert not read_jsonl(run / "curate" / "refinements.jsonl", Rollout)
    assert len(own) == 4 * len(pairs) == told(run, "", "teach")["pairs"]
    assert told(run, "", "teach")["reply_tokens"] == sum(len(rollout.token_ids) for rollout in own)
    assert told(run, "", "train")["steps"] == -(-len(own) // 4)
    targets = Targets(run / "teach")
    assert all(len(targets([rollout.id])) == len(rollout.token_ids) for rollout in own)


def test_of_a_mixture_the_teacher_has_the_wrong_ones_alone(run):
    questions = {pair.problem_id for pair in read_jsonl(run / "curate" / "pairs.jsonl", Pair)}
    own = [r for r in read_jsonl(run / "curate" / "rollouts.jsonl", Rollout) if r.problem_id in questions]
    wrong = [rollout.id for rollout in own if rollout.verdict != "right"]
    assert told(run, "mix-s3407", "teach")["pairs"] == len(wrong)
    targets = Targets(run / "students" / "mix-s3407" / "teach")
    assert sorted(targets.starts) == sorted(wrong)
    assert told(run, "mix-s3407", "train")["steps"] == -(-len(own) // 4)


def test_right_ones_alone_by_their_own_tokens_need_no_teacher(run):
    assert told(run, "tokens-s3407", "teach")["pairs"] == 0
    assert told(run, "tokens-s3407", "train")["steps"] == 2


@pytest.mark.parametrize("student", ["fresh", "whole"])
def test_a_guard_measures_and_keeps_the_best_student_also_of_all_weights(run, student):
    folder = run / "students" / f"{student}-s3407" / "train"
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["probe_accuracy"] for row in rows if "probe_accuracy" in row}
    summary = told(run, f"{student}-s3407", "train")
    after = {step: value for step, value in measured.items() if step}
    assert min(measured) == 0
    assert summary["kept_step"] == min(step for step, value in after.items() if value == max(after.values()))
    assert (folder / ("adapter" if student == "fresh" else "model")).is_dir()


def test_new_rollouts_were_learnt_in_the_second_epoch_and_are_counted_as_sampled(run):
    once, again = (told(run, f"{student}-s3407", "train") for student in ("whole", "fresh"))
    assert again["steps"] == 2 * once["steps"]
    assert again["sampled_tokens"] > once["sampled_tokens"] + 4 * told(run, "", "train")["steps"]


def test_the_report_speaks_of_them(run):
    report = (run / "report" / "report.md").read_text()
    assert "| mix |" in report
    assert "| tokens |" in report
    examples = (run / "report" / "examples.md").read_text()
    assert "Right rollout" in examples
    assert "Refinement" not in examples
    rows = [json.loads(line) for line in (run / "train" / "tokens.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    page = (run / "report" / "tokens.html").read_text()
    asked = {pair.problem_id: pair.question for pair in read_jsonl(run / "curate" / "pairs.jsonl", Pair)}
    first = next(r for r in read_jsonl(run / "curate" / "rollouts.jsonl", Rollout) if r.id == rows[0]["pair"])
    assert asked[first.problem_id] in page
