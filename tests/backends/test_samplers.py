"""The samplers: seeds, stops and adapters on plain transformers; and the real vLLM against it."""

import copy
import inspect
import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from vllm_script import VLLM

from ssb_unsloth import backends
from ssb_unsloth.backends.sampler import Adapter, Request, Sampler
from ssb_unsloth.backends.servers.by_url import ServerSampler
from ssb_unsloth.backends.servers.sampler import ServersSampler
from ssb_unsloth.backends.transformers import load_generation_config, load_model, only_stops
from ssb_unsloth.backends.transformers_sampler import TransformersSampler
from ssb_unsloth.backends.vllm import VLLMSampler
from ssb_unsloth.errors import UserError
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.pocket.problems import generate
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.schema import ModelConfig, SamplerConfig, SamplingConfig

POCKET = ModelConfig(name="pocket", dtype="float32")


@pytest.fixture(scope="module")
def sampler(tokenizer):
    return TransformersSampler(load_model(POCKET), tokenizer, batch_size=7)


@pytest.fixture(scope="module")
def requests(sampler):
    problems = generate("validation", 20, 0)
    return [Request(sampler.render(student_messages(p.question)), 100 + i) for i, p in enumerate(problems)]


METHODS = [name for name, value in vars(Sampler).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("engine", [TransformersSampler, VLLMSampler, ServerSampler, ServersSampler])
@pytest.mark.parametrize("method", METHODS)
def test_every_sampler_can_be_called_as_the_protocol_says(engine, method):
    """Names, order, defaults and types of the arguments, and what is returned."""
    assert METHODS == ["render", "sample", "close"]
    assert inspect.signature(getattr(engine, method)) == inspect.signature(getattr(Sampler, method))


def test_a_quiet_sampler_shows_no_bar(sampler, requests, capfd):
    for quiet in (False, True):
        sampler.sample(requests[:2], SamplingConfig(temperature=0, max_tokens=2), title="shown", quiet=quiet)
        assert ("shown" in capfd.readouterr().err) is not quiet


def test_a_reply_depends_on_its_own_seed_and_not_on_its_company(sampler, requests):
    decoding = SamplingConfig(temperature=1.0, top_p=0.95, top_k=20, max_tokens=40)
    forward = sampler.sample(requests, decoding)
    backward = sampler.sample(requests[::-1], decoding)[::-1]
    alone = sampler.sample(requests[3:4], decoding)
    assert forward == backward
    assert alone == forward[3:4]
    reseeded = [Request(r.prompt_ids, r.seed + 1) for r in requests]
    assert sampler.sample(reseeded, decoding) != forward


def test_a_reply_ends_with_the_end_of_turn_or_is_cut_off(sampler, requests, tokenizer):
    for limit in (5, 160):
        for reply in sampler.sample(requests, SamplingConfig(temperature=0, max_tokens=limit)):
            assert (reply.token_ids[-1] == tokenizer.eos_token_id) == (reply.finish_reason == "stop")
            assert len(reply.token_ids) <= limit
            assert "<|im_end|>" not in reply.text
    assert {r.finish_reason for r in sampler.sample(requests, SamplingConfig(temperature=0, max_tokens=5))} == {
        "length"
    }


@pytest.fixture(scope="module")
def wilful(tmp_path_factory, tokenizer):
    """The pocket with a generation_config of its own, which penalises, suppresses, and stops at full stops too."""
    folder = tmp_path_factory.mktemp("wilful") / "model"
    shutil.copytree(MODEL_DIR, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (stop,) = tokenizer.encode(".", add_special_tokens=False)
    config |= {"eos_token_id": [tokenizer.eos_token_id, stop], "repetition_penalty": 1.8, "no_repeat_ngram_size": 2}
    config |= {"temperature": 0.1, "top_k": 1, "top_p": 0.1, "min_p": 0.5, "do_sample": True}
    config |= {"suppress_tokens": list(range(40, 200)), "begin_suppress_tokens": [50], "max_new_tokens": 3}
    (folder / "generation_config.json").write_text(json.dumps(config))
    return ModelConfig(name=str(folder), dtype="float32"), stop


def cut_at(replies, stop):
    """Token ids up to the first `stop`."""
    return [r.token_ids[: r.token_ids.index(stop) + 1] if stop in r.token_ids else r.token_ids for r in replies]


@pytest.mark.parametrize("decoding", [SamplingConfig(temperature=t, max_tokens=40) for t in (0.0, 0.8)])
def test_of_the_models_own_generation_config_only_the_ends_of_a_reply_are_taken(
    sampler, requests, tokenizer, wilful, decoding
):
    model, stop = wilful
    loaded = load_model(model)
    theirs = TransformersSampler(loaded, tokenizer, batch_size=7).sample(requests, decoding)
    assert [r.token_ids for r in theirs] == cut_at(sampler.sample(requests, decoding), stop)
    assert any(r.token_ids[-1] == stop for r in theirs)
    assert loaded.generation_config.repetition_penalty == 1.8  # as it was
    assert load_generation_config(model).eos_token_id == loaded.generation_config.eos_token_id


def test_a_trainer_that_samples_by_itself_inherits_the_ends_alone(wilful, tokenizer):
    model, stop = wilful
    loaded, own = load_model(model), copy.deepcopy(tokenizer)
    assert only_stops(loaded, own) == sorted({tokenizer.eos_token_id, stop}) == loaded.generation_config.eos_token_id
    assert loaded.generation_config.to_diff_dict().keys() <= {"eos_token_id", "transformers_version"}
    assert own.pad_token_id == tokenizer.pad_token_id


def test_samples_follow_the_models_distribution(sampler, tokenizer):
    """The Gumbel draw against softmax(logits / T), by a chi-squared bound on the first token."""
    prompt = sampler.render(student_messages("Mia has 3 shells."))
    decoding = SamplingConfig(temperature=2.0, max_tokens=1)
    n = 700
    wide = TransformersSampler(sampler._model, tokenizer, batch_size=n)
    first = [r.token_ids[0] for r in wide.sample([Request(prompt, seed) for seed in range(n)], decoding)]
    with torch.no_grad():
        p = torch.softmax(sampler._model(torch.tensor([prompt])).logits[0, -1] / 2.0, -1)
    counts = torch.bincount(torch.tensor(first), minlength=len(p))
    common = p * n > 5
    chi2 = ((counts[common] - n * p[common]) ** 2 / (n * p[common])).sum()
    degrees = int(common.sum())
    assert chi2 < degrees + 4 * (2 * degrees) ** 0.5 + 4


def save_adapter(folder, scale):
    torch.manual_seed(0)
    model = get_peft_model(
        load_model(POCKET), LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale)
    model.save_pretrained(folder)


def test_adapters_are_switched_and_taken_off(tmp_path, tokenizer, requests):
    for name, scale in (("one", 1.0), ("two", 2.0)):
        save_adapter(tmp_path / name, scale)
    sampler = TransformersSampler(load_model(POCKET), tokenizer, batch_size=20)
    greedy = SamplingConfig(temperature=0, max_tokens=30)
    base = sampler.sample(requests, greedy)
    one, two = (sampler.sample(requests, greedy, Adapter(n, tmp_path / n)) for n in ("one", "two"))
    assert base != one != two != base
    assert sampler.sample(requests, greedy) == base
    assert sampler.sample(requests, greedy, Adapter("one", tmp_path / "one")) == one


def test_a_model_that_cannot_be_loaded_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(ModelConfig(name=str(tmp_path)))
    with pytest.raises(UserError, match="no such folder"):
        load_model(ModelConfig(name="./nowhere"))


def test_the_real_vllm_gives_what_transformers_gives(tmp_path, tokenizer, sampler, requests, wilful):
    """Rendering, greedy replies of base and adapters, seeds that do not depend on order, the end of turn kept; and what
    it takes from a generation_config that says much."""
    names = ("one", "two")
    for name, scale in zip(names, (1.0, 2.0), strict=True):
        save_adapter(tmp_path / name, scale)
    messages = student_messages("Mia has 3 shells.")
    script, asked, answered = (tmp_path / name for name in ("script.py", "asked.json", "answered.json"))
    script.write_text(VLLM)
    asked.write_text(
        json.dumps(
            {
                "messages": messages,
                "requests": [[r.prompt_ids, r.seed] for r in requests],
                "adapters": [str(tmp_path / name) for name in names],
                "wilful": wilful[0].name,
            }
        )
    )
    subprocess.run([sys.executable, script, asked, answered], check=True, timeout=600)
    vllm = json.loads(answered.read_text())
    greedy = SamplingConfig(temperature=0, max_tokens=30)
    plain = TransformersSampler(load_model(POCKET), tokenizer, batch_size=20)
    assert vllm["render"] == sampler.render(messages)
    assert vllm["base"] == vllm["base again"] == [r.token_ids for r in plain.sample(requests, greedy)]
    for name, theirs in zip(names, vllm["adapters"], strict=True):
        ours = [r.token_ids for r in plain.sample(requests, greedy, Adapter(name, tmp_path / name))]
        # Two orders of float32 sums may part where two tokens are equally likely, and go on apart from there.
        assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 18
        assert theirs != vllm["base"]
    bare, one, two, again = vllm["put on"]
    assert bare == again != one != two != bare
    assert vllm["forward"] == vllm["backward"] != vllm["base"]
    theirs = TransformersSampler(load_model(wilful[0]), tokenizer, batch_size=20).sample(requests, greedy)
    assert vllm["wilful"] == [[r.token_ids, r.text, r.finish_reason] for r in theirs]
    assert any(r.token_ids[-1] == wilful[1] for r in theirs)
    ends = [ids[-1] == tokenizer.eos_token_id for ids in vllm["base"]]
    assert [reason == "stop" for reason in vllm["reasons"]] == ends


def test_without_vllm_one_line_says_so_and_transformers_samples(monkeypatch, capsys):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    chosen = backends.load_sampler(POCKET, SamplerConfig(engine="auto"), seed=0, adapters=False)
    assert isinstance(chosen, TransformersSampler)
    assert [line for line in capsys.readouterr().err.splitlines() if "vLLM is not installed here" in line]
    with pytest.raises(UserError, match=r"sampler\.engine=transformers"):
        backends.load_sampler(POCKET, SamplerConfig(engine="vllm"), seed=0, adapters=False)
