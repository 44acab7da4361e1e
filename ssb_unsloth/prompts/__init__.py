"""The paper's prompts (sections 3.1.1 and 3.1.3), and the only place that makes a student's or a teacher's prompt.

The paper's texts lie beside this file as data; a test compares them with the paper's, word for word. A recipe may give
texts of its own (`prompts.tutor`, `prompts.refine`). `<question>`, `<right>`, `<wrong>` and `<answer_form>` mark the
gaps. Those of a question are filled in one pass, so one that holds braces, a backslash or a marker's own text goes in
unchanged.

`wording` chooses between the paper's texts, the same without the backticks around the box, and those of its released
code (`*.released.txt`; MIT, Copyright (c) 2025 Purbesh Mitra,
https://github.com/purbeshmitra/semantic-soft-bootstrapping), which differ: docs/presets.md.

May import: errors, records.
May be imported by: verifier, recipe, pocket, backends, data, method, training, evaluation, report, pipeline,
    commands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

RELEASED_MARGIN = "\n" + 12 * " "  # the released code indents its prompt, and ends its system prompt so when it samples
BOX = r"\boxed{...}"  # the answer's form in the paper; the dots stand for the answer
FENCE = "```python\n...\n```"  # a program's
DOTS = "..."

BETWEEN = "\n\n"  # system prompt and question, where both stand in one message

Wording = Literal["paper", "unquoted", "released"]
Messages = list[dict[str, str]]  # [{"role": ..., "content": ...}, ...], as chat templates take them

DEFAULT = "default"  # no prompt of ours: the question alone, under whatever the chat template says by itself


@dataclass(frozen=True)
class Texts:
    """What a recipe's model is shown, but for question and rollouts. `texts` makes it.

    `name` is what stored replies and scores have for it; that of a tutor prompt of one's own carries a digest of it, so
    replies under different prompts never count together.
    """

    name: str
    tutor: str  # the system prompt
    refine: str  # with the gaps <question>, <right> and <wrong>
    answer_form: str = BOX
    margin: str = ""  # behind the system prompt where a refinement is sampled

    def section(self, rollout: str) -> str:
        """What belongs to a rollout ("right" or "wrong") in the refinement prompt, and goes with it.

        Where its gap stands between two rules of dashes, as in the paper, that is both and the line above them; else
        its paragraph, which ends at an empty line.
        """
        ruled = re.search(rf"(?m)^.*\n *-+\n *<{rollout}>\n *-+\n\n?", self.refine)
        if ruled is not None:
            return ruled[0]
        paragraphs = re.findall(r"(?:.*\S.*(?:\n|\Z))+(?:[^\S\n]*\n)*", self.refine)
        return next((paragraph for paragraph in paragraphs if f"<{rollout}>" in paragraph), "")

    def answered(self, answer: str) -> str:
        """The answer in the form that the model is asked for."""
        return self.answer_form.replace(DOTS, answer, 1)


@cache
def _shipped(name: str, wording: Wording) -> str:
    """A text that comes with the package, without the line break that ends its file."""
    file = f"{name}.released.txt" if wording == "released" else f"{name}.txt"
    text = files(__package__).joinpath(file).read_text(encoding="utf-8").removesuffix("\n")
    return text.replace(f"`{BOX}`", BOX) if wording == "unquoted" else text


@cache
def texts(
    wording: Wording = "paper", tutor: str | None = None, refine: str | None = None, answer_form: str = BOX
) -> Texts:
    """The texts of that wording; with another answer form in the place of the box, and with one's own texts."""
    system, request = (
        _reworded(name, wording, answer_form) if own is None else own.replace("<answer_form>", answer_form)
        for name, own in (("tutor", tutor), ("refine", refine))
    )
    known = "tutor" if wording == "paper" else wording
    name = known if system == _shipped("tutor", wording) else f"own-{hashlib.sha256(system.encode()).hexdigest()[:12]}"
    margin = RELEASED_MARGIN if wording == "released" and tutor is None else ""
    return Texts(name, system, request, answer_form, margin)


def _reworded(name: str, wording: Wording, answer_form: str) -> str:
    """A text that comes with the package, with the answer's form where it names the box."""
    text = _shipped(name, wording)
    if answer_form == BOX:
        return text
    bare = wording == "unquoted" or "`" in answer_form or "\n" in answer_form
    form = answer_form if bare else f"`{answer_form}`"
    return re.sub(r"`\\boxed{\.\.\.}`|\\boxed{(?:\.\.\.)?}", lambda _: form, text)


def faults(
    wording: Wording, tutor: str | None, refine: str | None, answer_form: str
) -> Iterator[tuple[Literal["tutor", "refine", "answer_form"], str]]:
    """What is wrong with a recipe's own texts: the key, and a sentence."""
    if tutor is not None and not tutor.strip():
        yield "tutor", "empty; write the system prompt, or leave it out for the paper's."
    if answer_form.count(DOTS) != 1:
        yield "answer_form", f"{answer_form!r}; expected three dots, once, where the answer stands, as in {BOX}."
    elif wording == "released" and answer_form != BOX and (tutor is None or refine is None):
        yield "answer_form", "the released code's prompts speak of a box; give prompts.tutor and prompts.refine too."
    if refine is None:
        return
    lost = [gap for gap in ("question", "right", "wrong") if refine.count(f"<{gap}>") != 1]
    yield from (("refine", f"has the gap <{gap}> {refine.count(f'<{gap}>')} times; expected it once.") for gap in lost)
    if not lost:
        mine = Texts("", "", refine)
        for rollout, others in (("right", ("question", "wrong")), ("wrong", ("question", "right"))):
            for other in others:
                if f"<{other}>" in mine.section(rollout):
                    yield (
                        "refine",
                        f"<{other}> stands in the paragraph of <{rollout}>, which goes where teach.hint leaves that"
                        " rollout out; put an empty line between them.",
                    )


PAPER = texts()
SHIPPED = {known.name: known.tutor for known in (PAPER, texts("unquoted"), texts("released"))}


def student_messages(question: str, texts: Texts = PAPER) -> Messages:
    """The bare question under the tutor prompt: what the rollouts, the student and the evaluation see."""
    return [{"role": "system", "content": texts.tutor}, {"role": "user", "content": question}]


def in_question(messages: Messages) -> Messages:
    """The messages with the system's text in front of the question, for a model without a turn for the system."""
    if not messages or messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [{"role": "user", "content": system["content"] + BETWEEN + rest[0]["content"]}, *rest[1:]]


def default_messages(question: str) -> Messages:
    """The question alone: the model's chat template adds whatever system prompt it has of its own."""
    return [{"role": "user", "content": question}]


def teacher_messages(question: str, right: str | None, wrong: str | None, texts: Texts = PAPER) -> Messages:
    """The hinted context u_SSB: the question, one right and one wrong rollout, and the request for a robust solution.

    A rollout that is None is left out together with its section, and the rest of the wording stays: the hint ablation
    then differs from the paper's prompt in the hint alone.
    """
    template = texts.refine
    for name, hint in (("right", right), ("wrong", wrong)):
        if hint is None:
            template = template.replace(texts.section(name), "")
    gaps = {"question": question, "right": right or "", "wrong": wrong or ""}
    hinted = re.sub(r"<(question|right|wrong)>", lambda gap: gaps[gap[1]], template)
    return [{"role": "system", "content": texts.tutor}, {"role": "user", "content": hinted}]


def refinement_messages(question: str, right: str, wrong: str, texts: Texts = PAPER) -> Messages:
    """What the model sees when it writes the refinement: `teacher_messages`, but for blanks in the released code."""
    messages = teacher_messages(question, right, wrong, texts)
    messages[0]["content"] += texts.margin
    return messages


def gold_only(gold: str, texts: Texts = PAPER) -> str:
    """What stands in the right rollout's place where a hint is to give away the answer without its steps."""
    return f"The answer is {texts.answered(gold)}."
