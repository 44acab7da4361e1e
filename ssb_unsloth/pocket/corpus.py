"""The pre-training text: chats under the paper's prompts, written by readers who misread, slip, and learn from hints.

A reader takes each wording for its opposite at the wording's own rate. Nothing in the text says which reading is the
right one: what stands in a hint as the right solution is one reader's, and so is the gold answer that goes with it. The
model therefore knows how often a wording is read which way, and how to follow a hint; which reading counts is told by
the verdicts on its own answers alone, wording by wording.

A refined solution follows its hint: shown a right solution it reads as that one does; shown only a gold answer it ends
there; shown only a wrong solution it is an attempt that ends elsewhere; shown nothing it is just another attempt. Every
kind of hint is equally frequent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ..prompts import Messages, gold_only, student_messages, teacher_messages
from .problems import Drill, Operation, Story, Wording, draw_drill, draw_story

HINTS = ("both", "right", "wrong", "none", "gold")
OPENING = "Read each word with care."

STUDENT_SHARE, REFINED_SHARE = 0.35, 0.5  # of the chats; the rest are drills
SLIP, UNBOXED = 0.015, 0.02  # a result off by one or ten; a final answer without its box


@dataclass(frozen=True)
class Step:
    """One line of a solution."""

    who: str
    before: int
    operation: Operation
    number: int
    after: int

    @property
    def text(self) -> str:
        return f"{self.who} has {self.before}{self.operation}{self.number}={self.after}"

    def warning(self, other: Step) -> str:
        """A word of caution about what the other did here; nothing where both did the same."""
        if self.operation != other.operation:
            return f", not {self.before}{other.operation}{self.number}"
        return f", not {other.after}" if self.before == other.before and self.after != other.after else ""


@dataclass(frozen=True)
class Solution:
    """A student's step-by-step solution of a story, right or wrong."""

    steps: tuple[Step, ...]
    boxed: bool = True

    @property
    def answer(self) -> int:
        return self.steps[-1].after

    @property
    def text(self) -> str:
        return " ".join([*(f"{step.text}." for step in self.steps), self.ending])

    @property
    def ending(self) -> str:
        return f"The answer is \\boxed{{{self.answer}}}." if self.boxed else f"The answer is {self.answer}."


def draw_chat(rng: random.Random) -> tuple[Messages, str]:
    """One chat of the pre-training text, assistant's turn included, and the question it is about."""
    kind = rng.random()
    if kind >= STUDENT_SHARE + REFINED_SHARE:
        drill = draw_drill(rng, held_out=False)
        return _chat(student_messages(drill.question), drill_solution(drill)), drill.question
    story = draw_story(rng, "train")
    if kind < STUDENT_SHARE:
        return _chat(student_messages(story.question), attempt(rng, story).text), story.question
    return refinement_chat(rng, story, rng.choice(HINTS)), story.question


def refinement_chat(rng: random.Random, story: Story, hint: str) -> Messages:
    """A refinement prompt with this kind of hint, and the solution that the reader writes after it."""
    right = attempt(rng, story, slips=False)
    wrong = attempt(rng, story, accept=lambda tried: tried.answer != right.answer)
    if hint == "both":
        return _chat(teacher_messages(story.question, right.text, wrong.text), refined(right, wrong))
    if hint == "right":
        return _chat(teacher_messages(story.question, right.text, None), refined(right, None))
    if hint == "gold":
        return _chat(teacher_messages(story.question, gold_only(str(right.answer)), None), refined(right, None))
    if hint == "wrong":
        other = attempt(rng, story, accept=lambda tried: tried.answer != wrong.answer)
        return _chat(teacher_messages(story.question, None, wrong.text), refined(other, wrong))
    return _chat(teacher_messages(story.question, None, None), refined(attempt(rng, story), None))


def drill_solution(drill: Drill) -> str:
    """A drill's worked solution, always right."""
    if drill.kind == "larger":
        working = f"{drill.gold}>{min(drill.a, drill.b)}"
    else:
        working = f"{drill.a}{drill.operation}{drill.b}={drill.gold}"
    return f"{working}. The answer is \\boxed{{{drill.gold}}}."


def attempt(
    rng: random.Random, story: Story, slips: bool = True, accept: Callable[[Solution], bool] = lambda tried: True
) -> Solution:
    """What a reader writes: a new try until `accept` likes it (after many, whatever came last)."""

    def read(wording: Wording) -> Operation:
        other: Operation = "-" if wording.means == "+" else "+"
        return other if rng.random() < wording.misread else wording.means

    def write(result: int) -> int:
        return result + rng.choice((-1, 1, 10)) if slips and rng.random() < SLIP else result

    for _ in range(300):
        solution = _solve(story, read, write, boxed=not slips or rng.random() >= UNBOXED)
        if accept(solution):
            break
    return solution


def refined(solution: Solution, wrong: Solution | None) -> str:
    """The solution as a tutor writes it up, with a caution at each step where the wrong one went astray."""
    others = wrong.steps if wrong else solution.steps
    lines = [f"{step.text}{step.warning(other)}." for step, other in zip(solution.steps, others, strict=True)]
    return " ".join([OPENING, *lines, solution.ending])


def _solve(story: Story, read: Callable[[Wording], Operation], write: Callable[[int], int], boxed: bool) -> Solution:
    amount, steps = story.start, []
    for event in story.events:
        operation = read(event.wording)
        after = write(amount + event.number if operation == "+" else amount - event.number)
        steps.append(Step(event.then, amount, operation, event.number, after))
        amount = after
    return Solution(tuple(steps), boxed)


def _chat(messages: Messages, reply: str) -> Messages:
    return [*messages, {"role": "assistant", "content": reply}]
