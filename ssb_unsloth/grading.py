r"""Is a reply's boxed answer the gold answer? The project's one grader.

    reply --last_boxed--> answer --answers.read--> normal form and structure --_same--> verdict

Three steps decide, the cheapest first. Equal normal forms are equal, and numbers are compared exactly, as fractions.
Structures are compared part by part: tuples in order, sets and lists in any order, intervals with their brackets,
matrices with their shape. Only what is left (surds, polynomials, equations) goes to Math-Verify, as single formulas.

Math-Verify bounds its time by signals, which work in a main thread only and cannot stop a computation inside C
(`9^{9^{9}}`). Here it runs without them in a process of its own, started at the first need, in which the kernel
enforces limits on CPU time and memory. What exceeds them is not equal. The limit counts the worker's CPU time, not the
clock, so verdicts do not depend on how busy the machine is.

Decisions that a reader may look for:
  - `50\%` equals `50` (the question asked for a percentage) and `0.5` (the same number), though these two differ.
  - A unit or currency is ignored where the other side has none; two known units must agree (`5 cm` is not `5 m`, nor
    is it converted). Degrees equal the same angle in radians where that is written with pi.
  - A decimal equals a number that no decimal can write (2/3, pi) if it is that number rounded to 6 or more
    significant digits; otherwise decimals are exact.
  - A comma between digits that are no thousands may stand for the decimal point of the same digits: `1,22` and `1.22`.
  - A numeral with a base, `52_8`, equals only the same digits in the same base: the form was asked for.
  - Words are compared without case, articles and punctuation; variables keep their case.
  - `x = 5` equals `5`, but not `y = 5`. `(1, 2)` equals `1, 2` in this order; `\{1, 2\}` equals `2, 1` but no tuple.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

from .answers import MAX_LENGTH, Answer, read, split
from .errors import UserError

ROUNDED_DIGITS = 6


class Verdict(StrEnum):
    """What became of a reply. Everything but RIGHT counts as incorrect; nothing is ever dropped."""

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # no balanced box with something in it
    TRUNCATED = "truncated"  # cut off at the length limit, whatever it holds


VERDICTS = tuple(verdict.value for verdict in Verdict)


@dataclass(frozen=True)
class Grade:
    """A verdict, and the boxed answer as it was written (None without one)."""

    verdict: Verdict
    answer: str | None


def grade(text: str, gold: str, finish_reason: str = "stop", same: Callable[[str, str], bool] | None = None) -> Grade:
    """The verdict on a reply. `finish_reason` is the sampler's: "length" means that the reply was cut off.

    `same` decides whether answer and gold are equal: `equivalent` if None.
    """
    answer = last_boxed(text)
    if finish_reason == "length":
        return Grade(Verdict.TRUNCATED, answer)
    if answer is None:
        return Grade(Verdict.NO_ANSWER, None)
    return Grade(Verdict.RIGHT if (same or equivalent)(answer, gold) else Verdict.WRONG, answer)


def string_equal(text: str, gold: str) -> bool:
    """The paper's scoring (and its released code's): the boxed text is the gold answer, character for character."""
    answer = last_boxed(text)
    return answer is not None and answer.strip() == gold.strip()


def format_free(text: str, gold: str) -> bool:
    """Equivalence without asking for a box: the last box, else the last formula or number of the reply.

    Where the gold answer is in words, what follows the last "answer is" or "answer:".
    """
    answer = last_boxed(text)
    if answer is None and read(gold).is_words:
        answer = next(iter(re.findall(r"(?i)answer(?:\s+is\b|\s*:)[\s:*]*([^.\n*]{1,80})", text)[::-1]), None)
    answer = answer or last_expression(text)
    return answer is not None and equivalent(answer, gold)


def answer_classes(answers: Sequence[str], same: Callable[[str, str], bool] | None = None) -> list[int]:
    """The class of each answer, numbered by first appearance; answers equal to a class's first member share it.

    `same` decides which are equal: `equivalent` if None.
    """
    first: list[str] = []
    known: dict[str, int] = {}
    for answer in answers:
        if answer not in known:
            equal = (number for number, member in enumerate(first) if (same or equivalent)(answer, member))
            known[answer] = next(equal, len(first))
            if known[answer] == len(first):
                first.append(answer)
    return [known[answer] for answer in answers]


def gold_from(text: str, how: str) -> str:
    r"""The gold answer in a data set's answer column.

    Args:
        how: "####" (what follows the last one, as in GSM8K), "boxed" (the last box, as in MATH) or "plain" (all of it).

    Raises:
        ValueError: nothing is found there, its braces do not close, nothing is left of it without signs and spaces, it
            is longer than any answer that is read (`answers.MAX_LENGTH`), or `how` is none of the three.
    """
    if how == "####":
        gold = text.rpartition("####")[2] if "####" in text else ""
    elif how == "boxed":
        gold = last_boxed(text) or ""
    elif how == "plain":
        gold = text
    else:
        raise ValueError(f'A gold answer is found by "####", "boxed" or "plain", not by {how!r}.')
    if not gold.strip():
        place = {"####": 'after "####"', "boxed": r"in a balanced \boxed{}", "plain": "in the text"}[how]
        raise ValueError(f"No gold answer {place}: {text[-80:]!r}.")
    braces = re.sub(r"\\.|[^{}]", "", gold, flags=re.S)
    while "{}" in braces:
        braces = braces.replace("{}", "")
    if braces or len(gold.strip()) > MAX_LENGTH or not normal_form(gold):
        raise ValueError(f"The gold answer does not parse: {gold.strip()[-80:]!r}.")
    return gold.strip()


# -- Where the answer is ----------------------------------------------------------------------------------------------

_BOX_PARTS = re.compile(
    r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])\s*(?:(\{)|(-?\d[\d.,]*\d|-?\d|[A-Za-z](?![A-Za-z])))?|\\.|[{}]", re.S
)


def last_boxed(text: str) -> str | None:
    r"""The content of the last balanced `\boxed{...}` or `\fbox{...}` that holds anything, or None.

    "Last" is the last to open, so of nested boxes the innermost counts. Escaped braces do not count. A box that is
    never closed is passed over, as is an empty one (replies quote the instruction). `\boxed 42`, without braces, is
    read as it was meant: the number or the single letter that follows.
    """
    found: tuple[int, str] | None = None
    opened: list[tuple[int, bool]] = []  # where each open brace's content begins, and whether the brace is a box's
    for match in _BOX_PARTS.finditer(text):
        token = match[0]
        if token == "{":
            opened.append((match.end(), False))
        elif match[1]:
            opened.append((match.end(), True))
        elif match[2]:
            found = max(found or (0, ""), (match.start(2), match[2]))
        elif token == "}" and opened:
            start, is_box = opened.pop()
            content = text[start : match.start()]
            if is_box and content.strip() and (found is None or start > found[0]):
                found = (start, content)
    return found[1].strip() if found else None


_NUMBER = r"(?<![\w.])-?\s?\\?\$?\d(?:[\d,]*\d)?(?:\.\d+)?(?:/\d+)?(?:\\?%)?"
_EXPRESSION = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$([^$\n]*[^$\n\\])\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]"
    r"|([(\[](?:\s*-?[\d./]+\s*,)+\s*-?[\d./]*\d\s*[)\]])"
    rf"|(-?\\[dt]?frac\{{[^{{}}]*\}}\{{[^{{}}]*\}})|({_NUMBER})",
    re.S,
)


def last_expression(text: str) -> str | None:
    """The last formula between dollar signs or LaTeX brackets, tuple of numbers, bare fraction or number, or None."""
    found: str | None = None
    for match in _EXPRESSION.finditer(text):
        formula = match[match.lastindex or 0]
        if re.search(r"(?<![\\{A-Za-z])[A-Za-z]{3,}", formula):  # prose between two prices, not a formula
            found = next(iter(re.findall(_NUMBER, formula)[::-1]), found)
        else:
            found = formula
    return found.strip() if found else None


# -- Equality ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1 << 16)
def equivalent(answer: str, gold: str) -> bool:
    """Whether two answers are mathematically the same; see the head of this file for what that means.

    Symmetric but for an equation beside a bare value: `a + b = 5` answers `5`, but `5` does not answer `a + b = 5`.
    Never raises because of what the strings hold, and always returns within seconds.

    Raises:
        UserError: Math-Verify is needed and cannot be started, or is given no CPU time.
    """
    if answer.strip() == gold.strip():
        return bool(answer.strip())
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return False
    ours, golds = read(answer), read(gold)
    if _same(ours, golds) or _decimal_comma(answer, gold) or _decimal_comma(gold, answer):
        return True
    # `100,200` was read as a number; beside a list, or a gold tuple, it is two numbers.
    if (ours.kind, golds.kind) in _TWO_READINGS:
        return _same(read(answer, thousands=False), read(gold, thousands=False))
    return False


def _decimal_comma(one: str, other: str) -> bool:
    """`1,22` for `1.22`: the same digits, and what stands before them cannot be read as thousands."""
    digits = re.fullmatch(r"\s*(-?(?:0,\d+|\d{1,3},(?!\d{3}$)\d+|\d{4,},\d+))\s*", one)
    return digits is not None and digits[1].replace(",", ".") == other.strip()


_TWO_READINGS = {("leaf", "list"), ("leaf", "set"), ("leaf", "()"), ("list", "leaf"), ("set", "leaf")}


def normal_form(answer: str) -> str:
    r"""One spelling for answers that differ in writing only: `\$5,600.00` and `5600`, `\dfrac12` and `0.5`.

    Rational numbers become lowest terms. Units, currency, degree and percent signs are gone (`equivalent` still sees
    them), as are LaTeX spacing, sizing and delimiters; words are in lower case.
    """
    return read(answer).form


def _same(answer: Answer, gold: Answer) -> bool:
    if _differ(answer.unit, gold.unit) or _differ(answer.variable, gold.variable):
        return False
    kinds = {answer.kind, gold.kind}
    if kinds == {"leaf"}:
        return _same_leaf(answer, gold)
    if kinds <= {"list", "set"}:
        return _same_set(answer.parts, gold.parts)
    if "union" in kinds:  # `x < 2 or x > 3` is a list of intervals
        if kinds <= {"list", "union"} and _same_set(answer.parts, gold.parts):
            return True
        return _math_verify(answer.source, gold.source)
    if kinds == {"matrix", "()"}:  # a column vector may be written as a tuple
        matrix, entries = (answer, gold) if answer.kind == "matrix" else (gold, answer)
        column = [row.parts[0] for row in matrix.parts if len(row.parts) == 1]
        return len(column) == len(matrix.parts) and _same_sequence(column, entries.parts)
    if len(kinds) == 1 or kinds == {"list", "()"}:
        return _same_sequence(answer.parts, gold.parts)
    return answer.kind == "leaf" and bool(answer.equation) and not gold.equation and _same(_last_side(answer), gold)


def _differ(one: str, other: str) -> bool:
    """Whether both are given and are not the same."""
    return bool(one and other and one != other)


def _same_sequence(answer: Sequence[Answer], gold: Sequence[Answer]) -> bool:
    return len(answer) == len(gold) and all(map(_same, answer, gold))


def _same_set(answer: Sequence[Answer], gold: Sequence[Answer]) -> bool:
    def matched(one: Answer, others: Sequence[Answer]) -> bool:  # equal forms first: they cost nothing
        return any(_same(one, other) for other in sorted(others, key=lambda other: other.form != one.form))

    return all(matched(part, gold) for part in answer) and all(matched(part, answer) for part in gold)


def _same_leaf(answer: Answer, gold: Answer) -> bool:
    if answer.value is not None and gold.value is not None:
        return _same_number(answer, answer.value, gold, gold.value)
    if answer.form == gold.form:
        return bool(answer.form)
    if answer.is_words or gold.is_words:
        return answer.form.casefold().replace(" ", "") == gold.form.casefold().replace(" ", "")
    if answer.equation and gold.equation and not (answer.variable and gold.variable):
        return _math_verify(answer.equation, gold.equation)
    if gold.equation and not gold.variable:
        return False
    if answer.equation and not answer.variable:
        return _same(_last_side(answer), gold)
    return _math_verify(_exact(answer), _exact(gold))


def _same_number(answer: Answer, ours: Fraction, gold: Answer, golds: Fraction) -> bool:
    if answer.is_percent and not gold.is_percent:
        return golds in (ours, ours / 100)
    if gold.is_percent and not answer.is_percent:
        return ours in (golds, golds / 100)
    return ours == golds or _rounded(answer, golds) or _rounded(gold, ours)


def _rounded(decimal: Answer, exact: Fraction) -> bool:
    """Whether the decimal is the rounded value of a fraction that no decimal can write."""
    has_decimal = pow(10, exact.denominator.bit_length(), exact.denominator) == 0
    if decimal.digits < ROUNDED_DIGITS or decimal.value is None or has_decimal:
        return False
    places = len(decimal.source.partition(".")[2])
    return abs(decimal.value - exact) * 2 * 10**places <= 1


def _exact(answer: Answer) -> str:
    """What Math-Verify gets to see: degrees as radians, and short decimals as fractions, as it rounds decimals."""
    if answer.unit == "degree":
        return rf"\frac{{({answer.form})\pi}}{{180}}"
    if answer.value is not None:
        return answer.source if answer.digits >= ROUNDED_DIGITS else answer.form
    return re.sub(r"\d+\.\d{1,5}(?!\d)", lambda decimal: rf"{{{read(decimal[0]).form}}}", answer.form)


def _last_side(equation: Answer) -> Answer:
    return read(split(equation.equation, "=")[-1])


# -- Math-Verify, in a process of its own -----------------------------------------------------------------------------

CPU_SECONDS = 3.0  # for one comparison; nearly all need less than 0.2
WALL_SECONDS = 300.0  # by the clock: a process that gets no CPU time at all would be waited for for ever
MEMORY_BYTES = 2 << 30

# Math-Verify takes words for products of letters (anagrams would be equal), drops the base of a numeral and the prime
# of a function, adds numbers that stand beside each other, and reads capital letters as small ones.
_NOT_MATHEMATICS = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{4,}|[\dA-F)]_|\d \d|[:?'\"]|[^\x20-\x7e]")


# ... and takes `2(4)` for a mixed number, which is 6.
_PRODUCT = re.compile(r"(?<=[\d)])(?=\()|(?<=\))(?=\d)")


def _math_verify(answer: str, gold: str) -> bool:
    """Math-Verify's opinion on two formulas; False if it needs more than the limits allow."""
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
            [sys.executable, "-c", f"from ssb_unsloth.grading import _serve; _serve({CPU_SECONDS})"],
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
        compare = _load_math_verify()
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


def _load_math_verify() -> Callable[[str, str], bool]:
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]

    @functools.lru_cache(maxsize=1024)
    def parsed(formula: str) -> list[object]:
        # parsing_timeout=None switches its signals off
        return parse(rf"\boxed{{{formula}}}", config, fallback_mode="no_fallback", parsing_timeout=None)

    def compare(answer: str, gold: str) -> bool:
        return bool(verify(parsed(gold), parsed(answer), timeout_seconds=None))

    return compare


_WORKER = _Worker()
atexit.register(_WORKER._stop)
os.register_at_fork(after_in_child=lambda: _WORKER.forget())
