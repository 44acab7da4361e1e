"""The pre-training text: chats under the paper's prompts, written by readers who misread, slip, and learn from hints.

A student's solution misreads each event with a rate that belongs to its wording: seldom where the keyword points the
right way, more often than not where it points the wrong way. A refined solution comes from the same reader, who now
knows what the hint tells: shown a right solution (or only the gold answer) it is right; shown only a wrong one it is an
attempt that ends elsewhere; shown nothing it is just another attempt. So the hint's information is all that separates
a teacher from a student, and every kind of hint is equally frequent.
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
MISREAD = {  # how often a wording against its keyword is misread
    "more": 0.6,
    "fewer": 0.65,
    "give": 0.55,
    "take": 0.6,
    "lose": 0.55,
    "lend": 0.65,
    "less": 0.6,
    "win": 0.55,
    "sell": 0.55,
}
MISREAD_WITH_KEYWORD, MISREAD_PLAIN = 0.12, 0.02
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
    right, wrong = careful(story), attempt(rng, story, accept=lambda tried: tried.answer != int(story.gold))
    if hint == "both":
        return _chat(teacher_messages(story.question, right.text, wrong.text), refined(right, wrong))
    if hint == "right":
        return _chat(teacher_messages(story.question, right.text, None), refined(right, None))
    if hint == "gold":
        return _chat(teacher_messages(story.question, gold_only(story.gold), None), refined(right, None))
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


def careful(story: Story) -> Solution:
    """The right solution."""
    return _solve(story, lambda wording: wording.means, lambda result: result)


def attempt(rng: random.Random, story: Story, accept: Callable[[Solution], bool] = lambda tried: True) -> Solution:
    """What a student writes: a new try until `accept` likes it (after many, whatever came last)."""

    def read(wording: Wording) -> Operation:
        if wording.family == "plain":
            rate = MISREAD_PLAIN
        else:
            rate = MISREAD[wording.family] if wording.means != wording.suggests else MISREAD_WITH_KEYWORD
        other: Operation = "-" if wording.means == "+" else "+"
        return other if rng.random() < rate else wording.means

    def slip(result: int) -> int:
        return result + rng.choice((-1, 1, 10)) if rng.random() < SLIP else result

    for _ in range(300):
        solution = _solve(story, read, slip, boxed=rng.random() >= UNBOXED)
        if accept(solution):
            break
    return solution


def refined(solution: Solution, wrong: Solution | None) -> str:
    """The solution as a tutor writes it up, with a caution at each step where the wrong one went astray."""
    others = wrong.steps if wrong else solution.steps
    lines = [f"{step.text}{step.warning(other)}." for step, other in zip(solution.steps, others, strict=True)]
    return " ".join([OPENING, *lines, solution.ending])


def _solve(
    story: Story, read: Callable[[Wording], Operation], write: Callable[[int], int], boxed: bool = True
) -> Solution:
    amount, steps = story.start, []
    for event in story.events:
        operation = read(event.wording)
        after = write(amount + event.number if operation == "+" else amount - event.number)
        steps.append(Step(event.then, amount, operation, event.number, after))
        amount = after
    return Solution(tuple(steps), boxed)


def _chat(messages: Messages, reply: str) -> Messages:
    return [*messages, {"role": "assistant", "content": reply}]
