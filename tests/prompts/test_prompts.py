"""The prompts are the paper's, word for word, and what is filled in goes in unchanged."""

import random
import re
from pathlib import Path

import pytest

from ssb_unsloth.errors import UserError
from ssb_unsloth.prompts import student_messages, teacher_messages
from ssb_unsloth.prompts.hints import derangement, hinted_prompts
from ssb_unsloth.records import Pair

PAPER = (Path(__file__).parents[1] / "fixtures" / "paper" / "prompts.md").read_text(encoding="utf-8")
AWKWARD = [
    r"Is {x} in \{1, 2\}? \boxed{} \1 \g<0> \n",
    "{question} {right} {0} %s %(wrong)s $question",
    "<question> <right> <wrong>",
    "-----\nThis is the correct response from a student:\n-----\n<right>\n-----\n",
    "ünï ∑ 数\n\n  kept white space \t",
]


def quoted(section: str) -> str:
    """What stands between the quotation marks of a section of the paper, without Markdown's escapes."""
    text = PAPER.split(f"# {section} ")[1]
    return re.sub(r"\\([*_#])", r"\1", text[text.index("“") + 1 : text.index("”")])


def collapsed(text: str) -> str:
    return " ".join(text.split())


def content(messages: list[dict[str, str]], role: str) -> str:
    (found,) = [message["content"] for message in messages if message["role"] == role]
    return found


def test_the_tutor_prompt_is_the_papers():
    assert collapsed(content(student_messages("Q"), "system")) == collapsed(quoted("3.1.1"))


def test_the_refinement_prompt_is_the_papers():
    paper = quoted("3.1.3")
    for name, text in (("question", "Q Q"), ("chosen_correct_generation", "R R"), ("rejected_generation", "W W")):
        assert paper.count(f"\n{name}\n") == 1
        paper = paper.replace(f"\n{name}\n", f"\n{text}\n")
    messages = teacher_messages("Q Q", "R R", "W W")
    assert [message["role"] for message in messages] == ["system", "user"]
    assert collapsed(content(messages, "user")) == collapsed(paper)
    assert collapsed(content(messages, "system")) == collapsed(quoted("3.1.1"))


def test_each_text_stands_between_two_rules_on_lines_of_its_own():
    user = content(teacher_messages("Q", "R", "W"), "user")
    for text in "QRW":
        assert f":\n-----\n{text}\n-----\n" in user


def test_the_student_sees_the_bare_question():
    assert student_messages("Q?")[1:] == [{"role": "user", "content": "Q?"}]


@pytest.mark.parametrize("text", AWKWARD)
def test_what_is_filled_in_goes_in_unchanged(text):
    assert content(student_messages(text), "user") == text
    plain = content(teacher_messages("QQQ", "RRR", "WWW"), "user")
    assert content(teacher_messages(text, "RRR", "WWW"), "user") == plain.replace("QQQ", text)
    assert content(teacher_messages("QQQ", text, "WWW"), "user") == plain.replace("RRR", text)
    assert content(teacher_messages("QQQ", "RRR", text), "user") == plain.replace("WWW", text)


def test_a_hint_that_is_left_out_takes_its_section_along_and_nothing_else():
    right = "This is the correct response from a student:\n-----\nR\n-----\n"
    wrong = (
        "This is an attempt by another student which was labelled as incorrect by auto-evaluator:\n-----\nW\n-----\n"
    )
    both = content(teacher_messages("Q", "R", "W"), "user")
    assert both.count(right) == both.count(wrong) == 1
    assert content(teacher_messages("Q", None, "W"), "user") == both.replace(right, "")
    assert content(teacher_messages("Q", "R", None), "user") == both.replace(wrong, "")
    assert content(teacher_messages("Q", None, None), "user") == both.replace(right, "").replace(wrong, "")


def test_an_empty_rollout_is_still_a_hint():
    assert "-----\n\n-----" in content(teacher_messages("Q", "", "W"), "user")


# -- What the teacher is shown ----------------------------------------------------------------------------------------

GROUPS = ["a", "b", "b", "c", "d", "d", "e"]
PAIRS = [
    Pair(f"p{i}", g, f"Q-{g}", f"{i}0", f"R{i}", f"W{i}", "reply", [1], "r", "w", "f") for i, g in enumerate(GROUPS)
]


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        ("both", "R1", "W1"),
        ("right", "R1", None),
        ("wrong", None, "W1"),
        ("none", None, None),
        ("gold", "The answer is \\boxed{10}.", None),
    ],
)
def test_a_kind_of_hint_shows_these_texts_and_no_others(hint, right, wrong):
    shown = hinted_prompts(PAIRS, hint, 1)
    assert shown[1] == teacher_messages("Q-b", right, wrong)
    assert len(shown) == len(PAIRS)


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_hints_are_of_another_question_and_each_is_used_once(seed):
    others = derangement(GROUPS, random.Random(seed))
    assert sorted(others) == list(range(len(GROUPS)))
    assert all(GROUPS[i] != GROUPS[other] for i, other in enumerate(others))
    expected = [
        teacher_messages(p.question, PAIRS[o].right, PAIRS[o].wrong) for p, o in zip(PAIRS, others, strict=True)
    ]
    assert hinted_prompts(PAIRS, "shuffled", seed) == expected


def test_the_seed_decides_whose_hints_are_shown():
    assert len({tuple(derangement(GROUPS, random.Random(seed))) for seed in range(20)}) > 5


@pytest.mark.parametrize("groups", [["a"], ["a", "a"], ["a", "b", "b", "b"]])
def test_hints_cannot_be_shuffled_among_too_few_questions(groups):
    with pytest.raises(UserError, match=r"teach\.hint: shuffled"):
        derangement(groups, random.Random(1))
