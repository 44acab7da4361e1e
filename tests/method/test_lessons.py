"""Which replies are learnt, and what the teacher is shown for each."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssb_unsloth.errors import UserError
from ssb_unsloth.method.examples import lessons_of, render_examples
from ssb_unsloth.method.lessons import lessons
from ssb_unsloth.prompts import student_messages, teacher_messages
from ssb_unsloth.recipe.schema import Recipe, TeachConfig
from ssb_unsloth.records import Pair, Rollout
from ssb_unsloth.training import sft

VERDICTS = {
    "q0": ["right", "wrong", "right", "wrong"],
    "q1": ["right", "right", "right", "right"],  # no pair of this one
    "q3": ["wrong", "right", "truncated", "no_answer"],
    "q4": ["right", "wrong", "right", "right"],
}
ROLLOUTS = [
    Rollout(f"{q}-rollout-{k}", q, f"{q} says {k}", [5 + k, 9, 2], "stop", k, verdict, "1")
    for q, verdicts in VERDICTS.items()
    for k, verdict in enumerate(verdicts)
]


def pair(question, right=0, wrong=1, name=""):
    ids = f"{question}-rollout-{right}", f"{question}-rollout-{wrong}"
    texts = f"{question} says {right}", f"{question} says {wrong}"
    return Pair(f"p{question}{name}", question, f"{question}?", "1", *texts, "refined", [7, 8, 2], *ids, "f")


PAIRS = [pair("q0"), pair("q3", 1, 0), pair("q4")]


def made(pairs=PAIRS, rollouts=ROLLOUTS, seed=1, **keys):
    return lessons(TeachConfig(**keys), pairs, rollouts, seed, lambda rollout: rollout.token_ids)


def ids(found):
    return [lesson.pair.id for lesson in found]


def test_the_papers_lessons_are_the_pairs():
    found = made()
    assert [lesson.pair for lesson in found] == PAIRS
    assert all(lesson.right and lesson.weight == 1 for lesson in found)


@pytest.mark.parametrize(
    ("replies", "verdicts"), [("right", {"right"}), ("wrong", {"wrong", "truncated", "no_answer"}), ("rollouts", None)]
)
def test_all_rollouts_of_a_kind_of_the_pairs_questions_are_learnt_once(replies, verdicts):
    found = made(replies=replies)
    wanted = [r.id for r in ROLLOUTS if r.problem_id != "q1" and (verdicts is None or r.verdict in verdicts)]
    assert sorted(ids(found)) == sorted(wanted)
    by_id = {r.id: r for r in ROLLOUTS}
    for lesson in found:
        reply = by_id[lesson.pair.id]
        assert (lesson.pair.reply, lesson.pair.reply_ids) == (reply.text, reply.token_ids)
        assert lesson.right == (reply.verdict == "right")
        assert lesson.pair.problem_id == reply.problem_id


def test_at_most_so_many_of_a_kind_and_question():
    for each in (1, 2, 3):
        counts = Counter((lesson.pair.problem_id, lesson.right) for lesson in made(replies="rollouts", each=each))
        there = Counter((r.problem_id, r.verdict == "right") for r in ROLLOUTS if r.problem_id != "q1")
        assert counts == {key: min(each, count) for key, count in there.items()}


@pytest.mark.parametrize("seed", range(5))
def test_one_right_rollout_each_is_what_rft_learns_from(seed):
    drawn = sft.draw("rft", PAIRS, [], ROLLOUTS, seed)
    assert ids(made(replies="right", each=1, seed=seed)) == [rollout.id for _, rollout in drawn]


@pytest.mark.parametrize("replies", ["right", "wrong", "rollouts"])
@pytest.mark.parametrize("seed", range(3))
def test_the_hint_is_the_pairs_own_unless_it_is_the_reply_itself(replies, seed):
    verdict = {r.id: r.verdict == "right" for r in ROLLOUTS}
    usual = {p.problem_id: p for p in PAIRS}
    for lesson in made(replies=replies, seed=seed):
        shown, own = lesson.pair, usual[lesson.pair.problem_id]
        assert verdict[shown.right_id]
        assert not verdict[shown.wrong_id]
        for kind in ("right_id", "wrong_id"):
            alone = (
                sum(r.problem_id == shown.problem_id and verdict[r.id] == (kind == "right_id") for r in ROLLOUTS) == 1
            )
            if getattr(own, kind) != shown.id or alone:
                assert getattr(shown, kind) == getattr(own, kind)
            else:
                assert getattr(shown, kind) not in (shown.id, getattr(own, kind))


def test_the_same_text_is_the_reply_itself():
    """Two rollouts word for word alike: the one is no hint for the other, where there is a third."""
    texts = ["same", "same", "other", "wrong"]
    rollouts = [
        Rollout(f"q-{k}", "q", text, [1, 2], "stop", k, "wrong" if text == "wrong" else "right", "1")
        for k, text in enumerate(texts)
    ]
    of = Pair("p", "q", "?", "1", "same", "wrong", "r", [1], "q-0", "q-3", "f")
    shown = {lesson.pair.id: lesson.pair.right for lesson in made([of], rollouts, replies="right")}
    assert shown == {"q-0": "other", "q-1": "other", "q-2": "same"}


def test_several_pairs_of_a_question_give_its_rollouts_once():
    found = made([pair("q0"), pair("q0", name="again")], replies="rollouts")
    assert sorted(ids(found)) == [f"q0-rollout-{k}" for k in range(4)]


def test_a_disagreement_weighs_by_its_spread():
    found = made(weights="disagreement")
    shares = {q: v.count("right") / len(v) for q, v in VERDICTS.items()}
    spreads = [math.sqrt(shares[p.problem_id] * (1 - shares[p.problem_id])) for p in PAIRS]
    mean = sum(spreads) / 3
    assert [lesson.weight for lesson in found] == pytest.approx([spread / mean for spread in spreads])
    assert sum(lesson.weight for lesson in found) == pytest.approx(3)


@given(st.lists(st.lists(st.sampled_from(["right", "wrong"]), min_size=2, max_size=6), min_size=1, max_size=5))
def test_weights_have_the_mean_one(verdicts):
    rollouts = [
        Rollout(f"q{i}-{k}", f"q{i}", f"{k}", [1], "stop", k, verdict, "1")
        for i, row in enumerate(verdicts)
        for k, verdict in enumerate(row)
    ]
    pairs = [pair(f"q{i}") for i in range(len(verdicts))]
    if any(len(set(row)) == 2 for row in verdicts):
        found = made(pairs, rollouts, weights="disagreement")
        assert sum(lesson.weight for lesson in found) == pytest.approx(len(found))
        assert all(lesson.weight >= 0 for lesson in found)
    else:
        with pytest.raises(
            UserError, match=r"teach.weights: disagreement; no question of the pairs has right and wrong"
        ):
            made(pairs, rollouts, weights="disagreement")


def test_nothing_to_learn_is_said():
    with pytest.raises(UserError, match=r"teach.replies: wrong; the curate stage has no such rollout"):
        made(rollouts=[r for r in ROLLOUTS if r.verdict == "right"], replies="wrong")
    with pytest.raises(UserError, match=r"teach.replies: rollouts; the curate stage has no such rollout"):
        made(rollouts=[], replies="rollouts")


def test_a_rollout_that_was_given_as_text_is_tokenized(tokenizer):
    brought = [
        Rollout("a", "q0", "5+4=9", None, "stop", None, "right", "9"),
        Rollout("b", "q0", "5+4=8", None, "length", None, "truncated", "8"),
    ]
    recipe = Recipe(teach=TeachConfig(replies="rollouts"))
    of = Pair("p", "q0", "?", "1", "5+4=9", "5+4=8", "r", [1], "a", "b", "f")
    found = {lesson.pair.id: lesson.pair.reply_ids for lesson in lessons_of(recipe, [of], brought, tokenizer)}
    assert tokenizer.decode(found["a"]).startswith("5+4=9")
    assert found["a"][-1] == tokenizer.eos_token_id
    assert found["b"][-1] != tokenizer.eos_token_id


def test_each_lessons_prompts_are_the_papers(tokenizer):
    """Bare, hinted, and the same prompt with no hint; the reply's own ids; who is taught by a teacher."""
    recipe = Recipe(teach=TeachConfig(replies="rollouts", hint="right", guidance=1.0, right="tokens"))
    given = lessons_of(recipe, PAIRS, ROLLOUTS, tokenizer)
    for lesson, example in zip(given, render_examples(recipe, given, tokenizer), strict=True):
        shown = lesson.pair
        for ids_found, messages in (
            (example.student_ids, student_messages(shown.question)),
            (example.teacher_ids, teacher_messages(shown.question, shown.right, None)),
            (example.unhinted_ids, teacher_messages(shown.question, None, None)),
        ):
            expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert tokenizer.decode(ids_found) == expected
        assert example.reply_ids == shown.reply_ids
        assert example.taught == (not lesson.right)


def test_pairs_given_as_messages_have_no_unhinted_prompt(tokenizer):
    messages = [{"role": "user", "content": "x"}]
    of = Pair("p", "q", "?", "1", "", "", "r", [1], "", "", "", messages, messages)
    with pytest.raises(UserError, match=r"teach.guidance: pairs of your own that are given as messages"):
        render_examples(Recipe(teach=TeachConfig(guidance=1.0)), [of], tokenizer)
