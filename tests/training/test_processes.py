"""Training by several processes: the steps, the log and the student of one process; and how it ends."""

import json
from itertools import chain

import pytest
import together as cases
import torch
from safetensors.torch import load_file
from torch.utils.data import BatchSampler

from ssb_unsloth.pipeline.together import together
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
    """Where each way of training has left what it made: runs(ways, sharding) are two folders of one for each."""
    root, made = tmp_path_factory.mktemp("processes"), {}
    cases.prepare(root / "targets")

    def run(names, sharding, processes=2):
        if (sharding, processes) not in made:
            folder = root / f"{sharding}-{processes}"
            folder.mkdir()
            assert together(cases.several, (folder, names, sharding), processes, 2) == list(range(processes))
            made[sharding, processes] = folder
        for name in names:
            if not (root / "one" / name).exists():
                (root / "one" / name).mkdir(parents=True)
                cases.train(name, root / "one" / name, root / "targets")
        return root / "one", made[sharding, processes]

    return run


def assert_same(one, other, name, tolerance):
    """The weights in float64; the log, which the Trainer has in float32."""
    first, second = (json.loads((folder / name / "figures.json").read_text()) for folder in (one, other))
    assert first["dtypes"] == second["dtypes"] == ["torch.float64"]
    assert first["tokens"] == second["tokens"]
    (adapter,) = (one / name).glob("*/*.safetensors")
    expected, found = (load_file(folder / name / adapter.relative_to(one / name)) for folder in (one, other))
    assert expected.keys() == found.keys()
    for key, weight in expected.items():
        assert (found[key] - weight).norm() <= tolerance * weight.norm(), key
    rows = [json.loads((folder / name / "history.json").read_text()) for folder in (one, other)]
    assert len(rows[0]) == len(rows[1])
    means = {"entropy", "mean_token_accuracy", "kl"} if name[:3] in ("sft", "rft", "ssd", "grp") else set()
    for row, again in zip(*rows, strict=True):
        assert row.keys() == again.keys()
        for key in row.keys() - means:  # TRL's, means of the forward passes' means
            assert again[key] == pytest.approx(row[key], rel=1e-5, abs=1e-7), key


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.ALL)
def test_two_processes_make_the_student_of_one(runs, name):
    assert_same(*runs(cases.ALL, "none"), name, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.SHARDED)
def test_two_processes_that_hold_half_of_each_weight_make_the_student_of_one(runs, name):
    assert_same(*runs(cases.SHARDED, "fsdp"), name, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hidden", "sft"])
def test_three_processes_of_which_one_has_less_make_the_student_of_one(runs, name):
    assert_same(*runs(["hidden", "sft"], "none", 3), name, 1e-6)  # a step's denominator, divided by 3, is float32
