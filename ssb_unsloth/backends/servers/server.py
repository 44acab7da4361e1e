"""A vLLM server as the samplers see it: the name under which it serves the model, and the adapters that are there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ...errors import UserError
from ...io.addresses import Address
from ...recipe.schema import SamplingConfig
from ..dispatch import Refused, Unavailable
from ..sampler import Adapter, Completion, Request
from . import answers, lora
from .endpoint import Endpoint

CONCURRENCY = 64  # requests under way at a server at a time; it makes batches of them

Read = TypeVar("Read")
Check = Callable[[Endpoint, str, Sequence[answers.Served]], str]  # (…, name behind the #, what is served) -> the name


class Server:
    """`check`: whether it is a server for this model; says the name under which it serves it. Else a UserError."""

    def __init__(self, address: Address, seconds: float, check: Check) -> None:
        self.root, self._wanted, self._check = address.root, address.served, check
        self.endpoint = Endpoint(address.root, seconds)
        self._model: answers.Served | None = None
        self._lock = threading.Lock()  # an adapter is loaded once
        self._there: set[str] = set()  # adapters, by the names under which they are served
        self._ours: set[str] = set()  # those of them that were loaded from here

    @property
    def name(self) -> str:
        assert self._model is not None, "asked before it was looked at"
        return self._model.name

    def look(self) -> None:
        """As `dispatch.Site.look`."""
        try:
            served = self._served()
            name = self._check(self.endpoint, self._wanted, served)
        except Refused as error:
            if error.status in (401, 403):
                raise
            why = f"{error.said}; is this a vLLM server, at http://HOST:PORT/v1?"
            raise Refused(error.where, error.status, why) from None
        self._model = next(one for one in served if one.name == name)

    def look_again(self) -> None:
        """Between two waves: whether it is the server that it was. One that was started anew may be another, and has
        the adapters no more.

        Raises:
            Unavailable: it does not answer.
            UserError: it serves another model.
        """
        if self._model not in self._served():
            self.look()

    def ask(self, path: str, read: Callable[[answers.Answer], Read], body: dict[str, object]) -> Read:
        """As `Endpoint.ask`, of the model."""
        return self.endpoint.ask(path, read, {"model": self.name, **body})

    def complete(
        self,
        request: Request,
        decoding: SamplingConfig,
        stop: Sequence[int],
        adapter: tuple[str, Adapter] | None = None,
    ) -> Completion:
        """The reply to one request, as the server gives it; with an adapter (the name it is to be served under, and
        itself), which is loaded where it is not there. Every sampling field is sent, so nothing comes from the server's
        own defaults.

        Raises:
            Unavailable: it does not answer.
            UserError: it refuses, or answers what no vLLM server says.
        """
        body = {
            "model": self.name if adapter is None else self._put_on(*adapter),
            "prompt": request.prompt_ids,
            "seed": request.seed,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": decoding.top_k,
            "repetition_penalty": decoding.repetition_penalty,
            "max_tokens": decoding.max_tokens,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": list(stop),
            "return_token_ids": True,
        }
        try:
            return self.endpoint.ask(
                "/v1/completions", partial(answers.completion, max_tokens=decoding.max_tokens), body
            )
        except Refused as error:
            if adapter is None or error.status != 404:
                raise
            with self._lock:  # whoever had loaded it has taken it off
                self._there.discard(adapter[0])
            raise Unavailable(self.root, error.said) from None

    def close(self) -> None:
        """Take off the adapters that were loaded from here, and let the connections go."""
        for name in sorted(self._ours):
            with contextlib.suppress(Unavailable, UserError):  # it is gone, and they with it
                lora.unload(self.endpoint, name)
        self._ours.clear()
        self.endpoint.close()

    def _served(self) -> list[answers.Served]:
        served = self.endpoint.ask("/v1/models", answers.models)
        with self._lock:
            self._there = {one.name for one in served if one.is_adapter}
        return served

    def _put_on(self, name: str, adapter: Adapter) -> str:
        with self._lock:
            if name not in self._there:
                if lora.load(self.endpoint, self.name, name, adapter):
                    self._ours.add(name)
                self._there.add(name)
        return name
