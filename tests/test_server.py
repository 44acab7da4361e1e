"""Sampling from a server: against a small HTTP server that speaks vLLM's protocol, and the real one."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ssb_unsloth.backends import Adapter, Request, load_sampler
from ssb_unsloth.backends.server import ServerSampler
from ssb_unsloth.backends.transformers import TransformersSampler, load_model
from ssb_unsloth.config import ModelConfig, SamplerConfig, SamplingConfig
from ssb_unsloth.errors import UserError
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.prompts import student_messages

DECODING = SamplingConfig(temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1, max_tokens=32)


class Server(ThreadingHTTPServer):
    """Replies with its prompt's last id; `faults` are answered first, one a request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies, self.keys, self.faults = [], [], []
        self.lock, self.under_way, self.most = threading.Lock(), 0, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200, {"data": [{"id": "base-model"}, {"id": "ssb"}]})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            fault = server.faults.pop(0) if server.faults else None
            server.bodies.append((self.path, body))
            server.keys.append(self.headers.get("Authorization"))
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        time.sleep(0.02)
        if fault == "hang up":
            self.close_connection = True
        elif fault:
            self.reply(*fault)
        elif self.path == "/tokenize":
            self.reply(200, {"tokens": [len(m["content"]) for m in body["messages"]]})
        else:
            last = body["prompt"][-1]
            choice = {
                "text": f"it is {last}",
                "token_ids": [last, 2],
                "finish_reason": "length" if last == 7 else "stop",
            }
            self.reply(200, {"choices": [choice]})
        with server.lock:
            server.under_way -= 1

    def reply(self, code, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def sampler(server, name=""):
    return ServerSampler(ModelConfig(name=server.url + name), pause=0.01)


def test_a_url_is_sampled_by_its_server(server, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    made = load_sampler(ModelConfig(name=server.url), SamplerConfig(), 0, adapters=False)
    assert isinstance(made, ServerSampler)
    messages = student_messages("1 + 1?")
    assert made.render(messages) == [len(m["content"]) for m in messages]
    replies = made.sample([Request([5, i], 100 + i) for i in range(200)], DECODING)
    assert [r.text for r in replies] == [f"it is {i}" for i in range(200)]
    assert [r.token_ids for r in replies] == [[i, 2] for i in range(200)]
    assert [i for i, r in enumerate(replies) if r.finish_reason == "length"] == [7]
    assert 8 < server.most <= 64
    assert set(server.keys) == {"Bearer secret"}
    asked = {body["prompt"][-1]: body for path, body in server.bodies if path == "/v1/completions"}
    assert {i: body["seed"] for i, body in asked.items()} == {i: 100 + i for i in range(200)}
    assert asked[3] == {
        **{"model": "base-model", "prompt": [5, 3], "seed": 103, "temperature": 0.7, "top_p": 0.9, "top_k": 5},
        **{"repetition_penalty": 1.1, "max_tokens": 32, "min_p": 0.0, "presence_penalty": 0.0},
        **{"frequency_penalty": 0.0, "return_token_ids": True},
    }


def test_one_of_several_served_models_is_named_after_the_hash(server):
    sampler(server, "#ssb").sample([Request([1], 1)], DECODING)
    assert server.bodies[-1][1]["model"] == "ssb"
    with pytest.raises(UserError, match="does not serve 'grpo'; it serves base-model, ssb"):
        sampler(server, "#grpo")
    with pytest.raises(UserError, match="--lora-modules"):
        sampler(server).sample([Request([1], 1)], DECODING, Adapter("a", "path"))


@pytest.mark.parametrize("fault", ["hang up", (503, {}), (429, {"error": {"message": "slow down"}})])
def test_what_may_pass_is_tried_again(server, fault):
    made = sampler(server)
    server.faults = [fault] * 3
    assert [r.text for r in made.sample([Request([4], 1)], DECODING)] == ["it is 4"]


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ([(503, {"error": {"message": "loading"}})] * 4, r"does not answer after 4 attempts .*503.*loading"),
        ([(400, {"error": {"message": "prompt is\ntoo long"}})], r"refused: 400 .*prompt is too long"),
        ([(401, {"error": "Unauthorized"})], "refused: 401"),
        ([(200, b"<html>")], "no 'choices' in the answer; is this a vLLM server"),
        ([(200, {"choices": [{"text": "a", "finish_reason": "stop"}]})], "returns no token ids"),
    ],
)
def test_what_stays_wrong_is_one_sentence(server, faults, says, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    made = sampler(server)
    server.faults = faults
    with pytest.raises(UserError, match=says) as error:
        made.sample([Request([4], 1)], DECODING)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_no_server_is_one_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}.*does not answer.*Is the server up\?"):
        ServerSampler(ModelConfig(name=f"http://127.0.0.1:{port}/v1"), pause=0.01)


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory):
    """vLLM's own server with the pocket model, on this machine's CPU; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL_DIR)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "pocket", "--dtype", "float32"]
    command += ["--max-model-len", "512", "--enforce-eager", "--no-enable-chunked-prefill"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | settings, start_new_session=True)
        try:
            for _ in range(600):
                time.sleep(1)
                assert process.poll() is None, log.read_text()[-3000:]
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


@pytest.mark.slow
def test_vllms_own_server_gives_what_transformers_gives(vllm_server, tokenizer):
    pocket = ModelConfig(name="pocket", dtype="float32")
    plain = TransformersSampler(load_model(pocket), tokenizer, batch_size=8)
    served = ServerSampler(ModelConfig(name=f"{vllm_server}#pocket"))
    messages = [student_messages(p.question) for p in generate("validation", 8, 0)]
    requests = [Request(plain.render(m), 100 + i) for i, m in enumerate(messages)]
    assert [served.render(m) for m in messages] == [r.prompt_ids for r in requests]
    greedy, warm = (SamplingConfig(temperature=t, max_tokens=40) for t in (0.0, 0.8))
    assert served.sample(requests, greedy) == plain.sample(requests, greedy)
    forward = served.sample(requests, warm)
    assert served.sample(requests[::-1], warm)[::-1] == forward != served.sample(requests, greedy)
    with pytest.raises(UserError, match=r"refused: 400 .*max_model_len"):
        served.sample(requests, SamplingConfig(max_tokens=1000))
