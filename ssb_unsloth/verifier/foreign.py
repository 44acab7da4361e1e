"""A verifier of the user's own, `package.module:name`: its code runs in a process of its own, and nowhere else.

    Foreign --JSON line: method, arguments--> serve: imports the module once --JSON line: result, what was printed-->

What it raises is a wrong grade with a note, as is a call that takes longer than `seconds` twice. Several of these in a
row, or a module that cannot be imported, end the run with an error that names the verifier. What it prints is shown
once. It is the user's own code: its process keeps it from hurting the run by accident, not from doing harm on purpose.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..io.progress import say
from .protocol import VERDICTS, Grade, Verdict, note_on

SECONDS = 30.0  # for one call, by the clock; the option `seconds` is another
START_SECONDS = 120.0  # for the import
IN_A_ROW = 3  # calls that raise or do not end, after which the verifier is given up
_NEEDED = ("grade", "answer_in", "answer_classes")


def module_file(name: str) -> Path | None:
    """The file of the module that `module:name` names, where its process will find it; None where there is none.
    Nothing of it is run, nor of the packages that it lies in, as Python's own search would.
    """
    first, *inner = name.partition(":")[0].split(".")
    file, folders = _found(first, [str(Path.cwd()), *sys.path])
    if file is None and not folders:  # as what is installed in place
        with contextlib.suppress(ValueError):
            spec = importlib.util.find_spec(first)
            file = Path(spec.origin) if spec and spec.origin else None
            folders = spec.submodule_search_locations or [] if spec else []
    for word in inner:
        file, folders = _found(word, folders)
    return file if file is not None and file.is_file() else None


def _found(word: str, folders: Iterable[str | Path]) -> tuple[Path | None, Sequence[str | Path]]:
    """A module's file in these folders, the first of them first, and the folders of what lies in it."""
    within: list[Path] = []
    for here in (Path(folder) / word for folder in folders):
        if (here / "__init__.py").is_file():
            return here / "__init__.py", [here]
        if (file := here.with_name(f"{word}.py")).is_file():
            return file, []
        within += [here] if here.is_dir() else []
    return None, within


class Foreign:
    """`Verifier` of a name with a colon. Options but `seconds` are the class's own."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._name, self._options = name, {key: value for key, value in options.items() if key != "seconds"}
        self._seconds = options.get("seconds", SECONDS)
        if type(self._seconds) not in (int, float) or not 0 < self._seconds <= 86_400:
            raise UserError(f"the verifier {name!r}: seconds is {self._seconds!r}; expected a number above 0.")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._failures, self._printed = 0, False
        _ALL.append(self)

    # -- The protocol

    @property
    def example(self) -> str:
        return str(self._asked("example", [], lambda error: "42"))

    def grade(self, text: str, gold: str, finish_reason: str = "stop", exact: bool = False) -> Grade:
        def undecided(error: str) -> Grade:
            return Grade(Verdict.TRUNCATED if finish_reason == "length" else Verdict.WRONG, None, error)

        found = self._asked("grade", [text, gold, finish_reason, exact], undecided)
        return found if isinstance(found, Grade) else Grade(Verdict(found[0]), found[1], found[2])

    def answer_in(self, text: str) -> str | None:
        found = self._asked("answer_in", [text], lambda error: None)
        return None if found is None else str(found)

    def answer_classes(self, answers: Sequence[str], exact: bool = False) -> list[int]:
        answers = list(answers)
        apart = [answers.index(answer) for answer in answers]
        found = self._asked("answer_classes", [answers, exact], lambda error: apart)
        return list(found)

    def string_equal(self, text: str, gold: str) -> bool:
        return bool(self._asked("string_equal", [text, gold], lambda error: False))

    def format_free(self, text: str, gold: str) -> bool:
        return bool(self._asked("format_free", [text, gold], lambda error: False))

    def posed(self, question: str, gold: str, how: str, more: Any = None) -> tuple[str, str]:
        found = self._asked("posed", [question, gold, how, more], None)
        return str(found[0]), str(found[1])

    def shown(self, gold: str) -> str:
        return str(self._asked("shown", [gold], lambda error: gold))

    def gold_from(self, text: str, how: str) -> str:
        return str(self._asked("gold_from", [text, how], None))

    # -- The process

    def _asked(self, method: str, arguments: list[Any], instead: Callable[[str], Any] | None) -> Any:
        """What the method returns. What fails is `instead` of the reason; without one it is a ValueError.

        Raises:
            UserError: the verifier cannot be imported, says so itself, or has failed several times in a row.
        """
        with self._lock:
            reply = self._reply(method, arguments) or self._reply(method, arguments)
        if reply is None:
            reply = {"raised": f"no result within {self._seconds:g} s, twice"}
        if printed := reply.get("printed"):
            if not self._printed:
                say(f"the verifier {self._name} prints (shown once): {' '.join(str(printed).split())[:300]}")
            self._printed = True
        if "user" in reply:
            raise UserError(f"the verifier {self._name!r}: {reply['user']}")
        if "value" in reply:
            self._failures = 0
            return reply["value"]
        if "refused" in reply:  # a ValueError of `gold_from`, which is its way to refuse a gold answer
            raise ValueError(reply["refused"])
        self._failures += 1
        if self._failures >= IN_A_ROW:
            raise UserError(
                f"the verifier {self._name!r} failed {IN_A_ROW} times in a row, in the end in {method}:"
                f" {reply['raised']}. What was sampled is kept; mend it and run the same command again."
            )
        if instead is None:
            raise ValueError(f"the verifier {self._name!r} failed in {method}: {reply['raised']}.")
        return instead(reply["raised"])

    def _reply(self, method: str, arguments: list[Any]) -> dict[str, Any] | None:
        """What the process says, None if nothing in time, or if it died; then the next call gets a fresh one."""
        process = self._process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(json.dumps([method, arguments]) + "\n")
            process.stdin.flush()
            if select.select([process.stdout], [], [], self._seconds)[0] and (line := process.stdout.readline()):
                reply: dict[str, Any] = json.loads(line)
                return reply
        except (OSError, ValueError):
            pass
        except BaseException:
            self.stop()
            raise
        self.stop()
        return None

    def _start(self) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[2])
        code = f"import sys; sys.path.append({root!r}); from ssb_unsloth.verifier.foreign import serve; serve()"
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                code,
                json.dumps([self._name, self._options]),
            ],  # the working directory is on its path
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout
        line = process.stdout.readline() if select.select([process.stdout], [], [], START_SECONDS)[0] else ""
        if line != "ready\n":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            reason = line.strip() or f"its import gives no sign within {START_SECONDS:g} s, or ends the process"
            raise UserError(f"problems.verifier: {self._name}: {reason}")
        return process

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def forget(self) -> None:
        """In a forked child: the process belongs to the parent."""
        self._lock, self._process = threading.Lock(), None


_ALL: list[Foreign] = []


def serve() -> None:
    """The process: one JSON line in, one out. What the verifier prints goes to a file and along with the reply."""
    replies = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        name, options = json.loads(sys.argv[1])
        lines, sys.stdin = sys.stdin, open(os.devnull)  # noqa: SIM115, PTH123
        try:
            verifier = _made(name, options)
        except BaseException as error:
            print(" ".join(f"{type(error).__name__}: {error}".split())[:500], file=replies, flush=True)
            return
        print("ready", file=replies, flush=True)
        for line in lines:
            method, arguments = json.loads(line)
            reply = _result(verifier, method, arguments)
            with contextlib.suppress(ValueError, OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            end = printed.seek(0, os.SEEK_END)
            if end:
                printed.seek(0)
                reply["printed"] = printed.read(2000).decode("utf-8", "replace")
                printed.truncate(0)
                printed.seek(0)
            print(json.dumps(reply), file=replies, flush=True)


def _made(name: str, options: dict[str, Any]) -> Any:
    """The object, or one of the class. Nothing is called that is not a class with a verifier's methods: a recipe could
    name anything that is installed."""
    sys.path.insert(0, str(Path.cwd()))
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if missing := [method for method in _NEEDED if not callable(getattr(found, method, None))]:
        raise TypeError(
            f"{name} has no {', '.join(missing)}; a verifier follows ssb_unsloth.verifier.protocol.Verifier"
        )
    if isinstance(found, type):
        if "form" in options and "form" not in getattr(found, "__dataclass_fields__", {}):
            options = {key: value for key, value in options.items() if key != "form"}
        return found(**options)
    if set(options) - {"form"}:
        raise TypeError(f"{name} is an object, which takes no options; name its class")
    return found


def _result(verifier: Any, method: str, arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"value": _checked(method, _call(verifier, method, arguments))}
    except UserError as error:
        return {"user": str(error)[:1000]}
    except ValueError as error:
        refuses = method in ("gold_from", "posed")
        return {"refused": str(error)[:1000]} if refuses else {"raised": note_on(error)}
    except BaseException as error:
        return {"raised": note_on(error) if isinstance(error, Exception) else type(error).__name__}


def _call(verifier: Any, method: str, arguments: list[Any]) -> Any:
    """The method, or for one that is not there what follows from the others."""
    if method == "example":
        return getattr(verifier, "example", "42")
    own = getattr(verifier, method, None)
    if own is not None:
        return own(*arguments)
    if method == "posed":
        question, gold, how, _ = arguments
        return question, _call(verifier, "gold_from", [gold, how])
    if method in ("string_equal", "format_free"):
        return verifier.grade(*arguments).verdict == Verdict.RIGHT
    if method == "gold_from" and not arguments[0].strip():
        raise ValueError("The gold answer is empty.")
    return arguments[0]  # `gold_from` and `shown`: the text as it is


def _checked(method: str, value: Any) -> Any:
    """The value as JSON, if it is of the kind that the protocol says."""
    if method == "grade":
        verdict, answer, note = value.verdict, value.answer, getattr(value, "note", None)
        if verdict not in VERDICTS or not isinstance(answer, str | None) or not isinstance(note, str | None):
            raise TypeError(f"grade returned {value!r:.100}; expected a Grade")
        return [str(Verdict(verdict)), answer, note]
    if method == "answer_classes" and not all(type(number) is int for number in value):
        raise TypeError(f"answer_classes returned {value!r:.100}; expected whole numbers")
    if method in ("gold_from", "shown", "example") and not isinstance(value, str):
        raise TypeError(f"{method} returned {value!r:.100}; expected a text")
    if method == "answer_in" and not isinstance(value, str | None):
        raise TypeError(f"answer_in returned {value!r:.100}; expected a text or None")
    return list(value) if isinstance(value, tuple | list) else value


@atexit.register
def _stop_all() -> None:
    for foreign in _ALL:
        foreign.stop()


def _forget_all() -> None:
    for foreign in _ALL:
        foreign.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
