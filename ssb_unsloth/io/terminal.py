"""The one way out to the terminal: nothing that a model, a server or a file says is obeyed by it.

Escape sequences in a reply could clear the screen, rewrite what stands above, or set a title; marks of direction could
turn a line round. They are shown as the characters that they are. Passwords and keys are masked.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import textwrap
from typing import TextIO

from .credentials import masked

WIDTH = 79  # columns of what is made to be read: a terminal has 80
_DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad"  # control characters but for tab and line feed
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction, invisible, other ends of a line
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\U0001d173-\U0001d17a"  # others that show nothing
    "\ud800-\udfff\U000e0000-\U000e0fff]"  # halves of characters, tags
)


def visible(text: str) -> str:
    """The text with each character that a terminal would obey, or not show, written out."""
    return _DANGEROUS.sub(lambda found: _written(found[0]), masked(text))


def _written(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def folded(text: str, first: str = "", rest: str = "") -> str:
    """A paragraph in lines of at most `WIDTH`, the first behind `first`, the others behind `rest`. Only a word that is
    longer, such as a path, stands out.
    """
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        behind = rest if lines else first
        lines.append(
            textwrap.fill(
                line,
                WIDTH,
                initial_indent=behind,
                subsequent_indent=rest,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return "\n".join(lines)


def tell(text: str) -> None:
    """What a command was asked for, on standard output."""
    write(text + "\n", sys.stdout)


def complain(text: str) -> None:
    """What else is to be known, on standard error."""
    write(text + "\n", sys.stderr)


def write(text: str, stream: TextIO) -> None:
    """The text on the stream; what its encoding does not have is written out."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(visible(text).encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def unread() -> bool:
    """Whether nobody reads one of the two streams any more: it is a pipe whose other end is closed, as by `| head`.

    From then on what is written to it goes nowhere, and Python's own flush at the end says nothing.
    """
    lost = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it is closed, or no file
            ends = select.poll()
            ends.register(number := stream.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in ends.poll(0)):
                lost = True
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)
    return lost
