"""The sentence that is quoted says what the rows say: up, down or neither, at which decoding, over which seeds."""

import re
from pathlib import Path

import pytest

from ssb_unsloth.evaluation.scores import as_rows, score
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import BenchmarkConfig
from ssb_unsloth.records import Generation
from ssb_unsloth.report.headline import headline
from ssb_unsloth.report.tables import small_lines, small_table

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
BENCHMARKS = {"test": BenchmarkConfig(source="a.jsonl"), "test-hard": BenchmarkConfig(source="b.jsonl")}


def replies(model, right, n=40, seed=1, temperature=0.8, samples=1, benchmark="test"):
    """So many of n questions right, with all their samples."""
    sampling = ("tutor", temperature, 1.0, 0, 1.0, 99)
    return [
        Generation(model, seed, benchmark, str(q), i, *sampling, 1, "", 9, "stop", verdict, None, "1")
        for q in range(n)
        for i in range(samples)
        for verdict in ["right" if q < right else "wrong"]
    ]


def told(made, *overrides):
    scores, differences = score(made, BENCHMARKS, seed=0)
    return headline(load(POCKET, overrides), as_rows(scores), as_rows(differences))


@pytest.mark.parametrize(
    ("base", "student", "said"),
    [
        (10, 30, "SSB raised accuracy on test from 25.0 to 75.0 % (T = 0.8, n = 40; "),
        (30, 10, "SSB lowered accuracy on test from 75.0 to 25.0 % (T = 0.8, n = 40; "),
        (10, 11, "SSB made no significant difference to accuracy on test: 25.0 % before, 27.5 % after (T = 0.8, n"),
        (11, 10, "SSB made no significant difference to accuracy on test: 27.5 % before, 25.0 % after (T = 0.8, n"),
        (10, 10, "SSB made no significant difference to accuracy on test: 25.0 % before, 25.0 % after (T = 0.8, n"),
    ],
)
def test_it_says_up_down_or_neither(base, student, said):
    sentence = told(replies("base", base) + replies("ssb", student))
    assert sentence.startswith(said)
    low, high = map(
        float, re.findall(r"difference ([+-][\d.]+) to ([+-][\d.]+) points, p (?:= [\d.]+|< 0\.001) ", sentence)[0]
    )
    assert low <= 100 * (student - base) / 40 <= high


def test_it_speaks_of_the_first_benchmark_sampled_where_it_was():
    made = []
    for benchmark, temperature, right in (("test-hard", 0.8, 5), ("test", 0.0, 20), ("test", 0.8, 30)):
        for model, count in (("base", 0), ("ssb", right)):
            made += replies(model, count, temperature=temperature, benchmark=benchmark)
    assert "on test from 0.0 to 75.0 % (T = 0.8" in told(made)
    greedy = [row for row in made if row.temperature == 0]
    assert "on test from 0.0 to 50.0 % (greedy, n = 40; " in told(greedy)


def test_several_seeds_are_their_mean_and_several_replies_are_said():
    made = replies("base", 10, samples=4)
    for seed, right in ((1, 20), (2, 30), (3, 40)):
        made += replies("ssb", right, seed=seed, samples=4)
    sentence = told(made, "seeds=[1,2,3]")
    assert "raised accuracy on test from 25.0 to 75.0 %" in sentence
    assert "n = 40 questions with 4 replies each; mean of 3 seeds; 95 %" in sentence


def test_it_is_the_recipes_own_student_after_its_last_round():
    made = replies("base", 10) + replies("sft", 0) + replies("ssb-round1", 20) + replies("ssb-round2", 35)
    assert told(made, "rounds=2").startswith("SSB after 2 rounds raised accuracy on test from 25.0 to 87.5 %")
    assert told(made, "train.method=sft").startswith("SFT lowered accuracy")
    assert told(made) == ""  # no student of that name, and nothing that could be said


@pytest.mark.parametrize("name", ["ssb", "ssb-gold-hint-wide-adapter-lr3e-4"])
def test_the_small_table_has_80_columns_and_loses_nothing(name):
    made = []
    for benchmark, temperature in (("test", 0.0), ("test", 0.8), ("test-hard", 0.8)):
        for model, right in (("base", 10), (name, 12)):
            made += replies(model, right, benchmark=benchmark, temperature=temperature)
    rows = [as_rows(part) for part in score(made, BENCHMARKS, seed=0)]
    table, lines = small_table(*rows), small_lines(*rows)
    assert table[0] == ["benchmark", "decoding", "model", "accuracy", "95 % interval", "against base"]
    assert max(map(len, lines)) <= 80
    for benchmark, decoding, model, *numbers in table[1:]:
        place = next(n for n, line in enumerate(lines) if re.match(rf"{benchmark},? +{decoding}\b", line))
        row = r" +".join(map(re.escape, [model, *filter(None, numbers)]))
        assert any(re.search(rf"\b{row}$", line) for line in lines[place : place + 3])
    assert "n.s.: not significant" in lines[-1]
