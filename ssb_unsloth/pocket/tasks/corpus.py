"""The pre-training text: chats under each task's prompts, written as the pocket's are (`pocket.corpus`).

Readers misread, and nothing in the text says which reading counts. A refined solution follows its hint: shown a right
solution it reads as that one does; shown only a wrong one it is an attempt that ends elsewhere; shown nothing it is
just another attempt. Every kind of hint is equally frequent.
"""

from __future__ import annotations

import random
import re
from functools import cache

from ...prompts import Messages, Texts, student_messages, teacher_messages, texts
from .choices import Choice
from .programs import Program
from .slices import Slices
from .task import Task

TASKS: tuple[type[Task], ...] = (Choice, Program, Slices)
HINTS = ("both", "right", "wrong", "none")
STUDENT_SHARE = 0.4  # of the chats; the rest are refinements
FORMLESS = 0.02  # of the students' replies: without the form that the answer was asked in


def draw_chat(rng: random.Random) -> tuple[Messages, str]:
    """One chat of the pre-training text, assistant's turn included, and the question it is about."""
    task = rng.choice(TASKS).draw(rng, "train")
    if rng.random() < STUDENT_SHARE:
        reply = task.solution(task.attempt(rng), formed=rng.random() >= FORMLESS)
        return _chat(student_messages(task.question, texts_of(type(task))), reply), task.question
    return refinement_chat(rng, task, rng.choice(HINTS)), task.question


def refinement_chat(rng: random.Random, task: Task, hint: str) -> Messages:
    """A refinement prompt with this kind of hint, and the solution that the reader writes after it."""
    right = task.attempt(rng)
    wrong = task.attempt(rng, unlike=task.answer(right))
    if hint in ("both", "right"):
        written = right
    else:
        written = task.attempt(rng, unlike=None if hint == "none" else task.answer(wrong))
    other = wrong if hint in ("both", "wrong") else written
    shown = (
        task.solution(right) if hint in ("both", "right") else None,
        task.solution(wrong) if hint in ("both", "wrong") else None,
    )
    asked = teacher_messages(task.question, *shown, texts=texts_of(type(task)))
    return _chat(asked, task.refined(written, other))


@cache
def texts_of(task: type[Task]) -> Texts:
    """What the recipes ask a task's questions under."""
    return texts(tutor=task.TUTOR, refine=task.REFINE, answer_form=task.ANSWER_FORM)


def stretches() -> list[str]:
    """The parts of the prompts between their gaps, in the pieces that any combination of hints is put together from."""
    found: dict[str, None] = {}
    for task in TASKS:
        opening, right, wrong, request = re.split("<question>|<right>|<wrong>", task.REFINE)
        found |= dict.fromkeys([right, wrong, task.TUTOR, opening, request])
    return list(found)


def _chat(messages: Messages, reply: str) -> Messages:
    return [*messages, {"role": "assistant", "content": reply}]
