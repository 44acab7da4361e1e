"""Runs on a Ray cluster of this machine: the files are those of runs without one, whatever is killed on the way."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from ray_here import MARK, ray_here, replicas

from ssb_unsloth.backends import TrainingBackend
from ssb_unsloth.backends.cluster import Cluster
from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.targets import TargetWriter
from ssb_unsloth.pipeline.on_cluster import needs
from ssb_unsloth.pipeline.teaching import Agreement
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import LoraConfig, ModelConfig
from ssb_unsloth.recipe.shipped import find

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "problems.limit=24",
    "curate.pairs=1000",
    "curate.min_yield=null",
    "teach.batch_tokens=600",
    "train.epochs=1",
    "train.probe_steps=0",
    "evaluate.benchmarks={test: {source: pocket, split: test, limit: 6, max_tokens: 60}}",
]
ALONE = ["sampler.engine=transformers"]
SPREAD = ["sampler.engine=ray", "sampler.replica_engine=transformers", "sampler.replicas=2"]


def stage(name, runs, *more):
    assert main([name, str(ROOT / "recipes" / "pocket.yaml"), "--runs", str(runs), *SETTINGS, *more]) == 0
    return runs / "pocket" / name


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("manifest.json", "kept")}


@pytest.mark.slow
def test_pairs_and_targets_of_two_replicas_are_those_of_one_process(tmp_path, monkeypatch, capfd):
    alone = [stage(name, tmp_path / "alone", *ALONE) for name in ("curate", "teach")]
    with ray_here():
        pairs = stage("curate", tmp_path / "spread", *SPREAD)
        assert files(pairs)["pairs.jsonl"] == files(alone[0])["pairs.jsonl"]
        add, added = TargetWriter.add, []

        def adding(self, pair_id, *more):
            added.append(pair_id)
            if len(added) == 2:
                os.kill(replicas(os.getpid())[0], signal.SIGKILL)
            add(self, pair_id, *more)

        monkeypatch.setattr(TargetWriter, "add", adding)
        targets = stage("teach", tmp_path / "spread", *SPREAD)
    assert len(added) > 4
    assert files(targets) == files(alone[1])


def killed_on_the_way(folder):
    """A thread that kills one of two replicas as soon as something is kept below the folder; ends when it has."""

    def kill():
        while True:
            at_work = replicas(os.getpid())
            if len(at_work) == 2 and any(path.stat().st_size for path in folder.glob("**/kept/*")):
                os.kill(at_work[0], signal.SIGKILL)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_the_evaluation_of_an_adapter_by_two_replicas_is_that_of_one_process_though_one_is_killed(tmp_path, capfd):
    model = TrainingBackend(ModelConfig(name="pocket", backend="transformers")).load(512, LoraConfig(), seed=3)
    with torch.no_grad():  # of a fresh adapter B is zero, and the student the base
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "adapter")

    def evaluated(out, *more):
        words = ["evaluate", "pocket", "--benchmark", "pocket-test", "--adapter", f"student={tmp_path / 'adapter'}"]
        limits = ["evaluate.benchmarks.pocket-test.limit=80", "sampler.batch_size=8", "model.backend=transformers"]
        assert main([*words, "--out", str(out), *limits, *more]) == 0
        found = files(out / "evaluate")
        del found["origins.json"]  # which the engine is part of
        return found

    alone = evaluated(tmp_path / "alone", *ALONE)
    replied = {name: alone[name] for name in alone if name.endswith(".jsonl") and not name.startswith("problems")}
    base, student = ([json.loads(line)["text"] for line in replied[name].splitlines()] for name in sorted(replied))
    assert base != student
    with ray_here():
        killer = killed_on_the_way(tmp_path / "spread")
        assert evaluated(tmp_path / "spread", *SPREAD) == alone
    assert not killer.is_alive()
    assert "raylet" not in capfd.readouterr().out  # which says that it died


def marked(mark):
    """All processes that were started with that mark, the dead that nobody has asked for left out."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_all_of_ray_and_the_same_command_resumes(tmp_path):
    words = ["curate", str(ROOT / "recipes" / "pocket.yaml"), *SETTINGS, "problems.limit=60"]
    assert main([*words, *ALONE, "--runs", str(tmp_path / "alone")]) == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), MARK: str(tmp_path)}
    environment = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "ssb_unsloth", *words, *SPREAD, "sampler.batch_size=8"]

    def start():
        return subprocess.Popen(
            [*command, "--runs", str(tmp_path / "spread")],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path,
            start_new_session=True,
        )

    first = start()
    while first.poll() is None and not any(p.stat().st_size for p in tmp_path.glob("spread/**/kept/*.rollouts.jsonl")):
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal's
    begun = time.monotonic()
    _, said = first.communicate(timeout=30)
    assert first.returncode == 130, said
    assert said.count("ssb: stopped. What was finished is kept; the same command resumes from there.") == 1
    assert "Traceback" not in said
    assert "SIGTERM handler is not set" not in said  # which Ray says where it starts once more
    while marked(tmp_path) and time.monotonic() - begun < 20:
        time.sleep(0.1)
    assert not marked(tmp_path)
    second = start()
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert files(tmp_path / "spread" / "pocket" / "curate") == files(tmp_path / "alone" / "pocket" / "curate")


@pytest.mark.slow
def test_a_sweep_on_a_cluster_gives_the_table_of_one_without_though_a_task_is_lost(tmp_path):
    words = [str(ROOT / "recipes" / "pocket.yaml"), *SETTINGS, *ALONE, "seeds=[1,2]"]
    environment = {
        **os.environ,
        **{"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "HF_HUB_OFFLINE": "1", MARK: str(tmp_path)},
    }
    environment.pop("RAY_ADDRESS", None)

    def sweep(runs, *more):
        command = [sys.executable, "-m", "ssb_unsloth", "sweep", *words, "--runs", str(runs), *more]
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, text=True, env=environment, cwd=tmp_path)
        killed = not more
        while process.poll() is None:
            at_work = [] if killed else replicas(tmp_path, "_joined")
            if at_work and any(runs.glob("**/train.partial")):  # as if its machine were gone
                os.kill(at_work[0], signal.SIGKILL)
                killed = True
            time.sleep(0.2)
        assert killed
        assert process.returncode == 0, (tmp_path / "said").read_text()[-4000:]
        return json.loads((runs / "pocket" / "evaluate" / "scores.json").read_text())

    assert sweep(tmp_path / "spread", "--ray") == sweep(tmp_path / "alone")


# -- What is refused, and what a stage asks for


def test_replicas_that_make_different_targets_are_named():
    class Replica:
        def __init__(self, root, made):
            self.root, self.made = root, made

        def ask(self, method, *_):
            return self.made if method == "digest" else None

    agreement = Agreement([], [])
    agreement(Replica("Replica 1", "a" * 64))
    agreement(Replica("Replica 3", "a" * 64))
    with pytest.raises(UserError, match="Replica 2 and Replica 1 make different targets of the same pairs"):
        agreement(Replica("Replica 2", "b" * 64))


@pytest.mark.parametrize(
    ("name", "changes", "cards"),
    [
        ("train", ["train.processes=2"], 2),
        ("train", [], 1),
        ("teach", [], 1),
        ("curate", ["sampler.engine=vllm", "sampler.tensor_parallel=4"], 4),
        ("evaluate", ["sampler.engine=servers", "sampler.servers=[http://a:8000/v1]"], 0),
        ("curate", ["sampler.engine=ray"], 0),
        ("teach", ["sampler.engine=ray"], 0),
        ("report", [], 0),
    ],
)
def test_a_stage_has_the_cards_that_its_recipe_asks_for(name, changes, cards):
    recipe = load(find("pocket"), changes)
    assert needs(name, recipe, Cluster("head:6379", 64, 8))[0] == cards
    assert needs(name, recipe, Cluster("", 2, 0))[0] == 0


def test_a_stage_of_more_cards_than_there_are_is_refused():
    recipe = load(find("pocket"), ["train.processes=4"])
    with pytest.raises(UserError, match=r"train.processes: 4 cards for stage train, and the Ray cluster at a:1 has 2"):
        needs("train", recipe, Cluster("a:1", 8, 2))
