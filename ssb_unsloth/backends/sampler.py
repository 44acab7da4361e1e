"""What a sampler is: requests, completions, and the protocol that every engine follows.

A sampler takes prompts as token ids and gives completions. Each request has a seed of its own, so what comes out does
not depend on which other requests it is sampled with, or on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..prompts import Messages
from ..recipe.schema import SamplingConfig


@dataclass(frozen=True)
class Request:
    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Completion:
    token_ids: list[int]  # end of turn included where the model ended its turn
    text: str  # without special tokens
    finish_reason: str  # "stop" or "length"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter saved in PEFT's format."""

    name: str
    path: Path


def by_length(requests: Sequence[Request], size: int) -> list[list[int]]:
    """The requests' places, so many at a time; prompts of similar length together, so that little is padding."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
    return [order[start : start + size] for start in range(0, len(order), size)]


Keep = Callable[[int, Completion], None]  # a request's place among all, and what it was answered


class Sampler(Protocol):
    """What every engine offers: all that curation, evaluation, training and chat ask of one."""

    def render(self, messages: Messages) -> list[int]:
        """The prompt's token ids under the model's own chat template, ready for the reply."""
        ...

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
        quiet: bool = False,
    ) -> list[Completion]:
        """One completion a request, in their order. Prompts must leave room for the reply within max_model_len.

        `keep` is called with a request's place and its completion as soon as it is there, in this thread, by an engine
        that has some before it has all. A progress bar named `title` is shown, unless `quiet`.

        Raises:
            UserError: the engine cannot put the adapter on, or gives no answer.
        """
        ...

    def close(self) -> None:
        """Give its memory back, so that another engine can start in this process."""
        ...
