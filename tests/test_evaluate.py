"""Evaluation: scores against independent counts, every reply kept, and nothing scored on a part of its problems."""

import math
import random
from pathlib import Path

import pytest
from scipy.stats import binomtest

from ssb_unsloth.backends import Adapter, Completion
from ssb_unsloth.config import BenchmarkConfig
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluate import as_rows, decodings, evaluate, score
from ssb_unsloth.records import Generation, Problem, read_jsonl

TEST = BenchmarkConfig(source="test.jsonl", split="held_out", samples=1, temperature=None, max_tokens=50)
PROBLEMS = [Problem(f"p{i}", f"What is {i} + 1?", str(i + 1)) for i in range(8)]
ADAPTER = Adapter("ssb", Path("adapter"))


def generations(model, verdicts, temperature=0.0, benchmark="test", first=0):
    """One reply for each verdict; a list of verdicts is a question with several samples."""
    made = []
    for question, given in enumerate(verdicts, start=first):
        for sample, verdict in enumerate([given] if isinstance(given, str) else given):
            text = f"{model} {question} {sample} {verdict}"
            finish = "length" if verdict == "truncated" else "stop"
            made.append(
                Generation(
                    model,
                    benchmark,
                    f"p{question}",
                    sample,
                    temperature,
                    1,
                    text,
                    10 + question,
                    finish,
                    verdict,
                    "1",
                    "2",
                )
            )
    return made


# -- Scores -----------------------------------------------------------------------------------------------------------


def test_a_greedy_run_is_scored_by_its_counts_with_wilsons_interval():
    verdicts = ["right"] * 13 + ["wrong"] * 20 + ["no_answer"] * 5 + ["truncated"] * 2
    random.Random(0).shuffle(verdicts)
    (row,), differences = score(generations("base", verdicts), {"test": TEST}, seed=3)
    interval = binomtest(13, 40).proportion_ci(method="wilson")
    assert as_rows([row]) == [
        {
            "model": "base",
            "benchmark": "test",
            "split": "held_out",
            "scoring": "equivalent",
            "temperature": 0.0,
            "seed": 3,
            "n_questions": 40,
            "n_samples": 1,
            "value": 13 / 40,
            "low": pytest.approx(interval.low),
            "high": pytest.approx(interval.high),
            "interval": "wilson",
            "no_answer": 5 / 40,
            "truncated": 2 / 40,
            "mean_tokens": sum(range(10, 50)) / 40,
        }
    ]
    assert differences == []


@pytest.mark.parametrize("verdict", ["right", "wrong"])
def test_intervals_stay_within_0_and_1(verdict):
    (row,), _ = score(generations("base", [verdict] * 5), {"test": TEST}, seed=0)
    assert 0 <= row.low <= row.value <= row.high <= 1
    assert row.high - row.low > 0.4


def test_several_samples_are_averaged_by_question_and_bootstrapped_over_questions():
    verdicts = [["right"] * 4, ["wrong"] * 4, ["right", "wrong", "no_answer", "truncated"]] * 40
    (row,), _ = score(generations("base", verdicts, temperature=0.8), {"test": TEST}, seed=0)
    assert (row.n_questions, row.n_samples, row.interval) == (120, 4, "bootstrap")
    assert row.value == pytest.approx(5 / 12)
    assert row.no_answer == row.truncated == pytest.approx(1 / 12)
    means = [1.0, 0.0, 0.25] * 40
    error = math.sqrt(sum((m - 5 / 12) ** 2 for m in means) / 120**2)
    assert row.low == pytest.approx(5 / 12 - 1.96 * error, abs=0.01)
    assert row.high == pytest.approx(5 / 12 + 1.96 * error, abs=0.01)


def test_benchmarks_and_decodings_are_scored_apart():
    replies = [
        *generations("base", ["right", "wrong"]),
        *generations("base", ["right", "right"], temperature=0.8),
        *generations("base", ["wrong", "wrong"], benchmark="hard"),
    ]
    scores, _ = score(replies, {"test": TEST, "hard": TEST}, seed=0)
    assert {(s.benchmark, s.temperature): s.value for s in scores} == {
        ("test", 0.0): 0.5,
        ("test", 0.8): 1.0,
        ("hard", 0.0): 0.0,
    }


def test_a_difference_is_paired_question_by_question():
    base = ["wrong"] * 60 + ["right"] * 30 + ["right"] * 10
    student = ["right"] * 40 + ["wrong"] * 20 + ["right"] * 30 + ["wrong"] * 10
    replies = generations("base", base) + generations("ssb", student)
    scores, (difference,) = score(replies, {"test": TEST}, seed=0)
    assert [s.value for s in scores] == [0.4, 0.7]
    assert (difference.model, difference.benchmark, difference.temperature) == ("ssb", "test", 0.0)
    assert difference.value == pytest.approx(0.3)
    error = math.sqrt((0.5 - 0.3**2) / 100)  # 40 gained and 10 lost of 100
    assert difference.low == pytest.approx(0.3 - 1.96 * error, abs=0.02)
    assert difference.high == pytest.approx(0.3 + 1.96 * error, abs=0.02)


def test_answers_to_different_questions_are_not_compared():
    replies = generations("base", ["right"] * 3) + generations("ssb", ["wrong"] * 3, first=1)
    with pytest.raises(UserError, match="different questions"):
        score(replies, {"test": TEST}, seed=0)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"temperature": 0.8, "samples": 4, "greedy": True}, [(0.0, 1), (0.8, 4)]),
        ({"temperature": 0.8, "samples": 4, "greedy": False}, [(0.8, 4)]),
        ({"temperature": None, "samples": 4, "greedy": True}, [(0.0, 1)]),
    ],
)
def test_a_benchmark_is_decoded_greedily_and_at_its_temperature(config, expected):
    assert decodings(BenchmarkConfig(source="x", **config)) == expected


# -- Sampling ---------------------------------------------------------------------------------------------------------


class ScriptedSampler:
    """Answers "i + 1" right where its model (None: the base) knows question i; keeps what it was asked."""

    def __init__(self, base=range(3), ssb=range(6)):
        self.known = {None: set(base), "ssb": set(ssb)}
        self.calls = []

    def render(self, messages):
        return [int(messages[-1]["content"].split()[2])] * 10

    def sample(self, requests, decoding, adapter=None, title="sample"):
        self.calls.append((adapter, decoding, requests))
        known = self.known[adapter.name if adapter else None]
        replies = []
        for request in requests:
            number = request.prompt_ids[0]
            answer = number + 1 if number in known else number
            replies.append(Completion([5] * (number + 1), rf"It is \boxed{{{answer}}}.", "stop"))
        return replies


def run(sampler, folder, config=TEST, max_model_len=100):
    return evaluate(sampler, {"base": None, "ssb": ADAPTER}, {"test": (config, PROBLEMS)}, max_model_len, 1, folder)


def test_every_reply_is_graded_and_kept(tmp_path):
    replies = run(ScriptedSampler(), tmp_path)
    assert [g.problem_id for g in replies if g.model == "base"] == [p.id for p in PROBLEMS]
    assert sum(g.verdict == "right" for g in replies if g.model == "base") == 3
    assert sum(g.verdict == "right" for g in replies if g.model == "ssb") == 6
    assert [g.n_tokens for g in replies] == [*range(1, 9)] * 2
    assert {(g.answer, g.gold) for g in replies if g.problem_id == "p7"} == {("7", "8")}
    kept = [g for path in sorted(tmp_path.iterdir()) for g in read_jsonl(path, Generation)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base-test-0.jsonl", "ssb-test-0.jsonl"]
    assert kept == replies


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


def test_a_second_call_takes_what_is_kept_and_samples_only_the_rest(tmp_path):
    first = run(ScriptedSampler(), tmp_path)
    resumed = ScriptedSampler()
    assert run(resumed, tmp_path) == first
    assert resumed.calls == []
    (tmp_path / "ssb-test-0.jsonl").unlink()
    assert run(resumed, tmp_path) == first
    assert [call[0] for call in resumed.calls] == [ADAPTER]


def test_an_adapter_that_changes_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="'ssb' changes none of 8 replies"):
        run(ScriptedSampler(base=range(3), ssb=range(3)), tmp_path)


def test_a_benchmark_is_never_scored_on_a_part_of_its_problems(tmp_path):
    sampler = ScriptedSampler()
    with pytest.raises(UserError, match=r"takes 10 tokens.*max_model_len"):
        run(sampler, tmp_path, max_model_len=59)
    assert sampler.calls == []
    assert list(tmp_path.glob("*.jsonl")) == []
    assert len(run(sampler, tmp_path, max_model_len=60)) == 16
