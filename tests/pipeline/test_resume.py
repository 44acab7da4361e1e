"""It resumes, from any moment: kills, full disks, links, missing locks, moved runs."""

import contextlib
import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
from fake_server import Server

from ssb_unsloth.backends import load_sampler
from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.evaluate import base_contestants, evaluate
from ssb_unsloth.io import disk
from ssb_unsloth.io.waiting import as_they_come
from ssb_unsloth.machine.out_of_memory import explained
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import BenchmarkConfig, CurateConfig, ModelConfig, SamplerConfig, SamplingConfig
from ssb_unsloth.records import Problem, stable_id
from ssb_unsloth.run.kept import Kept
from ssb_unsloth.run.rundir import RunDir
from ssb_unsloth.seeds import derive_seed

STEPS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")  # Python tells of each beforehand


def killed(below, nth, body):
    """Run the body in a process that is killed before the nth thing that it does to a file below a folder (0: never).

    Returns whether it came to its end. What it returns is lost; a fault in it is a failure here.
    """
    seen = 0

    def count(event, arguments):
        nonlocal seen
        if event in STEPS and any(str(below) in str(a) for a in arguments if isinstance(a, str | Path)):
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(count)
            body()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


def write(run, name="teach", key="old", text="old"):
    with run.write(name, key, {}) as work:
        (work.folder / "a.txt").write_text(text)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("behind_a_link", [False, True])
def test_a_stage_that_is_killed_before_any_step_loses_neither_itself_nor_the_one_before(tmp_path, behind_a_link):
    """Killed before each step in turn. A finished stage is there then, old or new, and the same command ends as if
    nothing had been; what was finished once is not made again.
    """
    for nth in range(1, 1000):
        folder = tmp_path / f"{nth}"
        root = folder / "run"
        root.mkdir(parents=True)
        if behind_a_link:
            (folder / "disk").mkdir()
            (root / "teach").symlink_to(folder / "disk" / "there", target_is_directory=True)
        run = RunDir(root)
        write(run)
        bodies = folder / "bodies"  # a line each time that the stage's work is done

        def stage(run=run, bodies=bodies):
            with run.lock():
                run.settle("teach")
                if run.is_fresh("teach", "new"):
                    return
                with run.write("teach", "new", {}) as work:
                    (work.folder / "checkpoints").mkdir(exist_ok=True)
                    (work.folder / "checkpoints" / "c").write_text("scratch")
                    (work.folder / "sub").mkdir(exist_ok=True)
                    for name in ("a.txt", "sub/b.txt"):
                        (work.folder / name).write_text("new")
                    with bodies.open("a") as file:
                        file.write("x")

        ended = killed(folder, nth, stage)
        there = [*run._places("teach")]
        assert any((f / "manifest.json").exists() and (f / "a.txt").exists() for f in there), nth
        sealed = any(
            '"key": "new"' in (f / "manifest.json").read_text() for f in there if (f / "manifest.json").exists()
        )
        before = bodies.read_text() if bodies.exists() else ""
        assert killed(folder, 0, stage)
        assert len(bodies.read_text()) == len(before) + (not sealed), f"step {nth}: made again, or not at all"
        assert run.is_fresh("teach", "new")
        run.check("teach")
        final = run.stage("teach")
        assert set(contents(final)) == {"a.txt", "sub/b.txt", "manifest.json"}
        assert (final / "a.txt").read_text() == "new"
        assert {p.name for p in (*root.iterdir(), *final.resolve().parent.iterdir())} <= {"teach", "there", ".lock"}
        assert final.is_symlink() == behind_a_link
        if ended:
            break
    assert 30 < nth < 999


# -- Replies are kept one by one -----------------------------------------------------------------------------------


PROBLEMS = [Problem(stable_id(f"q{i}"), f"q{i}", str(i)) for i in range(24)]


class Answering:
    """Right or wrong by the seed, and refined rightly; stops where `left` replies have been given."""

    def __init__(self, left=10_000):
        self.left, self.asked = left, []

    def render(self, messages):
        return [ord(c) for c in messages[1]["content"]]

    def sample(self, requests, decoding, adapter=None, title="sample", keep=None):
        replies = []
        for place, request in enumerate(requests):
            if self.left == 0:
                raise ConnectionError("the server is gone")
            self.left -= 1
            self.asked.append(request.seed)
            text = "".join(map(chr, request.prompt_ids))
            gold = int(text[1:]) if text[0] == "q" else int(text.split("-----\n")[1].strip()[1:])
            right = text[0] != "q" or request.seed % 2
            replies.append(Completion([7, 2], f"So \\boxed{{{gold if right else gold + 1}}}.", "stop"))
            keep(place, replies[-1])
        return replies


def curate(folder, sampler):
    settings = CurateConfig(pairs=100, wave=8, rollout=SamplingConfig(), refine=SamplingConfig())
    statistics = Curator(settings, lambda: sampler, max_model_len=10_000, seed=1, folder=folder).run(PROBLEMS)
    return statistics, {path.name: path.read_bytes() for path in folder.glob("*.json*")}


def test_curation_stopped_at_any_reply_ends_as_if_nothing_had_been_and_asks_for_none_twice(tmp_path):
    (tmp_path / "whole").mkdir()
    undisturbed = Answering()
    expected = curate(tmp_path / "whole", undisturbed)
    for stop in range(0, len(undisturbed.asked), 3):
        folder = tmp_path / f"{stop}"
        folder.mkdir()
        with pytest.raises(ConnectionError):
            curate(folder, Answering(stop))
        rest = Answering()
        assert curate(folder, rest) == expected
        assert len(rest.asked) == len(undisturbed.asked) - stop


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: data.index(b"\n") + 1],  # cut at the end of a line
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        lambda data: data[:-1],
        lambda data: data + b"\x00" * 4096,  # what a power loss leaves behind a file that was growing
        lambda data: b"[]\nnull\n{}\n" + data,
    ],
)
@pytest.mark.parametrize("file", ["wave-0000.rollouts.jsonl", "wave-0001.refinements.jsonl"])
def test_a_damaged_file_of_kept_replies_costs_those_replies_and_never_a_pair(tmp_path, damage, file):
    (tmp_path / "whole").mkdir()
    expected = curate(tmp_path / "whole", Answering())
    curate(tmp_path, Answering())
    kept = tmp_path / "kept" / file
    kept.write_bytes(damage(kept.read_bytes()))
    assert curate(tmp_path, Answering()) == expected
    again = Answering(left=0)
    assert curate(tmp_path, again) == expected  # whole again: nothing is asked for


def test_a_grader_that_fails_costs_no_rollout(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no grader here")

    first, again = Answering(), Answering()
    with monkeypatch.context() as patch:
        patch.setattr("ssb_unsloth.method.curate.verifier_for", broken)
        with pytest.raises(RuntimeError, match="no grader"):
            curate(tmp_path, first)
    assert len(first.asked) == 8 * 4
    curate(tmp_path, again)
    assert not set(first.asked) & set(again.asked)


def test_what_a_server_answered_before_an_error_is_kept_and_not_asked_for_again(tmp_path):
    problems = [Problem(f"p{i}", f"What is {i}?", str(i)) for i in range(150)]
    config = BenchmarkConfig(source="x", temperature=None, max_tokens=30)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        model = ModelConfig(name=server.url)

        def ask():
            benchmarks = {"test": (config, problems)}
            return evaluate(
                base_contestants(model, 1), benchmarks, SamplerConfig(max_model_len=4000), tmp_path, load_sampler
            )

        server.faults = [None] * (150 + 100) + [(400, {"message": "no more"})]  # prompts are rendered first
        with pytest.raises(UserError, match="no more"):
            ask()
        kept = set(Kept(tmp_path / "kept" / "base-1-test-0.jsonl").replies)
        assert len(kept) >= 100 - 64
        server.bodies.clear()
        replies = ask()
        asked = {body["seed"] for path, body in server.bodies if path == "/v1/completions"}
        server.shutdown()
    assert asked == {derive_seed(1, "evaluate", "test", p.id, 0) for p in problems if f"{p.id}/0" not in kept}
    assert [(g.problem_id, g.verdict) for g in replies] == [(p.id, "no_answer") for p in problems]


def test_nobody_waits_for_an_answer_that_hangs():
    begun = time.monotonic()
    places = as_they_come(lambda seconds: time.sleep(seconds), [0, 60, 60], threads=3)
    assert next(places) == (0, None)
    places.close()
    assert time.monotonic() - begun < 30


# -- A disk that takes no more ---------------------------------------------------------------------------------------


def failing(real, left, number):
    """`real`, but for the call in which `left[0]` comes to nothing."""

    def instead(*words, **more):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(number, os.strerror(number))
        return real(*words, **more)

    return instead


@contextlib.contextmanager
def telling(said):
    try:
        yield
    except UserError as error:
        said.append(str(error))


def test_a_disk_that_is_full_at_any_step_is_a_sentence_and_loses_nothing(tmp_path, monkeypatch):
    """The fault is put before each thing in turn that closing a stage does to a file."""
    run = RunDir(tmp_path / "run")
    recipe = load(Path(__file__).parents[2] / "recipes" / "pocket.yaml")
    said = []
    for nth in range(1, 200):
        write(run, key=f"old {nth}")
        left = [nth]
        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "mkdir")):
                patch.setattr(owner, name, failing(getattr(owner, name), left, errno.ENOSPC))
            with telling(said), explained("teach", recipe, run.stage("teach")):
                write(run, key="new", text="new")
        run.settle("teach")
        manifest = run.manifest("teach")
        assert manifest is not None
        run.check("teach")
        assert (run.stage("teach") / "a.txt").read_text() == manifest["key"].split()[0]
        write(run, key="new", text="new")
        assert run.is_fresh("teach", "new")
        if left[0] > 0:
            break
    assert len(said) > 8
    assert all("the disk is full (No space left on device). Free some space there" in text for text in said)
    assert all("What was finished is kept, and the same command resumes from there." in text for text in said)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "the disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x/y"), "x/y: your share of the disk is used up"),
        (OSError(errno.EROFS, "Read-only file system", "x/y"), "x/y: it can be read and not written"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x/y"), "x/y: the name is too long"),
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), "x/y: this user may not read or write it"),
    ],
)
def test_a_library_that_wraps_what_the_disk_says_is_understood(tmp_path, error, says):
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = error
    assert says in str(disk.refusal(wrapped, tmp_path / "none"))
    assert disk.refusal(ValueError("other"), tmp_path) is None


@pytest.mark.slow
def test_a_stage_that_may_write_no_large_file_says_so(tmp_path):
    """The real command under the system's own limit on a file's size, which needs no rights to set."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    words = ["curate", "recipes/pocket.yaml", "--runs", str(tmp_path), "sampler.engine=transformers"]
    words += ["problems.limit=8", "curate.rollout.max_tokens=8", "curate.refine.max_tokens=8"]
    done = subprocess.run(
        [sys.executable, "-m", "ssb_unsloth", *words],
        capture_output=True,
        text=True,
        preexec_fn=limited,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2, done.stderr
    assert "no file may be that large there" in done.stderr
    assert "resumes from there" in done.stderr
    assert "Traceback" not in done.stderr
    assert Kept(tmp_path / "pocket" / "curate.partial" / "kept" / "wave-0000.rollouts.jsonl").replies


def test_a_name_that_is_too_long_is_a_sentence(tmp_path, capsys):
    for words in (
        ["run", "recipes/pocket.yaml", f"name={'x' * 300}", "--runs", str(tmp_path)],
        ["run", "recipes/pocket.yaml", "--runs", str(tmp_path / ("x" * 300))],
        ["evaluate", "pocket", "--benchmark", "pocket-test", "--max-tokens", "9", "--out", str(tmp_path / ("x" * 300))],
        ["evaluate", "pocket", "--benchmark", f"{'x' * 300}=recipes/pocket.yaml", "--out", str(tmp_path / "out")],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert re.search("too long|at most", said), said
