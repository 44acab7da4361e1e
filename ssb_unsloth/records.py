"""What flows from stage to stage: frozen records, one JSON object a line, with ids that do not depend on run or order.

Problem --curate--> Rollout, Refinement --> Pair --teach, train--> (tensors) --evaluate--> Generation
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .errors import UserError
from .io import disk
from .io.files import is_finite, kind_of, parse_json, read_lines

WORKED_EXAMPLES = 6  # pairs that the report follows from the question to what the student now answers
LARGEST = 2**63 - 1  # integer that a tensor or a Parquet file holds
EXAMPLES_BENCHMARK = "pairs.examples"  # where evaluate keeps the replies to them; no recipe's benchmark has a dot


@dataclass(frozen=True)
class Problem:
    """A question with its gold final answer (the paper's (q_i, a_i), Eq. 1)."""

    id: str
    question: str
    gold: str


@dataclass(frozen=True)
class Rollout:
    """One sampled reply and its verdict: an attempt at the bare question, or a refinement under the hinted prompt.

    `token_ids` are the sampler's own, end of turn included where the model ended its turn; they are None for replies
    that were made elsewhere and given as text. `answer` is what the verifier took for it, or None.
    """

    id: str
    problem_id: str
    text: str
    token_ids: list[int] | None
    finish_reason: str  # "stop", or "length": cut off at the limit
    seed: int | None
    verdict: str  # of verifier.protocol.VERDICTS
    answer: str | None
    note: str | None = None  # why the answer could not be compared to the end and counts as wrong


@dataclass(frozen=True)
class Pair:
    """A verified refinement and what its two prompts are made of: all that `teach` and `train` need, and its origin.

    The prompts themselves are made by `prompts` from these fields, so that they exist in one place only; but for
    pairs that were given as finished messages, which have no rollouts (`right`, `wrong`, their ids are empty).
    """

    id: str
    problem_id: str
    question: str
    gold: str
    right: str  # text of the right rollout shown to the teacher
    wrong: str  # text of the wrong rollout shown to the teacher
    reply: str
    reply_ids: list[int]  # the sampler's own ids, end of turn included
    right_id: str  # ids of the rollouts and of the refinement that it came from
    wrong_id: str
    refinement_id: str
    prompt: list[dict[str, str]] | None = None  # student's and teacher's prompt as messages, of a pair given so
    teacher_prompt: list[dict[str, str]] | None = None


@dataclass(frozen=True)
class Generation:
    """One graded reply of one model to one benchmark problem, with all that it was sampled by.

    `sample` is 0-based; greedy decoding (temperature 0) has one. `run_seed` is the recipe's, `seed` the request's own.
    """

    model: str
    run_seed: int
    benchmark: str
    problem_id: str
    sample: int
    prompt: str  # "tutor", or "default": the question alone under the model's chat template
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_tokens: int
    seed: int
    text: str
    n_tokens: int
    finish_reason: str
    verdict: str
    answer: str | None
    gold: str
    note: str | None = None  # as a Rollout's


Record = TypeVar("Record", Problem, Rollout, Pair, Generation)


def stable_id(*parts: str) -> str:
    """Twelve hexadecimal digits that depend on the parts alone: the same question has the same id in every run."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]


def fields_of(record: Any) -> dict[str, Any]:
    """A dataclass's fields by name, as they are: `dataclasses.asdict` copies lists, token by token."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


@contextlib.contextmanager
def writing_jsonl(path: Path) -> Iterator[Callable[[Iterable[Any]], int]]:
    """A function that writes records one a line behind those before them, and returns their count.

    The file is written aside and has its name when the context ends: a reader never sees half of it.
    """
    with disk.writing(path) as file:

        def add(records: Iterable[Any]) -> int:
            count = 0
            for record in records:
                row = record if isinstance(record, dict) else fields_of(record)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
            return count

        yield add


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write a whole file of records, as `writing_jsonl`. Returns the count."""
    with writing_jsonl(path) as add:
        return add(records)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for each line of a JSONL file.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or a line is not a JSON object of valid text; the line is
            named.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); expected one object a line.") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object, found {kind_of(row)}.")
        yield number, row


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """The file's records: `iter_jsonl` at once, for files that are small or needed whole."""
    return list(iter_jsonl(path, kind))


def iter_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """The file's records one at a time, checked against the fields of `kind` and their types; those with a default may
    be missing.

    Raises:
        UserError: as `read_rows`; or a line has other fields or types.
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    optional = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    hints = typing.get_type_hints(kind)
    for number, row in read_rows(path):
        if not fields - optional <= set(row) <= fields:
            wrong = ", ".join(sorted((set(row) ^ fields) - (optional - set(row))))
            raise UserError(f"{path}, line {number}: not a {kind.__name__}; missing or unknown fields: {wrong}.")
        for name, value in row.items():
            if not _fits(value, hints[name]):
                expected = getattr(hints[name], "__name__", str(hints[name])).replace("None", "null")
                raise UserError(f"{path}, line {number}: {name!r} is {json.dumps(value)[:40]}; expected {expected}.")
        yield kind(**row)


@dataclass(frozen=True)
class Stored(Generic[Record]):
    """The records of a file, read anew, and one at a time, by whoever goes through them."""

    path: Path
    kind: type[Record]

    def __iter__(self) -> Iterator[Record]:
        return iter_jsonl(self.path, self.kind)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value that came from JSON is of a field's type."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return isinstance(value, list) and all(_fits(one, item) for one in value)
    if typing.get_origin(kind) is dict:
        _, item = typing.get_args(kind)
        return isinstance(value, dict) and all(_fits(one, item) for one in value.values())
    if kind is float:  # JSON writes 1.0 as it likes; NaN it does not know, but Python reads it
        return type(value) in (int, float) and is_finite(value)
    return type(value) is kind and (kind is not int or abs(value) <= LARGEST)


def generations_file(model: str, run_seed: int, benchmark: str, temperature: float) -> str:
    """Name of the file that holds a model's generations on a benchmark under one decoding."""
    return f"{model}-{run_seed}-{benchmark}-{temperature:g}.jsonl"
