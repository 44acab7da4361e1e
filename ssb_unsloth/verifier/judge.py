"""Whether two formulas are equal: Math-Verify and SymPy, in a process of their own.

Math-Verify bounds its time by signals, which work in a main thread only and cannot stop a computation inside C
(`9^{9^{9}}`). Here it runs without them in a process of its own, started at the first need, in which the kernel
enforces limits on CPU time and memory. What exceeds them is not equal. The limit counts the worker's CPU time, not the
clock, so verdicts do not depend on how busy the machine is.

    same_formula --_Worker--> supervisor (_serve: imports once) --fork--> child (_answer: compares, may be ended)

A hopeless comparison costs no more than its CPU time, since the next child is a fork away. It is charged to its
question (`Question`), and the formula that was at work when time ran out is not tried again.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import mmap
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError
from .answers import half_unit, read

CPU_SECONDS = 3.0  # for one comparison; nearly all need less than 0.2
QUESTION_SECONDS = 4.0  # that comparisons without an end may cost a question; what is asked after that gets ...
LEAST_SECONDS = 0.3  # ... this much each
MOST_GIVEN_UP = 8  # for one pair of answers (lists of formulas); the rest of its parts are not compared
WALL_SECONDS = 300.0  # by the clock: a process that gets no CPU time at all would be waited for for ever
MEMORY_BYTES = 2 << 30


@dataclass
class Question:
    """What comparisons that were given up have cost a question so far."""

    lost: float = 0.0  # seconds of CPU time

    def seconds(self) -> float:
        """What its next comparison may take."""
        return max(LEAST_SECONDS, min(CPU_SECONDS, QUESTION_SECONDS - self.lost))


@dataclass
class _Asked:
    """The formulas of one pair of answers."""

    question: Question
    given_up: int = 0
    trouble: str | None = None


_ASKED: ContextVar[_Asked] = ContextVar("asked")


@contextlib.contextmanager
def asked(question: Question) -> Iterator[None]:
    """Inside, `same_formula` spends this question's time on one pair of answers."""
    token = _ASKED.set(_Asked(question))
    try:
        yield
    finally:
        _ASKED.reset(token)


def trouble() -> str | None:
    """Why the last of these formulas that was not compared was not; None if all were."""
    return _ASKED.get().trouble


# Math-Verify takes words for products of letters (anagrams would be equal), drops the base of a numeral and the prime
# of a function, adds numbers that stand beside each other, and reads capital letters as small ones.
_NOT_MATHEMATICS = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}|\\[lc]?dots|[\dA-F)]_|\d \d|[:?'\"]|[^\x20-\x7e]")


# ... and takes `2(4)` for a mixed number, which is 6.
_PRODUCT = re.compile(r"(?<=[\d)])(?=\()|(?<=\))(?=\d)")


def same_formula(answer: str, gold: str) -> bool:
    """Whether two formulas are equal; False if that needs more than the limits allow, and then `trouble` says so.

    To be called inside of `asked`.

    Raises:
        UserError: Math-Verify cannot be started, or is given no CPU time.
    """
    if not all(
        formula and _is_balanced(formula) and not _NOT_MATHEMATICS.search(formula) for formula in (answer, gold)
    ):
        return False
    ours, golds = _letters(answer), _letters(gold)
    if any(letter.swapcase() in golds for letter in ours - golds):
        return False
    answer, gold = (formula.replace("e", "e^{1}") if formula == "e" else formula for formula in (answer, gold))
    if re.fullmatch("[A-Za-z]", answer) or re.fullmatch("[A-Za-z]", gold):  # a lone letter it compares as text
        answer, gold = f"({answer})+1", f"({gold})+1"
    return _asked_in_time(*(_PRODUCT.sub(r"\\cdot ", formula) for formula in (answer, gold)))


_HOPELESS: set[str | tuple[str, str]] = set()  # formulas, and pairs of them, that took all of their time once


def _asked_in_time(answer: str, gold: str) -> bool:
    """The worker's verdict, unless it is known to have none; what is given up is charged to the question."""
    now = _ASKED.get()
    if now.given_up >= MOST_GIVEN_UP or _HOPELESS & {answer, gold, (answer, gold), (gold, answer)}:
        now.trouble = now.trouble or "compared before, without an end"
        return False
    seconds = now.question.seconds()
    reply = _WORKER.ask(answer, gold, seconds)
    if reply in ("equal", "different"):
        return reply == "equal"
    kind, _, place = reply.partition(" ")
    if kind == "failed":
        now.trouble = place
        return False
    # Killed at the limit of its time, or dead without a word: by a limit on memory, or from outside
    now.question.lost += seconds
    now.given_up += 1
    now.trouble = f"not compared within {seconds:g} s of CPU time" if kind == "killed" else "the judge died"
    if kind == "killed":
        if len(_HOPELESS) > 1 << 14:
            _HOPELESS.clear()
        _HOPELESS.add({"answer": answer, "gold": gold}.get(place) or (answer, gold))
    return False


def _is_balanced(formula: str) -> bool:
    """Whether brackets close as often as they open: Math-Verify would search long for a meaning of what do not."""
    depth = 0
    for bracket in re.findall(r"[()\[\]{}]", formula):
        depth += 1 if bracket in "([{" else -1
        if depth < 0:
            return False
    return depth == 0


def _letters(formula: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", formula)))


class _Worker:
    """The process in which Math-Verify runs; started when first needed, and again if it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, answer: str, gold: str, seconds: float) -> str:
        """`_serve`'s line on this pair; nothing if the process died."""
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin
            assert process.stdout
            try:
                process.stdin.write(json.dumps([answer, gold, seconds]) + "\n")
                process.stdin.flush()
                if not select.select([process.stdout], [], [], WALL_SECONDS)[0]:
                    raise UserError(
                        f"The judge (Math-Verify) gives no answer within {WALL_SECONDS:g} s, though a comparison may"
                        f" take {CPU_SECONDS:g} s of CPU time: the machine is overloaded or asleep. What was sampled is"
                        " kept; run the same command again."
                    )
                reply = process.stdout.readline()
            except OSError:  # it died
                reply = ""
            except BaseException:  # interrupted: the reply to this question must not answer the next one
                self._stop()
                raise
            if not reply:
                self._stop()
            return reply.strip()

    def _start(self) -> subprocess.Popen[str]:
        # A plain new interpreter: forking is unsafe beside torch's threads, and multiprocessing's other ways run the
        # caller's script again. A session of its own, so that Ctrl-C reaches only the caller.
        process = subprocess.Popen(
            [sys.executable, "-c", "from ssb_unsloth.verifier.judge import _serve; _serve()"],
            cwd=Path(__file__).parents[2],  # where this package is found, also from a checkout
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout
        ready = process.stdout.readline()
        if ready != "ready\n":
            process.kill()
            reason = ready.strip() or "no reason given"
            raise UserError(f"Math-Verify does not start ({reason}). Try: pip install 'math-verify[antlr4_13_2]'")
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the supervisor and its child
            process.communicate()

    def forget(self) -> None:
        """In a forked child: the process belongs to the parent."""
        self._lock, self._process = threading.Lock(), None


def _serve() -> None:
    """The worker: one JSON line in (two formulas, seconds), one line out, by a child that may die of a question.

    Out comes `equal`, `different`, `failed ERROR`, or `killed PLACE`: where its time ran out (`_PLACES`).
    """
    replies, sys.stdout = sys.stdout, sys.stderr
    try:
        place = mmap.mmap(-1, 1)  # shared with the children
        compare = _load(place)
        compare("x+1", "1+x")  # what is loaded at the first need is loaded here
    except Exception as error:
        print(repr(error), file=replies, flush=True)
        return
    with contextlib.suppress(ValueError, OSError):  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print("ready", file=replies, flush=True)
    while child := os.fork():
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == _NO_MORE:
            return
        if os.waitstatus_to_exitcode(status) != _REPLIED:
            print("killed", _PLACES[place[0]], file=replies, flush=True)
    os._exit(_answer(compare, replies))


_NO_MORE, _REPLIED = 0, 3  # exit codes of a child: no more questions, or a fresh child should answer the next


def _answer(compare: Callable[[str, str], bool], replies: TextIO) -> int:
    """Reply to questions until there are no more, or memory ran out. Returns the child's exit code."""
    for line in sys.stdin:
        answer, gold, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # nobody handles the signal, so it ends the process
        failure: Exception | None = None
        equal = False
        try:
            equal = compare(answer, gold)
        except Exception as error:
            failure = error
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply = f"failed {type(failure).__name__}" if failure else "equal" if equal else "different"
        print(reply, file=replies, flush=True)
        if isinstance(failure, MemoryError | RecursionError):
            return _REPLIED
    return _NO_MORE


_PLACES = ("answer", "gold", "both")  # which formula is being read or evaluated


_DECIMAL = re.compile(r"-?\d*\.\d+(?:\\cdot10\^\{-?\d+\})?")


def _load(place: mmap.mmap) -> Callable[[str, str], bool]:
    """What decides in the worker: values, and for formulas with variables that have the same, Math-Verify.

    By itself Math-Verify rounds to 6 decimals or 15 digits: 1/2004! would be 1/2006!, and 125.6637 not 40 pi. It is the
    only judge of what has no value: equations, sets, f(x).
    """
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Expr, Float, I, Rational, simplify

    usual = LatexExtractionConfig(boxed_match_priority=0)
    without_units = replace(usual.normalization_config, units=False)  # or 2+3m would be 5: units are read in `answers`
    config = [replace(usual, normalization_config=without_units)]

    @functools.lru_cache(maxsize=1024)
    def parsed(formula: str) -> list[Any]:
        # parsing_timeout=None switches its signals off
        return parse(rf"\boxed{{{formula}}}", config, fallback_mode="no_fallback", parsing_timeout=None)

    def verified(answer: str, gold: str) -> bool:
        place[0] = 2
        return bool(verify(parsed(gold), parsed(answer), timeout_seconds=None))

    def each(function: Callable[[Any], Any], pair: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(pair):
            place[0] = number
            yield function(item)
        place[0] = 2

    def compare(answer: str, gold: str) -> bool:
        pair: list[Any] = list(each(lambda formula: next(iter(parsed(formula)), None), (answer, gold)))
        if not all(isinstance(expression, Expr) for expression in pair):
            return verified(answer, gold)
        symbols = sorted({symbol for e in pair for symbol in e.free_symbols}, key=str)
        point = {symbol: I if str(symbol) == "i" else Rational(n, 7) for n, symbol in enumerate(symbols, start=9)}
        has_variables = any(value != I for value in point.values())
        try:
            exact = list(each(lambda e: e.doit().subs(point), pair))
            ours, golds = each(lambda e: e.evalf(100), exact)
            difference = abs(ours - golds)
            if not difference.is_finite:
                return verified(answer, gold)
            for decimal, other in ((answer, golds), (gold, ours)):
                if _DECIMAL.fullmatch(decimal) and not has_variables:
                    return bool(abs(Rational(read(decimal).value) - other) <= Rational(half_unit(decimal)))
            rounded = any(e.has(Float) for e in pair)
            is_close = bool(difference <= max(abs(ours), abs(golds)) * Float(10) ** (-5 if rounded else -80))
            if not rounded and all(e.is_Rational for e in exact):
                is_close = exact[0] == exact[1]
        except (AttributeError, TypeError, ValueError):  # without a value, as f(x)
            return verified(answer, gold)
        if is_close and (rounded or has_variables):
            return verified(answer, gold) or simplify((pair[0] - pair[1]).doit()) == 0
        return is_close

    return compare


_WORKER = _Worker()
atexit.register(_WORKER._stop)
os.register_at_fork(after_in_child=lambda: _WORKER.forget())
