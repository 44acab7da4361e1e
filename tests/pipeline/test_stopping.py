"""Ctrl-C, SIGTERM, and a run that is killed: within five seconds nothing is left, also where a server hangs."""

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_server import Handler

SECONDS = 5.0
pytestmark = pytest.mark.alone


class Hanging(Handler):
    """A vLLM server that renders prompts and then never answers, and a hub that never answers."""

    def do_GET(self):
        if self.path == "/v1/models":
            self.reply(200, {"data": [{"id": "model", "max_model_len": 4096}]})
        else:
            self.hang()

    def do_HEAD(self):
        self.hang()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/tokenize":
            self.reply(200, {"tokens": [1, 2, 3]})
        elif self.path == "/detokenize":
            self.reply(200, {"prompt": "what it has rendered"})
        else:
            self.hang()

    def hang(self):
        self.server.asked.set()
        self.server.released.wait()


@pytest.fixture
def hanging():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    server.asked, server.released, server.daemon_threads = threading.Event(), threading.Event(), True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()


def start(tmp_path, server, command):
    """A command that waits for that server."""
    url = f"http://127.0.0.1:{server.server_address[1]}"
    words = [command, "recipes/pocket.yaml", "problems.source=some/set", "--runs", tmp_path]
    if command == "evaluate":
        words = [command, f"{url}/v1", "--benchmark", "pocket-test", "--out", tmp_path / "out"]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    process = subprocess.Popen(
        [sys.executable, "-m", "ssb_unsloth", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0"},
    )
    for _ in range(1800):
        if server.asked.wait(0.1) or process.poll() is not None:
            break
    if not server.asked.is_set():
        process.kill()
        pytest.fail(process.communicate()[1])
    return process


def alive(session):
    """The processes of a session that run still."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


@pytest.mark.parametrize(
    ("command", "number", "to_all", "code"),
    [
        ("evaluate", signal.SIGINT, False, 130),
        ("evaluate", signal.SIGTERM, False, 143),
        ("curate", signal.SIGINT, False, 130),
        ("run", signal.SIGINT, True, 130),  # as a terminal's Ctrl-C
        ("run", signal.SIGINT, False, 130),
        ("run", signal.SIGTERM, False, 143),
        ("run", signal.SIGHUP, True, 129),
        ("run", signal.SIGKILL, False, -9),
    ],
)
def test_a_signal_ends_the_command_and_its_stage_while_a_server_hangs(tmp_path, hanging, command, number, to_all, code):
    process = start(tmp_path, hanging, command)
    begun = time.monotonic()
    (os.killpg if to_all else os.kill)(process.pid, number)
    while alive(process.pid) and time.monotonic() - begun < SECONDS:
        time.sleep(0.05)
    left = alive(process.pid)
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert not left
    assert process.returncode == code
    assert "Traceback" not in said
    assert said.count("resumes from there") == 1, said


@pytest.mark.parametrize(
    "body",
    [
        "swallow()",
        "threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)",
        "try:\n    time.sleep(60)\nfinally:\n    time.sleep(60)",
        # It has told, and hangs in its own end.
        "try: time.sleep(60)\nexcept KeyboardInterrupt: tell()\ntime.sleep(60)",
        # The signal comes where Python lets nothing be raised.
        "thing = set(); ref = weakref.ref(thing, lambda _: time.sleep(60)); del thing; time.sleep(60)",
    ],
)
def test_a_process_that_does_not_end_by_itself_is_ended(body):
    script = f"""
import signal, sys, threading, time, weakref
from ssb_unsloth.pipeline import stopping
def tell():
    if stopping.is_first_to_tell():
        print("it resumes from there", file=sys.stderr)
def swallow():
    while True:
        try: time.sleep(60)
        except KeyboardInterrupt: pass
stopping.arm(1)
print("ready", flush=True)
{body}
"""
    process = python(script)
    process.stdout.readline()
    time.sleep(0.5)  # until it does what it is to be stopped at
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert time.monotonic() - begun < SECONDS
    assert process.returncode == 143, said
    assert said.count("resumes from there") == 1
    assert "weakref" not in body or "Traceback" not in said


def test_a_worker_that_a_library_ends_does_not_end_the_command():
    script = """
import multiprocessing, os, signal, time
from ssb_unsloth.pipeline import stopping
stopping.arm(0.2)
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
worker.start()
worker.terminate()
worker.join()
time.sleep(1)
print(worker.exitcode)
"""
    process = python(script)
    said, wrong = process.communicate()
    assert (process.returncode, said, wrong) == (0, "-15\n", "")


def python(script):
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
