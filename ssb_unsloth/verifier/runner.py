"""The sandbox's own process: for each program two children, one that runs it and one that runs its tests.

    sandbox (our process) --JSON lines--> runner --fork--> keeper --fork--> tests    say "passed" on their own pipe
                                                                  `-------> program  does what they ask (`exchange`)

Only the tests' process can say that they passed. The program's has no way to it but to answer with data: it does not
know the tests, shares no interpreter and no memory with them, cannot see their process, and may end, hang or lie as it
likes. The runner has imported Python's usual modules, so a fork is all that a program costs.

Started by `sandbox` with a clean environment; only the standard library and its neighbours here.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import gc
import importlib
import itertools
import json
import os
import random
import select
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from . import confine
from .exchange import TESTS, Endpoint, Gone

PRELOADED = (
    "abc array bisect cmath collections copy dataclasses datetime decimal enum fractions functools heapq itertools json"
    " math numbers operator random re statistics string textwrap time types typing unittest"
)
_SAID = 2000  # bytes of a verdict
_POLL_SECONDS = 0.05


def main(full: bool, namespaces: bool) -> None:
    """Serve one JSON line after another, {"program", "tests", "seconds", "memory", "disk"}, until there are no more.

    It ends with its input: the kernel's signal at a parent's death goes by threads, and a pool's may have started it.
    First out comes a line that says which layers hold; for each program one with its result (`Result` in `sandbox`).
    """
    for name in PRELOADED.split():
        importlib.import_module(name)
    confine.library_paths()  # found once, for all children
    lines, replies = sys.stdin, os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    failed = confine.attempt(lambda: confine.own_root(confine.library_paths())) if namespaces else "not tried"
    print(json.dumps({"namespaces": failed}), file=replies, flush=True)
    if namespaces and failed:
        return  # half of it may be done: a fresh process goes without
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    if confine.has_seccomp():
        confine.filter_block()
    gc.freeze()  # what is here already is not copied by a collection in a child
    for line in lines:
        task = json.loads(line)
        read, write = os.pipe()
        if (keeper := os.fork()) == 0:
            os.close(read)
            os.close(lines.fileno())
            os.close(replies.fileno())
            os.dup2(nothing, 0)
            _keep(task, write, full, namespaces)
            os._exit(0)
        os.close(write)
        said = _all_of(read)
        os.waitpid(keeper, 0)
        print(said or json.dumps({"outcome": "failed", "said": "the sandbox gave out"}), file=replies, flush=True)


def _all_of(read: int) -> str:
    with os.fdopen(read, "rb") as file:
        return file.read().decode()


def _keep(task: dict[str, Any], answer: int, full: bool, namespaces: bool) -> None:
    """Start both children, wait for the verdict as long as it may take, end both, and write the result."""
    os.setsid()
    confine.die_with_parent()
    to_program, to_tests, verdict = os.pipe(), os.pipe(), os.pipe()
    seconds, memory = float(task["seconds"]), int(task["memory"]) << 20
    disk = int(task["disk"]) << 20 if namespaces or not full else 0

    def held(run: Callable[[], None], keep: tuple[int, ...], files: int) -> int:
        """A child with these handles and no others, under all layers."""
        if child := os.fork():
            return child
        try:
            confine.die_with_parent()
            for below, above in itertools.pairwise((2, *sorted(keep), 4096)):
                os.closerange(below + 1, above)
            _confine(seconds, memory, files, full, namespaces)
            run()
        finally:
            os._exit(1)

    tests = held(
        lambda: _test(task, to_tests[0], to_program[1], verdict[1]), (to_tests[0], to_program[1], verdict[1]), 0
    )
    os.close(verdict[1])
    if namespaces:
        confine.own_box(max(int(task["disk"]), 1))
    program = held(lambda: _run(task, to_program[0], to_tests[1]), (to_program[0], to_tests[1]), disk)
    for handle in (*to_program, *to_tests):
        os.close(handle)
    wall = 3 * seconds + 2
    said, late = _wait(verdict[0], wall, lambda: max(map(_cpu_seconds, (program, tests))) >= seconds)
    ends = {}
    for child in (program, tests):  # SIGKILL reaches a child that has ended by itself in vain
        os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
        ends[child] = (status, used.ru_utime + used.ru_stime)
    spent = max(cpu for _, cpu in ends.values())
    if said == "passed":
        result = {"outcome": "passed", "said": ""}
    elif late or spent >= seconds:
        what = f"{seconds:g} s of CPU time" if spent >= seconds else f"{wall:g} s by the clock"
        result = {"outcome": "time", "said": f"not done within {what}"}
    else:
        died = os.WTERMSIG(ends[program][0]) if os.WIFSIGNALED(ends[program][0]) else 0
        more = f" ({signal.Signals(died).name})" if died not in (0, signal.SIGKILL) else ""
        result = {"outcome": "failed", "said": (said or "the tests ended without a word") + more}
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps(result))


def _cpu_seconds(child: int) -> float:
    """CPU time of a child so far, as the scheduler counts it. RLIMIT_CPU goes by clock ticks, which on a busy machine
    may be far from it, and is only there in case this process gave out.
    """
    try:
        return time.clock_gettime(~child << 3 | 2)  # CPUCLOCK_SCHED of that process
    except OSError:
        return 0.0


def _wait(read: int, wall: float, is_spent: Callable[[], bool]) -> tuple[str, bool]:
    """What the tests say, and whether the time ran out."""
    said, until = b"", time.monotonic() + wall
    while len(said) < _SAID:
        if not select.select([read], [], [], _POLL_SECONDS)[0]:
            if is_spent() or time.monotonic() > until:
                return "", True
            continue
        piece = os.read(read, _SAID)
        if not piece:
            break
        said += piece
    return said.decode("utf-8", "replace"), False


def _confine(seconds: float, memory: int, files: int, full: bool, namespaces: bool) -> None:
    """All layers upon this process; in the first that has to hold and does not, it ends."""
    confine.limit(2 * seconds + 1, memory, files)
    if not full:
        return
    with contextlib.suppress(OSError):
        confine.drop_capabilities()
    if confine.landlock_version() >= 3:
        readable = ["/"] if namespaces else confine.library_paths()
        writable = [confine.BOX] if namespaces and files else []
        confine.landlock(readable, writable, ["/dev/null", "/dev/zero", "/dev/urandom"])
    elif not namespaces:
        raise OSError("nothing keeps the files of this machine out of reach")
    confine.seccomp()


# -- The program


def _run(task: dict[str, Any], read: int, write: int) -> None:
    """Run the program as a module, and answer what the tests ask of it."""
    random.seed(0)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    endpoint = Endpoint(read, write, module.__dict__)
    endpoint.load(lambda: exec(compile(task["program"], "solution", "exec"), module.__dict__))  # that is what it is for
    endpoint.serve()


# -- The tests


def _test(task: dict[str, Any], read: int, write: int, verdict: int) -> None:
    """Run the tests, and say so if they pass: in words that nobody else can put on this pipe."""
    random.seed(0)
    endpoint = Endpoint(read, write)
    try:
        endpoint.loaded()
        _check(task["tests"], endpoint)
        said = "the program ended" if endpoint.gone else "passed"
    except Gone:
        said = "the program ended"
    except BaseException as error:
        said = f"{type(error).__name__}: {_line_of(error, task['tests'])}"
    os.write(verdict, said.encode("utf-8", "replace")[:_SAID])
    os._exit(0)


def _check(tests: str, endpoint: Endpoint) -> None:
    """Run the statements; then functions named `test...` without arguments, and `unittest`'s cases."""
    tree = ast.parse(tests)
    module = types.ModuleType(TESTS)
    sys.modules[TESTS] = module
    space = module.__dict__
    for wanted in needed(tree):
        if wanted.module:
            space[wanted.name] = importlib.import_module(wanted.name)
        else:
            with contextlib.suppress(KeyError):  # a name that the program does not have is the tests' NameError
                space[wanted.name] = endpoint.named(wanted.name)
    exec(compile(tree, TESTS, "exec"), space)
    for name, found in list(space.items()):
        if name.startswith("test") and isinstance(found, types.FunctionType) and not found.__code__.co_argcount:
            found()
    unittest = sys.modules["unittest"]
    cases = [found for found in space.values() if isinstance(found, type) and issubclass(found, unittest.TestCase)]
    for case in cases:
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
        outcome = unittest.TestResult()
        suite.run(outcome)
        if not outcome.wasSuccessful() or not outcome.testsRun:
            wrong = [*outcome.failures, *outcome.errors]
            raise AssertionError(wrong[0][1].strip().splitlines()[-1] if wrong else "no test was run")


class Needed(NamedTuple):
    """A name that tests use and do not make: the program's, or a module of Python's own."""

    name: str
    module: bool


def needed(tree: ast.Module) -> list[Needed]:
    """The names that tests use and do not make themselves.

    A builtin is Python's own, whatever the program calls so, unless the tests use no other name of the program: then
    they are about it. A module of Python's own that is used by its attributes alone is the real one.
    """
    made, used, called, dotted = set[str](), dict[str, None](), set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            made.add(node.id)
        elif isinstance(node, ast.Name):
            used[node.id] = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted.add(node.value.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
    free = [name for name in used if name not in made]
    modules = [name for name in free if name in sys.stdlib_module_names and name in dotted - called]
    own = [name for name in free if not hasattr(builtins, name) and name not in modules]
    if not own:
        own = [name for name in free if name in called and hasattr(builtins, name)]
    return [Needed(name=name, module=False) for name in own] + [Needed(name=name, module=True) for name in modules]


def _line_of(error: BaseException, tests: str) -> str:
    """What the tests' statement was at which the error came, and what it says."""
    place, walk = 0, error.__traceback__
    while walk is not None:
        if walk.tb_frame.f_code.co_filename == TESTS:
            place = walk.tb_lineno
        walk = walk.tb_next
    lines = tests.splitlines()
    statement = lines[place - 1].strip()[:200] if 0 < place <= len(lines) else ""
    try:
        said = str(error)[:300]
    except BaseException:
        said = ""
    return ": ".join(part for part in (statement, said) if part) or "no reason given"
