"""The pre-training text: chats under the paper's prompts, written by readers who misread, slip, and learn from hints.

A reader takes each wording for its opposite at the wording's own rate. Nothing in the text says which reading is the
right one: what stands in a hint as the right solution is one reader's, and so is the gold answer that goes with it. The
model therefore knows how often a wording is read which way, and how to follow a hint; which reading counts is told by
the verdicts on its own answers alone, wording by wording.

A solution after a refinement prompt follows its hint: shown a right solution it reads as that one does; shown only a
gold answer it ends there; shown only a wrong solution it is an attempt that ends elsewhere; shown nothing it is just
another attempt. Every kind of hint is equally frequent, and is followed in both manners: of the solutions after it some
are refined and the others plain, as a student writes. So a hint has its effect on the model's own rollouts, too.

How often a wording is misread is a matter of the readers, and there are three texts by as many kinds of them
(`READERS`); what a question means is the same in all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ..prompts import Messages, gold_only, student_messages, teacher_messages
from .problems import PLAIN, Drill, Operation, Story, Wording, draw_drill, draw_story

HINTS = ("both", "right", "wrong", "none", "gold")
OPENING = "Read each word with care."

STUDENT_SHARE, HINTED_SHARE = 0.35, 0.5  # of the chats; the rest are drills
PLAIN_SHARE = 0.4  # of the solutions after each kind of hint
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


Misread = Callable[[Wording], float]


def usual(wording: Wording) -> float:
    """Every wording at a rate of its own."""
    return wording.misread


def rare(wording: Wording) -> float:
    """The same, but only one in eight of those who would read a tricky wording rightly do: hardly anybody is right."""
    return wording.misread if wording in PLAIN else 1 - (1 - wording.misread) / 8


def rule(wording: Wording) -> float:
    """By one visible feature, so that what is learnt about one wording holds for all: whether the sentence opens with
    the person whose amount it leads to, and says what that person does, has or is. Of all others ("A friend lends 3 to
    Tom.", "Tom is lent 3.", "That is 3 more than Tom has.") most readers get it the wrong way round.
    """
    if wording in PLAIN:
        return wording.misread
    opening = "{o} " if wording.passes_on else "{c} "
    passive = wording.text.startswith("{c} is ") and not wording.passes_on
    return 0.15 if wording.text.startswith(opening) and not passive else 0.75


READERS: dict[str, Misread] = {"usual": usual, "rare": rare, "rule": rule}


def draw_chat(rng: random.Random, misread: Misread = usual) -> tuple[Messages, str]:
    """One chat of the pre-training text, assistant's turn included, and the question it is about. `misread` gives the
    share of its readers that take a wording for the opposite."""
    kind = rng.random()
    if kind >= STUDENT_SHARE + HINTED_SHARE:
        drill = draw_drill(rng, held_out=False)
        return _chat(student_messages(drill.question), drill_solution(drill)), drill.question
    story = draw_story(rng, "train")
    if kind < STUDENT_SHARE:
        return _chat(student_messages(story.question), attempt(rng, story, misread).text), story.question
    return refinement_chat(rng, story, rng.choice(HINTS), misread), story.question


def refinement_chat(rng: random.Random, story: Story, hint: str, misread: Misread = usual) -> Messages:
    """A refinement prompt with this kind of hint, and the solution that a reader writes after it, in either manner."""
    right = attempt(rng, story, misread, slips=False)
    wrong = attempt(rng, story, misread, accept=lambda tried: tried.answer != right.answer)
    solution = right
    if hint == "wrong":
        solution = attempt(rng, story, misread, accept=lambda tried: tried.answer != wrong.answer)
    elif hint == "none":
        solution = attempt(rng, story, misread)
    seen = wrong if hint in ("both", "wrong") else None
    reply = solution.text if rng.random() < PLAIN_SHARE else refined(solution, seen)
    return _chat(hinted(story, hint, right, wrong), reply)


def hinted(story: Story, hint: str, right: Solution, wrong: Solution) -> Messages:
    """The refinement prompt that shows what this kind of hint (one of HINTS) does of the two solutions."""
    shown = {"both": right.text, "right": right.text, "gold": gold_only(str(right.answer))}.get(hint)
    return teacher_messages(story.question, shown, wrong.text if hint in ("both", "wrong") else None)


def drill_solution(drill: Drill) -> str:
    """A drill's worked solution, always right."""
    if drill.kind == "larger":
        working = f"{drill.gold}>{min(drill.a, drill.b)}"
    else:
        working = f"{drill.a}{drill.operation}{drill.b}={drill.gold}"
    return f"{working}. The answer is \\boxed{{{drill.gold}}}."


def attempt(
    rng: random.Random,
    story: Story,
    misread: Misread = usual,
    slips: bool = True,
    accept: Callable[[Solution], bool] = lambda tried: True,
) -> Solution:
    """What a reader writes: a new try until `accept` likes it (after many, whatever came last)."""

    def read(wording: Wording) -> Operation:
        other: Operation = "-" if wording.means == "+" else "+"
        return other if rng.random() < misread(wording) else wording.means

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
