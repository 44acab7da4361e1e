"""The paper's prompts (sections 3.1.1 and 3.1.3), and the only place that makes a student's or a teacher's prompt.

The texts lie beside this file as data; a test compares them with the paper's, word for word. `<question>`, `<right>`
and `<wrong>` mark the gaps. They are filled in one pass, so a question that holds braces, a backslash or a marker's own
text goes in unchanged.

`wording` chooses between the paper's texts and those of its released code (`*.released.txt`; MIT, Copyright (c) 2025
Purbesh Mitra, https://github.com/purbeshmitra/semantic-soft-bootstrapping), which differ: docs/presets.md.

May import: errors, records.
May be imported by: recipe, pocket, backends, data, method, training, evaluation, report, pipeline, commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from typing import Literal

RELEASED_MARGIN = "\n" + 12 * " "  # the released code indents its prompt, and ends its system prompt so when it samples

Wording = Literal["paper", "released"]
Messages = list[dict[str, str]]  # [{"role": ..., "content": ...}, ...], as chat templates take them


@cache
def text(name: str, wording: Wording = "paper") -> str:
    """A prompt, without the line break that ends its file. `wording`: "paper" or "released"."""
    file = f"{name}.txt" if wording == "paper" else f"{name}.{wording}.txt"
    return files(__package__).joinpath(file).read_text(encoding="utf-8").removesuffix("\n")


@cache
def section(name: str, wording: Wording = "paper") -> str:
    """What belongs to a rollout ("right" or "wrong") in the refinement prompt: its heading, its rules, its gap."""
    found = re.search(rf"(?m)^.*\n *-+\n *<{name}>\n *-+\n\n?", text("refine", wording))
    assert found is not None
    return found[0]


def student_messages(question: str, wording: Wording = "paper") -> Messages:
    """The bare question under the tutor prompt: what the rollouts, the student and the evaluation see."""
    return [{"role": "system", "content": text("tutor", wording)}, {"role": "user", "content": question}]


def default_messages(question: str) -> Messages:
    """The question alone: the model's chat template adds whatever system prompt it has of its own."""
    return [{"role": "user", "content": question}]


# What a question is asked under in an evaluation, by the name that stored replies and scores have for it.
Prompt = Literal["tutor", "released", "default"]
PROMPTS: dict[Prompt, Callable[[str], Messages]] = {
    "tutor": student_messages,
    "released": partial(student_messages, wording="released"),
    "default": default_messages,
}


def student_prompt(wording: Wording) -> Prompt:
    """The prompt that a student was trained under, and is evaluated under."""
    return "tutor" if wording == "paper" else wording


def system_text(prompt: Prompt) -> str | None:
    """The system prompt's text; None where the chat template's own is left to stand."""
    first = PROMPTS[prompt]("")[0]
    return first["content"] if first["role"] == "system" else None


def teacher_messages(question: str, right: str | None, wrong: str | None, wording: Wording = "paper") -> Messages:
    """The hinted context u_SSB: the question, one right and one wrong rollout, and the request for a robust solution.

    A rollout that is None is left out together with its heading, and the rest of the wording stays: the hint ablation
    then differs from the paper's prompt in the hint alone.
    """
    template = text("refine", wording)
    for name, hint in (("right", right), ("wrong", wrong)):
        if hint is None:
            template = template.replace(section(name, wording), "")
    gaps = {"question": question, "right": right or "", "wrong": wrong or ""}
    hinted = re.sub(r"<(question|right|wrong)>", lambda gap: gaps[gap[1]], template)
    return [{"role": "system", "content": text("tutor", wording)}, {"role": "user", "content": hinted}]


def refinement_messages(question: str, right: str, wrong: str, wording: Wording = "paper") -> Messages:
    """What the model sees when it writes the refinement: `teacher_messages`, but for blanks in the released code."""
    messages = teacher_messages(question, right, wrong, wording)
    if wording == "released":
        messages[0]["content"] += RELEASED_MARGIN
    return messages


def gold_only(gold: str) -> str:
    """What stands in the right rollout's place where a hint is to give away the answer without its steps."""
    return f"The answer is \\boxed{{{gold}}}."
