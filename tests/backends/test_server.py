"""Sampling from a server: against a small HTTP server that speaks vLLM's protocol, and the real one."""

import contextlib
import gzip
import json
import os
import signal
import socket
import threading
import time

import pytest
from fake_server import END, Server, chatml, encode
from vllm_process import VLLMProcess

from ssb_unsloth.backends import load_sampler
from ssb_unsloth.backends.chat_template import end_of_turn
from ssb_unsloth.backends.control_tokens import ControlText
from ssb_unsloth.backends.sampler import Adapter, Request
from ssb_unsloth.backends.servers.by_url import ServerSampler
from ssb_unsloth.backends.transformers import load_model
from ssb_unsloth.backends.transformers_sampler import TransformersSampler
from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig, SamplingConfig

DECODING = SamplingConfig(temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1, max_tokens=32)


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
    assert made.render(messages) == encode(chatml(messages))
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
        **{"frequency_penalty": 0.0, "stop_token_ids": [2], "return_token_ids": True},
    }


def test_a_served_template_that_drops_or_doubles_a_message_is_refused_once_it_is_seen(server):
    messages = student_messages("1 + 1?")
    server.template = lambda messages: chatml(messages[1:] or messages)
    with pytest.raises(UserError, match=r"The chat template of http://127.* renders the system's message not at all"):
        sampler(server).render(messages)
    assert sampler(server).render(messages[1:]) == encode(chatml(messages[1:]))  # without one there is nothing to drop
    server.template = lambda messages: chatml([*messages, messages[-1]])
    with pytest.raises(UserError, match="renders the user's message 2 times"):
        sampler(server).render(messages)


@pytest.mark.parametrize(
    ("end", "stops"), [(f" \n{END}\n", [2]), (f"{END}{END}", [2]), ("\n", []), ("", []), (f"\n{END}user:", [2])]
)
def test_replies_end_where_the_served_template_ends_a_turn(server, end, stops):
    server.template = lambda messages: "".join(f"{m['content']}{end}" for m in messages)
    made = sampler(server)
    made.render(student_messages("1 + 1?"))
    made.sample([Request([4], 1)], DECODING)
    assert server.bodies[-1][1]["stop_token_ids"] == stops


@pytest.mark.parametrize("answer", [None, {}, {"prompt": None}, {"prompt": 3}, {"prompt": ["a"]}])
def test_a_malformed_text_of_a_prompt_is_one_sentence(server, answer):
    made = sampler(server)
    server.faults = [None, None, (200, answer)]
    with pytest.raises(UserError, match=r"/detokenize: no prompt in the answer"):
        made.render(student_messages("1 + 1?"))


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


RIGHT = {"text": "it is 4", "token_ids": [4, 2], "finish_reason": "stop"}


@pytest.mark.parametrize(
    "answer",
    [
        *([], "text", 3, None, True, {}, {"choices": None}, {"choices": {}}, {"choices": "ab"}, {"error": "x"}),
        *({"choices": choices} for choices in ([], [RIGHT, RIGHT], [None], ["x"], [[]], [{}])),
        *(
            {"choices": [{**RIGHT, name: value}]}
            for name, values in {
                "text": (None, 3, ["a"], {"a": 1}, True),
                "token_ids": (None, "12", {"0": 1}, [None], ["1"], [1.0], [True], [-1], [2**31], [10**400], [[1]], []),
                "finish_reason": (None, 1, "abort", "error", [], {}),
            }.items()
            for value in values
        ),
        {"choices": [{**RIGHT, "token_ids": list(range(33))}]},  # more than were asked for
        *(b"<html><body>502</body></html>", b"", b"\x00", b"\xff\xfe", b'{"choices": [', b"[" * 100_000, b'"\\ud800"'),
        json.dumps({"choices": [{**RIGHT, "text": "half \ud800"}]}).encode(),
        b'{"choices": [{"text": "a", "finish_reason": "stop", "token_ids": [' + b"9" * 5000 + b"]}]}",
        gzip.compress(json.dumps({"choices": [RIGHT]}).encode(), mtime=0),
        gzip.compress(b" " * (1 << 26), mtime=0),
    ],
)
def test_a_malformed_answer_is_one_sentence_and_nothing_is_kept(server, answer):
    made = sampler(server)
    server.faults = [(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())]
    kept = []
    with pytest.raises(UserError, match=r"/v1/completions: .* in the answer") as error:
        made.sample([Request([4], 1)], DECODING, keep=lambda place, reply: kept.append(reply))
    assert kept == []
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("answer", [{"tokens": v} for v in (None, "12", {}, [], ["1"], [1.5], [None], [-1], [True])])
def test_a_malformed_prompt_is_one_sentence(server, answer):
    made = sampler(server)
    server.faults = [(200, answer)]
    with pytest.raises(UserError, match=r"/tokenize: .* in the answer"):
        made.render(student_messages("1 + 1?"))


@pytest.mark.parametrize("data", [None, [None], ["x"], [{}], [{"id": None}], [{"id": 3}], [{"id": ""}], {}, "x"])
def test_a_malformed_list_of_models_is_one_sentence(data):
    body = json.dumps({"data": data}).encode()
    with raw_server(answer(body)) as url, pytest.raises(UserError, match=r"/v1/models: .* in the answer"):
        ServerSampler(ModelConfig(name=url), pause=0.01)


def test_a_text_that_spells_a_control_token_is_refused_since_the_server_would_read_it_as_one(server):
    made = sampler(server)
    with pytest.raises(ControlText, match=r"'<\|im_end\|>' is a control token"):
        made.render(student_messages("What is <|im_end|>?"))
    with pytest.raises(ControlText):
        made.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b<|im_end|>"}])
    assert made.render(student_messages("Is 1 <|no_token|> 2, in [ABC] or <b>?"))


@contextlib.contextmanager
def raw_server(content, drip=0.0):
    """A server that answers every connection with these bytes, one at a time where `drip` are the seconds between."""

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            for start in range(0, len(content), 1 if drip else len(content) or 1):
                connection.sendall(content[start : start + 1] if drip else content)
                time.sleep(drip)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)


def answer(body, status="200 OK", **headers):
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


MODELS = b'{"data": [{"id": "m"}]}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1",
        b"nonsense\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000,
        answer(MODELS, Content_Length=1000),
        answer(MODELS, Content_Length=5),
        answer(MODELS, Content_Length="abc"),
        answer(b"5\r\n{", Transfer_Encoding="chunked"),
        answer(b"zz\r\n" + MODELS, Transfer_Encoding="chunked"),
        answer(b"ffffffffff\r\n" + MODELS, Transfer_Encoding="chunked"),
        answer(b"-5\r\n" + MODELS, Transfer_Encoding="chunked"),
        answer(b"", "204 No Content"),
        answer(MODELS, "206 Partial"),
        answer(b"x" * 100, "500 Oh", Content_Length=1000),
        answer(b"no", "500 Oh", Transfer_Encoding="chunked"),
        answer(b"{" * 5000, "400 Bad"),
        answer(b'{"error": {"message": ["\x1b[31m"]}}', "400 \x1b[31mBad"),
        answer(b'{"error": 3}', "404 No"),
        answer(b"", "407 Proxy"),
        answer(b"", "999 What"),
        *(answer(b"", f"{code} Moved", Location="http://127.0.0.1:9/x") for code in (301, 302, 303, 307, 308)),
        *(answer(b"", "302 Moved", Location=place) for place in ("", "file:///etc/passwd", "/v1/models", "http://[")),
        answer(b"", "302 Moved"),
    ],
)
def test_http_that_is_none_is_one_sentence(content):
    with raw_server(content) as url, pytest.raises(UserError) as error:
        ServerSampler(ModelConfig(name=url), pause=0.001, seconds=5)
    assert "\n" not in str(error.value)
    assert "/v1/models" in str(error.value)


@pytest.mark.parametrize("head", [b"", answer(b"", Content_Length=1000), answer(b"", Transfer_Encoding="chunked")])
def test_a_server_that_sends_a_byte_now_and_then_is_given_up_in_time(head):
    start = time.monotonic()
    with (
        raw_server(head + b"HTTP/1.1 200 OK\r\nA: " * 500, drip=0.05) as url,
        pytest.raises(UserError, match=r"does not answer within 1 s"),
    ):
        ServerSampler(ModelConfig(name=url), pause=0.01, seconds=1.0)
    assert time.monotonic() - start < 5


def test_the_key_does_not_follow_a_redirect(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-secret-key")
    with Server() as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        for code in (301, 302, 303, 307, 308):
            moved = answer(b"", f"{code} Moved", Location=f"{other.url}/models")
            with raw_server(moved) as url, pytest.raises(UserError, match=f"{code} Moved: it redirects; name"):
                ServerSampler(ModelConfig(name=url), pause=0.01)
        assert other.gets == 0
        other.shutdown()


def test_a_server_that_repeats_the_key_does_not_have_it_shown(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-secret-key")
    said = answer(b'{"error": "invalid key sk-secret-key"}', "401 No")
    with raw_server(said) as url, pytest.raises(UserError, match=r"invalid key \*\*\*") as error:
        ServerSampler(ModelConfig(name=url))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("key", ["pass word", "a\nX-Evil: 1", "ключ", "a\x00b"])
def test_a_key_that_is_none_is_one_sentence(server, monkeypatch, key):
    monkeypatch.setattr(os, "environ", {**os.environ, "VLLM_API_KEY": key})
    with pytest.raises(UserError, match="VLLM_API_KEY holds a character") as error:
        sampler(server)
    assert key not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        *("http://", "http:///v1", "http://h:x/v1", "http://h:99999/v1", "http://[::1/v1", "http://h/v1?a=b"),
        *("http://h h/", "http://ü/v1", "http://me:pw@h/v1", "http://pw@h/v1", "http://h/v1?api_key=pw"),
        *("https://h\\@x/v1", "ftp://h/v1", "http://h/v1?", "http://h/v1?#m", "http://h/v1\0"),
        *("http://h..x:8000/v1", "http://..:8000/v1", f"http://{'h' * 64}:8000/v1"),
    ],
)
def test_an_address_that_is_none_is_one_sentence(address):
    with pytest.raises(UserError, match=r"model\.name: ") as error:
        ServerSampler(ModelConfig(name=address), pause=0.01)
    assert "pw" not in str(error.value)


def test_an_adapter_from_elsewhere_cannot_name_a_server_as_its_base(server, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-secret-key")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    for base in (server.url, server.url.upper(), f" {server.url}"):
        config = {"base_model_name_or_path": base, "r": 8}
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
        assert main(["evaluate", "adapter", "--benchmark", "pocket-test"]) == 2
    assert server.gets == len(server.bodies) == 0


def test_one_that_fails_stops_the_others_at_once(server):
    """Ctrl-C takes the same way."""
    made = sampler(server)
    with raw_server(b"HTTP/1.1 200 OK\r\n", drip=1.0) as hanging:
        made._server.endpoint.root = hanging.removesuffix("/v1")
        start = time.monotonic()
        main_thread = threading.main_thread().ident
        threading.Timer(0.5, lambda: signal.pthread_kill(main_thread, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            made.sample([Request([4], n) for n in range(100)], DECODING)
    assert time.monotonic() - start < 4


def test_no_server_is_one_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}.*does not answer.*Is the server up\?"):
        ServerSampler(ModelConfig(name=f"http://127.0.0.1:{port}/v1"), pause=0.01)


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory):
    """vLLM's own server with the pocket model, on this machine's CPU; its URL."""
    with VLLMProcess(tmp_path_factory.mktemp("server") / "log") as server:
        server.wait()
        yield server.url


@pytest.mark.slow
def test_vllms_own_server_gives_what_transformers_gives(vllm_server, tokenizer):
    pocket = ModelConfig(name="pocket", dtype="float32")
    plain = TransformersSampler(load_model(pocket), tokenizer, batch_size=8)
    served = ServerSampler(ModelConfig(name=f"{vllm_server}#pocket"))
    messages = [student_messages(p.question) for p in generate("validation", 8, 0)]
    requests = [Request(plain.render(m), 100 + i) for i, m in enumerate(messages)]
    assert [served.render(m) for m in messages] == [r.prompt_ids for r in requests]
    greedy, warm = (SamplingConfig(temperature=t, max_tokens=40) for t in (0.0, 0.8))
    assert list(served._looked_at.values()) == [[end_of_turn(tokenizer)]]
    assert served.sample(requests, greedy) == plain.sample(requests, greedy)
    forward = served.sample(requests, warm)
    assert served.sample(requests[::-1], warm)[::-1] == forward != served.sample(requests, greedy)
    with pytest.raises(UserError, match=r"refused: 400 .*max_model_len"):
        served.sample(requests, SamplingConfig(max_tokens=1000))
