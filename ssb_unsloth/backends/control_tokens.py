"""Control tokens that stand in text: the text of data is data, whatever it spells.

A question, a rollout or a given reply may hold `<|im_end|>` or `[INST]`. Tokenized like the template's own, it would
end a turn, or begin one in another's name. Here such text becomes the tokens of its characters. Where a tokenizer or a
template has no way to tell the two apart, that is an error, and what is done about it is the recipe's to say
(`prompts.control_text`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What chat templates mark turns with: <|im_end|>, <start_of_turn>, [INST], <<SYS>>, </s>, and DeepSeek's wide bars.
MARKER = re.compile(
    r"<\|[^\s|<>]{1,40}\|>|<｜[^\s｜<>]{1,40}｜>|</?[a-z]+(?:_[a-z]+)+>|</?(?:s|bos|eos|pad|unk)>"
    r"|\[/?[A-Z]+(?:_[A-Z]+)*\]|<</?[A-Z]+>>"
)


REMEDY = "take it out, or say prompts.control_text=skip, and it is left out."


class ControlText(UserError):
    """A text spells a control token in a place where it would be read as one."""


def markers(*texts: str) -> list[str]:
    """What looks like a control token in the texts, each once."""
    return list(dict.fromkeys(found for text in texts for found in MARKER.findall(text)))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokenizer's control tokens, as text, with their ids."""
    return {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def encode(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = False) -> list[int]:
    """The text's token ids, in which what spells a control token is ordinary text.

    Raises:
        ControlText: this tokenizer reads it as one all the same.
    """
    special = special_tokens(tokenizer)
    spelt = [token for token in special if token in text]
    split = {"split_special_tokens": True} if spelt else {}  # without need nothing is asked for but the usual
    ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens, **split)
    if spelt:
        own = tokenizer.encode("", add_special_tokens=add_special_tokens)  # such as a bos
        numbers = set(special.values())
        if sum(number in numbers for number in ids) > sum(number in numbers for number in own):
            raise ControlText(f"the text holds {spelt[0]!r}, which this tokenizer always reads as a control token")
    return ids


def spelt_out(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, str]:
    """For each control token that the texts hold, the single character that may stand in for it: one that is in none.

    The longest come first, as a token may be part of another.
    """
    held = [token for token in special_tokens(tokenizer) if any(token in text for text in texts)]
    free = (chr(code) for code in range(0xE000, 0xF900) if not any(chr(code) in text for text in texts))
    return {token: next(free) for token in sorted(held, key=len, reverse=True)}


def encode_rendered(tokenizer: PreTrainedTokenizerBase, text: str, stand_ins: dict[str, str]) -> list[int]:
    """The ids of a rendered prompt in which characters stand for control tokens that the messages spell.

    The template's own control tokens are tokens, and what lies between them is text, as the tokenizer itself has it.

    Raises:
        ControlText: this tokenizer does not take a prompt apart in that way.
    """
    special = special_tokens(tokenizer)
    as_usual: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if _in_pieces(tokenizer, text, special, {}) != as_usual:
        raise ControlText(f"the text holds {next(iter(stand_ins))!r}, which this tokenizer cannot tell from its own")
    return _in_pieces(tokenizer, text, special, {character: token for token, character in stand_ins.items()})


def _in_pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, special: dict[str, int], spelt: dict[str, str]
) -> list[int]:
    """The text cut at its control tokens; in each piece the characters of `spelt` become the text they stand for."""
    longest_first = sorted(special, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
    ids: list[int] = []
    for place, piece in enumerate(pieces):
        if place % 2:
            ids.append(special[piece])
        elif piece:
            ids += encode(tokenizer, piece.translate({ord(c): token for c, token in spelt.items()}))
    return ids
