"""Sampling by a vLLM server: `http://host:8000/v1`, or `http://host:8000/v1#NAME` for one of several models or LoRA
adapters that it serves.

The server renders prompts with its own chat template (`/tokenize`) and completes token ids (`/v1/completions`). What it
renders is looked at once (`/detokenize`): everything said stands in it, and where a turn ends, replies end. Every
sampling field is sent, so nothing comes from the server's own defaults. A key, where the server asks for one, is read
from VLLM_API_KEY, and goes to the address that was named and to no other: redirects are not followed.

Nothing that a server says is believed unseen: an answer is kept when it has the form that vLLM's has, and is a sentence
otherwise, however it is malformed, cut off, endless or late.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NoReturn, TypeVar

from ..errors import UserError
from ..io.credentials import refuse_credentials
from ..io.files import parse_json
from ..io.progress import bar
from ..io.waiting import as_they_come
from ..prompts import Messages, in_question
from ..recipe.schema import ModelConfig, SamplingConfig
from .chat_template import check_prompt
from .control_tokens import ControlText, markers
from .sampler import Adapter, Completion, Keep, Request

CONCURRENCY = 64  # requests under way at a time; the server makes batches of them
ATTEMPTS = 4
SECONDS = 1800.0  # for one reply, waiting in the server's queue included
SECONDS_BRIEF = 120.0  # for all that needs no model
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # answers that may differ a moment later
MOST_BYTES = 1 << 26  # of an answer
MOST_WORDS = 4000  # bytes of a refusal
LARGEST_ID = 2**31 - 1
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

    def __init__(self, model: ModelConfig, pause: float = 1.0, seconds: float = SECONDS) -> None:
        address, _, wanted = model.name.partition("#")
        check_address(address)
        self._root = address.rstrip("/").removesuffix("/v1")
        self._pause, self._seconds = pause, seconds
        self._headers = {"Content-Type": "application/json", **_authorization()}
        served = self._ask("/v1/models", _model_names)
        if wanted and wanted not in served:
            raise UserError(f"{address} does not serve {wanted!r}; it serves {', '.join(served)}.")
        if not served:
            raise UserError(f"{address} serves no model.")
        self._model = wanted or served[0]
        self._in_question = model.system == "question"  # auto: it is said what to set, and not guessed of another's
        self._is_control = functools.cache(self._is_one_token)
        self._looked_at: dict[tuple[str, ...], list[int]] = {}  # the roles of a prompt to the token that ends its reply

    def render(self, messages: Messages) -> list[int]:
        """As `Sampler.render`. Raises ControlText where a message holds one of the model's control tokens as text: the
        server would read it as one."""
        for marker in markers(*(message["content"] for message in messages)):
            if self._is_control(marker):
                raise ControlText(f"{marker!r} is a control token of the model, and {self._root} would read it as one")
        if self._in_question:
            messages = in_question(messages)
        ids = self._ask("/tokenize", _tokens, {"messages": messages, "add_generation_prompt": True})
        roles = tuple(message["role"] for message in messages)
        if roles not in self._looked_at:
            self._check(messages, ids)
            self._looked_at[roles] = self._end_of_turn(messages)
        return ids

    def _check(self, messages: Messages, ids: list[int]) -> None:
        """Each message stands in the prompt, once, as this tokenizer spells it."""
        spelt: Messages = [
            {**message, "content": self._text(self._ask("/tokenize", _tokens, _plain(message["content"])))}
            for message in messages
        ]
        check_prompt(self._text(ids), spelt, f"The chat template of {self._root}")

    def _end_of_turn(self, messages: Messages) -> list[int]:
        """The control token that the template puts behind a reply, whatever the reply; none where it has none."""
        turns = [
            self._ask(
                "/tokenize",
                _tokens,
                {"messages": [*messages, {"role": "assistant", "content": reply}], "add_generation_prompt": False},
            )
            for reply in REPLIES
        ]
        from_the_end = zip(*(reversed(turn) for turn in turns), strict=False)
        behind = [one for one, _ in takewhile(lambda both: both[0] == both[1], from_the_end)]
        return next(([number] for number in reversed(behind) if markers(self._text([number]))), [])

    def _text(self, ids: list[int]) -> str:
        return self._ask("/detokenize", _prompt, {"tokens": ids})

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
        replies: dict[int, Completion] = {}
        with bar(title, "reply", len(requests), disable=quiet) as shown:
            for place, reply in as_they_come(lambda r: self._complete(r, decoding), requests, CONCURRENCY):
                replies[place] = reply
                if keep is not None:
                    keep(place, reply)
                shown.update()
        return [replies[place] for place in range(len(requests))]

    def close(self) -> None:
        """Nothing is held here."""

    def _complete(self, request: Request, decoding: SamplingConfig) -> Completion:
        body = {
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
            "stop_token_ids": sorted({end for ends in self._looked_at.values() for end in ends}),
            "return_token_ids": True,
        }
        return self._ask("/v1/completions", lambda answer: _completion(answer, decoding.max_tokens), body)

    def _is_one_token(self, marker: str) -> bool:
        return len(self._ask("/tokenize", _tokens, _plain(marker))) == 1

    def _ask(self, path: str, read: Callable[[dict[str, Any]], Read], body: dict[str, Any] | None = None) -> Read:
        """What `read` finds in the server's JSON answer; what may pass is tried again.

        Raises:
            UserError: no answer, an answer that is not what a vLLM server says, or a refusal, in the server's words.
        """
        data = None if body is None else json.dumps({"model": self._model, **body}).encode()
        seconds = self._seconds if path == "/v1/completions" else min(self._seconds, SECONDS_BRIEF)
        where = self._root + path
        for attempt in range(1, ATTEMPTS + 1):
            try:
                status, reason, content = _in_time(lambda: _exchange(where, data, self._headers), seconds)
            except TimeoutError:
                raise UserError(f"{where} does not answer within {seconds:g} s. Is the server up?") from None
            except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
                reason = _one_line(str(getattr(error, "reason", error))) or type(error).__name__
            except ValueError as error:  # an answer larger than any; an address that cannot be asked
                raise UserError(f"{where}: {error}.") from None
            else:
                if status == 200:
                    return _read(content, read, where)
                reason = _one_line(f"{status} {reason}")
                if 300 <= status < 400:
                    raise UserError(f"{where} answers {reason}: it redirects; name the address that it leads to.")
                reason += f": {_words(content)}"
                if status not in AGAIN:
                    raise UserError(f"{where} refused: {reason}")
            if attempt < ATTEMPTS:
                time.sleep(self._pause * 2 ** (attempt - 1))
        raise UserError(f"{where} does not answer after {ATTEMPTS} attempts ({reason}). Is the server up?")


def _in_time(exchange: Callable[[], Read], seconds: float) -> Read:
    """The exchange in a thread that is left behind when its time is over.

    A server that sends a byte now and then keeps every time-out of its connection from running down.

    Raises:
        TimeoutError: its time is over.
    """
    done: queue.SimpleQueue[Callable[[], Read]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer = exchange()
            done.put(lambda: answer)
        except BaseException as error:
            done.put(functools.partial(_raise, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    return result()


def _raise(error: BaseException) -> NoReturn:
    raise error


def check_address(address: str) -> None:
    """Raises UserError where this is no http(s)://HOST[:PORT][/PATH], or holds a password or a key."""
    refuse_credentials(address, "model.name")
    try:
        parts = urllib.parse.urlsplit(address)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        right = right and not parts.query and address.isascii() and not set(address) & set(" \t\r\n\\")
    except ValueError:  # a port that is no number, brackets that do not close
        right = False
    if not right:
        raise UserError(f"model.name: {address!r} is no server's address; expected http://HOST:PORT/v1[#NAME].")


def _authorization() -> dict[str, str]:
    key = os.environ.get("VLLM_API_KEY", "").strip()
    if not key.isascii() or any(not " " < sign < "\x7f" for sign in key):
        raise UserError("VLLM_API_KEY holds a character that no key has: a blank, a line's end, or none of ASCII.")
    return {"Authorization": f"Bearer {key}"} if key else {}


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the key in the headers would go along."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _exchange(url: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, str, bytes]:
    """Status, reason and body of one answer; of a refusal the first bytes.

    Raises:
        OSError, HTTPException: there is no whole answer.
        ValueError: an address that cannot be asked, or an answer above MOST_BYTES.
    """
    opener = urllib.request.build_opener(_Stay)
    try:
        with opener.open(urllib.request.Request(url, data, headers), timeout=SECONDS) as response:
            return response.status, str(response.reason), _body(response)
    except urllib.error.HTTPError as error:
        try:
            said = error.read(MOST_WORDS)
        except (OSError, http.client.HTTPException, ValueError):
            said = b""
        return error.code, str(error.reason), said


def _body(response: http.client.HTTPResponse) -> bytes:
    content = bytearray()
    while piece := response.read1(1 << 16):
        content += piece
        if len(content) > MOST_BYTES:
            raise ValueError(f"an answer of more than {MOST_BYTES:,} bytes")
    if response.length:  # bytes that were announced and did not come
        raise http.client.IncompleteRead(bytes(content[:100]), response.length)
    return bytes(content)


def _read(content: bytes, read: Callable[[dict[str, Any]], Read], where: str) -> Read:
    try:
        answer = parse_json(content.decode("utf-8"))
    except ValueError as error:  # not UTF-8 among them
        answer = str(error)[:200]
    try:
        return read(answer if isinstance(answer, dict) else {})
    except ValueError as error:
        why = f" ({answer})" if isinstance(answer, str) else ""
        raise UserError(f"{where}: {error} in the answer; is this a vLLM server?{why}") from None


def _list(answer: dict[str, Any], field: str) -> list[Any]:
    value = answer.get(field)
    if not isinstance(value, list):
        raise ValueError(f"no {field!r}")
    return value


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(number) is int and 0 <= number <= LARGEST_ID for number in value):
        raise ValueError("something else than token ids")
    return value


def _model_names(answer: dict[str, Any]) -> list[str]:
    names = [entry.get("id") if isinstance(entry, dict) else None for entry in _list(answer, "data")]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("a model without a name")
    return [str(name) for name in names]


def _tokens(answer: dict[str, Any]) -> list[int]:
    ids = _ids(_list(answer, "tokens"))
    if not ids:
        raise ValueError("no token")
    return ids


def _plain(text: str) -> dict[str, Any]:
    return {"prompt": text, "add_special_tokens": False}


def _prompt(answer: dict[str, Any]) -> str:
    text = answer.get("prompt")
    if not isinstance(text, str):
        raise ValueError("no prompt")
    return text


def _completion(answer: dict[str, Any], max_tokens: int) -> Completion:
    choices = _list(answer, "choices")
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise ValueError(f"{len(choices)} choices, where one was asked for,")
    text, ids, finish = (choices[0].get(name) for name in ("text", "token_ids", "finish_reason"))
    if ids is None:
        raise ValueError("no token ids (vLLM returns no token ids before 0.10.2)")
    if not isinstance(text, str):
        raise ValueError("no text")
    if finish not in ("stop", "length"):
        raise ValueError(f"the finish reason {str(finish)[:40]!r}")
    if len(_ids(ids)) > max_tokens or (text and not ids):
        raise ValueError(f"{len(ids):,} token ids for {len(text):,} characters, at most {max_tokens:,} tokens,")
    return Completion(ids, text, finish)


def _words(content: bytes) -> str:
    """What the server says, on one line."""
    text = content.decode(errors="replace")
    try:
        answer = parse_json(text)
        inner = answer.get("error") or answer
        text = (inner if isinstance(inner, str) else inner.get("message")) or text
    except (ValueError, AttributeError):
        pass
    key = os.environ.get("VLLM_API_KEY", "").strip()
    return _one_line(str(text).replace(key, "***") if key else str(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
