"""A conversation under a model's chat template, as the template's own words have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..prompts import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANOTHER = "Another template can be given by model.chat_template."
NO_SYSTEM = "Set model.system=question to put it in front of the question, or model.chat_template to another template."


def as_text(tokenizer: PreTrainedTokenizerBase, messages: Messages, prompt: bool) -> str:
    """The messages under the chat template, before they are tokenized; `prompt`: up to where a reply begins.

    Raises:
        UserError: the template refuses the messages.
    """
    return str(applied(tokenizer, messages, add_generation_prompt=prompt, tokenize=False))


def applied(tokenizer: PreTrainedTokenizerBase, messages: Messages, **how: Any) -> Any:
    """What `apply_chat_template` makes of the messages, told `how`.

    Raises:
        UserError: the template refuses them.
    """
    from jinja2 import TemplateError

    # A template may expect other messages, and fail on these like any program.
    wrong = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
    try:
        return tokenizer.apply_chat_template(messages, **how)
    except wrong as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} refuses messages of the roles {roles}:"
            f" {str(error).rstrip('.')}. {advice(messages[0]['role'])}"
        ) from None


def advice(role: str) -> str:
    """What to do where a message of that role has no place in the template."""
    return NO_SYSTEM if role == "system" else ANOTHER


def own_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens in a rendered text that are no words of it: the eos, and those that were added to the vocabulary."""
    added = tokenizer.added_tokens_decoder
    return [
        int(number)
        for number in tokenizer.encode(text, add_special_tokens=False)
        if number == tokenizer.eos_token_id or (number in added and str(added[number]).strip())
    ]
