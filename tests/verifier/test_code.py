"""Programs are graded by tests that they cannot reach, and held by the sandbox whatever they do."""

import contextlib
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from ssb_unsloth.errors import UserError
from ssb_unsloth.verifier import sandbox
from ssb_unsloth.verifier.protocol import Verdict
from ssb_unsloth.verifier.sandbox import Result, Task, run
from ssb_unsloth.verifier.verifiers import verifier_for

TESTS = "assert double(2) == 4\nassert double([1, 2]) == [1, 2, 1, 2]\n"
RIGHT = "def double(x):\n    return x * 2\n"


def outcome(program, tests=TESTS, seconds=1.0, memory=256, disk=8):
    return run([Task(program, tests, seconds, memory, disk)])[0]


def fenced(program):
    return f"I think:\n\n```python\n{program}```\nThat is it."


@pytest.fixture
def started(monkeypatch):
    """Every process that a runner of this test started, or that something within it did. Other tests run beside this
    one and have runners of their own, so these bear a mark.
    """
    mark, popen = {"SSB_TEST_MARK": str(uuid.uuid4())}, subprocess.Popen
    sandbox.POOL.stop()
    monkeypatch.setattr(subprocess, "Popen", lambda words, *, env, **rest: popen(words, env=env | mark, **rest))

    def processes():
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if "=".join(*mark.items()).encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    yield processes
    sandbox.POOL.stop()


# -- Replies and tests ------------------------------------------------------------------------------------------------


def test_the_last_block_of_a_reply_has_to_pass_the_tests():
    code = verifier_for("code")
    wrong = "def double(x):\n    return x + x + 1\n"
    assert code.grade(fenced(wrong) + fenced(RIGHT), TESTS).verdict == Verdict.RIGHT
    assert code.grade(fenced(RIGHT) + fenced(wrong), TESTS).verdict == Verdict.WRONG
    assert code.grade(fenced(RIGHT), TESTS, "length").verdict == Verdict.TRUNCATED
    assert code.grade("I do not know.", TESTS).verdict == Verdict.NO_ANSWER
    assert code.grade("<think>" + fenced(wrong) + "</think>\n" + fenced(RIGHT), TESTS).verdict == Verdict.RIGHT
    assert code.grade("```c\nint x;\n```", TESTS).verdict == Verdict.NO_ANSWER
    assert code.format_free(RIGHT, TESTS)
    assert not code.format_free("twice as much", TESTS)
    assert code.answer_in(code.example) is not None
    renamed = RIGHT.replace("x", "y")
    assert code.answer_classes([RIGHT, RIGHT.replace("return", "# so\n    return"), renamed]) == [0, 0, 1]


def test_what_cannot_be_tests_is_no_gold():
    code = verifier_for("code")
    for gold, reason in (
        ("assert (", "are no Python"),
        ("double(2)", "hold no assert"),
        ("def check(f):\n    assert f(2) == 4", "entry_point"),
        ("#" * 70_000, "longer"),
    ):
        with pytest.raises(ValueError, match=reason):
            code.gold_from(gold, "plain")
    assert code.posed("q", "def check(f):\n    assert f(2) == 4", "plain", "double")[1].endswith("check(double)")
    with pytest.raises(UserError, match="seconds is -1"):
        verifier_for({"name": "code", "seconds": -1})


def test_tests_of_many_kinds_see_what_a_program_has():
    program = """
import collections
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x); return self
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
Point = collections.namedtuple("Point", "x y")
def squares(n):
    for i in range(n): yield i * i
def apply(f, xs): return [f(x) for x in xs]
def sort_it(xs): xs.sort()
def fail(x): raise ValueError(f"no {x}")
def counted(word): return collections.Counter(word)
def point(): return Point(1, 2.5)
def odd(): return {1: (2, {3}), "a": b"b", None: 1j, 2.0: range(3), frozenset([1]): float("inf")}
def total(root): return 0 if root is None else root.value + total(root.left) + total(root.right)
"""
    tests = """
import math
s = Stack()
assert len(s.push(1).push(2)) == 2 and list(s) == [1, 2] and s.items == [1, 2] and isinstance(s, Stack)
assert list(squares(4)) == [0, 1, 4, 9]
assert apply(lambda x: x + 1, [1, 2]) == [2, 3]
xs = [3, 1, 2]; sort_it(xs); assert xs == [1, 2, 3]
try: fail(3); raise RuntimeError
except ValueError as error: assert "no 3" in str(error)
assert counted("aab") == {"a": 2, "b": 1} and point() == (1, 2.5) and math.isclose(point()[1], 2.5)
assert odd() == {1: (2, {3}), "a": b"b", None: 1j, 2.0: range(3), frozenset([1]): math.inf}
class Node:
    def __init__(self, value, left=None, right=None): self.value, self.left, self.right = value, left, right
assert total(Node(1, Node(2), Node(3, Node(4)))) == 10
def test_more(): assert apply(abs, [-1]) == [1]
"""
    assert outcome(program, tests, seconds=5) == Result("passed", "")
    assert (
        outcome(program, tests + "\ndef test_last(): assert counted('a') == {'a': 2}\n", seconds=5).outcome == "failed"
    )
    cases = "import unittest\nclass T(unittest.TestCase):\n    def test_it(self): self.assertEqual(double(1), {})\n"
    assert [outcome(RIGHT, cases.format(right)).outcome for right in (2, 3)] == ["passed", "failed"]
    assert outcome("def sum(a, b):\n    return a - b\n", "assert sum(3, 1) == 2").outcome == "passed"


# -- What a program may try -------------------------------------------------------------------------------------------

FORGED = {
    "an equal of everything": "class E:\n    def __eq__(s, o): return True\ndef double(x): return E()\n",
    "an int equal to everything": "class E(int):\n    def __eq__(s, o): return True\ndef double(x): return E(7)\n",
    "a list that holds everything": "class E(list):\n    def __eq__(s, o): return True\ndef double(x): return E()\n",
    "the end before the tests": "import os\nos._exit(0)\n",
    "exit": "import sys\nsys.exit(0)\n",
    "the end within a test": "import os\ndef double(x): os._exit(0)\n",
    "builtins": "import builtins\nbuiltins.AssertionError = None\nbuiltins.all = lambda x: True\n"
    "def double(x): return 1\n",
    "frames": "import sys\ndef double(x):\n    f = sys._getframe()\n    while f:\n"
    "        for v in list(f.f_locals.values()):\n"
    "            try: v.gone = False\n            except Exception: pass\n        f = f.f_back\n    return 1\n",
    "every pipe": "import os\nfor n in range(64):\n    try: os.write(n, b'passed')\n"
    "    except OSError: pass\ndef double(x): 1\n",
    "signals swallowed": "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except Exception: pass\ndef double(x): return 1\n",
}


@pytest.mark.skipif(sys.platform != "linux", reason="what holds programs is Linux's")
def test_right_is_nothing_that_a_program_can_claim():
    """Each alone would pass if program and tests shared an interpreter, or the verdict were an exit code."""
    names = list(FORGED)
    results = run([Task(FORGED[name], TESTS, 2.0, 256, 8) for name in names])
    assert {name: r.outcome for name, r in zip(names, results, strict=True)} == dict.fromkeys(names, "failed")


def test_the_tests_lend_a_function_and_not_what_hangs_on_it():
    """A callback leads to the tests' own names only by its attributes."""
    tests = "secret = 42\nassert use(lambda x: x + 1) == 43\n"
    assert outcome("def use(f): return f(42)", tests).outcome == "passed"
    for attribute in ("__globals__", "__code__", "__self__", "__class__", "__builtins__", "gi_frame", "f_globals"):
        asked = f"def use(f): return f._ssb('getattr', {attribute!r}) and 43"
        assert outcome(asked, tests).outcome == "failed"
    assert outcome("def use(f): f._ssb_endpoint.named('secret'); return 43", tests).outcome == "failed"


REFUSED = {  # statement -> what makes of it a sign that it worked
    "fork": "os.fork()",
    "a program": "os.execv('/bin/sh', ['sh'])",
    "a child": "__import__('subprocess').run(['true'])",
    "a socket": "__import__('socket').socket()",
    "a pair of sockets": "__import__('socket').socketpair()",
    "the parent": "os.kill(os.getppid(), 9)",
    "all processes": "os.kill(-1, 9)",
    "/etc/passwd": "open('/etc/passwd').read()",
    "a folder": f"os.listdir({str(Path(__file__).parent)!r})",
    "this file": f"open({__file__!r}).read()",
    "writing elsewhere": "open('/tmp/escaped', 'w').write('x')",
    "a mode": "os.chmod('/usr/lib', 0o777)",
    "a memory file": "os.memfd_create('x')",
    "a limit raised": "__import__('resource').setrlimit(4, (-1, -1))",
    "a namespace": "__import__('ctypes').CDLL(None, use_errno=True).unshare(0x10000000) and 1/0",
    "mounting": "__import__('ctypes').CDLL(None).mount(b'none', b'/', b'tmpfs', 0, None) and 1/0",
    "tracing": "__import__('ctypes').CDLL(None).ptrace(0, 0, 0, 0) and 1/0",
    "signals through a file": "__import__('fcntl').fcntl(0, 8, os.getppid())",
}


@pytest.mark.skipif(sys.platform != "linux", reason="what holds programs is Linux's")
def test_the_kernel_refuses_what_computing_does_not_need(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hf_abc")
    names = list(REFUSED)
    programs = [f"import os\ndef double(x):\n    {REFUSED[name]}\n    return x * 2\n" for name in names]
    programs.append("import os\ndef double(x):\n    return x * 2 if 'hf_abc' not in str(dict(os.environ)) else None\n")
    programs.append(
        "import threading\ndef double(x):\n"
        "    t = threading.Thread(target=int); t.start(); t.join()\n    return x * 2\n"
    )
    results = run([Task(program, TESTS, 3.0, 256, 8) for program in programs])
    assert {name: r.outcome for name, r in zip(names, results, strict=False)} == dict.fromkeys(names, "failed")
    assert [r.outcome for r in results[-2:]] == ["passed", "passed"]  # no variable of ours is there, and threads are
    assert not Path("/tmp/escaped").exists()


BOMBS = {
    "an endless loop": ("def double(x):\n    while True: pass\n", "time"),
    "no end and no work": ("import time\ndef double(x): time.sleep(1000)\n", "time"),
    "time without end": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass\n", "time"),
    "a fork bomb": (
        "import os\ndef double(x):\n    while True:\n        try: os.fork()\n        except OSError: pass\n",
        "time",
    ),
    "memory": ("def double(x): return bytearray(10**10)\n", "failed"),
    "memory bit by bit": ("a = []\nwhile True: a.append(bytearray(1 << 20))\n", "failed"),
    "a bomb of zeros": (
        "import zlib\nz = zlib.compress(bytes(10**8))\ndef double(x): return zlib.decompress(z) * 100\n",
        None,
    ),
    "depth": (
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\ndef double(y): return x\n",
        None,
    ),
    "depth in C": ("import sys\nsys.setrecursionlimit(10**9)\ndef double(x): return eval('(' * 10**5)\n", "failed"),
    "one large file": (
        "def double(x):\n    with open('of-a-bomb', 'wb') as f:\n        while True: f.write(bytes(1 << 20))\n",
        "failed",
    ),
    "a disk of files": (
        "def double(x):\n    for n in range(10**6):\n"
        "        with open(f'of-a-bomb-{n}', 'wb') as f: f.write(bytes(1 << 16))\n",
        "failed",
    ),
    "a flood": (
        "import os\ndef double(x):\n    for _ in range(10**4): os.write(1, b'x' * 10**5)\n    return x * 2\n",
        "passed",
    ),
    "a flood of answers": ("def double(x): return 'x' * (1 << 27)\n", "failed"),
    "threads": (
        "import threading, time\nthreading.stack_size(1 << 16)\ndef double(x):\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
        None,
    ),
    "endless data": ("def double(x):\n    while True: yield 1\n", "failed"),
}


@pytest.mark.slow  # half of a minute, most of it waiting for what never ends
@pytest.mark.skipif(sys.platform != "linux", reason="what holds programs is Linux's")
def test_bombs_are_contained_and_leave_nothing(started):
    for name, (program, wanted) in BOMBS.items():
        start = time.monotonic()
        found = outcome(program, memory=256)
        assert found.outcome == wanted or wanted is None, (name, found)
        assert time.monotonic() - start < 60, name
        assert outcome(RIGHT, seconds=5).outcome == "passed", name  # the next program is graded as ever
    assert started()  # the one that has just graded
    sandbox.POOL.stop()
    time.sleep(0.5)
    assert not started()
    for folder in (Path(), Path.home(), *map(Path, ("/", "/tmp", "/dev/shm", tempfile.gettempdir()))):
        assert not list(folder.glob("of-a-bomb*"))


def test_a_bomb_of_each_kind_is_contained():
    programs = [BOMBS[name][0] for name in ("an endless loop", "memory", "a flood of answers")]
    results = run([Task(program, TESTS, 0.5, 256, 8) for program in programs])
    assert [r.outcome for r in results] == ["time", "failed", "failed"]


def test_runners_serve_one_batch_after_another():
    tasks = [Task(RIGHT, TESTS, 3.0, 256, 8)] * 4
    assert {r.outcome for r in run(tasks)} == {"passed"}
    first = {runner._process.pid for runner in sandbox.POOL._idle[True]}
    assert {r.outcome for r in run(tasks)} == {"passed"}
    assert first == {runner._process.pid for runner in sandbox.POOL._idle[True]}


def test_a_machine_that_cannot_hold_programs_runs_none(monkeypatch):
    monkeypatch.setattr(sandbox, "wanting", lambda: "there is no filter of system calls (seccomp)")
    with pytest.raises(UserError, match="cannot hold them: there is no filter"):
        run([Task(RIGHT, TESTS, 1.0, 256, 8)])
    with pytest.raises(UserError, match="sandbox: limits"):
        verifier_for({"name": "code", "seconds": 7}).grade(fenced(RIGHT), TESTS)
    assert run([Task(RIGHT, TESTS, 3.0, 512, 8)], full=False)[0].outcome == "passed"
