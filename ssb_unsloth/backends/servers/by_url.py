"""Sampling by one vLLM server whose address is the model: `http://host:8000/v1`, or `http://host:8000/v1#NAME` for one
of several models or LoRA adapters that it serves. Nothing of that model is here, not even its tokenizer.

The server renders prompts with its own chat template (`/tokenize`) and completes token ids (`/v1/completions`). What it
renders is looked at once (`/detokenize`): everything said stands in it, and where a turn ends, replies end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from ...errors import UserError
from ...io.addresses import server_address
from ...prompts import Messages, in_question
from ...recipe.schema import ModelConfig, SamplerConfig, SamplingConfig
from ..chat_template import check_prompt
from ..control_tokens import ControlText, markers
from ..dispatch import Dispatcher
from ..replies import all_of
from ..sampler import Adapter, Completion, Keep, Request
from . import answers
from .endpoint import Endpoint
from .server import CONCURRENCY, Server

REPLIES = ("The answer is 2.", "No")  # stand in turns that are rendered to see how they end

Read = TypeVar("Read")


class ServerSampler:
    """Samples from a server, many requests at a time; each carries its own seed.

    `pause`: seconds before the second attempt, twice as long before each further one. `seconds`: for one reply, and at
    most for any other answer.

    Raises:
        UserError: there is no such server, it says what no vLLM server says, or does not serve the model that was asked
            for.
    """

    def __init__(
        self, model: ModelConfig, pause: float = 1.0, seconds: float = 60 * SamplerConfig.server_timeout
    ) -> None:
        self._server = Server(server_address(model.name, "model.name"), seconds, _named)
        self._root = self._server.root
        self._asked = Dispatcher([self._server], pause, CONCURRENCY)
        self._in_question = model.system == "question"  # auto: it is said what to set, and not guessed of another's
        self._is_control = functools.cache(self._is_one_token)
        self._looked_at: dict[tuple[str, ...], list[int]] = {}  # the roles of a prompt to the token that ends its reply
        self._asked.start()

    def render(self, messages: Messages) -> list[int]:
        """As `Sampler.render`. Raises ControlText where a message holds one of the model's control tokens as text: the
        server would read it as one."""
        for marker in markers(*(message["content"] for message in messages)):
            if self._is_control(marker):
                raise ControlText(f"{marker!r} is a control token of the model, and {self._root} would read it as one")
        if self._in_question:
            messages = in_question(messages)
        ids = self._tokens({"messages": messages, "add_generation_prompt": True})
        roles = tuple(message["role"] for message in messages)
        if roles not in self._looked_at:
            self._check(messages, ids)
            self._looked_at[roles] = self._end_of_turn(messages)
        return ids

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
        quiet: bool = False,
    ) -> list[Completion]:
        if adapter is not None:
            raise UserError(
                f"Adapter {adapter.name!r}: a server's adapters are its own; start it with --lora-modules NAME=PATH and"
                f" evaluate {self._root}/v1#NAME."
            )
        stop = sorted({end for ends in self._looked_at.values() for end in ends})

        def ask(request: Request) -> Completion:
            return self._asked.ask(lambda server: server.complete(request, decoding, stop))

        return all_of(ask, requests, CONCURRENCY, title, keep, quiet)

    def close(self) -> None:
        self._server.close()

    def _check(self, messages: Messages, ids: list[int]) -> None:
        """Each message stands in the prompt, once, as this tokenizer spells it."""
        spelt: Messages = [
            {**message, "content": self._text(self._tokens(_plain(message["content"])))} for message in messages
        ]
        check_prompt(self._text(ids), spelt, f"The chat template of {self._root}")

    def _end_of_turn(self, messages: Messages) -> list[int]:
        """The control token that the template puts behind a reply, whatever the reply; none where it has none."""
        turns = [
            self._tokens(
                {"messages": [*messages, {"role": "assistant", "content": reply}], "add_generation_prompt": False}
            )
            for reply in REPLIES
        ]
        from_the_end = zip(*(reversed(turn) for turn in turns), strict=False)
        behind = [one for one, _ in takewhile(lambda both: both[0] == both[1], from_the_end)]
        return next(([number] for number in reversed(behind) if markers(self._text([number]))), [])

    def _is_one_token(self, marker: str) -> bool:
        return len(self._tokens(_plain(marker))) == 1

    def _tokens(self, body: dict[str, Any]) -> list[int]:
        return self._ask("/tokenize", answers.tokens, body)

    def _text(self, ids: list[int]) -> str:
        return self._ask("/detokenize", answers.text, {"tokens": ids})

    def _ask(self, path: str, read: Callable[[answers.Answer], Read], body: dict[str, Any]) -> Read:
        return self._asked.ask(lambda server: server.ask(path, read, body))


def _named(endpoint: Endpoint, wanted: str, served: Sequence[answers.Served]) -> str:
    """The model or adapter that the address names, or the first."""
    if wanted and wanted not in [one.name for one in served]:
        raise UserError(f"{endpoint.root} does not serve {wanted!r}; it serves {answers.names(served) or 'none'}.")
    if not served:
        raise UserError(f"{endpoint.root} serves no model.")
    return wanted or served[0].name


def _plain(text: str) -> dict[str, Any]:
    return {"prompt": text, "add_special_tokens": False}
