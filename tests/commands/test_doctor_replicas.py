"""What `ssb doctor` finds about replicas: Ray, the cluster at RAY_ADDRESS, and room for as many as the recipe says."""

import json
import socket
import sys
import time
from pathlib import Path

import pytest
from ray_here import ray_here

from ssb_unsloth import cli
from ssb_unsloth.backends import cluster
from ssb_unsloth.commands import doctor, doctor_replicas
from ssb_unsloth.commands.doctor import describe, examine
from ssb_unsloth.io import limits
from ssb_unsloth.machine.plan import make_plan
from ssb_unsloth.recipe.loading import load

ROOT = Path(__file__).parents[2]
WORDS = ["model.backend=transformers", "sampler.engine=ray", "sampler.replica_engine=transformers"]
A100 = "\n".join(f"{n}, GPU-{n}, NVIDIA A100-SXM4-40GB, 40960, 40339, 580.82.07, 8.0" for n in range(4))


def recipe(*more):
    return load(ROOT / "recipes" / "pocket.yaml", [*WORDS, *more])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """On a machine of four cores, with Ray and without a cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(limits, "cores", lambda: 4)


def find(findings, name):
    return next(f for f in findings.findings if f.name == name)


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    findings = examine(recipe())
    assert find(findings, "ray").found == "not installed"
    assert "pip install 'ssb_unsloth[ray]'" in find(findings, "ray").fix
    assert not findings.can_run
    assert find(examine(recipe(), machine_only=True), "replicas").fix == ""


def test_cores_and_memory_for_so_many_replicas_on_this_machine(monkeypatch):
    monkeypatch.setattr(limits, "free_memory", lambda: 8 * 2**30)
    findings = examine(recipe("sampler.replicas=3"))
    assert findings.can_run, describe(findings)
    assert "RAY_ADDRESS is not set: this machine alone" in find(findings, "ray").found
    said = find(findings, "replicas").found
    assert said.startswith("3 of transformers, of which this machine has cores for 4; ")
    assert said.endswith("8.0 free")
    each = max(s.bytes for s in make_plan(recipe(), None).stages if s.name in ("curate", "teach", "evaluate"))
    assert f"{3 * each / 2**30:.1f} GiB of memory" in said
    assert find(examine(recipe()), "replicas").found.startswith("2 of transformers")  # one for each two cores


@pytest.mark.parametrize(("room", "fix"), [(2.5, "set sampler.replicas=2"), (0.5, "take a larger machine")])
def test_too_little_memory_for_so_many_is_said_with_the_number_that_fits(monkeypatch, room, fix):
    each = max(s.bytes for s in make_plan(recipe(), None).stages if s.name in ("curate", "teach", "evaluate"))
    monkeypatch.setattr(limits, "free_memory", lambda: int(room * each))
    findings = examine(recipe("sampler.replicas=3"))
    assert find(findings, "replicas").fix == fix
    assert not findings.can_run


def test_more_replicas_than_cores_or_cards(monkeypatch, nvidia_smi):
    findings = examine(recipe("sampler.replicas=5"))
    assert "5 take 5 cores, and this machine has 4; set sampler.replicas=4" in find(findings, "replicas").found
    assert not findings.can_run
    nvidia_smi(A100)
    words = ["sampler.replica_engine=vllm", "sampler.tensor_parallel=2", "model.dtype=bfloat16"]
    two, three = (examine(recipe(*words, f"sampler.replicas={n}"), machine_only=True) for n in (2, 3))
    assert find(two, "replicas").found == "2 of vllm, 2 GPUs each, of 4 on this machine"
    assert "3 take 6 GPUs, and this machine has 4; set sampler.replicas=2" in find(three, "replicas").found
    assert not three.can_run


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:{closed}", "does not answer"),
        ("ray://head:10001", "no client's"),
        ("head", "is no HOST:PORT"),
    ],
)
def test_an_address_that_does_not_answer_is_a_finding(monkeypatch, capsys, address, said):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", address.format(closed=closed))
    assert cli.main(["doctor", str(ROOT / "recipes" / "pocket.yaml"), *WORDS, "--json"]) == 2
    told = capsys.readouterr()
    (finding,) = [f for f in json.loads(told.out)["findings"] if f["name"] == "cluster"]
    assert said in finding["found"]
    assert finding["state"] == "wrong"
    assert "unset RAY_ADDRESS" in finding["fix"]
    assert "Traceback" not in told.out + told.err


@pytest.mark.slow
def test_what_answers_and_is_no_cluster_is_not_waited_for_longer_than_so_long(monkeypatch):
    monkeypatch.setattr(doctor_replicas, "SECONDS", 8.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{mute.getsockname()[1]}")
        begun = time.monotonic()
        (finding,) = list(doctor_replicas.replicas(recipe(), make_plan(recipe(), None), "pocket", False))[1:]
    assert time.monotonic() - begun < 20
    assert finding.name == "cluster"
    assert finding.fix


@pytest.mark.slow
def test_a_cluster_that_is_there_and_one_with_other_packages(monkeypatch):
    monkeypatch.setattr(doctor, "try_import", lambda module: ("1.0", True))
    with ray_here() as here:
        import ray

        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        fine = examine(recipe(f"sampler.replicas={here.cpus}"))
        assert find(fine, "cluster").found == f"1 machine, {here.cpus} cores, 0 GPUs"
        assert fine.can_run, describe(fine)
        assert not [f for f in fine.findings if f.name == "versions" and "machine" in f.found]
        many = examine(recipe(f"sampler.replicas={here.cpus + 1}"))
        assert f"has {here.cpus}; set sampler.replicas={here.cpus}" in find(many, "replicas").found
        there = cluster.versions()
        monkeypatch.setattr(doctor_replicas, "versions", lambda: {**there, "torch": "9.9"})
        other = examine(recipe())
        (said,) = [f for f in other.findings if f.name == "versions" and "torch" in f.found]
        assert said.found.endswith(f"has torch {there['torch']}, this machine 9.9")
        assert not other.can_run
