"""What a verifier is to everybody who asks one: the type, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class Verdict(StrEnum):
    """What became of a reply. Everything but RIGHT counts as incorrect; nothing is ever dropped."""

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # nothing in it is an answer, as without a balanced box with something in it
    TRUNCATED = "truncated"  # cut off at the length limit, whatever it holds


VERDICTS = tuple(verdict.value for verdict in Verdict)


@dataclass(frozen=True)
class Grade:
    """A verdict, and the answer as it was written (None without one)."""

    verdict: Verdict
    answer: str | None
    note: str | None = None  # why the answer was not compared with the gold answer to the end, and counts as wrong


class Verifier(Protocol):
    """Decides whether a reply answers its question rightly, from the reply's text and the gold answer alone.

    Curation, evaluation, GRPO's reward, `ssb grade` and the readers of problems and pairs know answers by this alone.
    The same arguments always give the same result. Nothing that a text holds makes a method raise: what cannot be
    compared, memory and recursion that ran out included, is not right, since one reply must never cost the others.

    A verifier may also have `prepare(asked)`, which is told the (text, gold) of replies that are to be graded next: one
    that runs programs does so for several at a time. It changes no verdict.

    Raises (every method):
        UserError: the verifier cannot work at all here, as where a library that it needs is missing.
    """

    @property
    def example(self) -> str:
        """An answer that it can read, as it stands in a reply in the place of the answer form's dots."""
        ...

    def grade(self, text: str, gold: str, finish_reason: str = "stop", exact: bool = False) -> Grade:
        """The verdict on a reply.

        Args:
            text: The reply, whole, thoughts included.
            gold: The gold answer, as `gold_from` returned it.
            finish_reason: The sampler's. "length": the reply was cut off, and is TRUNCATED whatever it holds.
            exact: Answer and gold are equal where they are the same characters (`curate.equality: string`), and not
                where they mean the same.
        """
        ...

    def answer_in(self, text: str) -> str | None:
        """The reply's final answer as it was written, or None."""
        ...

    def answer_classes(self, answers: Sequence[str], exact: bool = False) -> list[int]:
        """The class of each answer to one question: equal answers count together.

        For the most common wrong answer, which the teacher is shown, and for the vote among samples.

        Args:
            answers: What `grade` found in replies to the same question, right and wrong.
            exact: As in `grade`.

        Returns:
            One number an answer, numbered by first appearance; answers equal to a class's first member share it.
        """
        ...

    def string_equal(self, text: str, gold: str) -> bool:
        """The strictest scoring (the paper's): the answer is the gold answer, character for character."""
        ...

    def format_free(self, text: str, gold: str) -> bool:
        """The loosest scoring: the answer is right wherever and however the reply gives it, cut off or not."""
        ...

    def posed(self, question: str, gold: str, how: str, more: Any = None) -> tuple[str, str]:
        """The question as it is asked and its gold answer, from a row of a data set.

        Args:
            gold: The gold answer's column as text.
            how: As in `gold_from`, and for multiple choice "letter", "text", "index" (from 0) or "index1".
            more: What else the recipe names: the options of a multiple choice (`problems.choices`), the name of the
                function that the tests of a program are about (`problems.entry_point`).

        Raises:
            ValueError: as `gold_from`.
        """
        ...

    def shown(self, gold: str) -> str:
        """The gold answer as a reply would give it, for hints and reports."""
        ...

    def gold_from(self, text: str, how: str) -> str:
        r"""The gold answer in a data set's answer column.

        Args:
            how: "####" (what follows the last one, as in GSM8K), "boxed" (the last box, as in MATH) or "plain" (all of
                it).

        Raises:
            ValueError: nothing is found there, or it is none that a reply could ever be compared with. The message is
                a sentence that quotes it.
        """
        ...


def note_on(error: Exception) -> str:
    """The note of a grade where comparing raised."""
    return f"{type(error).__name__}: {error}".strip(": ")[:200]
