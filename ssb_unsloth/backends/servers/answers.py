"""What a vLLM server answers, read: each function raises ValueError where that is not what vLLM says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...io.files import is_finite
from ..sampler import Completion

LARGEST_ID = 2**31 - 1
MOST_NAMES, LONGEST_NAME = 10, 200  # of what is served, in a sentence; characters

Answer = dict[str, Any]


@dataclass(frozen=True)
class Served:
    """A model or an adapter that a server has."""

    name: str  # under which it is asked for
    root: str  # where it was loaded from: a hub id, or a path on the server's machine
    is_adapter: bool
    max_model_len: int | None  # of a model


def models(answer: Answer) -> list[Served]:
    found = _list(answer, "data")
    if not all(isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"] for entry in found):
        raise ValueError("a model without a name")
    return [
        Served(
            entry["id"],
            entry["root"] if isinstance(entry.get("root"), str) else "",
            entry.get("parent") is not None,
            length if type(length := entry.get("max_model_len")) is int else None,
        )
        for entry in found
    ]


def names(served: Sequence[Served]) -> str:
    """For a sentence, which does not grow with what a server says."""
    more = f" and {len(served) - MOST_NAMES:,} more" if len(served) > MOST_NAMES else ""
    return ", ".join(one.name[:LONGEST_NAME] for one in served[:MOST_NAMES]) + more


def tokens(answer: Answer) -> list[int]:
    found = _ids(_list(answer, "tokens"))
    if not found:
        raise ValueError("no token")
    return found


def text(answer: Answer) -> str:
    """Of /detokenize."""
    found = answer.get("prompt")
    if not isinstance(found, str):
        raise ValueError("no prompt")
    return found


def completion(answer: Answer, max_tokens: int) -> Completion:
    choice = _choice(answer)
    said, ids, finish = (choice.get(name) for name in ("text", "token_ids", "finish_reason"))
    if ids is None:
        raise ValueError("no token ids (vLLM returns no token ids before 0.10.2)")
    if not isinstance(said, str):
        raise ValueError("no text")
    if finish not in ("stop", "length"):
        raise ValueError(f"the finish reason {str(finish)[:40]!r}")
    if len(_ids(ids)) > max_tokens or (said and not ids):
        raise ValueError(f"{len(ids):,} token ids for {len(said):,} characters, at most {max_tokens:,} tokens,")
    return Completion(ids, said, finish)


def log_probs(answer: Answer, ids: list[int]) -> list[float]:
    """The log-probability of each of a prompt's ids but the first, nats."""
    rows = _list(_choice(answer), "prompt_logprobs")
    try:
        found = [row[str(number)]["logprob"] for number, row in zip(ids[1:], rows[1:], strict=True)]
    except (TypeError, KeyError, ValueError):
        found = [None]
    if not all(type(one) in (int, float) and is_finite(one) for one in found):
        raise ValueError("no log-probabilities of the prompt")
    return [float(one) for one in found]


def _choice(answer: Answer) -> Answer:
    choices = _list(answer, "choices")
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise ValueError(f"{len(choices)} choices, where one was asked for,")
    return choices[0]


def _list(answer: Answer, field: str) -> list[Any]:
    value = answer.get(field)
    if not isinstance(value, list):
        raise ValueError(f"no {field!r}")
    return value


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(number) is int and 0 <= number <= LARGEST_ID for number in value):
        raise ValueError("something else than token ids")
    return value
