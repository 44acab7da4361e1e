"""The chain as a user runs it: `ssb run`, each stage a process of its own, on the pocket with real components."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssb_unsloth.machine.plan import make_plan
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.records import Generation, Pair, Rollout, generations_file, read_jsonl
from ssb_unsloth.run.kept import Kept

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes" / "pocket.yaml")
DATA = ROOT / "tests" / "fixtures" / "gsm8k"
SMALL = [
    "problems.limit=96",
    "curate.pairs=12",
    "curate.wave=48",
    "train.epochs=2",
    "train.learning_rate=1e-3",
    "train.probe_steps=3",
    "train.probe_questions=4",
    "evaluate.benchmarks.test.limit=24",
    "evaluate.benchmarks.test-hard.limit=12",
]
STAGES = ("curate", "teach", "train", "evaluate", "report")


def ssb(*words, code=0):
    done = subprocess.run([sys.executable, "-m", "ssb_unsloth", *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


# All that a run says while it works: stages, counts, our bars.
BARS = r"(rollouts|refinements|teacher pass|train) +\d+/\d+ (in|after) "
OURS = rf"\[\d+/\d+\] |\w+: done|Targets |\d+ of \d+ pairs|Starting vLLM|LoRA of rank |  \S|{BARS}"


def foreign(done):
    """The lines on standard error that are none of ours."""
    return [line for line in re.split("[\r\n]+", done.stderr) if line.strip() and not re.match(OURS, line)]


def ids(run):
    return {stage: json.loads((run / stage / "manifest.json").read_text())["id"] for stage in STAGES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished small run on the transformers engine: its folder, and how it was started."""
    runs = tmp_path_factory.mktemp("runs")
    words = ["run", RECIPE, "--runs", str(runs), "sampler.engine=transformers", *SMALL]
    return runs / "pocket", words, ssb(*words)


def test_a_run_leaves_every_decision_behind(finished):
    run, _, done = finished
    assert foreign(done) == []
    assert "T=0.8" in done.stdout
    assert "report.md" in done.stdout
    pairs = read_jsonl(run / "curate" / "pairs.jsonl", Pair)
    rollouts = {r.id for r in read_jsonl(run / "curate" / "rollouts.jsonl", Rollout)}
    assert pairs
    assert all({p.right_id, p.wrong_id} <= rollouts for p in pairs)
    report = json.loads((run / "report" / "report.json").read_text())
    assert {s["model"] for s in report["scores"]} == {"base", "ssb"}
    assert report["token_kl"][-1]["kind"] == "all"
    assert report["token_kl"][-1]["tokens"] == sum(len(pair.reply_ids) for pair in pairs)  # 12 pairs, below token_pairs
    for score in report["scores"]:
        name = generations_file(score["model"], score["seed"], score["benchmark"], score["temperature"])
        path = run / "evaluate" / name
        kept = read_jsonl(path, Generation)
        if score["scoring"] == "equivalent":
            assert score["value"] == sum(g.verdict == "right" for g in kept) / len(kept)
    assert (run / "recipe.yaml").exists()
    assert not list(run.rglob("*.bin"))
    assert not list(run.rglob("*.pt"))
    assert not list(run.glob("*.partial"))


def test_the_training_log_has_the_papers_curves_and_the_students_own_length(finished):
    history = [json.loads(line) for line in (finished[0] / "train" / "history.jsonl").read_text().splitlines()]
    steps = [row for row in history if "loss" in row]
    assert {"loss", "grad_norm", "learning_rate", "kl", "agreement", "step"} <= set(steps[0])
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    probes = [row["step"] for row in history if "reply_tokens" in row]
    assert probes[0] == 0
    assert probes[-1] == len(steps)


def test_what_is_up_to_date_is_not_run_again_and_a_change_runs_what_depends_on_it(finished):
    run, words, _ = finished
    before = ids(run)
    assert ssb(*words).stderr.count("up to date") >= len(STAGES)
    assert ids(run) == before
    ssb(*words, "evaluate.benchmarks.test.limit=20")
    after = ids(run)
    assert [stage for stage in STAGES if after[stage] != before[stage]] == ["evaluate", "report"]


def test_the_same_recipe_gives_the_same_artefacts(finished):
    """Repeating every stage by force: pairs, targets, adapter and generations come out equal, byte for byte."""
    run, words, _ = finished
    stages = ("curate", "teach", "train")
    files = [json.loads((run / stage / "manifest.json").read_text())["files"] for stage in stages]
    for stage in stages:
        ssb(stage, *words[1:], "--force")
    again = [json.loads((run / stage / "manifest.json").read_text())["files"] for stage in stages]
    for one, other in zip(files, again, strict=True):
        assert one == other


@pytest.mark.slow
def test_real_questions_that_the_pocket_cannot_answer_end_in_a_sentence_and_their_statistics(tmp_path):
    done = ssb(
        "run",
        RECIPE,
        "--runs",
        str(tmp_path),
        "sampler.engine=transformers",
        f"problems.source={DATA / 'train_rows.jsonl'}",
        "problems.gold_format=####",
        "problems.limit=null",
        code=2,
    )
    statistics = json.loads((tmp_path / "pocket" / "curate.partial" / "statistics.json").read_text())
    assert "No pair came out of 20 questions." in done.stderr
    assert "What to change:" in done.stderr
    assert not (tmp_path / "pocket" / "curate").exists()
    assert statistics["questions"] + statistics["skipped"] == 20
    assert statistics["pairs"] == 0


def compare_with_the_plan(run):
    """What a plan said against what the run's manifests have: a factor of 1.6, where chance decides 2.5."""
    plan = make_plan(load(run / "recipe.yaml"), None)
    for stage in plan.stages[:-1]:
        manifest = json.loads((run / stage.name / "manifest.json").read_text())
        size = sum(f.stat().st_size for f in (run / stage.name).rglob("*") if f.is_file())
        tokens = stage.sampled or stage.read
        ratios = {
            "memory": (stage.bytes / manifest["cost"]["peak_rss_bytes"], 1.6),
            "tokens": (tokens / manifest["cost"]["tokens"], 1.6 if stage.name != "curate" else 2.5),
            "disk": (
                stage.disk / size,
                15 if stage.name == "train" else 2.5,
            ),  # planned at its fullest, checkpoints and all
        }
        for what, (ratio, factor) in ratios.items():
            assert 1 / factor < ratio < factor, (stage.name, what, ratio)


def test_the_plan_is_close_to_what_the_run_used(finished):
    compare_with_the_plan(finished[0])


def test_a_finished_run_is_as_written_until_a_bit_is_flipped(finished):
    run = finished[0]
    ssb(*finished[1])  # other tests have run some of its stages with other settings
    table = ssb("verify", str(run)).stdout
    assert "all as written" in table
    path = run / "train" / "adapter" / "adapter_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert f"{path}: changed since it was written" in ssb("verify", str(run), code=2).stdout
    assert f"{path}: changed since it was written" in ssb("report", *finished[1][1:], "--force", code=2).stderr
    path.write_bytes(data)


def test_a_finished_run_stands_beside_the_paper(finished):
    """The last step of `make reproduce`, on a run whose benchmarks the paper does not have."""
    command = [sys.executable, "-m", "ssb_unsloth.commands.reproduction", str(finished[0])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said = (finished[0] / "reproduction.md").read_text()
    assert "Nothing in this run is in the paper's." in said
    assert "| loss | 0.56 to 0.25 |" in said
    assert "questions were used for" in said
    for stage in ("curate", "teach", "train", "evaluate"):
        assert f"| {stage} |" in said


@pytest.mark.slow
def test_the_whole_chain_with_the_real_vllm(tmp_path):
    assert foreign(ssb("run", RECIPE, "--runs", str(tmp_path), "sampler.engine=vllm", *SMALL)) == []
    run = tmp_path / "pocket"
    assert "vllm" in " ".join(json.loads((run / "curate" / "manifest.json").read_text())["versions"])
    for pair in read_jsonl(run / "curate" / "pairs.jsonl", Pair):
        assert pair.reply_ids
    generations = read_jsonl(run / "evaluate" / generations_file("ssb", 3407, "test", 0), Generation)
    assert len(generations) == 24


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(tmp_path):
    words = ["run", RECIPE, "--runs", str(tmp_path), "sampler.engine=transformers", *SMALL, "curate.pairs=1000"]
    command = [sys.executable, "-m", "ssb_unsloth", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    partial = tmp_path / "pocket" / "curate.partial"
    first = partial / "kept" / "wave-0000.rollouts.jsonl"
    for _ in range(6000):  # often: on a busy machine the stage may be over soon after
        if first.exists() and first.stat().st_size:
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resumes from there" in said
    assert "Traceback" not in said
    kept = Kept(first).replies
    assert kept
    assert not (tmp_path / "pocket" / "curate").exists()
    ssb(*words)
    rollouts = {r.id: r.text for r in read_jsonl(tmp_path / "pocket" / "curate" / "rollouts.jsonl", Rollout)}
    assert {name: rollouts[name] for name in kept} == {name: reply.text for name, reply in kept.items()}
