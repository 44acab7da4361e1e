"""The majority vote in the gold answer's place, and curation without a refinement."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted, make_curator
from tiny import POCKET_RECIPE

from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.data.problems import load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.method.votes import vote
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import CurateConfig, ProblemsConfig, SamplingConfig
from ssb_unsloth.records import Pair, Problem, Rollout, read_jsonl, stable_id
from ssb_unsloth.verifier.verifiers import MATH, verifier_for

MATHS = verifier_for(MATH)


def said(*answers, finish="stop"):
    return [Completion([1], "nothing" if a is None else f"So \\boxed{{{a}}}.", finish) for a in answers]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((7, 7, 3, 4), "7"),
        ((7, 7, 3, 3), None),
        ((1, 2, 3, 4), None),
        ((7, None, 7, 2), "7"),
        ((None, None, None, 7), None),
        (("0.5", r"\frac12", 3, 4), "0.5"),
        (("1,000", "1000", 2, 2), None),
        ((5,), None),
        ((), None),
    ],
)
def test_the_vote_is_what_most_say_twice_at_least_and_alone(answers, expected):
    assert vote(said(*answers), MATHS) == expected


def test_who_was_cut_off_has_no_vote():
    assert vote([*said(7, 7, finish="length"), *said(3, 3)], MATHS) == "3"


def test_character_for_character_where_the_recipe_compares_so():
    assert vote(said("1000", "1,000", 2, 2), MATHS, exact=True) == "2"


@given(st.lists(st.integers(0, 4), max_size=8))
def test_it_is_the_count_of_whole_numbers(answers):
    counts = Counter(answers).most_common()
    alone = counts and counts[0][1] > 1 and (len(counts) == 1 or counts[0][1] > counts[1][1])
    assert vote(said(*answers), MATHS) == (str(counts[0][0]) if alone else None)


PROBLEMS = [Problem(stable_id(f"q{i}"), f"q{i}", str(i)) for i in range(12)]


def most_say_one_more(messages, seed):
    """Three of four rollouts say the number above the gold answer; the refinement says that of its question."""
    content = messages[1]["content"]
    number = int((content if content.startswith("q") else content.split("-----\n")[1].strip())[1:])
    return f"So \\boxed{{{number + (0 if seed % 4 == 0 and content.startswith('q') else 1)}}}."


def test_curation_takes_the_vote_for_the_gold_answer(tmp_path):
    curator = make_curator(tmp_path, Scripted(most_say_one_more), pairs=50, gold="majority")
    statistics = curator.run(PROBLEMS)
    pairs = read_jsonl(tmp_path / "pairs.jsonl", Pair)
    given = {p.id: int(p.gold) for p in PROBLEMS}
    assert pairs
    by_question = {}
    for rollout in read_jsonl(tmp_path / "rollouts.jsonl", Rollout):
        by_question.setdefault(rollout.problem_id, []).append(rollout)
    for question, rollouts in by_question.items():
        ((top, count), *_) = Counter(r.answer for r in rollouts).most_common()
        assert count > 2 or len(rollouts) == count
        assert all((r.verdict == "right") == (r.answer == top) for r in rollouts)
        assert question in given
    for pair in pairs:
        assert pair.gold == str(given[pair.problem_id] + 1)
        assert f"\\boxed{{{pair.gold}}}" in pair.right
    questions = read_jsonl(tmp_path / "questions.jsonl", Problem)
    assert {p.id for p in questions} == set(by_question)
    assert statistics.votes == len(by_question)
    assert statistics.votes_as_given == sum(int(p.gold) == given[p.id] for p in questions)
    assert statistics.questions + statistics.skipped == len(PROBLEMS)


def test_with_given_answers_nothing_of_it_is_counted(tmp_path):
    statistics = make_curator(tmp_path, Scripted(most_say_one_more), pairs=50, refinements=0).run(PROBLEMS)
    assert (statistics.votes, statistics.votes_as_given) == (0, 0)


def test_without_a_refinement_every_mixed_question_is_a_pair(tmp_path):
    sampler = Scripted(most_say_one_more)
    statistics = make_curator(tmp_path, sampler, pairs=50, refinements=0).run(PROBLEMS)
    assert [title for title, *_ in sampler.calls] == ["rollouts"] * len(sampler.calls)
    pairs = read_jsonl(tmp_path / "pairs.jsonl", Pair)
    rollouts = {r.id: r for r in read_jsonl(tmp_path / "rollouts.jsonl", Rollout)}
    verdicts = {}
    for rollout in rollouts.values():
        verdicts.setdefault(rollout.problem_id, set()).add(rollout.verdict)
    assert [p.problem_id for p in pairs] == [q for q, found in verdicts.items() if found == {"right", "wrong"}]
    assert statistics.mixed == statistics.pairs == statistics.accepted == len(pairs) > 0
    for pair in pairs:
        assert (pair.reply, pair.reply_ids, pair.refinement_id) == ("", [], "")
        assert (rollouts[pair.right_id].verdict, rollouts[pair.wrong_id].verdict) == ("right", "wrong")


def test_questions_without_labels_are_read_and_voted_on(tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"question": p.question}) + "\n" for p in PROBLEMS))
    problems = load_problems(ProblemsConfig(source=str(tmp_path / "q.jsonl"), gold=None))
    assert [(p.id, p.question, p.gold) for p in problems] == [(p.id, p.question, "") for p in PROBLEMS]
    config = CurateConfig(pairs=50, rollout=SamplingConfig(), refine=SamplingConfig(), gold="majority")
    curator = Curator(config, lambda: Scripted(most_say_one_more), 10_000, 1, tmp_path)
    statistics = curator.run(problems)
    assert statistics.votes > 0
    assert statistics.votes_as_given == 0
    assert all(pair.gold for pair in read_jsonl(tmp_path / "pairs.jsonl", Pair))


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["problems.gold=null"], r"problems\.gold: null, and curate\.gold: given needs gold answers"),
        (
            ["problems.gold=null", "curate.gold=majority", "train.method=grpo"],
            r"problems\.gold: null, and train\.method",
        ),
        (
            ["curate.gold=majority", "problems.verifier=code", "prompts.answer_form='```...```'"],
            r"curate\.gold: majority",
        ),
        (["problems.gold=null", "curate.gold=majority", "problems.verifier=choice", "problems.choices=c"], "poses its"),
        (["evaluate.benchmarks.test.gold=null"], r"evaluate\.benchmarks\.test\.gold: null; what cannot be graded"),
    ],
)
def test_what_cannot_be_without_labels_is_refused_with_the_key(overrides, key):
    with pytest.raises(UserError, match=key):
        load(Path(POCKET_RECIPE), overrides)
