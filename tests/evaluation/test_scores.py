"""Scores, differences and their tables, against independent counts and SciPy."""

import itertools
import math
import random
import tracemalloc
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from scipy.stats import binomtest

from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.evaluate import graded
from ssb_unsloth.evaluation.scores import SCORINGS, as_rows, runs_of, score
from ssb_unsloth.recipe.schema import BenchmarkConfig
from ssb_unsloth.records import Generation
from ssb_unsloth.report.sections import evaluation_section
from ssb_unsloth.report.tables import difference_table, gain_table, published_table, samples_table, score_table

TEST = BenchmarkConfig(source="test.jsonl", split="held_out", samples=1, temperature=None, max_tokens=50)


def generations(model, verdicts, temperature=0.0, benchmark="test", first=0, run_seed=3):
    """One reply for each verdict; a list of verdicts is a question with several samples."""
    made = []
    for question, given in enumerate(verdicts, start=first):
        for sample, verdict in enumerate([given] if isinstance(given, str) else given):
            text = f"{model} {question} {sample} {verdict}"
            finish = "length" if verdict == "truncated" else "stop"
            made.append(
                Generation(
                    model=model,
                    run_seed=run_seed,
                    benchmark=benchmark,
                    problem_id=f"p{question}",
                    sample=sample,
                    prompt="tutor",
                    temperature=temperature,
                    top_p=1.0,
                    top_k=0,
                    repetition_penalty=1.0,
                    max_tokens=50,
                    seed=1,
                    text=text,
                    n_tokens=10 + question,
                    finish_reason=finish,
                    verdict=verdict,
                    answer="1",
                    gold="2",
                )
            )
    return made


def boxed(rows, metric="pass@1"):
    """The rows of the main scoring."""
    return [row for row in rows if row.scoring == "equivalent" and getattr(row, "metric", metric) == metric]


# -- Scores -----------------------------------------------------------------------------------------------------------


def test_a_greedy_run_is_scored_by_its_counts_with_wilsons_interval():
    verdicts = ["right"] * 13 + ["wrong"] * 20 + ["no_answer"] * 5 + ["truncated"] * 2
    random.Random(0).shuffle(verdicts)
    scores, differences = score(generations("base", verdicts), {"test": TEST}, seed=3)
    (row,) = boxed(scores)
    interval = binomtest(13, 40).proportion_ci(method="wilson")
    assert as_rows([row]) == [
        {
            "model": "base",
            "benchmark": "test",
            "split": "held_out",
            "scoring": "equivalent",
            "metric": "pass@1",
            "seed": 3,
            "n_seeds": 1,
            "prompt": "tutor",
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "repetition_penalty": 1.0,
            "max_tokens": 50,
            "n_questions": 40,
            "n_samples": 1,
            "value": 13 / 40,
            "low": pytest.approx(interval.low),
            "high": pytest.approx(interval.high),
            "interval": "wilson",
            "sd": None,
            "no_answer": 5 / 40,
            "truncated": 2 / 40,
            "undecided": 0,
            "mean_tokens": sum(range(10, 50)) / 40,
            "tokens_right": pytest.approx(fmean(10 + i for i, v in enumerate(verdicts) if v == "right")),
            "tokens_wrong": pytest.approx(fmean(10 + i for i, v in enumerate(verdicts) if v != "right")),
        }
    ]
    assert differences == []


@pytest.mark.parametrize("verdict", ["right", "wrong"])
def test_intervals_stay_within_0_and_1(verdict):
    (row,) = boxed(score(generations("base", [verdict] * 5), {"test": TEST}, seed=0)[0])
    assert 0 <= row.low <= row.value <= row.high <= 1
    assert row.high - row.low > 0.4


def test_several_samples_are_averaged_by_question_and_bootstrapped_over_questions():
    verdicts = [["right"] * 4, ["wrong"] * 4, ["right", "wrong", "no_answer", "truncated"]] * 40
    (row,) = boxed(score(generations("base", verdicts, temperature=0.8), {"test": TEST}, seed=0)[0])
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
    assert {(s.benchmark, s.temperature): s.value for s in boxed(scores)} == {
        ("test", 0.0): 0.5,
        ("test", 0.8): 1.0,
        ("hard", 0.0): 0.0,
    }


def test_a_difference_is_paired_question_by_question():
    base = ["wrong"] * 60 + ["right"] * 30 + ["right"] * 10
    student = ["right"] * 40 + ["wrong"] * 20 + ["right"] * 30 + ["wrong"] * 10
    replies = generations("base", base) + generations("ssb", student)
    scores, differences = score(replies, {"test": TEST}, seed=0)
    (difference,) = boxed(differences)
    assert [s.value for s in boxed(scores)] == [0.4, 0.7]
    assert (difference.model, difference.benchmark, difference.temperature) == ("ssb", "test", 0.0)
    assert difference.value == pytest.approx(0.3)
    assert (difference.gained, difference.lost, difference.test) == (40, 10, "mcnemar")
    assert difference.p == difference.p_holm == pytest.approx(binomtest(10, 50).pvalue)
    assert difference.significant
    error = math.sqrt((0.5 - 0.3**2) / 100)  # 40 gained and 10 lost of 100
    assert difference.low == pytest.approx(0.3 - 1.96 * error, abs=0.02)
    assert difference.high == pytest.approx(0.3 + 1.96 * error, abs=0.02)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_difference_is_of_questions_whatever_the_order_of_their_replies(samples):
    """The student's replies come last question first: interval, test and counts stay what they are."""
    verdicts = {"base": ["right"] * 7 + ["wrong"] * 13, "ssb": ["right"] * 12 + ["wrong"] * 6 + ["right"] * 2}
    replies = {
        model: [Generation(**{**vars(g), "sample": k}) for k in range(samples) for g in generations(model, of, 0.5)]
        for model, of in verdicts.items()
    }
    _, expected = score(replies["base"] + replies["ssb"], {"test": TEST}, seed=0)
    _, reversed_ = score(replies["base"] + replies["ssb"][::-1], {"test": TEST}, seed=0)
    assert reversed_ == expected
    (difference,) = boxed(expected)
    assert (difference.gained, difference.lost) == ((7, 0) if samples == 1 else (None, None))


def test_answers_to_different_questions_are_not_compared():
    replies = generations("base", ["right"] * 3) + generations("ssb", ["wrong"] * 3, first=1)
    with pytest.raises(UserError, match="different questions"):
        score(replies, {"test": TEST}, seed=0)


# -- Three scorings ---------------------------------------------------------------------------------------------------


def reply(text, gold, finish="stop", question=0, model="base", sample=0, temperature=0.0):
    (made,) = generations(model, ["wrong"], temperature)
    fields = {"text": text, "gold": gold, "finish_reason": finish, "problem_id": f"p{question}", "sample": sample}
    return graded(Generation(**{**vars(made), **fields}))


@pytest.mark.parametrize(
    ("text", "gold", "finish", "right"),
    [
        (r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}", "stop", (True, True, True)),
        (r"so \boxed{0.5}", r"\frac{1}{2}", "stop", (False, True, True)),
        ("so the answer is 0.5", r"\frac{1}{2}", "stop", (False, False, True)),
        (r"so \boxed{\frac{1}{2}} and on", r"\frac{1}{2}", "length", (False, False, True)),
        (r"first 0.5, but \boxed{3}", r"\frac{1}{2}", "stop", (False, False, False)),
        ("I do not know", r"\frac{1}{2}", "stop", (False, False, False)),
    ],
)
def test_each_scoring_forgives_more_than_the_one_before(text, gold, finish, right):
    scores, _ = score([reply(text, gold, finish)], {"test": TEST}, seed=0)
    assert [row.scoring for row in scores] == list(SCORINGS) == ["string", "equivalent", "format_free"]
    assert tuple(row.value == 1 for row in scores) == right


def test_a_gain_is_split_into_reasoning_and_format():
    """Ten questions: the base knows 6 but boxes 2 of them; the student knows 7 and boxes all."""
    base = [reply(rf"\boxed{{{i}}}" if i < 2 else f"it is {i if i < 6 else 99}", str(i), question=i) for i in range(10)]
    student = [reply(rf"\boxed{{{i if i < 7 else 99}}}", str(i), question=i, model="ssb") for i in range(10)]
    scores, differences = score(base + student, {"test": TEST}, seed=0)
    assert {(s.model, s.scoring): s.value for s in scores} == {
        **{("base", "string"): 0.2, ("base", "equivalent"): 0.2, ("base", "format_free"): 0.6},
        **{("ssb", "string"): 0.7, ("ssb", "equivalent"): 0.7, ("ssb", "format_free"): 0.7},
    }
    _, row = gain_table(as_rows(differences))
    assert row[2:5] == ["ssb minus base", "+50.0", "+10.0"]
    assert row[6] == "+40.0"


# -- Several samples and seeds ----------------------------------------------------------------------------------------


def test_pass_at_k_and_the_vote_over_real_replies():
    answers = [["1", "1.0", "2", None], ["3", "4", "4", "5"], [None, None, None, None]]
    golds = ["1", "4", "6"]
    replies = [
        reply(rf"\boxed{{{a}}}" if a else "none", gold, question=q, sample=s, temperature=0.8)
        for q, (given, gold) in enumerate(zip(answers, golds, strict=True))
        for s, a in enumerate(given)
    ]
    config = BenchmarkConfig(source="x", samples=4, k=[2, 4])
    scores, _ = score(replies, {"test": config}, seed=0)
    right = [[a is not None and float(a) == float(g) for a in given] for given, g in zip(answers, golds, strict=True)]
    for k in (2, 4):
        (row,) = boxed(scores, f"pass@{k}")
        assert row.value == pytest.approx(fmean(fmean(map(any, itertools.combinations(r, k))) for r in right))
    (vote,) = boxed(scores, "majority@4")
    assert vote.value == pytest.approx(2 / 3)  # 1 and 1.0 agree, 4 has two votes, and nobody votes on the last
    assert [row[3] for row in samples_table(as_rows(scores))[1:]] == ["pass@2", "pass@4", "majority@4"]


def test_seeds_give_a_mean_a_spread_and_each_seeds_value():
    rng = random.Random(1)
    verdicts = {seed: [rng.choice(["right", "wrong"]) for _ in range(50)] for seed in (1, 2, 3)}
    base = generations("base", ["wrong"] * 40 + ["right"] * 10, run_seed=1)
    ssb = [g for seed, given in verdicts.items() for g in generations("ssb", given, run_seed=seed)]
    replies = base + [replace(g, n_tokens=g.n_tokens + g.run_seed) for g in ssb]
    scores, differences = score(replies, {"test": TEST}, seed=0)
    each = [given.count("right") / 50 for given in verdicts.values()]
    rows = [s for s in boxed(scores) if s.model == "ssb"]
    assert [(s.seed, s.value) for s in rows[:3]] == list(zip((1, 2, 3), each, strict=True))
    mean = rows[3]
    assert (mean.seed, mean.n_seeds, mean.interval) == (None, 3, "bootstrap")
    assert mean.value == pytest.approx(fmean(each))
    assert mean.mean_tokens == pytest.approx(fmean(row.mean_tokens for row in rows[:3]))
    assert mean.sd == pytest.approx(stdev(each))
    (difference,) = boxed(differences)
    assert difference.by_seed == pytest.approx([value - 0.2 for value in each])
    assert difference.value == pytest.approx(fmean(each) - 0.2)
    assert (difference.test, difference.gained) == ("bootstrap", None)
    head, _, ssb = score_table(as_rows(scores), as_rows(differences))
    assert ssb[:4] == ["test", "greedy", "ssb", f"{100 * fmean(each):.1f} %"]
    assert ssb[head.index("seeds: sd, each")] == f"{100 * stdev(each):.1f}: " + ", ".join(
        f"{100 * v:.1f}" for v in each
    )


def test_seeds_that_answered_different_questions_have_no_mean():
    replies = generations("ssb", ["right"] * 3, run_seed=1) + generations("ssb", ["right"] * 3, run_seed=2, first=1)
    with pytest.raises(UserError, match="seeds of a model answered different questions"):
        score(replies, {"test": TEST}, seed=0)


@pytest.mark.parametrize("spoil", [lambda r: r[:-1], lambda r: [*r, r[-1]]])
def test_a_reply_too_few_or_twice_is_an_error(spoil):
    replies = generations("base", [["right"] * 2] * 3, temperature=0.8)
    with pytest.raises(UserError, match="the same number of replies, each once"):
        score(spoil(replies), {"test": TEST}, seed=0)


# -- Differences in a table -------------------------------------------------------------------------------------------


def test_holm_is_over_the_table_and_what_is_not_significant_is_marked():
    """Two of three are below 5 % alone, and not among three."""
    counts = {"a": (6, 0), "b": (12, 3), "c": (20, 2)}
    replies = generations("base", ["wrong"] * 30 + ["right"] * 30)
    for model, (gained, lost) in counts.items():
        given = ["right"] * gained + ["wrong"] * (30 - gained) + ["wrong"] * lost + ["right"] * (30 - lost)
        replies += generations(model, given)
    _, differences = score(replies, {"test": TEST}, seed=0)
    alone = {m: binomtest(min(c), sum(c)).pvalue for m, c in counts.items()}
    assert {d.model: d.p for d in boxed(differences)} == pytest.approx(alone)
    assert all(p < 0.05 for p in alone.values())
    a, b = sorted([alone["a"], alone["b"]])
    expected = {"c": 3 * alone["c"], "a": 2 * a, "b": max(2 * a, b)}
    assert {d.model: d.p_holm for d in boxed(differences)} == pytest.approx(expected)
    table = difference_table(as_rows(differences))
    assert {row[2].split(":")[0]: row[-1] for row in table[1:]} == {"a": "**no**", "b": "**no**", "c": "yes"}
    scores, _ = score(replies, {"test": TEST}, seed=0)
    head, *rows = score_table(as_rows(scores), as_rows(differences))
    marks = {row[2]: row[head.index("against base")] for row in rows}
    assert marks == {"base": "", "a": "+10.0 n.s.", "b": "+15.0 n.s.", "c": "+30.0"}


def test_any_model_may_be_the_reference():
    replies = generations("sft", ["right", "wrong"] * 20) + generations("ssb", ["right"] * 40)
    _, differences = score(replies, {"test": TEST}, seed=0, against=[("ssb", "sft"), ("ssb", "base"), ("ssb", "sft")])
    (row,) = boxed(differences)
    assert (row.model, row.reference, row.value) == ("ssb", "sft", 0.5)
    assert difference_table(as_rows(differences))[1][2] == "ssb against sft: +50.0 points"


def test_the_section_says_of_how_many_questions_it_speaks_and_what_its_columns_mean():
    config = {"test": {**vars(TEST), "count": 500}}
    replies = generations("base", ["right", "wrong"], run_seed=1) + generations("base", ["wrong"] * 2, run_seed=2)
    scores, differences = score(replies, {"test": TEST}, seed=8)
    page = evaluation_section(as_rows(scores), as_rows(differences), config, 8)
    assert "- test: **only the first 2 of 500** questions, greedy" in page
    assert "a bootstrap over questions for several (10,000 resamples, seed 8)" in page
    assert "- *seeds*: standard deviation (n - 1)" in page
    assert "*against base*" not in page  # a column that is not there
    config["test"]["count"] = 2
    assert "- test: 2 questions, greedy" in evaluation_section(as_rows(scores), [], config, 8)


def test_the_published_table_1_stands_beside_with_its_own_intervals():
    """The intervals as they stand in the project's notes, to a tenth of a point."""
    table = published_table(["math500", "other", "aime2024"])
    assert [row[0] for row in table[1:]] == ["math500"] * 3 + ["aime2024"] * 3
    assert [row[2:] for row in table[1:]] == [
        ["37.6 %", "33.5 to 41.9"],
        ["44.8 %", "40.5 to 49.2"],
        ["55.4 %", "51.0 to 59.7"],
        ["0.0 %", "0.0 to 11.4"],
        ["3.3 %", "0.6 to 16.7"],
        ["13.3 %", "5.3 to 29.7"],
    ]


def test_replies_that_could_not_be_compared_are_counted():
    noted = [replace(g, note="MemoryError") if g.verdict == "wrong" else g for g in generations("base", ["wrong"] * 3)]
    rows, _ = score([*noted, *generations("ssb", ["wrong"] * 3)], {"test": TEST}, seed=0)
    assert {(row.model, row.undecided, row.value) for row in boxed(rows)} == {("base", 3, 0.0), ("ssb", 0, 0.0)}
    two = [*noted, *(replace(g, run_seed=8, note="MemoryError", verdict="wrong") for g in noted[:3])]
    assert [row.undecided for row in boxed(score(two, {"test": TEST}, seed=0)[0])] == [3, 3, 6]


# -- Many replies -----------------------------------------------------------------------------------------------------


def test_no_text_stays_in_memory():
    def held(length):
        made = (
            replace(g, text=f"{g.text} " + "word " * length)
            for question in range(300)
            for g in generations("base", [["right", "wrong"]], temperature=0.8, first=question)
        )
        tracemalloc.start()
        try:
            runs = runs_of(made, {"test": TEST})
            return tracemalloc.get_traced_memory()[0] / len(next(iter(runs.values()))[3])
        finally:
            tracemalloc.stop()

    held(1)
    assert held(2000) < 300  # bytes a reply, its question's among them
    assert held(2000) < 1.1 * held(20)


def test_replies_of_all_files_may_come_in_any_order():
    rng = random.Random(0)
    replies = [
        replace(g, answer=g.verdict)
        for model in ("base", "ssb")
        for seed in (1, 2)
        for g in generations(model, [rng.choices(["right", "wrong", "no_answer"], k=3) for _ in range(9)], 0.8,
                             run_seed=seed)
    ]  # fmt: skip
    mixed = rng.sample(replies, len(replies))
    first, other = (score(some, {"test": TEST}, seed=0) for some in (replies, mixed))
    values = [
        sorted((r.model, str(r.seed), r.scoring, r.metric, r.value, r.mean_tokens) for r in rows[0])
        for rows in (first, other)
    ]
    assert values[0] == values[1]
