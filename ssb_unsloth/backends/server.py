"""Sampling by a vLLM server: `http://host:8000/v1`, or `http://host:8000/v1#NAME` for one of several models or LoRA
adapters that it serves.

The server renders prompts with its own chat template (`/tokenize`) and completes token ids (`/v1/completions`). Every
sampling field is sent, so nothing comes from the server's own defaults. A key, where the server asks for one, is read
from VLLM_API_KEY.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from ..config import ModelConfig, SamplingConfig
from ..errors import UserError
from ..progress import bar
from ..prompts import Messages
from ..waiting import as_they_come
from . import Adapter, Completion, Keep, Request

CONCURRENCY = 64  # requests under way at a time; the server makes batches of them
ATTEMPTS = 4
SECONDS = 1800.0  # for one reply, waiting in the server's queue included
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # answers that may differ a moment later


class ServerSampler:
    """Samples from a server, many requests at a time; each carries its own seed.

    Raises:
        UserError: there is no such server, or it does not serve the model that was asked for.
    """

    def __init__(self, model: ModelConfig, pause: float = 1.0) -> None:
        address, _, wanted = model.name.partition("#")
        self._root = address.rstrip("/").removesuffix("/v1")
        self._pause = pause  # seconds before the second attempt; twice as long before each further one
        served = [str(entry["id"]) for entry in self._ask("/v1/models", "data")]
        if wanted and wanted not in served:
            raise UserError(f"{address} does not serve {wanted!r}; it serves {', '.join(served)}.")
        if not served:
            raise UserError(f"{address} serves no model.")
        self._model = wanted or served[0]

    def render(self, messages: Messages) -> list[int]:
        body = {"model": self._model, "messages": messages, "add_generation_prompt": True}
        return list(map(int, self._ask("/tokenize", "tokens", body)))

    def sample(
        self,
        requests: Sequence[Request],
        decoding: SamplingConfig,
        adapter: Adapter | None = None,
        title: str = "sample",
        keep: Keep | None = None,
    ) -> list[Completion]:
        if adapter is not None:
            raise UserError(
                f"Adapter {adapter.name!r}: a server's adapters are its own; start it with --lora-modules NAME=PATH and"
                f" evaluate {self._root}/v1#NAME."
            )
        replies: dict[int, Completion] = {}
        with bar(title, "reply", len(requests)) as shown:
            for place, reply in as_they_come(lambda r: self._complete(r, decoding), requests, CONCURRENCY):
                replies[place] = reply
                if keep is not None:
                    keep(place, reply)
                shown.update()
        return [replies[place] for place in range(len(requests))]

    def close(self) -> None:
        """Nothing is held here."""

    def _complete(self, request: Request, decoding: SamplingConfig) -> Completion:
        (choice,) = self._ask(
            "/v1/completions",
            "choices",
            {
                "model": self._model,
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
                "return_token_ids": True,
            },
        )
        if choice.get("token_ids") is None:
            raise UserError(f"{self._root} returns no token ids; vLLM from 0.10.2 does.")
        reason = "length" if choice["finish_reason"] == "length" else "stop"
        return Completion(list(choice["token_ids"]), choice["text"], reason)

    def _ask(self, path: str, field: str, body: dict[str, Any] | None = None) -> list[Any]:
        """That field of the server's JSON answer; what may pass is tried again.

        Raises:
            UserError: no answer, an answer that is not what a vLLM server says, or a refusal, in the server's words.
        """
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                asked = urllib.request.Request(self._root + path, data, headers)
                with urllib.request.urlopen(asked, timeout=SECONDS) as response:
                    return list(json.load(response)[field])
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}: {_words(error)}"
                if error.code not in AGAIN:
                    raise UserError(f"{self._root}{path} refused: {reason}") from None
            except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, TypeError, KeyError):
                raise UserError(f"{self._root}{path}: no {field!r} in the answer; is this a vLLM server?") from None
            if attempt < ATTEMPTS:
                time.sleep(self._pause * 2 ** (attempt - 1))
        raise UserError(f"{self._root}{path} does not answer after {ATTEMPTS} attempts ({reason}). Is the server up?")


def _words(error: urllib.error.HTTPError) -> str:
    """What the server says, on one line."""
    text = error.read(4000).decode(errors="replace")
    try:
        answer = json.loads(text)
        text = answer.get("error", {}).get("message") or answer.get("message") or text
    except (ValueError, AttributeError):
        pass
    return " ".join(str(text).split())[:300]
