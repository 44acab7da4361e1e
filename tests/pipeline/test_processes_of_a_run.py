"""`ssb train` by two processes: as by one; and one that is killed, or Ctrl-C, leaves nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "sampler.engine=transformers",
    "problems.limit=24",
    "curate.pairs=1000",
    "curate.min_yield=null",
    "train.epochs=2",
    "train.batch_size=5",
    "train.save_steps=2",
    "train.probe_steps=3",
    "train.probe_questions=4",
    "train.drift_texts=pocket",
    "evaluate.benchmarks={}",
]


def command(stage, runs, *more):
    recipe = str(ROOT / "recipes" / "pocket.yaml")
    return [sys.executable, "-m", "ssb_unsloth", stage, recipe, "--runs", str(runs), *SETTINGS, *more]


def start(*words):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )


def run(*words):
    process = start(*words)
    said = process.communicate(timeout=1500)[1]
    assert process.returncode == 0, said[-4000:]
    return said


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The pocket's run up to its pairs' targets."""
    runs = tmp_path_factory.mktemp("runs")
    run("curate", runs)
    run("teach", runs)
    return runs


def copy(taught, to):
    return Path(shutil.copytree(taught, to))


def members(session):
    """The processes of a session by their ids, with their parents'."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                words = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[3]) == session and words[0] != "Z":
                found[int(path.name)] = int(words[1])
    return found


def all_end(session):
    """Whether all of the session's processes end. Python's tracker of shared memory, which holds none, does when it
    sees its pipe closed: a moment after the command.
    """
    latest = time.monotonic() + 10
    while members(session) and time.monotonic() < latest:
        time.sleep(0.05)
    return not members(session)


def trainers(process):
    """Those that train: spawned, and at work with torch."""
    found = []
    for number in members(process.pid):
        try:
            line = Path(f"/proc/{number}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "spawn_main" in " ".join(line):
            found.append(number)
    return found


def at_checkpoint(process, runs, step):
    """Wait until the training has written its checkpoint of that step."""
    wanted = runs / "pocket" / "train.partial" / "checkpoints" / f"checkpoint-{step}" / "sealed.json"
    latest = time.monotonic() + 900
    while not wanted.exists():
        assert process.poll() is None, process.communicate()[1][-4000:]
        assert time.monotonic() < latest
        time.sleep(0.01)


def history(runs):
    return [json.loads(line) for line in (runs / "pocket" / "train" / "history.jsonl").read_text().splitlines()]


def assert_same(one, other):
    for row, again in zip(history(one), history(other), strict=True):
        assert row.keys() == again.keys()
        for key, value in row.items():
            assert again[key] == pytest.approx(value, rel=2e-3, abs=1e-6), key
    first, second = (
        load_file(runs / "pocket" / "train" / "adapter" / "adapter_model.safetensors") for runs in (one, other)
    )
    for name, weight in first.items():
        assert (second[name] - weight).norm() <= 1e-3 * weight.norm(), name


@pytest.mark.slow
def test_two_processes_of_the_command_train_as_one_killed_stopped_and_resumed(taught, tmp_path):
    one, two = copy(taught, tmp_path / "one"), copy(taught, tmp_path / "two")
    run("train", one)
    several = ("train", two, "train.processes=2")

    process = start(*several)  # one of the processes is killed
    at_checkpoint(process, two, 2)
    os.kill(max(trainers(process)), signal.SIGKILL)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 2
    assert said.count("was ended by SIGKILL") == 1
    assert "Traceback" not in said
    assert all_end(process.pid)

    process = start(*several)  # Ctrl-C, which the whole terminal hears
    at_checkpoint(process, two, 4)
    since = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - since < 6
    assert process.returncode == 130
    assert said.count("stopped.") == 1
    assert "Traceback" not in said
    assert all_end(process.pid)

    measured = json.loads((two / "pocket" / "train.partial" / ".spent.first").read_text())["measuring"]
    assert measured > 0
    said = run(*several)
    assert said.count("train: done") == 1
    assert_same(one, two)
    manifests = [json.loads((runs / "pocket" / "train" / "manifest.json").read_text()) for runs in (one, two)]
    assert manifests[0]["summary"].keys() == manifests[1]["summary"].keys()
    assert manifests[0]["cost"]["tokens"] == manifests[1]["cost"]["tokens"]
    assert manifests[1]["spent"]["measuring"] > measured  # what was spent before Ctrl-C is kept
    assert manifests[1]["cost"]["peak_rss_bytes"] > manifests[0]["cost"]["peak_rss_bytes"]
    followed = [(runs / "pocket" / "train" / "tokens.jsonl").read_text().count("\n") for runs in (one, two)]
    assert followed[0] == followed[1] > 0
    sharded = copy(taught, tmp_path / "sharded")
    run("train", sharded, "train.processes=2", "train.sharding=fsdp")
    assert_same(one, sharded)
