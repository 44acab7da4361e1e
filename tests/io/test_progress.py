"""Progress tells the truth: one line where there is no terminal, and a time left that a batch keeps to."""

import io
import random
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.io.progress import EVERY, Batch, bar, say, seconds_left

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """clock[0]: the time that bars go by."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


@pytest.fixture
def written(monkeypatch):
    """written(terminal): what is written to standard error from now on, which is a terminal or none."""

    def begin(terminal):
        stream = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return begin


def test_without_a_terminal_a_bar_is_one_line(written, clock):
    out = written(terminal=False)
    with bar("teacher pass", "pair", 4) as shown:
        for _ in range(4):
            clock[0] += 2
            shown.update(1)
            say("a line between")
    *between, line = out.getvalue().splitlines()
    assert between == ["a line between"] * 4
    assert re.fullmatch(r"teacher pass +4/4 in 00:08 \( *2\.00s/pair\)", line)


def test_what_takes_long_has_a_line_now_and_then(written, clock):
    out = written(terminal=False)
    with bar("train", "step", 100) as shown:
        for _ in range(100):
            clock[0] += EVERY / 20
            shown.update(1)
    lines = out.getvalue().splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"train +20/100 after 05:00, 20:00 left", lines[0])
    assert CONTROL.search(out.getvalue()) is None


def test_a_bar_that_is_quiet_writes_nothing(written):
    for terminal in (True, False):
        out = written(terminal)
        with bar("a", "b", 3, disable=True) as shown, Batch("c", 3, 9, quiet=True) as batch:
            shown.update(3)
            batch.step([1], list)
        assert out.getvalue() == ""


def test_in_a_terminal_it_moves(written):
    out = written(terminal=True)
    with bar("train", "step", 2) as shown:
        shown.update(2)
    assert out.getvalue().count("\r") >= 2
    assert "\x1b[3" not in out.getvalue()  # no colour


def engine(lengths, at_a_time):
    """An engine that gives each of the first `at_a_time` replies a token in every step: after each, what ended and
    what all others have."""
    waiting, running = list(lengths), []
    while waiting or running:
        while waiting and len(running) < at_a_time:
            running.append([0, waiting.pop(0)])
        for reply in running:
            reply[0] += 1
        ended = [length for so_far, length in running if so_far == length]
        running = [reply for reply in running if reply[0] < reply[1]]
        yield ended, [so_far for so_far, _ in running] + [0] * len(waiting)


def reckoned(lengths, at_a_time, limit, a_step=0.1, of_late=10):
    """(seconds that the batch takes still, what is said) after each of its steps."""
    told, all_ended, before = [], [], [0]
    for these, under_way in engine(lengths, at_a_time):
        all_ended += these
        before.append(sum(all_ended) + sum(under_way))
        steps = min(of_late, len(before) - 1)
        speed = (before[-1] - before[-1 - steps]) / (steps * a_step)
        told.append(
            seconds_left(speed, (len(all_ended), sum(all_ended), min(all_ended, default=limit)), under_way, limit)
        )
    return [((len(told) - step) * a_step, said) for step, said in enumerate(told, start=1)]


def test_a_batch_that_ends_all_at_once_is_not_said_to_take_an_hour():
    """300 replies of which the first ends after 17 of 20 seconds: by replies the rest would take 299 times as long."""
    told = reckoned([170] + [200] * 299, at_a_time=300, limit=200)
    assert [said for _, said in told[:169]] == [None] * 169
    for left, said in told[169:-1]:
        assert said == pytest.approx(left, rel=0.01)


def test_where_replies_wait_it_says_about_what_is_left():
    lengths = [20 + (7 * n) % 41 for n in range(2000)]  # 40 in the mean, where 400 are allowed
    told = reckoned(lengths, at_a_time=100, limit=400)
    middle = told[len(told) // 4 : 3 * len(told) // 4]
    assert all(0.75 * left <= said <= 1.25 * left for left, said in middle)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([20, 50, 400]))
def test_of_replies_that_end_at_random_it_is_right_to_a_factor(seed, mean):
    """Lengths without memory; the longest of them decides when a batch ends, and is not known."""
    draw = random.Random(seed)
    lengths = [min(400, 1 + int(draw.expovariate(1 / mean))) for _ in range(300)]
    told = reckoned(lengths, at_a_time=300, limit=400)
    for left, said in told[len(told) // 4 : len(told) // 2]:
        assert left / 4 <= said <= 4 * left


def test_nothing_is_said_until_there_is_something_to_reckon_by():
    assert seconds_left(50.0, (0, 0, 100), [9] * 10, 100) is None  # none has ended
    assert seconds_left(0.0, (1, 9, 9), [9] * 10, 100) is None
    assert seconds_left(50.0, (10, 90, 9), [], 100) is None  # all have


@pytest.mark.parametrize("terminal", [True, False])
def test_a_batch_shows_what_is_reckoned(written, clock, terminal):
    out = written(terminal)
    with Batch("evaluate", 300, 200) as shown:
        for ended, under_way in engine([170] + [200] * 299, 300):
            clock[0] += 10.0
            shown.step(ended, lambda under_way=under_way: under_way)
    said = re.findall(r"1/300 (?:\[|after )([\d:]+), about ([\d:]+) left", out.getvalue())
    assert said
    for elapsed, left in said:
        seconds = [
            sum(60**n * int(part) for n, part in enumerate(reversed(text.split(":")))) for text in (elapsed, left)
        ]
        assert sum(seconds) == pytest.approx(2000, abs=10)
    if not terminal:
        assert CONTROL.search(out.getvalue()) is None
        assert re.search(r"\nevaluate +300/300 in 33:20 \(.*\)\n\Z", out.getvalue())
