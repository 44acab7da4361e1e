"""Pairs that were made elsewhere: three forms, the same pairs, and each mistake with its file and line."""

import json

import pytest

from ssb_unsloth.data.pairs import load_pairs
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.examples import render_examples
from ssb_unsloth.prompts import student_messages, teacher_messages, texts
from ssb_unsloth.recipe.schema import Recipe, TeachConfig
from ssb_unsloth.records import Pair, write_jsonl

QUESTIONS = ["Mia has 9 shells. Tom gives 3 to Mia. How many?", "Is {x} = \\{2\\}? Ann has 4 cups."]
RIGHT, WRONG = "9+3=12. \\boxed{12}", "9-3=6. \\boxed{6}"
REPLY = "First 9+3=12, not 9-3. The answer is \\boxed{12}."


def lay(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def published(folder, wording="released"):
    """The two files as the authors' code writes them."""
    asked = [student_messages(q, texts(wording)) for q in QUESTIONS]
    hinted = [teacher_messages(q, RIGHT, WRONG, texts(wording)) for q in QUESTIONS]
    reply = {"role": "assistant", "content": REPLY}
    return lay(
        folder,
        generated_math_teacher_data=[{"messages": [*messages, reply]} for messages in hinted],
        generated_math_student_data=[{"messages": messages} for messages in asked],
    )


def in_our_form():
    return [{"question": q, "gold": "12", "right": RIGHT, "wrong": WRONG, "reply": REPLY} for q in QUESTIONS]


def as_trainer_takes_them():
    return [
        {"prompt": student_messages(q), "teacher_prompt": teacher_messages(q, RIGHT, WRONG), "reply": REPLY}
        for q in QUESTIONS
    ]


def views(source, tokenizer):
    made = render_examples(Recipe(), load_pairs(str(source), tokenizer), tokenizer)
    return [(e.student_ids, e.teacher_ids, e.reply_ids) for e in made]


def test_all_forms_of_the_same_pairs_give_student_and_teacher_the_same_tokens(tmp_path, tokenizer):
    ours = views(lay(tmp_path / "ours", pairs=in_our_form()) / "pairs.jsonl", tokenizer)
    trainers = views(lay(tmp_path / "trainers", pairs=as_trainer_takes_them()), tokenizer)  # a folder with one file
    both = views(published(tmp_path / "both", wording="paper"), tokenizer)
    assert ours == trainers == both
    assert ours[0][2] == [*tokenizer.encode(REPLY), tokenizer.eos_token_id]


def test_the_published_set_keeps_its_own_prompts_and_its_answers_are_the_replies_boxes(tmp_path, tokenizer):
    pairs = load_pairs(str(published(tmp_path)), tokenizer)
    assert [pair.question for pair in pairs] == QUESTIONS
    assert {pair.gold for pair in pairs} == {"12"}
    (first, _) = render_examples(Recipe(), pairs, tokenizer)
    assert "inside boxed in their" in tokenizer.decode(first.teacher_ids)
    assert len({pair.id for pair in pairs}) == 2
    with pytest.raises(UserError, match="only both can be shown"):
        render_examples(Recipe(teach=TeachConfig(hint="right")), pairs, tokenizer)


def test_pairs_of_another_run_read_back_unchanged(tmp_path, tokenizer):
    ids = [*tokenizer.encode(REPLY), tokenizer.eos_token_id]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    pair = Pair("p1", "q1", QUESTIONS[0], "12", RIGHT, WRONG, text, ids, "r1", "r2", "f1")
    write_jsonl(tmp_path / "pairs.jsonl", [pair])
    (read,) = load_pairs(str(tmp_path / "pairs.jsonl"), tokenizer)
    assert read.id == "p1"
    assert (read.right_id, read.wrong_id, read.refinement_id, read.reply_ids) == ("r1", "r2", "f1", ids)


def mistakes():
    good, trainers = in_our_form()[0], as_trainer_takes_them()[0]
    user = {"role": "user", "content": "x"}
    yield "a column of ours", {**good, "wrong": None}, "wrong is no text"
    yield "no known form", {"instruction": "x", "output": "y"}, "'instruction', 'output'; expected our own"
    yield "one of two files", {"messages": [user]}, "give the folder"
    yield "an empty reply", {**good, "reply": " "}, "the reply is empty"
    yield "another tokenizer's ids", {**good, "reply_ids": [5, 6]}, "do not spell the reply"
    yield "a token too high", {**good, "reply_ids": [10**6]}, "does not have"
    yield "ids of another type", {**good, "reply_ids": "12"}, "not a list of token ids"
    yield "a role", {**trainers, "prompt": [{"role": "human", "content": "x"}]}, "prompt is not a list"
    yield "no message", {**trainers, "teacher_prompt": []}, "teacher_prompt is not a list"
    yield "the reply in the prompt", {**trainers, "prompt": [user, {"role": "assistant", "content": "y"}]}, "end in"


@pytest.mark.parametrize(("row", "said"), [m[1:] for m in mistakes()], ids=[m[0] for m in mistakes()])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, tokenizer, row, said):
    path = lay(tmp_path, pairs=[in_our_form()[1], row]) / "pairs.jsonl"
    with pytest.raises(UserError) as raised:
        load_pairs(str(path), tokenizer)
    assert said in str(raised.value)
    assert f"{path}, line 2:" in str(raised.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path, tokenizer):
    folder = published(tmp_path)
    student = folder / "generated_math_student_data.jsonl"
    lines = student.read_text().splitlines()
    student.write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(UserError, match="line 1: its question does not stand in the hinted prompt"):
        load_pairs(str(folder), tokenizer)
    student.write_text(lines[0] + "\n")
    with pytest.raises(UserError, match=r"has 2 rows and .* 1; they have to be aligned"):
        load_pairs(str(folder), tokenizer)
    student.unlink()
    teacher_alone = "has messages; give the folder"
    with pytest.raises(UserError, match=teacher_alone):
        load_pairs(str(folder), tokenizer)


def test_repeated_pairs_missing_files_and_empty_ones_are_refused(tmp_path, tokenizer):
    twice = lay(tmp_path / "twice", pairs=[in_our_form()[0]] * 2) / "pairs.jsonl"
    with pytest.raises(UserError, match="line 2: the same pair as in line 1"):
        load_pairs(str(twice), tokenizer)
    with pytest.raises(UserError, match="no such file"):
        load_pairs(str(tmp_path / "none.jsonl"), tokenizer)
    empty = lay(tmp_path / "empty", pairs=[]) / "pairs.jsonl"
    with pytest.raises(UserError, match="holds no pair"):
        load_pairs(str(empty), tokenizer)
    three = lay(tmp_path / "three", teacher=[], student=[], student_more=[])
    with pytest.raises(UserError, match=r"expected one \.jsonl file, or two"):
        load_pairs(str(three), tokenizer)


def test_a_hub_name_without_a_network_ends_in_a_sentence(tokenizer):
    with pytest.raises(UserError, match=r"data set 'nobody/nothing' cannot be loaded.*local file or folder"):
        load_pairs("nobody/nothing", tokenizer)
