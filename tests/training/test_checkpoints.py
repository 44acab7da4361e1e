"""A training that is stopped, and whose checkpoints are cut, lost or changed, ends as an undisturbed one does."""

import json
import os
import random
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from training import inputs_of

from ssb_unsloth.backends.transformers import add_lora
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.collator import Example
from ssb_unsloth.recipe.schema import GrpoConfig, LoraConfig, TrainConfig
from ssb_unsloth.records import Problem
from ssb_unsloth.training import callbacks, grpo, sft, ssb
from ssb_unsloth.training.checkpoints import SEAL, fault, newest_whole
from ssb_unsloth.training.grpo import train_grpo
from ssb_unsloth.training.sft import train_sft
from ssb_unsloth.training.ssb import train_ssb

LORA = LoraConfig(r=4, alpha=8, dropout=0.1, target_modules=["q_proj", "v_proj"])
QUESTIONS = [Problem(f"g{i}", f"Question {i}?", str(i)) for i in range(14)]
SETTINGS = {
    "lora": LORA,
    "epochs": 4,
    "batch_size": 4,
    "micro_batch_size": 2,
    "learning_rate": 1e-2,
    "save_steps": 2,
    "logging_steps": 3,
    "probe_steps": 3,
    "probe_questions": 2,
    "gradient_checkpointing": False,
    "grpo": GrpoConfig(
        questions=12, questions_per_step=2, generations=4, max_tokens=6, learning_rate=1e-2, micro_batch_size=4, steps=6
    ),
}


class Even:
    """A stand-in for the verifier, since no random model boxes an answer: right where the last word's id is even."""

    __name__ = "verifier"

    def __init__(self, *_):
        pass

    def __call__(self, completion_ids, **_):
        return [float(ids[-1] % 2 == 0) for ids in completion_ids]


def examples():
    draw = random.Random(3)
    ids = lambda low, high: [draw.randrange(3, 500) for _ in range(draw.randrange(low, high))]  # noqa: E731
    return [Example(f"pair{i}", ids(3, 8), ids(8, 20), ids(2, 12)) for i in range(7)]


@pytest.fixture(scope="module")
def run(make_model, tokenizer):
    """run(method, folder): train a tiny model by it, 8 steps (GRPO 6), a checkpoint every 2."""

    def do(method, folder, dtype=torch.float32, **more):
        config = TrainConfig(**{**SETTINGS, **more, "method": method})
        folder.mkdir(exist_ok=True)
        model = make_model("qwen2").to(dtype)
        made = {"tokenizer": tokenizer, "examples": examples(), "probes": QUESTIONS[:2]}
        given = inputs_of(folder, config, probe_tokens=6, **made)
        if method == "ssb":
            return train_ssb(given, add_lora(model, config.lora, 5, False), None)
        if method == "sft":
            return train_sft(given, model, [(e.student_ids, e.reply_ids) for e in examples()])
        return train_grpo(given, model, QUESTIONS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "Reward", Even)
        yield do


def outcome(folder, result):
    """What later stages and readers see: the adapter, the history, and the figures of the manifest."""
    files = {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}
    return files, json.dumps(result.history), (result.tokens, result.summary)


@pytest.fixture(scope="module")
def runs(run, tmp_path_factory):
    """runs(method): the folder of an undisturbed run, with the checkpoints that it leaves, and its outcome."""
    kept = {}

    def of(method):
        if method not in kept:
            folder = tmp_path_factory.mktemp(method)
            kept[method] = folder, outcome(folder, run(method, folder))
        return kept[method]

    return of


@pytest.fixture
def undisturbed(runs, tmp_path, request):
    """A copy of that folder, to be damaged; and the outcome."""
    folder, result = runs(request.param)
    return shutil.copytree(folder, tmp_path / "whole"), result


each_method = pytest.mark.parametrize("undisturbed", ["ssb", "sft", "grpo"], indirect=True)


def steps(folder):
    """The steps of the checkpoints in a folder."""
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints").glob("checkpoint-*"))


def damage(path, how, draw):
    content = bytearray(path.read_bytes())
    if how == "lost":
        path.unlink()
        return
    if how == "flipped":
        place = draw.randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
    path.write_bytes({"flipped": content, "cut": content[: draw.randrange(len(content))], "empty": b""}[how])


HOW = ("flipped", "cut", "empty", "lost")


class Stop(callbacks.Bar):
    """Ends the training after a step, as a kill would."""

    at = 5

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            raise KeyboardInterrupt


def stopped(run, method, folder, monkeypatch, **more):
    with monkeypatch.context() as patch:
        for module in (ssb, sft, grpo):
            patch.setattr(module, "Bar", Stop)
        with pytest.raises(KeyboardInterrupt):
            run(method, folder, **more)


@each_method
def test_a_checkpoint_counts_only_when_it_is_whole(undisturbed, capsys):
    """Every file of the last one, damaged in every way: it does not count, and the one before it does."""
    folder = undisturbed[0]
    before, last = steps(folder)
    last, before = (folder / "checkpoints" / f"checkpoint-{step}" for step in (last, before))
    assert newest_whole(last.parent) == last
    draw = random.Random(11)
    files = [path for path in last.rglob("*") if path.is_file()]
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", SEAL} <= {
        path.name for path in files
    }
    for path in files:
        for how in HOW:
            content = path.read_bytes()
            damage(path, how, draw)
            assert newest_whole(last.parent) == before, (path.name, how)
            assert f"{last.name} does not count" in capsys.readouterr().err
            path.write_bytes(content)
    (last / "more").write_text("")
    assert fault(last) == "more is not part of it"


@each_method
@pytest.mark.parametrize(
    "broken", [pytest.param("none", marks=pytest.mark.slow), "last", pytest.param("all", marks=pytest.mark.slow)]
)
def test_what_comes_out_is_that_of_an_undisturbed_run(undisturbed, run, tmp_path, monkeypatch, capsys, broken, request):
    """Stopped after step 5 of 8 (between two logs), and resumed from step 4, from step 2, or from the start."""
    method, folder = request.node.callspec.params["undisturbed"], tmp_path / "broken"
    stopped(run, method, folder, monkeypatch)
    assert steps(folder) == [2, 4]
    for step in {"none": [], "last": [4], "all": [2, 4]}[broken]:
        damage(folder / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt", "flipped", random.Random(step))
    capsys.readouterr()
    again = outcome(folder, run(method, folder))
    assert again == undisturbed[1]
    assert capsys.readouterr().err.count("does not count") == {"none": 0, "last": 1, "all": 2}[broken]


@each_method
def test_a_training_that_is_over_is_not_done_again(undisturbed, run, request):
    """Killed between the last checkpoint and the adapter, or after it."""
    shutil.rmtree(undisturbed[0] / "adapter")
    assert outcome(undisturbed[0], run(request.node.callspec.params["undisturbed"], undisturbed[0])) == undisturbed[1]


@pytest.mark.parametrize("written", [pytest.param(n, marks=pytest.mark.slow) if n != 3 else n for n in range(8)])
@pytest.mark.parametrize("undisturbed", ["ssb"], indirect=True)
def test_killed_while_a_checkpoint_is_written(undisturbed, run, tmp_path, written):
    """So many of its files are there, the next one half."""
    folder = undisturbed[0]
    last = folder / "checkpoints" / f"checkpoint-{steps(folder)[-1]}"
    files = sorted((path for path in last.iterdir()), key=lambda path: path.stat().st_mtime_ns)
    for number, path in enumerate(files):
        if number == written:
            os.truncate(path, path.stat().st_size // 2)
        elif number > written:
            path.unlink()
    shutil.rmtree(folder / "adapter")
    assert outcome(folder, run("ssb", folder)) == undisturbed[1]


def test_an_adapter_in_16_bits_stays_in_them(run, tmp_path, monkeypatch):
    """Its moments too, which the optimizer keeps in the weights' dtype."""
    half = {"dtype": torch.bfloat16, "lora": LoraConfig(**{**vars(LORA), "dtype": "model"})}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = outcome(whole, run("ssb", whole, **half))
    stopped(run, "ssb", broken, monkeypatch, **half)
    assert outcome(broken, run("ssb", broken, **half)) == expected


class DiskFull(callbacks.Bar):
    """Lets a file of the checkpoint of step 4 be one that takes nothing."""

    name = ""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            folder = Path(args.output_dir) / "checkpoint-4"
            folder.mkdir()
            (folder / self.name).symlink_to("/dev/full")


@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", *(pytest.param(n, marks=pytest.mark.slow) for n in ("scheduler.pt", "trainer_state.json"))],
)
@pytest.mark.parametrize("undisturbed", ["ssb"], indirect=True)
def test_a_full_disk_is_a_sentence_and_the_checkpoint_before_is_kept(undisturbed, run, tmp_path, monkeypatch, name):
    folder = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(DiskFull, "name", name)
        patch.setattr(ssb, "Bar", DiskFull)
        with pytest.raises(UserError, match="resumes from there"):
            run("ssb", folder)
    assert steps(folder) == [2]
    assert outcome(folder, run("ssb", folder)) == undisturbed[1]


class Writer:
    """In the place of TensorBoard's, which is an extra: a file of what it is given."""

    def __init__(self, log_dir):
        Path(log_dir).mkdir(parents=True)
        self.path = Path(log_dir) / "events"

    def add_scalar(self, key, value, step):
        with self.path.open("a") as file:
            file.write(f"{step} {key} {value}\n")

    def __getattr__(self, name):
        return lambda *args: None


def test_event_files_outlive_the_checkpoints(run, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    run("sft", tmp_path / "train.partial", report_to=["tensorboard"])
    (written,) = (tmp_path / "tensorboard").glob("*/events")
    assert "8 train/loss" in written.read_text()
    assert {path.name for path in (tmp_path / "train.partial").iterdir()} == {"adapter", "checkpoints"}
