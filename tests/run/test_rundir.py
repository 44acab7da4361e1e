"""The run folder: what is finished is whole, what is not is resumed or thrown away."""

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest

from ssb_unsloth.errors import UserError
from ssb_unsloth.run.manifests import digest, text
from ssb_unsloth.run.rundir import RunDir, fingerprint


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "mine")


def write(run, name="curate", key="k1", content="one"):
    with run.write(name, key, {"seed": 1}) as work:
        (work.folder / "out.txt").write_text(content)


def test_a_stage_is_finished_when_its_manifest_is_there(run):
    assert run.manifest("curate") is None
    with run.write("curate", "k1", {"seed": 1}) as work:
        (work.folder / "sub").mkdir()
        (work.folder / "sub" / "out.txt").write_text("one")
        work.tokens, work.summary = 7, {"pairs": 3}
        assert not run.stage("curate").exists()
        assert not (work.folder / "manifest.json").exists()
    manifest = run.manifest("curate")
    assert (manifest["stage"], manifest["key"], manifest["determined_by"]) == ("curate", "k1", {"seed": 1})
    assert manifest["files"] == {"sub/out.txt": hashlib.sha256(b"one").hexdigest()}
    assert manifest["summary"] == {"pairs": 3}
    assert manifest["cost"]["tokens"] == 7
    assert manifest["cost"]["peak_rss_bytes"] > 1_000_000
    assert manifest["versions"]["python"] == sys.version.split()[0]
    assert sorted(path.name for path in run.root.iterdir()) == ["curate"]
    assert sorted(path.name for path in run.stage("curate").iterdir()) == ["manifest.json", "sub"]


def test_a_stage_is_fresh_for_its_own_key_only(run):
    assert not run.is_fresh("curate", "k1")
    write(run)
    assert run.is_fresh("curate", "k1")
    assert not run.is_fresh("curate", "k2")


def test_files_that_are_no_more_what_the_stage_wrote_are_named(run):
    run.check("curate")  # never run: nothing to check
    write(run)
    run.check("curate")
    path = run.stage("curate") / "out.txt"
    path.write_text("two")
    with pytest.raises(UserError, match=r"out\.txt: changed since it was written; put it back .* or delete"):
        run.check("curate")
    path.unlink()
    with pytest.raises(UserError, match=r"out\.txt: missing; put it back"):
        run.check("curate")
    path.write_text("one")
    run.check("curate")


def test_a_manifests_id_changes_with_key_and_content(run):
    ids = []
    for key, content in (("k1", "one"), ("k1", "two"), ("k2", "one"), ("k1", "one")):
        write(run, key=key, content=content)
        ids.append(run.manifest("curate")["id"])
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]


def stop_in_the_middle(run, key):
    with contextlib.suppress(RuntimeError), run.write("curate", key, {}) as work:
        (work.folder / "half.txt").write_text("half")
        raise RuntimeError


def test_what_a_stopped_stage_left_is_there_for_the_same_key(run):
    stop_in_the_middle(run, "k1")
    with run.write("curate", "k1", {}) as work:
        assert (work.folder / "half.txt").read_text() == "half"
    assert set(run.manifest("curate")["files"]) == {"half.txt"}


def test_what_a_stopped_stage_left_is_thrown_away_for_another_key(run):
    stop_in_the_middle(run, "k1")
    with run.write("curate", "k2", {}) as work:
        assert not (work.folder / "half.txt").exists()


def test_a_partial_folder_that_no_stage_has_left_is_not_touched(run):
    stop_in_the_middle(run, "k1")
    (run.root / "curate.partial" / ".key").unlink()
    with pytest.raises(UserError, match=r"curate\.partial: holds files that no stage has left"):
        write(run)
    assert (run.root / "curate.partial" / "half.txt").read_text() == "half"


def test_a_failure_leaves_the_finished_stage_untouched(run):
    write(run)
    before = {path.name: path.read_bytes() for path in run.stage("curate").iterdir()}
    stop_in_the_middle(run, "k2")
    assert {path.name: path.read_bytes() for path in run.stage("curate").iterdir()} == before
    assert run.is_fresh("curate", "k1")


def test_a_repeated_stage_takes_the_old_ones_place_whole(run):
    with run.write("curate", "k1", {}) as work:
        (work.folder / "old.txt").write_text("old")
    write(run, key="k2")
    assert sorted(path.name for path in run.stage("curate").iterdir()) == ["manifest.json", "out.txt"]
    assert sorted(path.name for path in run.root.iterdir()) == ["curate"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"key": "k1"}', "\x00"])
def test_a_damaged_manifest_is_named_with_the_remedy(run, text):
    write(run)
    (run.stage("curate") / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json.*delete the folder"):
        run.is_fresh("curate", "k1")


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in ("stage", "key", "id", "files", "sizes", "cost", "spent", "summary", "versions")),
        *({"determined_by": value} for value in (None, [], {"inputs": 3}, {"inputs": {"base": 3}}, {"students": "x"})),
        *({"cost": value} for value in ({}, {"seconds": "1", "tokens": 1}, {"seconds": 1.0, "tokens": True})),
        *({"files": {name: "0" * 64}, "sizes": {name: 1}} for name in ("/etc/hostname", "../out.txt", "a/../../b")),
        *({"files": {"out.txt": 3}}, {"files": {}}, {"sizes": {"out.txt": "3"}}, {"key": "lone \ud800"}),
    ],
)
def test_a_made_up_manifest_with_a_right_seal_is_none_either(run, change):
    write(run)
    path = run.stage("curate") / "manifest.json"
    manifest = {n: v for n, v in {**json.loads(path.read_text()), **change}.items() if n != "seal" and v is not None}
    path.write_text(text({**manifest, "seal": digest(manifest)}))
    if change == {"key": "lone \ud800"}:  # odd, and as good a key as any
        assert not run.is_fresh("curate", "k1")
        return
    with pytest.raises(UserError, match=r"manifest\.json.*delete the folder"):
        run.is_fresh("curate", "k1")


def test_a_second_process_is_kept_out_of_the_same_run(run):
    with run.lock():
        script = (
            "from pathlib import Path; from ssb_unsloth.run.rundir import RunDir\n"
            f"with RunDir(Path({str(run.root)!r})).lock(): pass"
        )
        path = os.pathsep.join(filter(None, sys.path))
        second = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        assert second.returncode == 1
        assert "UserError" in second.stderr
        assert "another ssb process" in second.stderr
        with RunDir(run.root.parent / "other").lock():  # another run is another matter
            pass
    with run.lock():
        pass


def refuse(folder, *names):
    """A stage that keeps these files and is then refused."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("kept")
    raise UserError("no such model")


def test_a_refused_first_command_leaves_no_folder(tmp_path):
    run, stage = RunDir(tmp_path / "runs" / "mine"), RunDir(tmp_path / "runs" / "mine")
    with run.lock(".run.lock"):
        with pytest.raises(UserError, match="no such model"), stage.lock(), stage.write("curate", "k1", {}) as work:
            refuse(work.folder)
        assert [path.name for path in run.root.iterdir()] == [".run.lock"]
    assert not (tmp_path / "runs").exists()


def test_a_refused_command_leaves_a_users_folder_and_what_was_kept(run):
    run.root.mkdir()
    with run.lock():
        pass
    assert not list(run.root.iterdir())
    with pytest.raises(UserError, match="no such model"), run.lock(), run.write("curate", "k1", {}) as work:
        refuse(work.folder, "kept/reply")
    with run.lock(), run.write("curate", "k1", {}) as work:
        assert (work.folder / "kept" / "reply").read_text() == "kept"


def test_a_lock_that_its_holder_removes_is_taken_anew(tmp_path):
    """Else one who waited would hold a file that nobody sees, and a third could come in."""
    run = RunDir(tmp_path / "runs" / "mine")
    inside = threading.Event()

    def second():
        with RunDir(run.root).lock(patience=20):
            inside.set()
            (run.root / "something").write_text("done")
            with pytest.raises(UserError, match="another ssb process"), RunDir(run.root).lock():
                pass

    with concurrent.futures.ThreadPoolExecutor() as pool:
        with contextlib.suppress(UserError), run.lock():
            waiting = pool.submit(second)
            assert not inside.wait(0.5)
            raise UserError("refused")
        waiting.result(30)
    assert sorted(path.name for path in run.root.iterdir()) == [".lock", "something"]


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    run = RunDir(tmp_path / "file" / "mine")
    assert run.manifest("curate") is None
    with pytest.raises(UserError, match="cannot be made"), run.lock():
        pass


def test_a_fingerprint_is_the_contents(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("a")
    first = fingerprint(file)
    os.utime(file, (1, 1))
    assert fingerprint(file) == first
    file.write_text("b")
    assert fingerprint(file) != first


def test_a_folders_fingerprint_changes_with_any_of_its_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("a")
    seen = {fingerprint(tmp_path)}
    (tmp_path / "sub" / "a").write_text("b")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "c").write_text("")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "c").rename(tmp_path / "d")
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 4


def test_a_file_that_is_not_there_has_no_fingerprint(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        fingerprint(tmp_path / "none.jsonl")


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
    assert len(digest(json.loads("{}"))) == 64


def test_the_peak_of_memory_is_the_processs_own_and_not_that_of_the_one_that_started_it():
    held = b"x" * 400_000_000
    script = "from ssb_unsloth.run.rundir import peak_memory; print(peak_memory()['peak_rss_bytes'])"
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert 5_000_000 < int(done.stdout) < len(held) / 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_said_and_works(run, monkeypatch, capsys, number):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with run.lock():
        write(run)
    said = capsys.readouterr().err
    assert "its file system knows no locks" in said
    assert "another ssb process" not in said
    assert run.is_fresh("curate", "k1")
