"""The paper's prompts (sections 3.1.1 and 3.1.3), and the only place that renders a student's or a teacher's view.

The texts lie beside this file as data; a test compares them with the paper's, word for word. `<question>`, `<right>`
and `<wrong>` mark the gaps. They are filled in one pass, so a question that holds braces, a backslash or a marker's own
text goes in unchanged.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

RIGHT_SECTION = "This is the correct response from a student:\n-----\n<right>\n-----\n"
WRONG_SECTION = (
    "This is an attempt by another student which was labelled as incorrect by auto-evaluator:\n-----\n<wrong>\n-----\n"
)

Messages = list[dict[str, str]]  # [{"role": ..., "content": ...}, ...], as chat templates take them


@cache
def text(name: str) -> str:
    """The prompt in `<name>.txt`, without the line break that ends the file."""
    return files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n")


def student_messages(question: str) -> Messages:
    """The bare question under the tutor prompt: what the rollouts, the student and the evaluation see."""
    return [{"role": "system", "content": text("tutor")}, {"role": "user", "content": question}]


def default_messages(question: str) -> Messages:
    """The question alone: the model's chat template adds whatever system prompt it has of its own."""
    return [{"role": "user", "content": question}]


def teacher_messages(question: str, right: str | None, wrong: str | None) -> Messages:
    """The hinted context u_SSB: the question, one right and one wrong rollout, and the request for a robust solution.

    A rollout that is None is left out together with its heading, and the rest of the wording stays: the hint ablation
    then differs from the paper's prompt in the hint alone.
    """
    template = text("refine")
    for hint, heading in ((right, RIGHT_SECTION), (wrong, WRONG_SECTION)):
        if hint is None:
            template = template.replace(heading, "")
    gaps = {"question": question, "right": right or "", "wrong": wrong or ""}
    hinted = re.sub(r"<(question|right|wrong)>", lambda gap: gaps[gap[1]], template)
    return [{"role": "system", "content": text("tutor")}, {"role": "user", "content": hinted}]


def gold_only(gold: str) -> str:
    """What stands in the right rollout's place where a hint is to give away the answer without its steps."""
    return f"The answer is \\boxed{{{gold}}}."
