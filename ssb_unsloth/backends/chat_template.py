"""A model's chat template, and what follows from it: the prompt's token ids, where a turn ends, what day it is.

One file says which tokens end a reply, for every sampler and trainer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..prompts import Messages
from .control_tokens import ControlText, encode_rendered, markers, spelt_out
from .rendered import advice, applied, as_text, own_tokens
from .sampler import Completion
from .thinking import decoded, within_reply

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLY = "The answer is 2."  # stands in a turn that is rendered to see how it ends
END_OF_TURN = "ssb_end_of_turn"  # the variable at a template's head that names the token, where a recipe does
# strftime's directives, but for those of a time zone.
DIRECTIVES = [*("%" + letter for letter in "aAwdbBmyYHIpMSfjUWcxX"), *("%-" + letter for letter in "dmHIMSj"), "%%"]


def set_variables(template: str, variables: Mapping[str, Any]) -> str:
    """The chat template with these variables set at its head, so that everything rendered with it has them.

    An argument of that name to `apply_chat_template` would have no effect any more.
    """
    # Jinja takes away the line break behind each block here, so that the template's first line stays a first line.
    literals = {True: "true", False: "false", None: "none"}
    values = {n: literals[v] if v is None or v is True or v is False else json.dumps(v) for n, v in variables.items()}
    return "".join(f"{{%- set {name} = {value} %}}\n" for name, value in values.items()) + template


def set_date(template: str, date: str) -> str:
    """The chat template with that day (YYYY-MM-DD) for today, at noon, wherever it asks by `strftime_now`.

    Otherwise the same recipe renders other prompts the day after. The template answers its own question, so a tokenizer
    that is saved with it, vLLM and transformers all have the same day.
    """
    if "strftime_now" not in template:
        return template
    noon = datetime.fromisoformat(f"{date} 12:00")
    named = "".join(f"|replace({json.dumps(mark)}, {json.dumps(noon.strftime(mark))})" for mark in DIRECTIVES)
    return f"{{%- macro strftime_now(format) %}}{{{{ format{named} }}}}{{%- endmacro %}}\n{template}"


def set_end_of_turn(template: str, token: str) -> str:
    """The chat template in which it is written that replies end in this token, whatever else would follow them."""
    return set_variables(template, {END_OF_TURN: token})


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """The prompt's token ids under the model's own chat template, up to where the reply begins.

    A control token that a message spells is tokenized as the text that it is.

    Raises:
        ControlText: a message spells one that cannot be told from the template's own.
        UserError: the template refuses the messages, such as one for the system.
    """
    texts = [message["content"] for message in messages]
    stand_ins = spelt_out(tokenizer, texts)
    if not stand_ins and not markers(*texts):
        return list(applied(tokenizer, messages, add_generation_prompt=True, tokenize=True, return_dict=False))
    for token, character in stand_ins.items():
        texts = [text.replace(token, character) for text in texts]
    messages = [{**message, "content": text} for message, text in zip(messages, texts, strict=True)]
    prompt = as_text(tokenizer, messages, prompt=True)
    for marker in markers(*texts):  # such as [INST] where the template writes it as plain text
        if prompt.count(marker) > sum(text.count(marker) for text in texts):
            raise ControlText(f"the text holds {marker!r}, with which the model's chat template marks its turns")
    if not stand_ins:
        return list(applied(tokenizer, messages, add_generation_prompt=True, tokenize=True, return_dict=False))
    return encode_rendered(tokenizer, prompt, stand_ins)


def spells_control_tokens(tokenizer: PreTrainedTokenizerBase, question: str) -> bool:
    """Whether a library that renders the question by itself, as TRL does, would read a part of it as control tokens."""
    if spelt_out(tokenizer, [question]):
        return True
    try:
        render(tokenizer, [{"role": "user", "content": question}])
    except ControlText:
        return True
    return False


def check_prompt(text: str, messages: Messages, whose: str) -> None:
    """`text` holds each message's content once. `whose`: what has rendered it."""
    rendered = " ".join(text.split())
    for message in messages:
        times = rendered.count(" ".join(message["content"].split()))
        if times != 1:
            what = f"{times} times" if times else "not at all: it is dropped or changed"
            raise UserError(f"{whose} renders the {message['role']}'s message {what}. {advice(message['role'])}")


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that closes a reply: the one that the recipe names (`model.end_of_turn`), else under the model's chat
    template the first one of its own after a finished reply.

    The tokenizer's eos for most models, but not for all: Gemma's is <eos>, and its turns end in <end_of_turn>. Where
    nothing closes a turn, the token that opens the next one does (GLM).

    Raises:
        UserError: no such token follows, so a student could not learn where to stop.
    """
    if named := re.search(rf'{{%- set {END_OF_TURN} = ("(?:[^"\\]|\\.)*") %}}\n', str(tokenizer.chat_template)):
        number: Any = tokenizer.convert_tokens_to_ids(json.loads(named[1]))
        return int(number)
    asked: Messages = [{"role": "user", "content": "1 + 1?"}]
    turn: Messages = [*asked, {"role": "assistant", "content": REPLY}]
    for messages in (turn, turn + asked):
        _, found, behind = as_text(tokenizer, messages, prompt=False).rpartition(REPLY)
        if found and (own := own_tokens(tokenizer, behind)):
            return own[0]
    shown = f"only {behind!r}" if found else "it leaves the reply itself out"
    raise UserError(
        f"The chat template of {tokenizer.name_or_path!r} puts no end-of-turn token behind a reply ({shown}): nothing"
        " says where one ends. Name its token by model.end_of_turn, or set model.chat_template to a template that"
        " closes the assistant's turn."
    )


def check_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """There is a token that ends a reply and stands nowhere within one.

    Raises:
        UserError: there is none; or the one that closes the reply closes its thoughts too, and no reply would reach its
            answer.
    """
    end = end_of_turn(tokenizer)
    if end in within_reply(tokenizer):
        token = tokenizer.convert_ids_to_tokens(end)
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} puts {token!r} behind a reply's thoughts and behind its"
            " answer, so a reply would end before it answers: set model.end_of_turn to the token that ends the answer"
            " alone."
        )


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> list[int]:
    """The tokens that end a reply, in every sampler: the tokenizer's eos, the end of turn, and what the model's own
    `generation_config` (transformers' GenerationConfig) lists, but for those that a reply has between its thoughts and
    its answer (gpt-oss's <|end|>). Nothing else is taken from that.
    """
    listed = getattr(generation_config, "eos_token_id", None)
    listed = [] if listed is None else [listed] if isinstance(listed, int) else listed
    others = {int(number) for number in (tokenizer.eos_token_id, *listed)} - set(within_reply(tokenizer))
    return sorted({end_of_turn(tokenizer), *others})


def pad_id(tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """What fills a batch up: the tokenizer's pad where the embedding, of so many rows, has it; else the end of turn."""
    pad: Any = tokenizer.pad_token_id
    return int(pad) if pad is not None and 0 <= pad < rows else end_of_turn(tokenizer)


def reply_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Iterable[int]) -> str:
    """A reply's text, made of its ids: without special tokens, and without the token that ended it. Where the model
    thinks, the marks of its thoughts stand in it, that with which the prompt has begun them included.
    """
    return decoded(tokenizer, ids[:-1] if ids and ids[-1] in stops else ids)


def without_end(tokenizer: PreTrainedTokenizerBase, text: str, ends: Iterable[int]) -> str:
    """A given reply without the tokens, spelt out, with which it closes its turn itself: such a token is put behind
    it as a token.
    """
    spelt = tuple(str(tokenizer.convert_ids_to_tokens(end)) for end in ends)
    while text.rstrip().endswith(spelt):
        text = text.rstrip()
        text = text.removesuffix(next(token for token in spelt if text.endswith(token)))
    return text


def completion(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stops: Iterable[int]) -> Completion:
    """Sampled ids as a completion; what stands behind the first token that ends a reply is cut off."""
    ends = [place for place, number in enumerate(ids) if number in stops]
    ids = list(ids[: ends[0] + 1] if ends else ids)
    return Completion(ids, reply_text(tokenizer, ids, stops), "stop" if ends else "length")
