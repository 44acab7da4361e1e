"""Training by several processes: the steps, the log and the student of one process; and how it ends."""

import json
import os
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import by_several as cases
import pytest
import torch
import working
from safetensors.torch import load_file
from torch.utils.data import BatchSampler

from ssb_unsloth.backends import TrainingBackend
from ssb_unsloth.errors import UserError
from ssb_unsloth.machine import processes
from ssb_unsloth.machine.cards import CARDS
from ssb_unsloth.machine.plan import make_plan
from ssb_unsloth.pipeline.together import together
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import ModelConfig, TrainConfig
from ssb_unsloth.run.keys import of_training
from ssb_unsloth.training.shares import Shares

# -- The shares of a step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [1, 5, 11, 12])
@pytest.mark.parametrize("step", [3, 4, 5])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_each_example_of_a_step_is_in_one_share_and_all_make_as_many_passes(examples, step, processes, most):
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(1)).tolist()
    steps = BatchSampler(order, step, drop_last=False)
    shares = [Shares(steps, process, processes, most) for process in range(processes)]
    passes = [list(share) for share in shares]
    assert {len(one) for one in passes} == {len(shares[0])}
    assert all(len(examples) <= most for one in passes for examples in one)
    place = 0
    for whole in steps:
        count = shares[0].passes(len(whole))
        of_step = [list(chain.from_iterable(one[place : place + count])) for one in passes]
        assert sorted(chain.from_iterable(of_step)) == sorted(whole)
        assert max(map(len, of_step)) - min(map(len, of_step)) <= 1
        place += count
    assert place == len(passes[0])


# -- Several processes against one ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Where each way of training has left what it made, by one process and by two."""
    root = tmp_path_factory.mktemp("processes")
    cases.prepare(root)
    assert together(cases.several, (root, {"none": cases.ALL, "fsdp": cases.SHARDED}), 2, 2) == [0, 1]
    assert together(cases.several, (root, {"none": cases.UNEQUAL}), 3, 3) == [0, 1, 2]
    for name in cases.ALL:
        (root / "one" / name).mkdir(parents=True)
        cases.train(name, root, root / "one" / name)
    return root


def assert_same(one, other, name, tolerance=1e-9):
    """The weights in float64, or copies in float32 where all are trained; the log, which the Trainer has in float32."""
    tolerance = 1e-5 if name in cases.WHOLE else tolerance
    first, second = (json.loads((folder / name / "figures.json").read_text()) for folder in (one, other))
    assert first["dtypes"] == second["dtypes"] == ["torch.float64"]
    assert first["tokens"] == second["tokens"]
    made = "model/model.safetensors" if name in cases.WHOLE else "adapter/adapter_model.safetensors"
    expected, found = (load_file(folder / name / made) for folder in (one, other))
    assert expected.keys() == found.keys()
    for key, weight in expected.items():
        assert (found[key] - weight).norm() <= tolerance * weight.norm(), key
    for path in (one / name).glob("refreshed.jsonl"):
        assert (other / name / path.name).read_bytes() == path.read_bytes()
    rows = [json.loads((folder / name / "history.json").read_text()) for folder in (one, other)]
    assert len(rows[0]) == len(rows[1])
    means = {"entropy", "mean_token_accuracy", "kl"} if name[:3] in ("sft", "rft", "ssd", "grp") else set()  # of passes
    for row, again in zip(*rows, strict=True):
        assert row.keys() == again.keys()
        for key in row.keys() - means - {"total_flos"}:  # which counts padding
            assert again[key] == pytest.approx(row[key], rel=1e-5, abs=1e-7), key


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.ALL)
def test_two_processes_make_the_student_of_one(runs, name):
    assert_same(runs / "one", runs / "none-2", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.SHARDED)
def test_two_processes_that_hold_half_of_each_weight_make_the_student_of_one(runs, name):
    assert_same(runs / "one", runs / "fsdp-2", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.UNEQUAL)
def test_three_processes_of_which_one_has_less_make_the_student_of_one(runs, name):
    assert_same(runs / "one", runs / "none-3", name, 1e-6)  # a step's denominator, divided by 3, is float32


# -- How several processes end ----------------------------------------------------------------------------------------


def gone(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_what_each_process_returns_comes_back_and_they_share_the_threads():
    found = together(working.work, ("returns", 0), 2, 6)
    assert [(number, threads, count) for number, _, threads, count in found] == [(0, "3", "2"), (1, "3", "2")]
    assert all(gone(pid) for _, pid, _, _ in found)
    assert "WORLD_SIZE" not in os.environ


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("is killed", UserError, "was ended by SIGKILL, which the system does where memory runs out; the others"),
        ("exits", UserError, "ended with exit code 7; the others"),
        ("refuses", UserError, "^the reason.$"),
        ("fails", RuntimeError, "ZeroDivisionError: the mistake"),
        ("stops", KeyboardInterrupt, None),
    ],
)
def test_the_end_of_one_is_the_end_of_all(how, error, said, last):
    since = time.monotonic()
    with pytest.raises(error, match=said):
        together(working.work, (how, last), 2, None)
    assert time.monotonic() - since < 60
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    lines = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children if not gone(child)]
    assert not [line for line in lines if b"spawn_main" in line]


def test_the_process_that_was_killed_is_named_and_not_the_one_that_misses_it(tmp_path):
    with pytest.raises(UserError, match="Process 2 of 2 that train together"):
        together(working.fails_after_the_killed_one, (tmp_path,), 2, None)


# -- What is refused before anything starts ---------------------------------------------------------------------------

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train.processes=0", "train.processes: 0 is not a number above 0"),
        ("train.processes=5", "train.processes: 5 is above train.batch_size .4."),
        ("train.processes=2 model.backend=unsloth", "model.backend: unsloth trains in one process"),
        ("train.sharding=fsdp", "train.processes is 1"),
        ("train.sharding=fsdp train.processes=2 model.quantization=4bit", "cannot be sharded"),
        ("train.sharding=fsdp train.processes=2 model.dtype=float16", "not scaled"),
        ("train.sharding=fsdp train.processes=2 train.guard={}", "train.guard: asks a whole model"),
        ("train.sharding=fsdp train.processes=2 train.method=grpo", "samples from a whole model"),
        ("train.method=grpo train.processes=3", "3 does not divide the 64 replies"),
        ("train.method=grpo train.processes=2 train.grpo.micro_batch_size=5", "does not divide the 32 replies"),
        ("train.method=grpo train.processes=2 train.grpo.use_vllm=true", "train.grpo.use_vllm: true"),
        ("train.method=grpo train.processes=2 train.grpo.loss=bnpo", "train.grpo.loss: bnpo"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_in_a_sentence(words, said):
    with pytest.raises(UserError, match=said):
        load(POCKET, words.split())


def test_shares_need_not_be_equal():
    recipe = load(POCKET, ["train.processes=3", "train.batch_size=8", "train.micro_batch_size=2"])
    assert recipe.train.together == 2
    assert load(POCKET, ["train.processes=3", "train.batch_size=8"]).train.together == 3
    assert load(POCKET, ["train.batch_size=8"]).train.together == 8


TWO = "".join(f"{i}, GPU-{i}, NVIDIA H100 80GB HBM3, 81559, 80000, 580.1, 9.0, Disabled\n" for i in range(2))


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (3, "train.processes: 3 take a GPU each, and a program sees 2 GPUs .NVIDIA H100 80GB HBM3. here"),
        (2, "through NCCL, and this torch .2.13.0.cu130. was built without it"),  # as the CPU build's own is
    ],
)
def test_fewer_cards_than_processes_and_a_torch_without_nccl(nvidia_smi, monkeypatch, count, said):
    nvidia_smi(TWO)
    monkeypatch.setattr(processes, "torch_build", lambda: ("2.13.0+cu130", "13.0"))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    recipe = load(POCKET, [f"train.processes={count}"])
    with pytest.raises(UserError, match=said):
        processes.refuse_processes(recipe)


def test_a_cpu_takes_any_number_and_one_process_asks_for_no_card(nvidia_smi, monkeypatch):
    processes.refuse_processes(load(POCKET, ["train.processes=4"]))
    nvidia_smi(TWO)
    monkeypatch.setattr(processes, "torch_build", lambda: ("2.13.0+cu130", "13.0"))
    processes.refuse_processes(load(POCKET, []))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    processes.refuse_processes(load(POCKET, ["train.processes=2"]))


def test_unsloth_is_left_out_in_a_line_where_the_recipe_leaves_the_choice(monkeypatch, capsys):
    monkeypatch.setattr("ssb_unsloth.backends._training_backend", lambda model: "unsloth")
    assert TrainingBackend(ModelConfig(name="pocket"), several=True).name == "transformers"
    assert "Several processes train, so plain transformers loads" in capsys.readouterr().err


def test_at_their_defaults_the_keys_are_not_in_what_determines_a_stage():
    assert not {"processes", "sharding"} & of_training(TrainConfig()).keys()
    assert of_training(TrainConfig(processes=2))["processes"] == 2
    assert {"processes", "sharding"} <= asdict(TrainConfig()).keys()


def test_the_plan_is_of_what_one_process_holds():
    def memory(*words):
        of_eight = ["model.quantization=none", "train.batch_size=8", "train.micro_batch_size=null"]
        recipe = load(POCKET.with_name("qwen2.5-7b.yaml"), [*of_eight, *words])
        (stage,) = [one for one in make_plan(recipe, CARDS["a100-40gb"]).stages if one.name == "train"]
        return stage

    one, four, parts = memory(), memory("train.processes=4"), memory("train.processes=4", "train.sharding=fsdp")
    assert four.memory["activations"] == one.memory["activations"] / 4 == parts.memory["activations"]
    assert four.memory["weights"] == one.memory["weights"] == 4 * parts.memory["weights"]
    assert one.memory["weights"] / 4 > parts.memory["gathered weights"] > 0
    assert "4 processes" in four.note
    assert "processes" not in one.note
    assert four.seconds[1] < one.seconds[1]
