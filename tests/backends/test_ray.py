"""Ray: replicas give what one process gives, whatever happens to them; and what is refused before any is started."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from ray_here import ray_here, replicas

from ssb_unsloth.backends import cluster, engine_of, load_sampler
from ssb_unsloth.backends.cluster import Cluster
from ssb_unsloth.backends.dispatch import Unavailable
from ssb_unsloth.backends.replicas import refuse_replicas
from ssb_unsloth.backends.sampler import Request
from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.io.waiting import in_order
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig, SamplingConfig
from ssb_unsloth.recipe.shipped import find
from ssb_unsloth.run import keys

POCKET = ModelConfig(name="pocket", dtype="float32")
HERE, CARDS = Cluster("", 2, 0), Cluster("head:6379", 64, 8)
DECODING = SamplingConfig(temperature=0.8, max_tokens=40)


def ray(**more):
    return SamplerConfig(engine="ray", replica_engine="transformers", max_model_len=512, batch_size=4, **more)


# -- What is refused


def test_without_ray_the_extra_is_named(monkeypatch, capfd, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(cluster, "_connected", None)
    assert main(["curate", "pocket", "sampler.engine=ray", "--runs", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert "pip install 'ssb_unsloth[ray]'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "and no client's"),
        ("head", "is no HOST:PORT"),
        ("127.0.0.1:{closed}", "does not answer"),
        ("127.0.0.1:99999", "does not answer"),
        ("no-such-host.invalid:6379", "does not answer"),
        ("a..b:6379", "does not answer"),
        (f"{'h' * 64}:6379", "does not answer"),
        ("head:²", "is no HOST:PORT"),
        ("head:" + "9" * 5000, "is no HOST:PORT"),
    ],
)
def test_an_address_that_is_no_clusters_is_a_sentence(address, said):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
    with pytest.raises(UserError, match=r"^RAY_ADDRESS: ") as refused:
        cluster._join(address.format(closed=closed))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("model", "config", "where", "said"),
    [
        (
            POCKET,
            ray(replicas=3),
            HERE,
            "sampler.replicas: 3 take 3 cores, and this machine has 2; set sampler.replicas=2",
        ),
        (
            POCKET,
            ray(replicas=9),
            CARDS,
            "9 take 9 GPUs, and the Ray cluster at head:6379 has 8; set sampler.replicas=8",
        ),
        (replace(POCKET, dtype="float16"), ray(), HERE, "model.dtype: float16 is for GPUs, and this machine has none"),
        (
            ModelConfig("Qwen/Qwen2.5-3B-Instruct"),
            ray(),
            HERE,
            "Qwen2.5-3B-Instruct needs GPUs, and this machine has none",
        ),
    ],
)
def test_what_the_cluster_has_no_room_for_is_refused(model, config, where, said):
    with pytest.raises(UserError) as refused:
        refuse_replicas(model, config, engine_of(config), where)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("config", "where", "said"),
    [
        (
            SamplerConfig(engine="ray", replica_engine="vllm", tensor_parallel=2),
            HERE,
            "tensor_parallel: 2 GPUs a replica",
        ),
        (SamplerConfig(engine="ray", replica_engine="vllm", tensor_parallel=16), CARDS, "16 GPUs a replica"),
        (
            SamplerConfig(engine="ray", replica_engine="vllm", tensor_parallel=2, replicas=5),
            CARDS,
            "replicas: 5 take 10",
        ),
    ],
)
def test_cards_that_share_a_model_count(config, where, said):
    with pytest.raises(UserError) as refused:
        refuse_replicas(replace(POCKET, dtype="bfloat16"), config, "vllm", where)
    assert said in str(refused.value)


def test_how_many_replicas_there_are_where_nobody_says():
    assert refuse_replicas(POCKET, ray(), "transformers", HERE) == 1
    assert refuse_replicas(POCKET, ray(), "transformers", Cluster("", 7, 0)) == 3
    assert refuse_replicas(replace(POCKET, dtype="bfloat16"), ray(), "transformers", CARDS) == 8
    pairs = SamplerConfig(engine="ray", replica_engine="vllm", tensor_parallel=2)
    assert refuse_replicas(replace(POCKET, dtype="bfloat16"), pairs, "vllm", CARDS) == 4


def test_keys_that_belong_together():
    with pytest.raises(UserError, match=r"sampler\.replicas: read by sampler.engine ray"):
        load(find("pocket"), ["sampler.replicas=2"])
    with pytest.raises(UserError, match=r"sampler\.replica_engine: read by sampler.engine ray"):
        load(find("pocket"), ["sampler.replica_engine=vllm"])


def test_how_many_replicas_there_are_is_no_part_of_a_stages_identity():
    assert keys.of_sampler(ray(replicas=2)) == keys.of_sampler(ray(replicas=5))
    assert keys.of_sampler(ray()) != keys.of_sampler(replace(ray(), replica_engine="vllm"))
    assert not {"replicas", "replica_engine"} & set(keys.of_sampler(SamplerConfig()))


def test_answers_in_order_are_never_many_at_a_time():
    held, most = set(), 0

    def answer(number):
        held.add(number)
        return number

    for number in in_order(answer, list(range(200)), threads=8, ahead=5):
        most = max(most, len(held))
        held.discard(number)
    assert most <= 5 + 1
    assert not held


def test_a_replica_that_was_closed_is_not_started_again_by_a_thread_that_asks_it():
    replica = cluster.Replica(1, dict, 0, {})
    replica.close()
    with pytest.raises(Unavailable, match="has been closed"):
        replica.ask("keys")


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import ray"], ids=["", "imported-before"])
def test_a_cluster_of_this_machine_listens_on_the_loopback_address_and_takes_nobody_without_its_token(before, tmp_path):
    """Whoever imported Ray first, as vLLM does: it reads its settings when it is imported."""
    code = f"""{before}
import os, subprocess, sys
import psutil
from ssb_unsloth.backends.cluster import connect

connect()
import ray
for process in psutil.Process().children(recursive=True) + [psutil.Process()]:
    for socket in process.net_connections("inet"):
        if socket.status == psutil.CONN_LISTEN:
            print("listens", socket.laddr.ip)
stranger = {{name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}}
stranger["HOME"] = {str(tmp_path)!r}
script = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False)"
address = ray.get_runtime_context().gcs_address
print("stranger", subprocess.run([sys.executable, "-c", script, address], env=stranger, capture_output=True).returncode)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    listening = {line.split()[1].removeprefix("::ffff:") for line in said if line.startswith("listens")}
    assert listening == {"127.0.0.1"}
    assert [line for line in said if line.startswith("stranger")] != ["stranger 0"]
    assert said[-1].startswith("stranger")


# -- What replicas give


@pytest.fixture(scope="module")
def here():
    """A cluster of this machine, for all tests below."""
    with ray_here() as found:
        yield found


@pytest.fixture(scope="module")
def requests(tokenizer):
    prompts = [tokenizer.encode(f"What is {number} + 3?", add_special_tokens=False) for number in range(120)]
    return [Request(prompt, 1000 + number) for number, prompt in enumerate(prompts)]


@pytest.mark.slow
def test_two_replicas_reply_as_one_process_does_and_when_one_is_killed(here, requests, capfd):
    alone = SamplerConfig(engine="transformers", max_model_len=512, batch_size=4)
    expected = load_sampler(POCKET, alone, 0, adapters=False).sample(requests, DECODING)
    sampler = load_sampler(POCKET, ray(replicas=2), 0, adapters=False)
    try:
        assert sampler.sample(requests, DECODING) == expected
        before, kept = replicas(os.getpid()), {}
        assert len(before) == 2

        def keep(place, reply):
            kept[place] = reply
            if len(kept) == 12:
                os.kill(before[0], signal.SIGKILL)

        assert sampler.sample(requests, DECODING, keep=keep) == expected
        assert kept == dict(enumerate(expected))
        assert sampler.sample(requests, DECODING) == expected
    finally:
        sampler.close()


ONE_VLLM = """
import json, sys
from ssb_unsloth.backends import load_sampler
from ssb_unsloth.backends.sampler import Request
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig, SamplingConfig

if __name__ == "__main__":
    model, config = ModelConfig(name="pocket", dtype="float32"), SamplerConfig(engine="vllm", max_model_len=512)
    sampler = load_sampler(model, config, 0, adapters=False)
    requests = [Request(ids, seed) for ids, seed in json.load(open(sys.argv[1]))]
    replies = sampler.sample(requests, SamplingConfig(temperature=0.8, max_tokens=40))
    json.dump([[r.token_ids, r.text, r.finish_reason] for r in replies], open(sys.argv[2], "w"))
"""


@pytest.mark.slow
def test_two_replicas_of_the_real_vllm_reply_as_one_vllm_does(here, requests, tmp_path):
    many = [replace(request, seed=request.seed + 1000 * n) for n in range(5) for request in requests]  # three batches
    script, asked, answered = (tmp_path / name for name in ("one.py", "asked.json", "answered.json"))
    script.write_text(ONE_VLLM)
    asked.write_text(json.dumps([[request.prompt_ids, request.seed] for request in many]))
    subprocess.run([sys.executable, script, asked, answered], check=True, timeout=600)
    config = SamplerConfig(engine="ray", replica_engine="vllm", replicas=2, max_model_len=512)
    sampler = load_sampler(POCKET, config, 0, adapters=False)
    try:
        assert len(replicas(os.getpid())) == 2
        found = [[reply.token_ids, reply.text, reply.finish_reason] for reply in sampler.sample(many, DECODING)]
    finally:
        sampler.close()
    assert found == json.loads(answered.read_text())


@pytest.mark.slow
def test_a_server_of_another_kind_at_ray_address_is_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "JOIN", 15.0)
            with pytest.raises(UserError, match=r"has not taken this process in|no cluster that this process can join"):
                cluster._join(address)
