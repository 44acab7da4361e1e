"""It goes on, from any moment: kills, full disks, links, missing locks, moved runs."""

import os
import signal
import sys
import traceback
from pathlib import Path

import pytest

from ssb_unsloth.rundir import RunDir

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
