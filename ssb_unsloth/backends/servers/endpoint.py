"""One vLLM server's HTTP: a question, and what it answers to it.

A key, where the server asks for one, is read from VLLM_API_KEY, and goes to the address that was named and to no other:
redirects are not followed. Connections are kept and used again.

Nothing that a server says is believed unseen: an answer is kept when it has the form that vLLM's has, and is a sentence
otherwise, however it is malformed, cut off, endless or late.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import ssl
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ...errors import UserError
from ...io.files import parse_json
from ..dispatch import Refused, Unavailable

if TYPE_CHECKING:
    import httpx

    from .answers import Answer

CONNECT = 30.0  # seconds, for a connection
BRIEF = 120.0  # seconds, for all that needs no model
LEFT = 10.0  # seconds after which a question that nobody waits for any more is given up
IDLE = 3.0  # seconds after which a connection is not used again: vLLM closes it after five
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # answers that may differ a moment later
MOST_BYTES = 1 << 26  # of an answer
MOST_WORDS = 4000  # bytes of a refusal

Read = TypeVar("Read")


class Endpoint:
    """`root`: the server's address, without /v1. `seconds`: for one reply, waiting in the server's queue included, and
    at most for any other answer."""

    def __init__(self, root: str, seconds: float) -> None:
        self.root, self._seconds = root, seconds
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **_authorization()}
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()

    def ask(
        self,
        path: str,
        read: Callable[[Answer], Read],
        body: dict[str, Any] | None = None,
        again: Collection[int] = AGAIN,
    ) -> Read:
        """What `read` finds in the server's JSON answer to one question. `again`: statuses that are no last word.

        Raises:
            Unavailable: no answer, or one that may differ a moment later.
            Refused: a refusal, in the server's words.
            UserError: an answer that is not what a vLLM server says.
        """
        return self._read(self._answer(path, body, again), read, self.root + path)

    def tell(self, path: str, body: dict[str, Any], again: Collection[int] = AGAIN) -> None:
        """The same, where the answer is no more than that it was done."""
        self._answer(path, body, again)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _answer(self, path: str, body: dict[str, Any] | None, again: Collection[int]) -> bytes:
        import httpx

        data = None if body is None else json.dumps(body).encode()
        seconds = self._seconds if path == "/v1/completions" else min(self._seconds, BRIEF)
        where = self.root + path
        try:
            status, reason, content = in_time(lambda: self._exchange(where, data), seconds)
        except TimeoutError:
            raise Unavailable(where, f"does not answer within {seconds:g} s", late=True) from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise Unavailable(where, one_line(str(error)) or type(error).__name__) from None
        except (httpx.InvalidURL, ValueError) as error:  # an address that cannot be asked; an answer larger than any
            raise UserError(f"{where}: {error}.") from None
        if status == 200:
            return content
        said = one_line(f"{status} {reason}")
        if 300 <= status < 400:
            raise UserError(f"{where} answers {said}: it redirects; name the address that it leads to.")
        said += f": {_words(content)}"
        if status in (401, 403):
            said += " (a server's key is read from VLLM_API_KEY)"
        if status in again:
            raise Unavailable(where, said)
        raise Refused(where, status, said)

    def _exchange(self, url: str, data: bytes | None) -> tuple[int, str, bytes]:
        """Status, reason and body of one answer; of a refusal the first bytes.

        Raises:
            HTTPError, OSError: there is no whole answer.
            ValueError, InvalidURL: an answer above MOST_BYTES; an address that cannot be asked.
        """
        import httpx

        method, content = ("GET" if data is None else "POST"), bytearray()
        with self._connections().stream(method, url, content=data, headers=self._headers) as response:
            right = response.status_code == 200
            try:
                for piece in response.iter_raw(1 << 16):
                    content += piece
                    if not right and len(content) > MOST_WORDS:
                        break
                    if len(content) > MOST_BYTES:
                        raise ValueError(f"an answer of more than {MOST_BYTES:,} bytes")
            except httpx.HTTPError:
                if right:
                    raise
        return response.status_code, response.reason_phrase, bytes(content if right else content[:MOST_WORDS])

    def _connections(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    follow_redirects=False,  # the key in the headers would go along
                    timeout=httpx.Timeout(self._seconds + LEFT, connect=min(CONNECT, self._seconds), pool=None),
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE),
                    verify=ssl.create_default_context(),  # the machine's own authorities, a company's among them
                )
            return self._client

    @staticmethod
    def _read(content: bytes, read: Callable[[Answer], Read], where: str) -> Read:
        try:
            answer = parse_json(content.decode("utf-8"))
        except ValueError as error:  # not UTF-8 among them
            answer = str(error)[:200]
        try:
            return read(answer if isinstance(answer, dict) else {})
        except ValueError as error:
            why = f" ({answer})" if isinstance(answer, str) else ""
            raise UserError(f"{where}: {error} in the answer; is this a vLLM server?{why}") from None


def in_time(exchange: Callable[[], Read], seconds: float) -> Read:
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


def _authorization() -> dict[str, str]:
    key = os.environ.get("VLLM_API_KEY", "").strip()
    if not key.isascii() or any(not " " < sign < "\x7f" for sign in key):
        raise UserError("VLLM_API_KEY holds a character that no key has: a blank, a line's end, or none of ASCII.")
    return {"Authorization": f"Bearer {key}"} if key else {}


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
    return one_line(str(text).replace(key, "***") if key else str(text))


def one_line(text: str) -> str:
    return " ".join(text.split())[:300]
