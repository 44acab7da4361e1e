"""What answers in words are compared by: one form of the same text."""

from __future__ import annotations

import re
import unicodedata

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_AROUND = (("$", "$"), (r"\(", r"\)"), ("**", "**"), ("`", "`"), ('"', '"'), ("“", "”"), ("'", "'"))


def plain(text: str, case: bool = True) -> str:
    r"""The text in Unicode's composed form (NFC), each run of white space as one blank, without what is set around an
    answer and is none of it: `$...$`, `\text{...}`, bold type, quotation marks, a full stop at the end. `case`: whether
    capital letters differ from small ones.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    before = None
    while text != before:
        before = text
        for opening, closing in _AROUND:
            within = text[len(opening) : len(text) - len(closing)]
            if text.startswith(opening) and text.endswith(closing) and within and opening not in within:
                text = within.strip()
        if wrapped := _WRAPPED.fullmatch(text):
            text = wrapped[1].strip()
        if text.endswith(".") and not text.endswith("..") and len(text) > 1:
            text = text[:-1].rstrip()
    return text if case else text.casefold()
