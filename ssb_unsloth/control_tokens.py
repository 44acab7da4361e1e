"""Control tokens that stand in text: the text of data is data, whatever it spells."""

from __future__ import annotations

import re

from .errors import UserError

# What chat templates mark turns with: <|im_end|>, <start_of_turn>, [INST], <<SYS>>, </s>, and DeepSeek's wide bars.
MARKER = re.compile(
    r"<\|[^\s|<>]{1,40}\|>|<｜[^\s｜<>]{1,40}｜>|</?[a-z]+(?:_[a-z]+)+>|</?(?:s|bos|eos|pad|unk)>"
    r"|\[/?[A-Z]+(?:_[A-Z]+)*\]|<</?[A-Z]+>>"
)


class ControlText(UserError):
    """A text spells a control token in a place where it would be read as one."""


def markers(*texts: str) -> list[str]:
    """What looks like a control token in the texts, each once."""
    return list(dict.fromkeys(found for text in texts for found in MARKER.findall(text)))
