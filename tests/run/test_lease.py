"""The lease that stands in for a lock: one owner at a time, and none for ever."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from ssb_unsloth.errors import UserError
from ssb_unsloth.run import lease
from ssb_unsloth.run.lease import STALE, taken
from ssb_unsloth.run.rundir import RunDir


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock.lease"


def aged(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def of_another_machine(path):
    path.write_text(json.dumps({"id": "x", "host": "elsewhere", "machine": "another", "pid": 1}))


def test_one_owner_at_a_time(path):
    first = taken(path)
    assert taken(path) is None
    first.release()
    assert not path.exists()
    second = taken(path)
    assert second is not None
    second.release()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("age", "free"), [(0, False), (STALE - 10, False), (STALE + 5, True)])
def test_another_machines_is_taken_over_when_nobody_renews_it(path, age, free):
    of_another_machine(path)
    aged(path, age)
    found = taken(path)
    assert (found is not None) == free
    if found:
        found.release()


@pytest.mark.parametrize(
    "held", [b"", b"x", b"\xff\x00", b"[]", b"[" * 100_000, b'{"machine": 3}', b'{"pid": ' + b"9" * 5000 + b"}"]
)
def test_one_that_cannot_be_read_is_a_lease_until_nobody_renews_it(path, held):
    path.write_bytes(held)
    assert taken(path) is None
    assert path.read_bytes() == held
    aged(path, STALE + 5)
    found = taken(path)
    assert found is not None
    found.release()
    assert list(path.parent.iterdir()) == []


def test_that_of_a_process_of_this_machine_that_is_gone_is_taken_over_at_once(path):
    script = f"import pathlib; from ssb_unsloth.run.lease import taken; taken(pathlib.Path({str(path)!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert path.exists()
    found = taken(path)
    assert found is not None
    found.release()


def test_it_is_renewed_while_it_is_held(path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.02)
    held = taken(path)
    aged(path, STALE + 5)
    time.sleep(0.3)
    assert taken(path) is None
    held.release()


def test_whoever_loses_it_ends(path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.02)
    told = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    held = taken(path)
    of_another_machine(path)
    time.sleep(0.3)
    signal.signal(signal.SIGTERM, before)
    assert told == [True]
    held.release()
    assert path.exists()  # the other's


def _take(path, results):
    found = taken(path)
    results.put(found is not None)
    time.sleep(1)
    if found is not None:
        found.release()


def test_of_several_that_find_a_stale_one_a_single_one_gets_it(path):
    of_another_machine(path)
    aged(path, STALE + 5)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    several = [context.Process(target=_take, args=(path, results)) for _ in range(6)]
    for one in several:
        one.start()
    got = [results.get(timeout=60) for _ in several]
    for one in several:
        one.join()
    assert got.count(True) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_run_folder_without_locks_keeps_a_second_process_out(tmp_path, monkeypatch, capsys, number):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with RunDir(tmp_path / "run").lock():
        with (
            pytest.raises(UserError, match="another ssb process is at work on this run"),
            RunDir(tmp_path / "run").lock(),
        ):
            raise AssertionError
        assert capsys.readouterr().err.count("its file system knows no locks") == 1
    with RunDir(tmp_path / "run").lock():
        pass
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.lease"))
