"""The command line in a pipe: whoever reads may stop, and what is read holds no colour, bar or control character."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SSB = [sys.executable, "-m", "ssb_unsloth"]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


def piped(*words: str, lines: int, both: bool = False) -> tuple[int, str, str]:
    """Exit code, the first lines of the output, after which it is closed, and the errors."""
    errors = subprocess.STDOUT if both else subprocess.PIPE
    process = subprocess.Popen([*SSB, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    read = "".join(process.stdout.readline() for _ in range(lines))
    process.stdout.close()
    said = process.stderr.read() if process.stderr else ""
    return process.wait(60), read, said


@pytest.mark.parametrize("words", [["recipes"], ["plan", "pocket"], ["recipes", "show", "pocket"], ["--help"]])
def test_output_that_is_not_read_is_no_traceback_and_ends_as_by_sigpipe(words):
    assert piped(*words, lines=0) == (141, "", "")


def test_a_mistake_that_nobody_reads_ends_the_same_way():
    assert piped("run", "none.yaml", lines=0, both=True)[0] == 141


def test_the_first_line_is_all_that_is_asked_for():
    code, read, said = piped("recipes", "show", "pocket", lines=1)
    assert (code in (0, 141), read.startswith("# "), said) == (True, True, "")


def in_a_terminal(*words: str, **environment: str) -> str:
    """What a command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*SSB, *words], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # its other end is closed
            break
        if not block:
            break
        written += block
    os.close(ours)
    process.wait(60)
    return written.decode()


@pytest.mark.parametrize("words", [["recipes"], ["plan", "pocket"], ["run", "none.yaml"], ["run"]])
def test_no_colour_in_a_terminal_either(words):
    assert "\x1b" not in in_a_terminal(*words, NO_COLOR="1", TERM="xterm-256color")


@pytest.mark.parametrize("words", [["recipes"], ["plan", "pocket"], ["run", "none.yaml"]])
def test_no_control_character_in_a_pipe(words):
    done = subprocess.run([*SSB, *words], cwd=ROOT, capture_output=True, text=True)
    assert CONTROL.search(done.stdout + done.stderr) is None
