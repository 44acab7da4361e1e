"""Values between the tests and the program that they test, which run in two processes.

What crosses is data: numbers, texts and the standard containers are copied. Everything else (functions, classes, their
instances, iterators) stays where it is and goes as a number, for which the other side has a `Proxy`. So the tests
compare their own values with copies: no `__eq__`, no patched builtin and no stack frame of the program can reach them.
A proxy is equal to a proxy that its own side finds equal, and to no data.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import json
import os
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

MOST_BYTES = 16 << 20  # of one message
DEEPEST = 150


class Gone(BaseException):
    """The other side has ended, or speaks nonsense."""


class RemoteError(Exception):
    """An exception of the other side that is none of Python's own."""


def _plain_bytes(value: Any) -> str:
    return bytes(value).hex()


_CODED: list[tuple[str, type, Callable[[Any], Any], Callable[[Any], Any]]] = [
    ("bytes", bytes, _plain_bytes, bytes.fromhex),
    ("bytearray", bytearray, _plain_bytes, bytearray.fromhex),
    ("complex", complex, lambda v: [v.real.hex(), v.imag.hex()], lambda p: complex(*map(float.fromhex, p))),
    ("range", range, lambda v: [str(v.start), str(v.stop), str(v.step)], lambda p: range(*map(int, p))),
    ("fraction", Fraction, lambda v: [str(v.numerator), str(v.denominator)], lambda p: Fraction(int(p[0]), int(p[1]))),
    ("decimal", Decimal, str, Decimal),
    ("datetime", datetime.datetime, lambda v: v.isoformat(), datetime.datetime.fromisoformat),
    ("date", datetime.date, lambda v: v.isoformat(), datetime.date.fromisoformat),
    ("time", datetime.time, lambda v: v.isoformat(), datetime.time.fromisoformat),
    (
        "timedelta",
        datetime.timedelta,
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda p: datetime.timedelta(p[0], p[1], p[2]),
    ),
]
_SEQUENCES: dict[str, tuple[type, Callable[[list[Any]], Any]]] = {
    "list": (list, list),
    "tuple": (tuple, tuple),
    "set": (set, set),
    "frozenset": (frozenset, frozenset),
    "deque": (collections.deque, collections.deque),
}
_DECODED = {name: back for name, _, _, back in _CODED}
_MUTABLE = (list, dict, set, bytearray, collections.deque)
OPERATIONS: dict[str, Callable[..., Any]] = {
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "float": float,
    "int": int,
    "hash": hash,
    "abs": abs,
    "neg": lambda one: -one,
    "getitem": lambda one, key: one[key],
    "setitem": lambda one, key, value: one.__setitem__(key, value),
    "delitem": lambda one, key: one.__delitem__(key),
    "eq": lambda one, other: bool(one == other),
    "lt": lambda one, other: bool(one < other),
    "le": lambda one, other: bool(one <= other),
    "gt": lambda one, other: bool(one > other),
    "ge": lambda one, other: bool(one >= other),
    "add": lambda one, other: one + other,
    "sub": lambda one, other: one - other,
    "mul": lambda one, other: one * other,
    "truediv": lambda one, other: one / other,
    "isinstance": lambda one, other: isinstance(other, one),
    "getattr": lambda one, name: getattr(one, str(name)),
    "setattr": lambda one, name, value: setattr(one, str(name), value),
    "enter": lambda one: one.__enter__(),
    "exit": lambda one: one.__exit__(None, None, None),
    "call": lambda one, *args, **kwargs: one(*args, **kwargs),
}


# What the program may do with a value of the tests. Attributes lead from any function to the tests themselves, so it
# sees those of instances of the tests' own classes alone, and none that begins with an underscore.
_LENT = frozenset(
    {"call", "iter", "next", "len", "bool", "str", "repr", "hash", "eq", "lt", "le", "gt", "ge", "getitem"}
)
TESTS = "tests"  # the name of the module that the tests run as


class Endpoint:
    """One side. `known`: the program's own names, for its side; None on the side of the tests, which lend little."""

    def __init__(self, read: int, write: int, known: dict[str, Any] | None = None) -> None:
        self._read, self._write, self._known = read, write, known
        self._objects: list[Any] = []
        self._places: dict[int, int] = {}
        self.gone = False

    # -- What is asked and answered

    def ask(self, kind: str, *parts: Any) -> Any:
        """Have the other side do something, and meanwhile do what it asks for."""
        self._send([kind, *parts])
        while True:
            message = self._receive()
            if message[0] in ("ok", "raised"):
                return self._result(message)
            self._serve(message)

    def serve(self) -> None:
        """Do what the other side asks for, until it ends."""
        try:
            while True:
                self._serve(self._receive())
        except Gone:
            return

    def load(self, run: Callable[[], None]) -> None:
        """On the program's side: run it, and say that it ran, or what it raised."""
        try:
            run()
            self._send(["ok", None])
        except Gone:
            return
        except BaseException as error:
            self._send(["raised", type(error).__name__, _said(error)])

    def loaded(self) -> None:
        """On the tests' side: wait until the program ran. Raises what it raised."""
        self._result(self._receive())

    def named(self, name: str) -> Any:
        return self._decoded(self.ask("name", name))

    def operate(self, name: str, target: int, *args: Any, **kwargs: Any) -> Any:
        sent = [self._encoded(arg) for arg in args]
        words = {key: self._encoded(value) for key, value in kwargs.items()}
        value, changed = self.ask("do", name, target, sent, words)
        for place, after in changed:
            if type(place) is int and 0 <= place < len(args):
                _become(args[place], self._decoded(after))
        return self._decoded(value)

    def _result(self, message: list[Any]) -> Any:
        if message[0] == "ok":
            return message[1]
        kind, said = str(message[1]), str(message[2])[:500]
        known = getattr(builtins, kind, None)
        if isinstance(known, type) and issubclass(known, Exception):
            try:
                raised = known(said)
            except TypeError:  # one that takes more, as UnicodeDecodeError
                raised = RemoteError(f"{kind}: {said}")
            raise raised
        raise RemoteError(f"{kind}: {said}")

    def _serve(self, message: list[Any]) -> None:
        try:
            answer = ["ok", self._answer(message)]
        except Gone:
            raise
        except BaseException as error:
            answer = ["raised", type(error).__name__, _said(error)]
        try:
            self._send(answer)
        except (ValueError, RecursionError) as error:
            self._send(["raised", "ValueError", _said(error)])

    def _answer(self, message: list[Any]) -> Any:
        if message[0] == "name" and self._known is not None:
            return self._encoded(self._known[str(message[1])])
        _, name, target, sent, words = message
        if self._known is None and not self._lends(name, self._objects[target], sent):
            raise PermissionError(f"{name} of a value of the tests")
        args = [self._decoded(arg) for arg in sent]
        kwargs = {str(key): self._decoded(value) for key, value in words.items()}
        value = OPERATIONS[name](self._objects[target], *args, **kwargs)
        changed = [
            [place, after]
            for place, arg in enumerate(args)
            if isinstance(arg, _MUTABLE) and (after := self._encoded(arg)) != sent[place]
        ]
        return [self._encoded(value), changed]

    def _lends(self, name: str, value: Any, sent: list[Any]) -> bool:
        if name in ("getattr", "setattr"):
            public = bool(sent) and isinstance(sent[0], str) and not sent[0].startswith("_")
            return public and type(value).__module__ == TESTS
        return name in _LENT

    # -- Values

    def _encoded(self, value: Any, depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise ValueError("a value of too many levels")
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return str.__add__(value, "")
        if isinstance(value, int):
            return {"int": format(int.__add__(value, 0), "x")}
        if isinstance(value, float):
            return {"float": float.hex(float.__add__(value, 0.0))}
        if isinstance(value, dict):
            pairs = [[self._encoded(k, depth + 1), self._encoded(v, depth + 1)] for k, v in dict.items(value)]
            return {"dict": pairs}
        for name, (kind, _) in _SEQUENCES.items():
            if isinstance(value, kind):
                return {name: [self._encoded(item, depth + 1) for item in kind.__iter__(value)]}  # type: ignore[attr-defined]
        for name, kind, code, _ in _CODED:
            if isinstance(value, kind):
                return {name: code(value)}
        if type(value) is Proxy and value._ssb_endpoint is self:
            return {"yours": value._ssb_place}
        place = self._places.get(id(value))
        if place is None:
            place = self._places[id(value)] = len(self._objects)
            self._objects.append(value)
        return {"mine": place}

    def _decoded(self, coded: Any) -> Any:
        if coded is None or isinstance(coded, bool | str):
            return coded
        if not isinstance(coded, dict) or len(coded) != 1:
            raise Gone("nonsense")
        ((name, part),) = coded.items()
        if name == "int":
            return int(part, 16)
        if name == "float":
            return float.fromhex(part)
        if name == "dict":
            return {self._decoded(key): self._decoded(value) for key, value in part}
        if name in _SEQUENCES:
            return _SEQUENCES[name][1]([self._decoded(item) for item in part])
        if name in _DECODED:
            return _DECODED[name](part)
        if name == "mine" and type(part) is int:
            return Proxy(self, part)
        if name == "yours" and type(part) is int:
            return self._objects[part]
        raise Gone("nonsense")

    # -- Bytes

    def _send(self, message: list[Any]) -> None:
        data = json.dumps(message, check_circular=False).encode()
        if len(data) > MOST_BYTES:
            raise ValueError("a value of too many bytes")
        data = struct.pack("=I", len(data)) + data
        while data:
            try:
                data = data[os.write(self._write, data) :]
            except OSError:
                self.gone = True
                raise Gone from None

    def _receive(self) -> list[Any]:
        try:
            (length,) = struct.unpack("=I", self._exactly(4))
            if length > MOST_BYTES:
                raise ValueError
            message = json.loads(self._exactly(length))
            if not isinstance(message, list) or not message:
                raise ValueError
        except (ValueError, OSError, RecursionError):
            self.gone = True
            raise Gone from None
        return message

    def _exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            piece = os.read(self._read, min(count, 1 << 16))
            if not piece:
                raise ValueError
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


def _said(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:
        return ""


def _become(old: Any, new: Any) -> None:
    """Have a container hold what its copy came to hold in the call."""
    if isinstance(old, list | bytearray) and isinstance(new, list | bytearray):
        old[:] = new
    elif isinstance(old, dict | set) and isinstance(new, dict | set):
        old.clear()
        old.update(new)
    elif isinstance(old, collections.deque) and isinstance(new, collections.deque):
        old.clear()
        old.extend(new)


class Proxy:
    """What stays on the other side."""

    __slots__ = ("_ssb_endpoint", "_ssb_place")

    def __init__(self, endpoint: Endpoint, place: int) -> None:
        object.__setattr__(self, "_ssb_endpoint", endpoint)
        object.__setattr__(self, "_ssb_place", place)

    def _ssb(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._ssb_endpoint.operate(name, self._ssb_place, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ssb("call", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        return self._ssb("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ssb("setattr", name, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is Proxy and bool(self._ssb("eq", other))

    def __hash__(self) -> int:
        return hash(str(self._ssb("hash")))

    def __iter__(self) -> Iterator[Any]:
        found: Iterator[Any] = self._ssb("iter")
        return found

    def __next__(self) -> Any:
        return self._ssb("next")

    def __instancecheck__(self, other: object) -> bool:
        return type(other) is Proxy and self._ssb("isinstance", other) is True

    def __exit__(self, *error: object) -> None:
        self._ssb("exit")


def _forwarding(name: str, only_proxies: bool) -> Callable[..., Any]:
    def forward(self: Proxy, *args: Any) -> Any:
        if only_proxies and type(args[0]) is not Proxy:
            return NotImplemented
        return self._ssb(name, *args)

    return forward


for _name in ("len", "bool", "str", "repr", "float", "int", "abs", "neg", "getitem", "setitem", "delitem", "enter"):
    setattr(Proxy, f"__{_name}__", _forwarding(_name, only_proxies=False))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Proxy, f"__{_name}__", _forwarding(_name, only_proxies=True))
for _name in ("add", "sub", "mul", "truediv"):
    setattr(Proxy, f"__{_name}__", _forwarding(_name, only_proxies=False))
