"""The verifier of Python programs: the reply's last fenced block has to pass the gold answer, which is unit tests.

The gold answer is Python: `assert` statements (as MBPP's `test_list`, joined by line breaks), functions named
`test...`, or cases of `unittest`. Both run in the sandbox (`sandbox`), apart from each other (`exchange`).
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from .boxed import Boxed, classes, false_if_raised
from .protocol import Grade, Verdict, Verifier
from .replies import behind_thoughts
from .sandbox import Result, Task, run

MOST_CHARACTERS = 1 << 16  # of a program, and of its tests
_KEPT = 1 << 16  # verdicts that are not found again
_FENCE = re.compile(r"(?P<mark>```+|~~~+)[ \t]*(?P<language>[\w+.-]*)[^\n`]*\n")  # also behind "Answer: "
_PYTHON = ("python", "python3", "py", "")
_ENTRY = re.compile(r"[^\W\d]\w*")


@dataclass(eq=False)
class Code(Boxed):
    """Right where the tests pass. A wrong grade has a note where the program was stopped or could not be run."""

    seconds: float = 5.0  # of CPU time for program and tests, each
    memory: int = 512  # MiB of address space for each
    disk: int = 16  # MiB in the program's folder, where it has one
    sandbox: Literal["full", "limits"] = "full"  # limits: no layer but the limits, for a machine that you can lose

    example: ClassVar[str] = "```python\ndef f(x):\n    return x + 1\n```"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (("seconds", 0.1, 600), ("memory", 64, 1 << 20), ("disk", 1, 1 << 16)):
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} is {value}; expected a number from {least:g} to {most:,}.")
        self._known: OrderedDict[tuple[str, str], Result] = OrderedDict()

    # -- The gold answer

    def posed(self, question: str, gold: str, how: str, more: Any = None) -> tuple[str, str]:
        """`more`: the name of the function that a `check(candidate)` of the tests is about, as in HumanEval."""
        if more is not None:
            if not isinstance(more, str) or not _ENTRY.fullmatch(more):
                raise ValueError(f"the entry point is {str(more)[:40]!r}; expected a function's name.")
            gold = f"{gold.rstrip()}\n\ncheck({more})\n"
        return question, self.gold_from(gold, how)

    def gold_from(self, text: str, how: str) -> str:
        if how != "plain":
            raise ValueError(f"Tests are all of their column (gold_format: plain), and are not found by {how!r}.")
        if (wrong := _wrong_tests(text)) is not None:
            raise ValueError(f"The tests {wrong}: {text.strip()[-80:]!r}.")
        return text.strip("\n")

    def is_gold(self, gold: str) -> bool:
        return _wrong_tests(gold) is None

    def shown(self, gold: str) -> str:
        return f"a program that passes these tests:\n{gold}"

    # -- The reply

    def answer_in(self, text: str) -> str | None:
        """The last fenced block of Python, or of no language; one that nothing closes ends with the reply."""
        return _block(text, _PYTHON)

    def grade(self, text: str, gold: str, finish_reason: str = "stop", exact: bool = False) -> Grade:
        """`exact` changes nothing: tests know no equal texts."""
        return super().grade(text, gold, finish_reason)

    def verdict_on(self, text: str, answer: str, gold: str) -> Grade:
        result = self._results([(answer, gold)])[0]
        if result.outcome == "passed":
            return Grade(Verdict.RIGHT, answer)
        return Grade(Verdict.WRONG, answer, result.said if result.outcome == "time" else None)

    def prepare(self, asked: Sequence[tuple[str, str]]) -> None:
        """Run the programs of these replies, several at a time; `grade` then knows what became of them."""
        pairs = [(answer, gold) for text, gold in asked if (answer := self.answer_in(text)) is not None]
        self._results(pairs)

    def _results(self, pairs: Sequence[tuple[str, str]]) -> list[Result]:
        found: dict[tuple[str, str], Result] = {}
        for pair in pairs:
            if max(map(len, pair)) > MOST_CHARACTERS:
                found[pair] = Result("failed", f"longer than {MOST_CHARACTERS:,} characters")
            elif not self.is_gold(pair[1]):
                found[pair] = Result("failed", "there are no tests")
            elif pair in self._known:
                found[pair] = self._known[pair]
        left = list(dict.fromkeys(pair for pair in pairs if pair not in found))
        tasks = [Task(program, tests, self.seconds, self.memory, self.disk) for program, tests in left]
        if tasks:
            found.update(zip(left, run(tasks, self.sandbox == "full"), strict=True))
        for pair in left:
            self._known[pair] = found[pair]
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return [found[pair] for pair in pairs]

    @false_if_raised
    def string_equal(self, text: str, gold: str) -> bool:
        """As `grade`: tests know no equal texts."""
        return self.grade(text, gold).verdict == Verdict.RIGHT

    @false_if_raised
    def format_free(self, text: str, gold: str) -> bool:
        """Also a block of whatever language, or without one the whole reply, if that is Python; cut off or not."""
        text = text[behind_thoughts(text) :]
        program = self.answer_in(text) or _block(text, None) or text
        return _is_python(program) and self._results([(program, gold)])[0].outcome == "passed"

    def answer_classes(self, answers: Sequence[str], exact: bool = False) -> list[int]:
        """Programs are equal that differ in comments, blank lines and the width of white space alone."""
        if exact:
            return classes(answers, str.__eq__)
        forms: dict[tuple[str, ...], int] = {}
        return [forms.setdefault(_tokens(answer), len(forms)) for answer in answers]


def _block(text: str, languages: Sequence[str] | None) -> str | None:
    """The last fenced block in one of these languages, or in any; None without one that holds something."""
    start, found = behind_thoughts(text), None
    while opening := _FENCE.search(text, start):
        closing = re.compile(rf"^[ \t]*{opening['mark']}", re.M).search(text, opening.end())
        end = closing.start() if closing else len(text)
        within = text[opening.end() : end]
        if within.strip() and (languages is None or opening["language"].lower() in languages):
            found = within
        start = closing.end() if closing else len(text)
    return found


def _wrong_tests(tests: str) -> str | None:
    """Why these cannot be tests; None if they can."""
    if len(tests) > MOST_CHARACTERS:
        return f"are longer than {MOST_CHARACTERS:,} characters"
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"are no Python ({type(error).__name__}{line})"
    if not any(isinstance(node, ast.Assert | ast.Raise) or _asserts(node) for node in ast.walk(tree)):
        return "hold no assert"
    defines = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    calls = any(isinstance(node, ast.Name) and node.id == "check" for node in ast.walk(tree))
    if "check" in defines and not calls:
        return "define check(candidate) and call it nowhere; name the function's column as problems.entry_point"
    return None


def _asserts(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("assert")


def _is_python(program: str) -> bool:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _tokens(program: str) -> tuple[str, ...]:
    """The program's words, without comments, and with each level of indentation as one sign."""
    left_out = (tokenize.COMMENT, tokenize.NL)
    signs = {tokenize.INDENT: "\t", tokenize.DEDENT: "\b", tokenize.NEWLINE: "\n"}
    try:
        found = list(tokenize.generate_tokens(io.StringIO(program).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return (program.strip(),)
    return tuple(signs.get(token.type, token.string) for token in found if token.type not in left_out)


VERIFIER: Verifier = Code()
