"""`ssb recipes new`: a recipe for a model and data of one's own, which runs; or why none can.

The model's config and chat template and the data's columns are looked at, a short recipe is written, and then it is
checked as a run checks it before it samples: loaded, planned, its data read to the end, template and layers looked at.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io import disk
from ..io.progress import hush
from ..io.terminal import tell
from ..machine.auto import choose
from ..machine.hardware import here
from ..machine.plan import card_for, make_plan
from ..prompts import FENCE, PAPER
from ..recipe.file import as_yaml
from ..recipe.loading import load
from ..recipe.schema import ModelConfig, Recipe
from ..verifier.verifiers import CODE
from .columns import Columns, columns_of

HELD_OUT = 5  # one question of so many is kept for the benchmark,
MOST_HELD_OUT = 500  # and no more than these: enough for an interval of about ±4 points
LENGTH = 4096  # prompt and reply, where the model takes as much
SHARES = {
    "rollout": 4,
    "refine": 3,
}  # of it: a rollout takes a quarter; the hinted prompt holds two, and leaves a third
PROGRAMS = f"""
prompts: # the paper's speak of mathematics and of a box
  tutor: >-
    You are an expert Python tutor. Work the exercise out step by step, then give the program in one block of code that
    begins with ```python and ends with ```.
  refine: |-
    This is a programming exercise for students:

    <question>

    A right answer to it:
    <right>

    A wrong answer to it:
    <wrong>

    Write a solution for the students to learn from, step by step, that warns of the likely mistakes and does not
    mention these answers. Give the program in one block of code that begins with ```python and ends with ```.
  answer_form: {json.dumps(FENCE)}
"""
INHERITED = ("temperature", "top_p", "top_k", "repetition_penalty")  # of a generation_config; here they are not


def main(arguments: argparse.Namespace) -> int:
    hush()
    for needed in ("model", "data"):
        if getattr(arguments, needed) is None:
            raise UserError(f"ssb recipes new: --{needed} is missing; it takes a hub id or a path.")
    path, said = new(arguments.model, arguments.data, arguments.question, arguments.answer, arguments.out)
    tell("\n".join([*said, f"{path} loads, and its plan and its data are in order. Run it: ssb run {path}"]))
    return 0


def new(model: str, data: str, question: str | None, answer: str | None, out: Path | None) -> tuple[Path, list[str]]:
    """Write a recipe that passed all checks. Returns where it is, and what was guessed, a line each.

    Raises:
        UserError: the file is there already; or no recipe can run, and why.
    """
    name = _name(model, data)
    path = out or Path(f"{name}.yaml")
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out {path}: a recipe's name ends in .yaml.")
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: is there already, and stays; name another with --out.")
    found = _looked_at(model)
    columns = columns_of(data, question, answer)
    problems = _count(data, columns)
    held_out = min(problems // HELD_OUT, MOST_HELD_OUT) or 1
    if problems < 2:
        raise UserError(f"{data}: holds {problems} question; at least 2 are needed, one of them to be held out.")
    text = _text(path, model, data, columns, found, problems, held_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, text)
    try:
        plan = _checked(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    said = [f"{data}: {'; '.join(columns.guessed)}."]
    said += [f"{problems:,} questions: the first {held_out:,} are the benchmark, the others are trained on."]
    return path, [*said, *found["said"], plan]


def _name(model: str, data: str) -> str:
    """A run's name, of the last parts of both."""
    parts = (Path(word.rstrip("/")).name for word in (model, re.sub(r"\.\w+$", "", data)))
    return "-".join(re.sub(r"[^\w.-]+", "-", part).strip("-.").lower()[:28] for part in parts) or "recipe"


def _looked_at(name: str) -> dict[str, Any]:
    """What the recipe has to say of the model: template variables, lengths; and what is told beside it.

    Raises:
        UserError: the model cannot be loaded, reads and writes apart, or its template cannot ask it.
    """
    from transformers import AutoConfig

    from ..backends.sources import model_path, unloadable
    from ..backends.transformers import load_generation_config, load_tokenizer
    from ..method.selfchecks import check_template

    model = ModelConfig(name=name)
    try:
        config: Any = AutoConfig.from_pretrained(model_path(model))
    except Exception as error:  # what a config can be wrong in has no end
        raise unloadable(f"Model {name!r}", model, error) from None
    if config.is_encoder_decoder:
        raise UserError(
            f"{name}: an encoder-decoder ({config.model_type}); SSB trains decoders, which read a prompt and go on."
        )
    tokenizer = load_tokenizer(model)
    variables = {"enable_thinking": False} if "enable_thinking" in str(tokenizer.chat_template) else {}
    if variables:
        model.template = variables
        tokenizer = load_tokenizer(model)
    check_template(tokenizer, PAPER)
    text: Any = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or LENGTH
    inherited = load_generation_config(model).to_dict()
    own = {key: inherited[key] for key in INHERITED if inherited.get(key) not in (None, 1, 1.0, 0)}
    said = [f"{name}: {config.model_type}; thinking is switched off ({variables})."] if variables else []
    return {"template": variables, "length": min(LENGTH, int(longest)), "own": own, "said": said}


def _count(data: str, columns: Columns) -> int:
    """How many different questions the data has; all of it is read."""
    from ..data.problems import load_problems

    return len(load_problems(columns.problems(data)))


def _text(
    path: Path, model: str, data: str, columns: Columns, found: dict[str, Any], problems: int, held_out: int
) -> str:
    length = found["length"]
    rollout, refine = length // SHARES["rollout"], length // SHARES["refine"]
    sampling = ""
    if found["own"]:
        listed = ", ".join(f"{key} {value}" for key, value in found["own"].items())
        sampling = f" # 0.8 and nothing truncated; the model's generation_config says {listed}"
    where = [f"source: {as_yaml(data)}"]
    where += [f"question: {as_yaml(columns.question)}"] * (columns.question != "question")
    where += [f"gold: {as_yaml(columns.gold)}"] * (columns.gold != "answer")
    where += [f"gold_format: {as_yaml(columns.gold_format)}"] * (columns.gold_format != "plain")
    where += [f"choices: {_listed(columns.choices)}"] if columns.choices else []
    where += [f"entry_point: {as_yaml(columns.entry_point)}"] if columns.entry_point else []
    where += [f"verifier: {columns.verifier}"] * (columns.verifier is not None)
    template = f"\n  template: {json.dumps(found['template'])} # replies with thoughts are several times longer"
    lines = "\n".join(f"  {line}" for line in where)
    deeper = "\n".join(f"      {line}" for line in where)
    return f"""\
# {Path(model.rstrip("/")).name} on {Path(data).name}: made by `ssb recipes new`; what is not said is at its default.
#
#   ssb run {path}
#   ssb run {path} name=smoke curate.pairs=2 train.epochs=1    (a first look: does it run?)
name: {as_yaml(path.stem)}

model:
  name: {as_yaml(model)}{template if found["template"] else ""}

problems: # {problems:,} different questions
{lines}
  skip: {held_out} # these are the benchmark below, and none of them is trained on
{PROGRAMS if columns.verifier == CODE else ""}
sampler:
  max_model_len: {length} # tokens, prompt and reply

curate:
  rollout: {{ max_tokens: {rollout} }}{sampling or " # one that is cut off counts as wrong"}
  refine: {{ max_tokens: {refine} }} # beside a prompt that holds two rollouts

evaluate:
  benchmarks:
    held-out: # the first {held_out:,} questions of the same data
{deeper}
      limit: {held_out}
      id: null
      temperature: null # greedy alone
      max_tokens: {rollout}
"""


def _listed(columns: str | list[str]) -> str:
    return as_yaml(columns) if isinstance(columns, str) else f"[{', '.join(map(as_yaml, columns))}]"


def _checked(path: Path) -> str:
    """A line about the plan of the recipe in this file, which a run would not refuse before its first stage.

    Raises:
        UserError: it would.
    """
    from ..pipeline.preflight import check
    from ..pipeline.students import students

    recipe: Recipe = choose(load(path), here())
    card, _ = card_for(recipe, None)
    plan = make_plan(recipe, card)
    root = Path("runs") / recipe.name
    check(recipe, students(recipe, root), root)
    most = max(stage.bytes for stage in plan.stages) / 2**30
    fits = {True: " It fits.", False: " It does not fit; `ssb plan` says what to change.", None: ""}[plan.fits]
    where = card.name if card is not None else "this machine's CPU"
    return f"{plan.parameters:,} parameters, at most {most:.1f} GiB on {where}.{fits}"
