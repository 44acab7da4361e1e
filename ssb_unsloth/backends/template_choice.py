"""Which chat template a model is asked under: its own, one of several, a shipped one or a file; and what is put at its
head so that it says what the recipe wants.

All of it stands in the template's text: TRL, vLLM and transformers, which render by themselves, and whoever loads a
saved tokenizer, have the same prompts.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..io.files import local, read_text
from ..prompts import BETWEEN, Messages
from ..recipe.schema import ModelConfig
from .chat_template import set_date, set_end_of_turn, set_variables
from .rendered import as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHIPPED = ("chatml", "plain")  # templates/NAME.jinja, for models that bring none
MOST_BYTES = 1 << 18  # of a template's text; the longest that are published have a tenth
MARKS: Messages = [{"role": "system", "content": "ssbSYSTEM"}, {"role": "user", "content": "ssbUSER"}]

# Gives a system message's text to the user's turn behind it, in front of what that says, as Gemma 3's template does.
FOLD = (
    "{%- if messages and messages[0]['role'] == 'system' %}"
    "{%- if messages|length > 1 and messages[1]['role'] == 'user' %}"
    "{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + "
    + json.dumps(BETWEEN)
    + " + messages[1]['content']}] + messages[2:] %}"
    "{%- else %}{%- set messages = [{'role': 'user', 'content': messages[0]['content']}] + messages[1:] %}{%- endif %}"
    "{%- endif %}\n"
)
# Gives each text as a list of one part, which templates of multimodal models may expect.
PARTS = (
    "{%- set ssb = namespace(messages=[]) %}{%- for message in messages %}{%- set ssb.messages = ssb.messages + "
    "[dict(message, content=[{'type': 'text', 'text': message['content']}] if message['content'] is string else "
    "message['content'])] %}{%- endfor %}{%- set messages = ssb.messages %}\n"
)


def choose_template(tokenizer: PreTrainedTokenizerBase, model: ModelConfig) -> None:
    """Give the tokenizer the one chat template that the recipe's `model` section asks for.

    Raises:
        UserError: there is none, or several and none of them is named; no such file; or `model.end_of_turn` names no
            token of this tokenizer.
    """
    text = set_date(set_variables(_text(tokenizer, model), model.template), model.date)
    if model.end_of_turn != "auto":
        _check_token(tokenizer, model.end_of_turn)
        text = set_end_of_turn(text, model.end_of_turn)
    folds = {"role": [""], "question": [FOLD], "auto": ["", FOLD]}[model.system]
    heads = [fold + parts for parts in ("", PARTS) for fold in folds]
    for head in heads:
        tokenizer.chat_template = head + text
        if _shows_all(tokenizer):
            return
    tokenizer.chat_template = heads[0] + text  # what is wrong with it is said where it is used


def choices(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What was chosen of the template that is not as its model's makers have it, by the recipe's key; for a report."""
    template = str(tokenizer.chat_template)
    return {"model.system": "question"} if FOLD in template else {}


def told(found: dict[str, str]) -> str:
    """`choices` as a sentence; empty without any."""
    if not found:
        return ""
    return (
        "The system prompt stands in front of the question, in the user's turn, as it does where a chat template has no"
        " turn for the system (model.system)."
    )


def _shows_all(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a system message and a question both stand in the prompt: some templates raise, and some are silent."""
    try:
        prompt = as_text(tokenizer, MARKS, prompt=True)
    except UserError:
        return False
    return all(message["content"] in prompt for message in MARKS)


def _text(tokenizer: PreTrainedTokenizerBase, model: ModelConfig) -> str:
    """The template's text, as it was written."""
    asked, own = model.chat_template, _own(tokenizer)
    if asked is None:
        if len(own) == 1 or "default" in own:
            return own.get("default") or next(iter(own.values()))
        if not own:
            raise UserError(
                f"Model {model.name!r} has no chat template: set model.chat_template to a file, or to"
                f" {' or '.join(SHIPPED)}; or take an instruction-tuned model."
            )
        raise UserError(
            f"Model {model.name!r} has several chat templates and no default: set model.chat_template to one of"
            f" {', '.join(own)}."
        )
    if asked in own:
        return own[asked]
    if asked in SHIPPED:
        return _shipped(tokenizer, asked)
    path = local(asked, "model.chat_template")
    if not path.is_file():
        known = ", ".join([*own, *SHIPPED])
        raise UserError(f"model.chat_template: {asked}: no such file, and none of the names known here ({known}).")
    return read_text(path, MOST_BYTES)


def _own(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The tokenizer's templates by name; one without a name is "default"."""
    found: Any = tokenizer.chat_template
    if isinstance(found, list):  # as older configurations write them
        found = {entry["name"]: entry["template"] for entry in found}
    if isinstance(found, dict):
        return {str(name): str(found[name]) for name in sorted(found)}
    return {} if found is None else {"default": str(found)}


def _shipped(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    text = files(__package__).joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer.encode("", add_special_tokens=True)[:1] == [bos]
    return text if begins else set_variables(text, {"bos_token": ""})  # it opens a text as the tokenizer itself does


def _check_token(tokenizer: PreTrainedTokenizerBase, token: str) -> None:
    """A token that is to end replies is one token of this tokenizer, which has an eos after this."""
    if token not in tokenizer.get_vocab() or len(tokenizer.encode(token, add_special_tokens=False)) != 1:
        known = [str(added) for added in tokenizer.added_tokens_decoder.values() if added.special]
        raise UserError(
            f"model.end_of_turn: {token!r} is not one token of this tokenizer; its control tokens are"
            f" {', '.join(known[:12]) or 'none'}."
        )
    if tokenizer.eos_token is None:
        tokenizer.eos_token = token
