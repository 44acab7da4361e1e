"""Evaluation: one engine a model, every reply graded and kept, and nothing scored on a part of its problems."""

import dataclasses
import json
from pathlib import Path

import pytest

from ssb_unsloth.backends.sampler import Adapter, Completion
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.evaluate import Contestant, base_contestants, decodings, evaluate
from ssb_unsloth.recipe.schema import BenchmarkConfig, ModelConfig, SamplerConfig, SamplingConfig
from ssb_unsloth.records import Generation, Problem, read_jsonl, read_rows, write_jsonl

TEST = BenchmarkConfig(source="test.jsonl", split="held_out", samples=1, temperature=None, max_tokens=50)
PROBLEMS = [Problem(f"p{i}", f"What is {i} + 1?", str(i + 1)) for i in range(8)]
MODEL = ModelConfig(name="some-model")
ADAPTER = Adapter("ssb-1", Path("adapter"))
CONTESTANTS = [*base_contestants(MODEL, 1), Contestant("ssb", MODEL, ADAPTER.path, 1)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"temperature": 0.8, "samples": 4, "greedy": True}, [(0.0, 1), (0.8, 4)]),
        ({"temperature": 0.8, "samples": 4, "greedy": False}, [(0.8, 4)]),
        ({"temperature": None, "samples": 4, "greedy": True}, [(0.0, 1)]),
    ],
)
def test_a_benchmark_is_decoded_greedily_and_at_its_temperature(config, expected):
    sampling = [(SamplingConfig(temperature=t, max_tokens=1024), samples) for t, samples in expected]
    assert decodings(BenchmarkConfig(source="x", **config)) == sampling


# -- Sampling ---------------------------------------------------------------------------------------------------------


class ScriptedSampler:
    """Answers "i + 1" right where its model (None: the base) knows question i; keeps what it was asked."""

    def __init__(self, base=range(3), ssb=range(6)):
        self.known = {None: set(base), "ssb": set(ssb)}
        self.calls = []
        self.started = []
        self.open = 0

    def start(self, model, config, seed, adapters):
        """Stands where `load_sampler` does."""
        self.started.append((model.name, adapters))
        self.open += 1
        assert self.open == 1, "two engines at a time"
        return self

    def close(self):
        self.open -= 1

    def render(self, messages):
        return [int(messages[-1]["content"].split()[2])] * 10

    def sample(self, requests, decoding, adapter=None, title="sample", keep=None):
        self.calls.append((adapter, decoding, requests))
        known = self.known[adapter.name.split("-")[0] if adapter else None]
        replies = []
        for request in requests:
            number = request.prompt_ids[0]
            answer = number + 1 if number in known else number
            replies.append(Completion([5] * (number + 1), rf"It is \boxed{{{answer}}}.", "stop"))
        return replies


def run(sampler, folder, config=TEST, max_model_len=100, contestants=CONTESTANTS):
    limits = SamplerConfig(max_model_len=max_model_len)
    return list(evaluate(contestants, {"test": (config, PROBLEMS)}, limits, folder, sampler.start))


def test_every_reply_is_graded_and_kept(tmp_path):
    replies = run(ScriptedSampler(), tmp_path)
    assert [g.problem_id for g in replies if g.model == "base"] == [p.id for p in PROBLEMS]
    assert sum(g.verdict == "right" for g in replies if g.model == "base") == 3
    assert sum(g.verdict == "right" for g in replies if g.model == "ssb") == 6
    assert [g.n_tokens for g in replies] == [*range(1, 9)] * 2
    assert {(g.answer, g.gold) for g in replies if g.problem_id == "p7"} == {("7", "8")}
    files = sorted(tmp_path.glob("*.jsonl"))
    kept = [g for path in files for g in read_jsonl(path, Generation)]
    assert [path.name for path in files] == ["base-1-test-0.jsonl", "ssb-1-test-0.jsonl"]
    assert kept == replies


def test_a_question_that_stands_there_twice_is_asked_once(tmp_path):
    """As among the first pairs, of which several may be of one question."""
    limits = SamplerConfig(max_model_len=100)
    twice = [*PROBLEMS[:3], PROBLEMS[1], PROBLEMS[3]]
    replies = list(evaluate(CONTESTANTS, {"test": (TEST, twice)}, limits, tmp_path, ScriptedSampler().start))
    assert [g.problem_id for g in replies if g.model == "base"] == [p.id for p in PROBLEMS[:4]]


def test_the_models_differ_in_the_adapter_alone(tmp_path):
    sampler = ScriptedSampler()
    config = BenchmarkConfig(source="x", samples=3, temperature=0.8, greedy=True, max_tokens=50)
    run(sampler, tmp_path, config)
    base, ssb = sampler.calls[:2], sampler.calls[2:]
    assert [call[0] for call in sampler.calls] == [None, None, ADAPTER, ADAPTER]
    assert [call[1:] for call in base] == [call[1:] for call in ssb]
    assert [(call[1].temperature, len(call[2])) for call in base] == [(0.0, 8), (0.8, 24)]
    assert [(c[1].max_tokens, c[1].top_p, c[1].top_k, c[1].repetition_penalty) for c in base] == [(50, 1.0, 0, 1.0)] * 2
    assert len({request.seed for request in base[1][2]}) == 24


def test_an_adapter_that_vllm_does_not_put_on_has_an_engine_without_room_for_adapters(tmp_path):
    folders = {"plain": tmp_path / "plain", "dora": tmp_path / "dora"}
    for kind, folder in folders.items():
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "use_dora": kind == "dora"}))
    contestants = [*CONTESTANTS[:1], *(Contestant(f"ssb-{k}", MODEL, folder, 1) for k, folder in folders.items())]
    for engine, started in {"vllm": [True, False], "transformers": [True]}.items():
        sampler, limits = ScriptedSampler(), SamplerConfig(max_model_len=100, engine=engine)
        (tmp_path / engine).mkdir()
        evaluate(contestants, {"test": (TEST, PROBLEMS)}, limits, tmp_path / engine, sampler.start)
        assert sampler.started == [(MODEL.name, room) for room in started]


def test_a_second_call_takes_what_is_kept_and_samples_only_the_rest(tmp_path):
    first = run(ScriptedSampler(), tmp_path)
    resumed = ScriptedSampler()
    assert run(resumed, tmp_path) == first
    assert resumed.calls == []
    (tmp_path / "ssb-1-test-0.jsonl").unlink()
    assert run(resumed, tmp_path) == first  # graded again
    assert resumed.calls == []
    (tmp_path / "ssb-1-test-0.jsonl").unlink()
    (tmp_path / "kept" / "ssb-1-test-0.jsonl").unlink()
    assert run(resumed, tmp_path) == first
    assert [call[0] for call in resumed.calls] == [ADAPTER]


def test_an_adapter_that_changes_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"'ssb' \(adapter\) changes none of 8 replies"):
        run(ScriptedSampler(base=range(3), ssb=range(3)), tmp_path)


def test_after_a_handful_of_steps_that_is_said_and_no_error(tmp_path, capsys):
    hardly = dataclasses.replace(CONTESTANTS[1], hardly_trained=True)
    sampler = ScriptedSampler(base=range(3), ssb=range(3))
    assert len(run(sampler, tmp_path, contestants=[CONTESTANTS[0], hardly])) == 16
    assert "'ssb' (adapter) changes none of 8 replies, after so few steps" in capsys.readouterr().err


def test_a_benchmark_is_never_scored_on_a_part_of_its_problems(tmp_path):
    sampler = ScriptedSampler()
    with pytest.raises(UserError, match=r"takes 10 tokens.*max_model_len"):
        run(sampler, tmp_path, max_model_len=59)
    assert sampler.calls == []
    assert list(tmp_path.glob("*.jsonl")) == []
    assert len(run(sampler, tmp_path, max_model_len=60)) == 16


def test_an_engine_serves_all_adapters_of_a_model_and_is_closed_before_the_next(tmp_path):
    other = ModelConfig(name="another-model")
    contestants = [
        *base_contestants(MODEL, 1, default_prompt=True),
        Contestant("ssb", MODEL, Path("first"), 1),
        Contestant("base-other", other, None, 1),
        Contestant("ssb", MODEL, Path("second"), 2),
    ]
    sampler = ScriptedSampler()
    replies = list(
        evaluate(contestants, {"test": (TEST, PROBLEMS)}, SamplerConfig(max_model_len=100), tmp_path, sampler.start)
    )
    assert sampler.started == [("some-model", True), ("another-model", False)]
    assert sampler.open == 0
    assert [call[0] and call[0].path.name for call in sampler.calls] == [None, None, "first", "second", None]
    asked = list(dict.fromkeys((g.model, g.run_seed, g.prompt) for g in replies))
    assert asked == [
        ("base", 1, "tutor"),
        ("base-default-prompt", 1, "default"),
        ("ssb", 1, "tutor"),
        ("base-other", 1, "tutor"),
        ("ssb", 2, "tutor"),
    ]
    with pytest.raises(UserError, match=r"are named 'base' .seed 1."):
        evaluate([*contestants, contestants[0]], {}, SamplerConfig(), tmp_path, sampler.start)


def test_replies_are_kept_before_they_are_graded(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no grader here")

    sampler = ScriptedSampler()
    with monkeypatch.context() as patch:
        patch.setattr("ssb_unsloth.evaluation.evaluate.graded", broken)
        with pytest.raises(RuntimeError, match="no grader"):
            run(sampler, tmp_path)
    assert len(sampler.calls) == 1
    again = ScriptedSampler()
    replies = run(again, tmp_path)
    assert [call[0] for call in again.calls] == [ADAPTER]
    assert sum(g.verdict == "right" for g in replies) == 9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[:-1], "7 generations where 8 were expected; sample 0 of problem p7 is missing"),
        (
            lambda rows: [*rows, rows[0]],
            "9 generations where 8 were expected; sample 0 of problem p0 stands there twice",
        ),
        (lambda rows: [{**row, "benchmark": "other"} for row in rows], "generations of 'ssb' .seed 1. on 'other'"),
        (lambda rows: [*rows[:-1], {**rows[-1], "temperature": 0.7}], r"reply 8: temperature is 0\.7, where 0\.0 was"),
        (lambda rows: [{**row, "max_tokens": 9} for row in rows], "reply 1: max_tokens is 9, where 50 was expected"),
        (lambda rows: [{**row, "prompt": "default"} for row in rows], "reply 1: prompt is 'default', where 'tutor'"),
        (
            lambda rows: [rows[0], {**rows[1], "gold": "77"}, *rows[2:]],
            "reply 2: gold is '77', where '.*' was expected",
        ),
        (
            lambda rows: [{**row, "verdict": "good"} for row in rows],
            "reply 1: the verdict 'good' is none of right, wrong",
        ),
        (lambda rows: [{**row, "n_tokens": "7"} for row in rows], "line 1: 'n_tokens' is \"7\"; expected int"),
        (lambda rows: [{**row, "model": "grpo"} for row in rows], "generations of 'grpo'"),
        (
            lambda rows: [{k: v for k, v in row.items() if k != "problem_id"} for row in rows],
            "line 1: not a Generation",
        ),
    ],
)
def test_kept_replies_that_are_not_the_expected_ones_are_named_and_stay(tmp_path, change, says):
    run(ScriptedSampler(), tmp_path)
    path = tmp_path / "ssb-1-test-0.jsonl"
    write_jsonl(path, change([row for _, row in read_rows(path)]))
    before = path.read_bytes()
    with pytest.raises(UserError, match=says):
        run(ScriptedSampler(), tmp_path)
    assert path.read_bytes() == before


def test_an_adapter_that_cannot_be_served_is_refused_before_the_engine_starts(tmp_path):
    from ssb_unsloth.backends.sources import adapter_path

    def refused(source=tmp_path, rank=32):
        with pytest.raises(UserError) as raised:
            adapter_path(str(source), "evaluate.adapters.published", rank)
        return str(raised.value)

    assert "no such folder" in refused(tmp_path / "none")
    assert "cannot be loaded" in refused("nobody/nothing")
    assert "no readable adapter_config.json" in refused()
    (tmp_path / "adapter_config.json").write_text('{"r": 64}')
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    assert "a pickle is not read" in refused()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "rank 64 is above sampler.max_lora_rank (32)" in refused()
    assert adapter_path(str(tmp_path), "evaluate.adapters.published", 64) == tmp_path
