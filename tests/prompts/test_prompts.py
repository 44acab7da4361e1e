"""The prompts are the paper's, word for word, and what is filled in goes in unchanged."""

import random
import re
from pathlib import Path

import pytest

from ssb_unsloth.errors import UserError
from ssb_unsloth.prompts import BOX, PAPER, faults, gold_only, student_messages, teacher_messages, texts
from ssb_unsloth.prompts.hints import derangement, hinted_prompts
from ssb_unsloth.records import Pair
from ssb_unsloth.verifier.verifiers import CODE, VERIFIERS, verifier_for

PRINTED = (Path(__file__).parents[1] / "fixtures" / "paper" / "prompts.md").read_text(encoding="utf-8")
AWKWARD = [
    r"Is {x} in \{1, 2\}? \boxed{} \1 \g<0> \n",
    "{question} {right} {0} %s %(wrong)s $question",
    "<question> <right> <wrong>",
    "-----\nThis is the correct response from a student:\n-----\n<right>\n-----\n",
    "ünï ∑ 数\n\n  kept white space \t",
]


def quoted(section: str) -> str:
    """What stands between the quotation marks of a section of the paper, without Markdown's escapes."""
    text = PRINTED.split(f"# {section} ")[1]
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


# -- Texts of a recipe's own ------------------------------------------------------------------------------------------

MINE = """A question:

<question>

Somebody's good try, in two lines:
<right>

<wrong>
was wrong.

Write it well, and end in <answer_form>."""


def test_ones_own_texts_are_shown_with_their_gaps_filled():
    mine = texts(tutor="Answer in <answer_form>.", refine=MINE, answer_form=r"**\boxed{...}**")
    system, user = teacher_messages("Q <wrong>", "R <question>", "W", mine)
    assert system["content"] == r"Answer in **\boxed{...}**."
    assert user["content"] == MINE.replace("<answer_form>", r"**\boxed{...}**").replace("<wrong>", "W").replace(
        "<question>", "Q <wrong>"
    ).replace("<right>", "R <question>")
    assert student_messages("Q", mine) == [system, {"role": "user", "content": "Q"}]
    assert gold_only("7", mine) == r"The answer is **\boxed{7}**."
    assert gold_only("7") == r"The answer is \boxed{7}."


def test_a_hint_that_is_left_out_takes_its_paragraph_along():
    mine = texts(refine=MINE)
    assert content(teacher_messages("Q", None, "W", mine), "user") == (
        "A question:\n\nQ\n\nW\nwas wrong.\n\nWrite it well, and end in \\boxed{...}."
    )
    assert content(teacher_messages("Q", "R", None, mine), "user") == (
        "A question:\n\nQ\n\nSomebody's good try, in two lines:\nR\n\nWrite it well, and end in \\boxed{...}."
    )
    ruled = texts(refine=f"{PAPER.refine} In short.")  # the paper's sections are known in a text of one's own, too
    assert content(teacher_messages("Q", None, None, ruled), "user") == (
        content(teacher_messages("Q", None, None), "user") + " In short."
    )


@pytest.mark.parametrize(
    ("given", "tutor", "refine"),
    [
        ({"answer_form": "Answer: ..."}, "within `Answer: ...` at the end", "inside `Answer: ...` in their responses"),
        (
            {"answer_form": "```python\n...\n```"},
            "within ```python\n...\n``` at",
            "enclosed in ```python\n...\n```, at",
        ),
        ({"answer_form": r"\boxed{\text{...}}"}, r"within `\boxed{\text{...}}` at", r"inside `\boxed{\text{...}}` in"),
        ({"wording": "unquoted"}, r"within \boxed{...} at the end", r"inside \boxed{} in their responses"),
        ({"wording": "unquoted", "answer_form": "Answer: ..."}, "within Answer: ... at", "inside Answer: ... in"),
    ],
)
def test_the_papers_texts_name_the_answers_form_where_they_name_the_box(given, tutor, refine):
    mine = texts(**given)
    assert tutor in mine.tutor
    assert refine in mine.refine
    box = re.compile(r"`\\boxed{\.\.\.}`|\\boxed{(\.\.\.)?}")
    assert len(box.findall(PAPER.tutor)) == 1
    assert len(box.findall(PAPER.refine)) == 2
    pieces = [re.escape(piece) for piece in re.split(r"`?\\boxed{[.]*}`?", PAPER.tutor)]
    assert re.fullmatch(".*".join(pieces), mine.tutor, re.DOTALL)  # and nothing else is another


def test_replies_under_different_prompts_have_different_names():
    names = [texts(**given).name for given in ({}, {"wording": "unquoted"}, {"wording": "released"})]
    assert names == ["tutor", "unquoted", "released"]
    assert texts(refine=MINE).name == "tutor"  # the student and the evaluation do not see it
    assert texts(tutor=PAPER.tutor).name == "tutor"
    own = {texts(tutor=tutor, answer_form=form).name for tutor in ("A <answer_form>", "B") for form in (BOX, "C ...")}
    assert len(own) == 3  # B names no form
    assert all(re.fullmatch("own-[0-9a-f]{12}", name) for name in own)


@pytest.mark.parametrize(
    ("given", "key", "message"),
    [
        ({"tutor": " \n"}, "tutor", "empty"),
        ({"answer_form": "Answer:"}, "answer_form", "expected three dots, once"),
        ({"answer_form": "... or ..."}, "answer_form", "expected three dots, once"),
        ({"wording": "released", "answer_form": "Answer: ..."}, "answer_form", "speak of a box; give prompts.tutor"),
        ({"refine": MINE.replace("<right>", "")}, "refine", "has the gap <right> 0 times"),
        ({"refine": MINE + "<question>"}, "refine", "has the gap <question> 2 times"),
        ({"refine": MINE.replace("\n\n<wrong>", "\n<wrong>")}, "refine", "<wrong> stands in the paragraph of <right>"),
        ({"refine": "<question> <right>\n\n<wrong>"}, "refine", "<question> stands in the paragraph of <right>"),
    ],
)
def test_what_is_wrong_with_ones_own_texts_is_said_by_key(given, key, message):
    found = list(faults(**{"wording": "paper", "tutor": None, "refine": None, "answer_form": BOX, **given}))
    assert found
    assert found[0][0] == key
    assert message in found[0][1]
    assert not list(faults("paper", "Own.", MINE, "Answer: ..."))


def test_the_papers_form_is_the_one_that_every_verifier_reads_where_nothing_else_is_said():
    for name in set(VERIFIERS) - {CODE}:  # a program's form is its fence
        verifier = verifier_for(name)
        assert verifier.form == PAPER.answer_form == BOX
        assert verifier.answer_in(f"So {PAPER.answered(verifier.example)}.") == verifier.example
