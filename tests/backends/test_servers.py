"""Sampling on several servers: the replies are those of one that nothing happens to, whatever happens to these."""

import contextlib
import json
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from pocket_servers import PocketServer
from stage_keys import key_of

from ssb_unsloth.backends import load_sampler
from ssb_unsloth.backends.adapters import assert_fits
from ssb_unsloth.backends.sampler import Adapter, Completion, Request
from ssb_unsloth.backends.servers.identity import refuse_doubles
from ssb_unsloth.backends.servers.lora import served_name
from ssb_unsloth.backends.servers.sampler import ServersSampler
from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.evaluate import base_contestants, evaluate
from ssb_unsloth.io.addresses import server_address
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import BenchmarkConfig, CurateConfig, ModelConfig, SamplerConfig, SamplingConfig
from ssb_unsloth.run import keys
from ssb_unsloth.run.kept import Kept
from ssb_unsloth.run.rundir import RunDir

POCKET = ModelConfig(name="pocket", dtype="float32")
DECODING = SamplingConfig(temperature=0.8, max_tokens=60)
PROBLEMS = generate("bootstrap", 24, 0)
GOLDS = {problem.question: problem.gold for problem in PROBLEMS}


@pytest.fixture
def serve(tokenizer):
    """serve(): another server of the pocket, which serves until the test ends."""
    running = []

    def start(port=0):
        running.append(PocketServer(tokenizer, GOLDS, port))
        return running[-1]

    yield start
    for server in running:
        with contextlib.suppress(OSError):
            server.stop()


def settings(*servers, minutes=1.0, **more):
    urls = [one if isinstance(one, str) else one.url for one in servers]
    return SamplerConfig(engine="servers", max_model_len=512, servers=urls, server_timeout=minutes, **more)


def made(*servers, minutes=1.0):
    return ServersSampler(POCKET, settings(*servers, minutes=minutes), pause=0.02)


@pytest.fixture(scope="module")
def requests(tokenizer):
    prompts = [tokenizer.encode(f"What is {number}?", add_special_tokens=False) for number in range(160)]
    return [Request(prompt, 1000 + number) for number, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def undisturbed(tokenizer, requests):
    """What each reply is, straight from what the servers answer by."""
    server = PocketServer(tokenizer)
    server.stop()
    ids = [server.reply(request.prompt_ids, request.seed) for request in requests]
    return [Completion(one, tokenizer.decode(one[:-1]), "stop") for one in ids]


def meanwhile(condition, do):
    """`do` as soon as the condition is true, in a thread of its own."""

    def wait():
        while not condition():
            time.sleep(0.005)
        do()

    threading.Thread(target=wait, daemon=True).start()


# -- Who answers


def test_several_servers_share_the_work_and_reply_as_one_would(serve, requests, undisturbed, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    one, other = serve(), serve()
    one.seconds = other.seconds = 0.02
    sampler = load_sampler(POCKET, settings(one, other), 0, adapters=True)
    assert isinstance(sampler, ServersSampler)
    kept = {}
    assert sampler.sample(requests, DECODING, keep=kept.__setitem__) == undisturbed
    assert [kept[place] for place in range(len(requests))] == undisturbed
    assert sorted(one.seeds + other.seeds) == [request.seed for request in requests]
    assert min(len(one.asked), len(other.asked)) > 40
    assert max(one.connections, other.connections) <= 64 + 8  # and not one a request
    assert one.keys == other.keys == {"Bearer secret"}
    asked = next(body for body in one.asked + other.asked if body["seed"] == 1003)
    assert asked == {
        **{"model": "pocket", "prompt": requests[3].prompt_ids, "seed": 1003, "temperature": 0.8, "top_p": 1.0},
        **{"top_k": 0, "repetition_penalty": 1.0, "max_tokens": 60, "min_p": 0.0, "presence_penalty": 0.0},
        **{"frequency_penalty": 0.0, "stop_token_ids": asked["stop_token_ids"], "return_token_ids": True},
    }
    assert undisturbed[3].token_ids[-1] in asked["stop_token_ids"]
    sampler.close()


def test_prompts_are_rendered_by_the_recipes_tokenizer(serve, tokenizer):
    messages = student_messages("Is 1 <|im_end|> 2?")  # which a server would read as a control token
    text = [message["content"] for message in messages][-1]
    assert text in tokenizer.decode(made(serve()).render(messages))


def test_connections_are_used_again(serve, requests, undisturbed):
    server = serve()
    sampler = made(server)
    before = server.connections
    for request, reply in zip(requests[:20], undisturbed, strict=False):
        assert sampler.sample([request], DECODING, quiet=True) == [reply]
    assert server.connections - before <= 2


def test_the_less_busy_server_is_asked(serve, requests, undisturbed):
    slow, fast = serve(), serve()
    slow.seconds = 0.5
    assert made(slow, fast).sample(requests, DECODING) == undisturbed
    assert len(fast.asked) > len(slow.asked)


# -- What goes wrong while it samples


def test_a_server_that_dies_has_its_requests_sent_elsewhere(serve, requests, undisturbed, capfd):
    dying, other = serve(), serve()
    dying.dies_after, dying.seconds, other.seconds = 20, 0.02, 0.3  # time enough to be found dead for good
    assert made(dying, other).sample(requests, DECODING) == undisturbed
    assert len(other.asked) >= len(requests) - 20
    said = capfd.readouterr().err
    assert said.count(f"{dying.url[:-3]} does not answer") == 1
    assert "the others are asked in its place" in said


def test_a_server_that_is_killed_and_started_again_is_used_again(serve, tokenizer, requests, undisturbed):
    killed, other = serve(), serve()
    port, again = killed.server_address[1], []
    killed.seconds = other.seconds = 0.25
    sampler = made(killed, other)
    meanwhile(lambda: len(killed.asked) > 10, lambda: (killed.stop(), again.append(serve(port))))
    assert sampler.sample(requests * 3, DECODING) == undisturbed * 3
    assert len(again[0].asked) > 10


def test_what_may_pass_is_tried_again(serve, requests, undisturbed):
    one, other = serve(), serve()
    one.statuses, other.statuses = [503] * 5, [429, 500, 502] * 2
    assert made(one, other).sample(requests, DECODING) == undisturbed


def test_a_server_that_is_too_slow_is_not_waited_for(serve, requests, undisturbed):
    hanging, other = serve(), serve()
    sampler = made(hanging, other, minutes=1 / 60)
    hanging.seconds = 30
    start = time.monotonic()
    assert sampler.sample(requests[:40], DECODING) == undisturbed[:40]
    assert time.monotonic() - start < 20


def test_where_all_die_what_has_come_is_kept_and_the_rest_is_asked_for_again(serve, requests, undisturbed, tmp_path):
    one, other = serve(), serve()
    one.dies_after, other.dies_after = 30, 50
    named = {str(request.seed): request for request in requests}
    kept = Kept(tmp_path / "kept" / "replies.jsonl")
    with pytest.raises(UserError, match=r"None of the 2 servers answers .* is kept, and the same command") as e:
        kept.sample(made(one, other), named, DECODING)
    assert "\n" not in str(e.value)
    assert 0 < len(kept.replies) <= 80
    resumed, third = Kept(tmp_path / "kept" / "replies.jsonl"), serve()
    missing = {name: request for name, request in named.items() if name not in resumed.replies}
    resumed.sample(made(third, one), missing, DECODING)
    assert [resumed.replies[name] for name in named] == undisturbed
    assert len(third.asked) == len(requests) - len(kept.replies)


def test_one_that_comes_back_as_another_ends_it(serve, requests):
    killed, other = serve(), serve()
    killed.seconds = other.seconds = 0.2
    sampler = made(killed, other)

    def replace():
        killed.shift, killed.dead = 1, True
        time.sleep(0.3)
        killed.dead = False

    meanwhile(lambda: len(killed.asked) > 10, replace)
    with pytest.raises(UserError, match="has another tokenizer than the recipe's model 'pocket'"):
        sampler.sample(requests * 4, DECODING)


def test_a_question_that_fells_servers_is_given_up(serve, requests):
    one, other = serve(), serve()
    one.statuses = other.statuses = [500] * 8
    with pytest.raises(UserError, match=r"does not answer after 4 attempts \(500 .*not now\)"):
        made(one, other).sample(requests[:1], DECODING)


def test_a_refusal_is_one_sentence(serve, requests):
    server = serve()
    server.statuses = [400]
    with pytest.raises(UserError, match=r"/v1/completions refused: 400 .*not now"):
        made(server, serve()).sample(requests[:1], DECODING)


def test_a_server_that_ends_replies_by_ends_of_its_own_is_refused(serve, requests):
    server = serve()
    server.ends_early = True
    with pytest.raises(UserError, match="start it with --generation-config vllm"):
        made(server).sample(requests[:1], DECODING)


# -- Which servers


def spoilt(server, **how):
    for name, value in how.items():
        setattr(server, name, value)
    return server


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            {"root": "Qwen/Qwen3-4B", "name": "Qwen/Qwen3-4B"},
            r"serves 'Qwen/Qwen3-4B' .* the recipe's model is 'pocket'",
        ),
        ({"shift": 1}, "has another tokenizer than the recipe's model"),
        ({"template": "{{ messages[-1]['content'] }}"}, "has another chat template than the recipe's model"),
        ({"surprise": 0.5}, "are servers of different weights: they differ by"),
        ({"max_model_len": 500}, r"takes 500 tokens .* start it with --max-model-len 512"),
        ({"max_model_len": None}, r"no 'max_model_len' in the answer; is this a vLLM server\?"),
        ({"surprise": float("nan")}, r"no log-probabilities of the prompt in the answer; is this a vLLM server\?"),
        ({"surprise": float("inf")}, r"no log-probabilities of the prompt in the answer"),
        ({"unknown": {"/tokenize"}}, r"/tokenize refused: 404 .*; is this a vLLM server, at http://HOST:PORT/v1\?"),
        ({"unknown": {"/v1/models"}}, r"/v1/models refused: 404 .*; is this a vLLM server"),
        ({"page": {"data": [{"id": f"{n}", "root": "", "parent": "x"} for n in range(99)]}}, "8, 9 and 89 more"),
        ({"page": {"data": [{"id": "n" * 9999, "root": "r" * 9999, "max_model_len": 512}]}}, "serves 'n{200}' "),
        ({"page": {"object": "list"}}, r"no 'data' in the answer; is this a vLLM server\?"),
        ({"page": b"<html>"}, r"is this a vLLM server\?"),
        ({"page": {"data": []}}, "it serves none"),
    ],
)
def test_a_server_that_is_not_the_recipes_is_one_sentence_before_the_first_request(serve, how, says):
    right, wrong = serve(), spoilt(serve(), **how)
    with pytest.raises(UserError, match=says) as error:
        made(right, wrong)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    assert right.asked == wrong.asked == []


def test_a_server_that_redirects_is_told_and_the_key_does_not_follow(serve, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    right, target = serve(), serve()
    with pytest.raises(UserError, match=r"answers 307 .*: it redirects; name the address"):
        made(right, spoilt(serve(), moved=target.url[:-3]))
    assert target.keys == set()


@pytest.mark.parametrize(
    "how",
    [
        {"root": "/models/of/somebody", "name": "pocket"},
        {"root": str(MODEL_DIR), "name": "served-by-another-name"},
        {"max_model_len": 4096},
        {"surprise": 0.12},  # other cards round otherwise
        {"adapters": {"somebodys": "/a/path"}},
    ],
)
def test_one_that_only_looks_otherwise_is_taken(serve, requests, undisturbed, how):
    assert made(serve(), spoilt(serve(), **how)).sample(requests, DECODING) == undisturbed


def test_a_model_is_named_behind_the_hash_and_no_adapter_is(serve, requests, undisturbed):
    server = spoilt(serve(), adapters={"mine": "/a/path"})
    assert made(f"{server.url}#pocket").sample(requests[:9], DECODING) == undisturbed[:9]
    with pytest.raises(UserError, match="mine is an adapter; name the model"):
        made(f"{server.url}#mine")
    with pytest.raises(UserError, match="does not serve the model 'other'; it serves pocket, mine"):
        made(f"{server.url}#other")


def test_two_names_of_one_server_are_refused(serve):
    url = serve().url
    for same in (url, url[:-3], f"{url}/", f"{url}#pocket", f"HTTP{url[4:]}"):
        with pytest.raises(UserError, match="stands there twice"):
            made(url, same)
    for same in ("localhost", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433"):
        with pytest.raises(UserError, match="are one server; name it once"):
            made(url, url.replace("127.0.0.1", same))


def test_all_addresses_of_this_machine_are_one_and_those_of_others_are_not():
    routes = Path("/proc/net/fib_trie").read_text()  # the system's own table
    own = set(re.findall(r"-- (\S+)\n +/32 host LOCAL", routes))
    assert own
    for number in own:
        with pytest.raises(UserError, match="are one server; name it once"):
            refuse_doubles([server_address(f"http://{host}:8000/v1", "k") for host in ("localhost", number)])
    refuse_doubles([server_address(f"http://{host}:8000/v1", "k") for host in ("localhost", "198.51.100.7")])
    refuse_doubles([server_address(f"http://{host}:8000/v1", "k") for host in ("198.51.100.8", "198.51.100.7")])


def test_a_context_too_short_to_compare_weights_by_is_no_fault(serve):
    server = serve()
    for most in (1, 2):
        ServersSampler(POCKET, SamplerConfig(engine="servers", max_model_len=most, servers=[server.url]), pause=0.02)


@pytest.mark.parametrize("number", [528, 2**31 - 1])
def test_a_token_that_the_model_does_not_have_is_refused_and_not_kept(serve, requests, number):
    """The pocket's embedding has 528 rows, of which its tokenizer makes 521."""
    server, kept = serve(), []
    server.reply = lambda ids, seed: [5, number, server.tokenizer.eos_token_id]
    with pytest.raises(UserError, match=f"replies with the token {number}, and the recipe's model has 528"):
        made(server).sample(requests[:1], DECODING, keep=lambda place, reply: kept.append(reply))
    assert kept == []
    server.reply = lambda ids, seed: [5, 527, server.tokenizer.eos_token_id]
    assert made(server).sample(requests[:1], DECODING)[0].token_ids[:2] == [5, 527]


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_is_told_where_it_is_read_from(serve, status):
    with pytest.raises(UserError, match=rf"refused: {status} .* is read from VLLM_API_KEY\)"):
        made(spoilt(serve(), refuses=status))


def test_one_that_is_not_up_at_first_is_said_and_used_when_it_is(serve, requests, undisturbed, capfd):
    late = serve()
    late.stop()
    sampler = made(serve(), late)
    assert f"{late.url[:-3]} does not answer" in capfd.readouterr().err
    assert sampler.sample(requests, DECODING) == undisturbed
    with pytest.raises(UserError, match=r"does not answer after 4 attempts .* Is the server up\?"):
        made(late)


def test_the_commands_say_it_in_a_sentence(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = str(MODEL_DIR.parents[2] / "recipes" / "pocket.yaml")
    wrong = spoilt(serve(), shift=1)
    words = ["sampler.engine=servers", f"sampler.servers=[{wrong.url}]"]
    assert main(["curate", recipe, "--runs", str(tmp_path), *words]) == 2
    said = capsys.readouterr().err
    assert "has another tokenizer than the recipe's model 'pocket'" in said
    assert "Traceback" not in said
    assert main(["plan", recipe, *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "sampled by 1 server, whose memory and time are not planned" in shown
    main(["doctor", recipe, *words])
    assert f"{wrong.url[:-3]} serves pocket" in capsys.readouterr().out


# -- Adapters


def adapter_in(folder, content=b"weights", r=8):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": r, "peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes(content)
    return Adapter("ssb-3407", folder)


def test_an_adapter_is_loaded_on_each_server_and_taken_off_at_the_end(serve, requests, undisturbed, tmp_path):
    one, other, adapter = serve(), serve(), adapter_in(tmp_path / "adapter")
    one.seconds = other.seconds = 0.02
    sampler, name = made(one, other), served_name(adapter)
    with_it = sampler.sample(requests, DECODING, adapter)
    assert with_it != undisturbed
    assert one.loads == other.loads == [name]
    assert one.adapters == other.adapters == {name: str(adapter.path)}
    assert {body["model"] for body in one.asked} == {name}
    assert sampler.sample(requests, DECODING) == undisturbed
    assert sampler.sample(requests, DECODING, adapter) == with_it
    sampler.close()
    assert one.unloads == other.unloads == [name]
    assert one.adapters == other.adapters == {}


def test_an_adapter_has_the_name_of_what_it_holds(tmp_path):
    first, same = adapter_in(tmp_path / "a"), adapter_in(tmp_path / "b")
    others = [adapter_in(tmp_path / "c", b"other"), adapter_in(tmp_path / "d", r=4)]
    assert served_name(first) == served_name(same)
    assert len({served_name(one) for one in (first, *others)}) == 3


def test_an_adapter_that_another_run_has_loaded_stays_when_we_end(serve, requests, tmp_path):
    server, adapter = serve(), adapter_in(tmp_path / "adapter")
    server.adapters[served_name(adapter)] = "/their/path"
    sampler = made(server)
    with_it = sampler.sample(requests[:9], DECODING, adapter)
    sampler.close()
    assert server.loads == server.unloads == []
    theirs = made(server)
    server.adapters.clear()  # they take it off between two of our waves, and within one
    assert theirs.sample(requests[:9], DECODING, adapter) == with_it
    theirs._asked.everywhere = lambda look: None
    server.adapters.clear()
    assert theirs.sample(requests[:9], DECODING, adapter) == with_it
    assert len(server.loads) == 2


def test_a_server_that_was_started_again_is_given_the_adapter_again(serve, requests, tmp_path):
    killed, other, adapter = serve(), serve(), adapter_in(tmp_path / "adapter")
    killed.seconds = other.seconds = 0.2
    sampler, again = made(killed, other), []
    expected = sampler.sample(requests, DECODING, adapter)
    port, before = killed.server_address[1], len(killed.asked)
    meanwhile(lambda: len(killed.asked) > before + 10, lambda: (killed.stop(), again.append(serve(port))))
    assert sampler.sample(requests * 3, DECODING, adapter) == expected * 3
    assert again[0].loads == [served_name(adapter)]
    assert {body["model"] for body in again[0].asked} == {served_name(adapter)}


@pytest.mark.parametrize(
    ("lora", "blind", "says"),
    [
        ((404, {"detail": "Not Found"}), False, "does not let adapters be loaded .*; start it with: " + "{command}"),
        (
            (500, {"error": {"message": "LoRA is not enabled."}}),
            False,
            "cannot put an adapter on .*not enabled.*{command}",
        ),
        ((500, {"error": {"message": "rank 8 is above 4"}}), False, "cannot put an adapter on .*rank 8.*{command}"),
        (True, True, "finds no adapter at /.*: a server reads adapters from its own disk"),
    ],
)
def test_a_server_that_takes_no_adapter_is_told_how_it_would(serve, requests, tmp_path, lora, blind, says):
    server = spoilt(serve(), lora=lora, blind=blind)
    command = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve pocket --enable-lora --max-lora-rank 8"
    with pytest.raises(UserError, match=says.replace("{command}", command)) as error:
        made(server).sample(requests[:3], DECODING, adapter_in(tmp_path / "adapter"))
    assert "\n" not in str(error.value)
    assert server.asked == []


def test_an_adapter_above_the_rank_of_the_recipe_is_refused(serve, requests, tmp_path):
    with pytest.raises(UserError, match=r"rank 64, above sampler\.max_lora_rank"):
        made(serve()).sample(requests[:1], DECODING, adapter_in(tmp_path / "adapter", r=64))


def test_dora_is_refused_before_anything_is_asked(tmp_path, tokenizer):
    from peft import LoraConfig, get_peft_model

    from ssb_unsloth.backends.transformers import load_model

    wrapped = get_peft_model(load_model(POCKET), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    wrapped.save_pretrained(tmp_path / "dora")
    assert_fits(POCKET, tmp_path / "dora", "vllm")  # which merges it
    with pytest.raises(UserError, match="DoRA, which vLLM does not put on"):
        assert_fits(POCKET, tmp_path / "dora", "servers")


# -- Through the stages


def curated(folder, *servers):
    folder.mkdir()
    config = CurateConfig(
        pairs=100, wave=8, rollout=SamplingConfig(max_tokens=60), refine=SamplingConfig(max_tokens=60)
    )
    Curator(config, lambda: made(*servers), max_model_len=512, seed=1, folder=folder).run(PROBLEMS)
    return {path.name: path.read_bytes() for path in folder.glob("*.json*")}


def test_curation_on_servers_that_die_and_come_back_makes_the_same_pairs(serve, tmp_path):
    expected = curated(tmp_path / "one", serve())
    assert len(expected["pairs.jsonl"].splitlines()) > 5
    dying, other = serve(), serve()
    dying.dies_after, other.statuses = 9, [503] * 3
    assert curated(tmp_path / "two", dying, other) == expected
    shutil.rmtree(tmp_path / "two")
    slow, port = serve(), serve()
    slow.seconds = 0.05
    meanwhile(lambda: len(port.asked) > 5, lambda: setattr(port, "dead", True))
    meanwhile(lambda: len(slow.asked) > 40, lambda: setattr(port, "dead", False))
    assert curated(tmp_path / "two", slow, port) == expected


def test_evaluation_on_servers_that_die_is_that_of_one(serve, tmp_path):
    benchmarks = {"b": (BenchmarkConfig(source="x", samples=3, max_tokens=60), PROBLEMS)}

    def evaluated(folder, *servers):
        folder.mkdir()
        config = settings(*servers)
        contestants = base_contestants(POCKET, 1)
        make = lambda *_, **__: made(*servers)  # noqa: E731  # with a short pause
        return list(evaluate(contestants, benchmarks, config, folder, make))

    expected = evaluated(tmp_path / "one", serve())
    dying = serve()
    dying.dies_after = 11
    assert evaluated(tmp_path / "two", dying, serve()) == expected
    assert len(expected) == 24 * 4


# -- What determines a stage


def test_neither_the_servers_nor_new_keys_at_their_defaults_are_part_of_a_stages_identity(tmp_path):
    before = {
        "engine": "auto",
        "max_model_len": 4096,
        "attention_backend": "auto",
        "max_lora_rank": 32,
        "batch_size": 64,
    }
    assert keys.of_sampler(SamplerConfig()) == before
    assert keys.of_sampler(SamplerConfig(tensor_parallel=2)) == {**before, "tensor_parallel": 2}
    recipe = MODEL_DIR.parents[2] / "recipes" / "pocket.yaml"
    of = {
        words: key_of("curate", load(recipe, words), RunDir(tmp_path / "run"))
        for words in [
            ("sampler.engine=servers", "sampler.servers=[http://a:8000/v1]"),
            ("sampler.engine=servers", "sampler.servers=[http://b/v1, http://c/v1]", "sampler.server_timeout=2"),
            ("sampler.engine=transformers",),
        ]
    }
    first, same, other = of.values()
    assert first == same != other
