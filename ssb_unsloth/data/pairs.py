"""Pairs that were made elsewhere: read, checked row by row, and used instead of curated ones.

Three forms, told apart by what is there:

    {"question", "gold", "right", "wrong", "reply", ...}     our own `pairs.jsonl`
    {"prompt", "teacher_prompt", "reply" or "reply_ids"}     messages, as SSBTrainer takes them
    two files, aligned by row                                the published set: {"messages"} of teacher and student

The two files lie in one folder, or in a data set on the hub, and have `teacher` and `student` in their names: a
teacher's row holds system, hinted user and assistant; a student's, system and user.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.chat_template import end_of_turn, render, reply_text, without_end
from ..backends.control_tokens import REMEDY, ControlText, markers, special_tokens, spelt_out
from ..backends.thinking import check_ended, control_marks, ids_of, thinking
from ..errors import UserError
from ..io.files import is_finite, kind_of
from ..io.progress import say
from ..prompts import Messages
from ..records import Pair, read_rows, stable_id
from ..verifier.protocol import Verifier
from ..verifier.replies import answer_part
from ..verifier.verifiers import MATH, Spec, verifier_for
from .shared import found

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")
TEXTS = ("id", "problem_id", "gold", "right_id", "wrong_id", "refinement_id")  # fields that a row may leave out
FORMS = "our own pairs.jsonl (question, right, wrong, reply), or prompt, teacher_prompt and reply"


def load_pairs(
    source: str, tokenizer: PreTrainedTokenizerBase, control_text: str = "skip", verifier: Spec = MATH
) -> list[Pair]:
    """The pairs of a .jsonl file, of a folder with one or two of them, or of a data set on the hub.

    A reply without token ids is tokenized here and gets the model's end of turn. A pair whose texts spell a control
    token that cannot be told from the model's own is left out and counted, or refused (`prompts.control_text`). A gold
    answer that a row leaves out is what the verifier finds in its reply.

    Raises:
        UserError: nothing is there, or a row is not as it should be; file and line are named.
    """
    files, reads = _files(source), verifier_for(verifier)
    rows = _aligned(*files) if len(files) == 2 else read_rows(files[0])
    pairs: dict[str, Pair] = {}
    lines: dict[str, int] = {}
    unsafe = 0
    for number, row in rows:
        where = f"{files[0]}, line {number}"
        try:
            pair = _pair(row, where, tokenizer, reads)
        except ControlText as error:
            if control_text == "refuse":
                raise UserError(f"{where}: {error}; {REMEDY}") from None
            unsafe += 1
            continue
        if pair.id in pairs:
            raise UserError(f"{where}: the same pair as in line {lines[pair.id]}; leave one of them out.")
        pairs[pair.id], lines[pair.id] = pair, number
    if unsafe:
        say(f"{files[0]}: {unsafe:,} pairs left out, since they spell a control token (prompts.control_text)")
    if not pairs:
        raise UserError(f"{files[0]}: holds no pair{' that can be used' if unsafe else ''}.")
    return list(pairs.values())


def _files(source: str) -> list[Path]:
    """The file, or the teacher's and the student's."""
    path = found(source, "curate.pairs_file", ["*.jsonl"])
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.jsonl"))
    both = [[file for file in files if word in file.name.lower()] for word in ("teacher", "student")]
    if len(files) == 1 and not both[1]:
        return files
    if [len(some) for some in both] != [1, 1] or both[0] == both[1]:
        names = ", ".join(file.name for file in files) or "none"
        raise UserError(
            f"curate.pairs_file: {path}: expected one .jsonl file, or two, of which one has teacher and the other"
            f" student in its name; found {names}."
        )
    return both[0] + both[1]


def _aligned(teacher_file: Path, student_file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of the two files joined to {"prompt", "teacher_prompt", "reply"}, with the teacher's line."""
    teachers, students = list(read_rows(teacher_file)), list(read_rows(student_file))
    if len(teachers) != len(students):
        raise UserError(
            f"{teacher_file} has {len(teachers)} rows and {student_file} {len(students)}; they have to be aligned."
        )
    for (number, teacher), (line, student) in zip(teachers, students, strict=True):
        where, there = f"{teacher_file}, line {number}", f"{student_file}, line {line}"
        hinted, asked = _messages(teacher, "messages", where), _messages(student, "messages", there)
        if hinted[-1]["role"] != "assistant":
            raise UserError(f"{where}: the last message is the {hinted[-1]['role']}'s; expected the assistant's reply.")
        if asked[-1]["role"] == "assistant":  # the paper's student examples carry the reply, the published ones do not
            asked = asked[:-1]
        if not asked or asked[-1]["role"] != "user" or hinted[-2:-1] == [] or hinted[-2]["role"] != "user":
            raise UserError(f"{where}, and {there}: expected the user's message before the reply.")
        if asked[-1]["content"].strip() not in hinted[-2]["content"]:
            raise UserError(
                f"{there}: its question does not stand in the hinted prompt of {where}, so the two files are not"
                " aligned row by row."
            )
        yield number, {"prompt": asked, "teacher_prompt": hinted[:-1], "reply": hinted[-1]["content"]}


def _pair(row: dict[str, Any], where: str, tokenizer: PreTrainedTokenizerBase, verifier: Verifier) -> Pair:
    as_messages = [name for name in ("prompt", "teacher_prompt") if row.get(name) is not None]
    if len(as_messages) == 2:
        row = _from_messages(row, where)
    elif as_messages:
        raise UserError(f"{where}: has {as_messages[0]} alone; expected prompt and teacher_prompt.")
    elif "messages" in row:
        raise UserError(f"{where}: has messages; give the folder with both the teacher's and the student's file.")
    elif not {"question", "right", "wrong"} <= set(row):
        raise UserError(f"{where}: has {', '.join(map(repr, row)) or 'no column'}; expected {FORMS}.")
    for name in ("question", "right", "wrong"):
        if not isinstance(row[name], str) or (name == "question" and not row[name].strip()):
            raise UserError(f"{where}: {name} is no text, or empty.")
    row = {**row, **{name: answer_part(row[name]) or row[name] for name in ("right", "wrong")}}  # as rollouts are shown
    _check_views(row, tokenizer)
    reply, ids = _reply(row, where, tokenizer)
    problem_id = stable_id(row["question"])
    shown = json.dumps(row["teacher_prompt"]) if row.get("teacher_prompt") else row["right"] + row["wrong"]
    given = {
        "id": stable_id(problem_id, shown, reply),
        "problem_id": problem_id,
        "gold": verifier.answer_in(reply) or "",
        **dict.fromkeys(("right_id", "wrong_id", "refinement_id"), ""),
        **{field.name: row[field.name] for field in dataclasses.fields(Pair) if row.get(field.name) is not None},
        "reply": reply,
        "reply_ids": ids,
    }
    return Pair(**{**given, **{name: _as_text(given[name], name, where) for name in TEXTS}})


def _check_views(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Whether the texts that student and teacher are shown can be told from control tokens; else ControlText."""
    prompts = [row["prompt"], row["teacher_prompt"]] if row.get("prompt") else []
    texts = [row["question"], row["right"], row["wrong"]]
    prompts += [[{"role": "user", "content": text}] for text in texts if text]
    for messages in prompts:
        held = [message["content"] for message in messages]
        if markers(*held) or spelt_out(tokenizer, held):
            render(tokenizer, messages)


def _as_text(value: Any, name: str, where: str) -> str:
    """An id or an answer, which may stand there as a number."""
    if not isinstance(value, str) and (type(value) not in (int, float) or not is_finite(value)):
        raise UserError(f"{where}: {name} is {kind_of(value)}; expected a text.")
    return str(value)


def _from_messages(row: dict[str, Any], where: str) -> dict[str, Any]:
    prompt, teacher_prompt = (_messages(row, name, where) for name in ("prompt", "teacher_prompt"))
    if prompt[-1]["role"] != "user" or teacher_prompt[-1]["role"] != "user":
        raise UserError(
            f"{where}: prompt and teacher_prompt have to end in the user's message; the reply stands apart."
        )
    return {
        **row,
        "question": prompt[-1]["content"],
        "right": "",
        "wrong": "",
        "prompt": prompt,
        "teacher_prompt": teacher_prompt,
    }


def _messages(row: dict[str, Any], name: str, where: str) -> Messages:
    messages = row.get(name)
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str) and m["content"].strip()
        for m in messages
    )
    if not good or not messages:
        raise UserError(
            f'{where}: {name} is not a list of {{"role": {" or ".join(ROLES)}, "content": text}}, or has no message.'
        )
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _reply(row: dict[str, Any], where: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    """The reply's text behind its thoughts, and its token ids, thoughts included; either gives the other, and where
    both are there they have to agree."""
    reply, ids = row.get("reply"), row.get("reply_ids")
    ends = (tokenizer.eos_token_id, end_of_turn(tokenizer))
    if isinstance(reply, str):
        reply = without_end(tokenizer, reply, ends)
    if ids is not None:
        if not isinstance(ids, list) or not ids or not all(type(number) is int for number in ids):
            raise UserError(f"{where}: reply_ids is not a list of token ids.")
        if not all(0 <= number < len(tokenizer) for number in ids):
            raise UserError(
                f"{where}: reply_ids holds a token that this model's tokenizer does not have; leave it out."
            )
        names = {number: token for token, number in special_tokens(tokenizer).items()}
        marks = control_marks(tokenizer)
        if within := [names[number] for number in ids[:-1] if names.get(number, "") not in {"", *marks}]:
            raise ControlText(f"reply_ids holds the control token {within[0]!r} before its end")
        text = reply_text(tokenizer, ids, ends)
        if reply is not None and answer_part(text) != answer_part(reply):
            raise UserError(
                f"{where}: reply_ids do not spell the reply with this model's tokenizer; leave them out, and the reply"
                " is tokenized."
            )
        reply = text
    if not isinstance(reply, str) or not answer_part(reply).strip():
        raise UserError(f"{where}: the reply is empty or no text, or has nothing behind its thoughts.")
    if (how := thinking(tokenizer)) and how.begun:
        check_ended(reply, where)
    return answer_part(reply), ids or [*ids_of(tokenizer, reply), ends[1]]
