r"""Where a reply's answer is by `prompts.answer_form`: a text with `...` in the answer's place.

The last occurrence counts, behind the thoughts. `\boxed{...}` is read as boxes are (`replies.last_boxed`). A form that
ends in `...`, or in a full stop behind it, gives the rest of its line; any other all up to its second text, which may
be lines away, as in `<answer>...</answer>`. Letters count alike in either case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..prompts import DOTS
from .replies import behind_thoughts, last_boxed


def check_form(form: str) -> None:
    """Raises ValueError, with a sentence, for a form in which no answer could be found."""
    if form.count(DOTS) != 1 or not form.partition(DOTS)[0].strip():
        raise ValueError(f"the answer form {form!r} needs a text and behind it one {DOTS!r}, where the answer stands")


def is_boxed(form: str) -> bool:
    """Whether the answer stands in a box, whatever stands around it."""
    before, _, after = form.partition(DOTS)
    return before.endswith((r"\boxed{", r"\fbox{")) and after.startswith("}")


def answer_in_form(text: str, form: str) -> str | None:
    """The last answer in that form, or None; a place where nothing stands, or the form's own dots, is passed over."""
    if is_boxed(form):
        return last_boxed(text)
    text = text[behind_thoughts(text) :]
    return next((answer for answer in _answers(text, form) if answer not in ("", DOTS)), None)


def _answers(text: str, form: str) -> Iterator[str]:
    before, _, after = (part.strip() for part in form.partition(DOTS))
    opening = re.compile(r"\s+".join(map(re.escape, before.split())) + r"[ \t*]*", re.I)
    until = len(text)
    for found in reversed(list(opening.finditer(text))):
        if re.fullmatch(r"\W?", after) and after not in ("}", ")", "]", ">"):
            line = text[found.end() : until].partition("\n")[0].strip(" \t*")
            yield line.removesuffix(after).strip(" \t*") if after else line
        else:
            end = re.compile(re.escape(after), re.I).search(text, found.end(), until)
            if end:
                yield text[found.end() : end.start()].strip()
        until = found.start()
