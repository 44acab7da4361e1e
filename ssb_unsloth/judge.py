"""Whether two formulas are equal: Math-Verify and SymPy, in a process of their own.

Math-Verify bounds its time by signals, which work in a main thread only and cannot stop a computation inside C
(`9^{9^{9}}`). Here it runs without them in a process of its own, started at the first need, in which the kernel
enforces limits on CPU time and memory. What exceeds them is not equal. The limit counts the worker's CPU time, not the
clock, so verdicts do not depend on how busy the machine is.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .answers import half_unit, read
from .errors import UserError

CPU_SECONDS = 3.0  # for one comparison; nearly all need less than 0.2
WALL_SECONDS = 300.0  # by the clock: a process that gets no CPU time at all would be waited for for ever
MEMORY_BYTES = 2 << 30

# Math-Verify takes words for products of letters (anagrams would be equal), drops the base of a numeral and the prime
# of a function, adds numbers that stand beside each other, and reads capital letters as small ones.
_NOT_MATHEMATICS = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}|[\dA-F)]_|\d \d|[:?'\"]|[^\x20-\x7e]")


# ... and takes `2(4)` for a mixed number, which is 6.
_PRODUCT = re.compile(r"(?<=[\d)])(?=\()|(?<=\))(?=\d)")


def same_formula(answer: str, gold: str) -> bool:
    """Whether two formulas are equal; False if that needs more than the limits allow."""
    if not all(
        formula and _is_balanced(formula) and not _NOT_MATHEMATICS.search(formula) for formula in (answer, gold)
    ):
        return False
    ours, golds = _letters(answer), _letters(gold)
    if any(letter.swapcase() in golds for letter in ours - golds):
        return False
    if re.fullmatch("[A-Za-z]", answer) or re.fullmatch("[A-Za-z]", gold):  # a lone letter it compares as text
        answer, gold = f"({answer})+1", f"({gold})+1"
    return _WORKER.ask(*(_PRODUCT.sub(r"\\cdot ", formula) for formula in (answer, gold)))


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
    """The process in which Math-Verify runs; started when first needed, and again after it was ended by a limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, answer: str, gold: str) -> bool:
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin
            assert process.stdout
            try:
                process.stdin.write(json.dumps([answer, gold]) + "\n")
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
            return reply == "equal\n"

    def _start(self) -> subprocess.Popen[str]:
        # A plain new interpreter: forking is unsafe beside torch's threads, and multiprocessing's other ways run the
        # caller's script again. A session of its own, so that Ctrl-C reaches only the caller.
        process = subprocess.Popen(
            [sys.executable, "-c", f"from ssb_unsloth.judge import _serve; _serve({CPU_SECONDS})"],
            cwd=Path(__file__).parent.parent,
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
            process.kill()
            process.communicate()

    def forget(self) -> None:
        """In a forked child: the process belongs to the parent."""
        self._lock, self._process = threading.Lock(), None


def _serve(cpu_seconds: float) -> None:
    """The worker's main loop: one JSON pair a line in, one word a line out."""
    replies, sys.stdout = sys.stdout, sys.stderr
    try:
        compare = _load()
    except Exception as error:
        print(repr(error), file=replies, flush=True)
        return
    with contextlib.suppress(ValueError, OSError):  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # nobody handles the signal, so it ends the process
        try:
            equal = compare(*json.loads(line))
        except Exception:  # MemoryError and RecursionError are among them
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print("equal" if equal else "different", file=replies, flush=True)


_DECIMAL = re.compile(r"-?\d*\.\d+(?:\\cdot10\^\{-?\d+\})?")


def _load() -> Callable[[str, str], bool]:
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
        return bool(verify(parsed(gold), parsed(answer), timeout_seconds=None))

    def compare(answer: str, gold: str) -> bool:
        pair: list[Any] = [next(iter(parsed(formula)), None) for formula in (answer, gold)]
        if not all(isinstance(expression, Expr) for expression in pair):
            return verified(answer, gold)
        symbols = sorted({symbol for e in pair for symbol in e.free_symbols}, key=str)
        point = {symbol: I if str(symbol) == "i" else Rational(n, 7) for n, symbol in enumerate(symbols, start=9)}
        has_variables = any(value != I for value in point.values())
        try:
            exact = [e.doit().subs(point) for e in pair]
            ours, golds = (e.evalf(100) for e in exact)
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
