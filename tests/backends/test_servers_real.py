"""Two of vLLM's own servers on this machine's CPU, one of them killed in the middle of curation and of evaluation."""

import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from vllm_process import VLLMProcess

from ssb_unsloth.backends.sampler import Adapter, Request
from ssb_unsloth.backends.servers.sampler import ServersSampler
from ssb_unsloth.backends.transformers import load_model
from ssb_unsloth.backends.transformers_sampler import TransformersSampler
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.evaluate import Contestant, evaluate
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.schema import BenchmarkConfig, ModelConfig, SamplerConfig, SamplingConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
POCKET = ModelConfig(name="pocket", dtype="float32")
SMALL = [
    "problems.limit=192",
    "curate.pairs=60",
    "curate.wave=96",
]  # 384 rollouts at once: seconds, on a quick machine too
LORA = ("--enable-lora", "--max-lora-rank", "32")


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(
                VLLMProcess(folder / f"log{n}", *LORA, VLLM_ALLOW_RUNTIME_LORA_UPDATING="True", OMP_NUM_THREADS="1")
            )
            for n in (0, 1)
        ]
        for server in both:
            server.wait()
        yield both


def settings(*servers):
    return SamplerConfig(engine="servers", max_model_len=512, servers=[server.url for server in servers])


def curate(runs, *servers):
    """`ssb curate` of the pocket on these servers."""
    words = ["curate", str(ROOT / "recipes" / "pocket.yaml"), "--runs", str(runs), *SMALL]
    words += ["sampler.engine=servers", f"sampler.servers=[{','.join(server.url for server in servers)}]"]
    process = subprocess.Popen([sys.executable, "-m", "ssb_unsloth", *words], stderr=subprocess.PIPE, text=True)
    return process, runs / "pocket"


def kill_after(server, folder, replies):
    """Kill the server as soon as so many replies are kept below the folder. Returns how many were."""
    seen = []

    def count():
        return sum(path.read_bytes().count(b"\n") for path in folder.rglob("kept/*.jsonl"))

    def wait():
        while (found := count()) < replies:
            time.sleep(0.01)
        server.kill()
        seen.append(found)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, seen


def made_by(run):
    return {
        name: (run / "curate" / name).read_bytes() for name in ("pairs.jsonl", "rollouts.jsonl", "refinements.jsonl")
    }


def test_they_reply_as_transformers_does_here(servers, tokenizer):
    plain, both = (
        TransformersSampler(load_model(POCKET), tokenizer, batch_size=8),
        ServersSampler(POCKET, settings(*servers)),
    )
    requests = [
        Request(both.render(student_messages(problem.question)), 100 + place)
        for place, problem in enumerate(generate("validation", 16, 0))
    ]
    greedy, warm = (SamplingConfig(temperature=t, max_tokens=40) for t in (0.0, 0.8))
    assert both.sample(requests, greedy) == plain.sample(requests, greedy)
    assert both.sample(requests, warm) == ServersSampler(POCKET, settings(servers[1])).sample(requests, warm)
    both.close()


def test_a_server_killed_in_the_middle_of_curation_changes_no_byte(servers, tmp_path):
    one, other = servers
    process, run = curate(tmp_path / "one", one)
    assert process.wait(1200) == 0, process.stderr.read()[-3000:]
    expected = made_by(run)
    assert len(expected["pairs.jsonl"].splitlines()) > 10
    process, run = curate(tmp_path / "two", one, other)
    thread, seen = kill_after(other, run, 60)
    said = process.communicate(timeout=1200)[1]
    assert process.returncode == 0, said[-3000:]
    thread.join(
        10
    )  # that it does not answer is told after its fourth time: test_servers.py, which has a clock of its own
    assert 60 <= seen[0] < len(expected["rollouts.jsonl"].splitlines())
    assert made_by(run) == expected
    other.start()
    other.wait()


def adapter(folder):
    torch.manual_seed(0)
    model = get_peft_model(load_model(POCKET), LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def test_a_server_killed_in_the_middle_of_an_evaluation_with_an_adapter_changes_no_byte(servers, tmp_path):
    one, other = servers
    contestants = [Contestant("base", POCKET, None, 1), Contestant("ssb", POCKET, adapter(tmp_path / "adapter"), 1)]
    config = BenchmarkConfig(source="pocket", samples=2, max_tokens=80)
    benchmarks = {"test": (config, generate("validation", 60, 0))}

    def evaluated(name, *servers):
        folder = tmp_path / name
        folder.mkdir()
        list(evaluate(contestants, benchmarks, settings(*servers), folder))
        return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}

    expected = evaluated("one", one)
    assert len(expected) == 4
    thread, seen = kill_after(other, tmp_path / "two", 200)  # of 360: while the adapter is asked
    assert evaluated("two", one, other) == expected
    thread.join(10)
    assert 200 <= seen[0] < 360
    other.start()
    other.wait()
    with urllib.request.urlopen(f"{one.url}/models") as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == ["pocket"]  # the adapter was taken off again


def test_a_server_without_runtime_adapters_is_told_how(tmp_path):
    with VLLMProcess(tmp_path / "log", OMP_NUM_THREADS="1") as plain:
        plain.wait()
        sampler = ServersSampler(POCKET, settings(plain))
        with pytest.raises(UserError, match=r"does not let adapters be loaded .* --enable-lora --max-lora-rank 8"):
            sampler.sample([Request([5, 6], 1)], SamplingConfig(), Adapter("a", adapter(tmp_path / "adapter")))
    with pytest.raises(UserError, match=r"does not answer after"):
        sampler.sample([Request([5, 6], 1)], SamplingConfig())


def test_vllm_takes_no_data_parallelism_in_one_process_and_has_the_arguments_for_tensor_parallelism():
    """Why there is a key for the one, and a server for the other."""
    code = """
import dataclasses, vllm
from ssb_unsloth.backends.vllm import _over_cards
from ssb_unsloth.pocket import MODEL_DIR
from vllm.engine.arg_utils import EngineArgs

assert set(_over_cards(2)) <= {field.name for field in dataclasses.fields(EngineArgs)}
try:
    vllm.LLM(str(MODEL_DIR), data_parallel_size=2)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)
    assert "not supported for single-process usage" in done.stdout, done.stderr[-2000:]
