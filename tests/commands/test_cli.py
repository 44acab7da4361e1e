"""The command `ssb`: light to start, and a user's mistake is a sentence and exit code 2, never a traceback."""

import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from stage_keys import key_of

from ssb_unsloth import __version__, cli
from ssb_unsloth.pipeline import sweep
from ssb_unsloth.pipeline.process import Call
from ssb_unsloth.pipeline.table import STAGES, stage
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.run.rundir import RunDir

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ssb_unsloth"
POCKET = str(ROOT / "recipes" / "pocket.yaml")
HEAVY = {"torch", "transformers", "vllm", "unsloth", "trl", "peft", "datasets", "omegaconf", "matplotlib", "numpy"}


def ssb(*arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "ssb_unsloth", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def fails(capsys):
    """fails(arguments): what is printed by a command that ends with exit code 2."""

    def run(*arguments: str) -> str:
        try:
            code = cli.main(arguments)
        except SystemExit as stop:  # argparse's own way out
            code = stop.code
        assert code == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return run


# -- Help and version -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["recipes"]])
def test_help_imports_nothing_heavy(arguments):
    done = ssb(*arguments, python=("-X", "importtime"))
    imported = re.findall(r"^import time: .*\| +([\w.]+)$", done.stderr, re.M)
    assert done.returncode == 0
    assert "ssb_unsloth.cli" in imported
    assert HEAVY & {module.split(".")[0] for module in imported} == set()
    assert len(imported) < 200


def test_help_names_every_command():
    text = ssb("--help").stdout
    for command in ("run", "curate", "teach", "train", "evaluate", "report", "recipes"):
        assert re.search(rf"^ +{command} +\w", text, re.M), command


def test_no_command_at_all_prints_the_help():
    assert ssb().stdout == ssb("--help").stdout


def test_the_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(rf"ssb_unsloth {__version__}( \(commit \w+(-dirty)?\))?\n", capsys.readouterr().out)


def test_every_stage_is_a_command():
    for name in STAGES:
        assert re.search(rf"^ +{name} +\w", ssb("--help").stdout, re.M), name
        assert stage(name).name == name


@pytest.mark.parametrize("inside", [True, False])
def test_recipes_are_listed_with_what_they_are_for(capsys, monkeypatch, tmp_path, inside):
    monkeypatch.chdir(ROOT if inside else tmp_path)
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert max(map(len, listed.splitlines())) < 80
    words = " ".join(listed.split())
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert f" {path.stem} " + path.read_text().splitlines()[0].lstrip("# ") in words


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
def test_a_recipe_is_shown_in_80_columns_but_for_a_value_that_is_longer(capsys, recipe):
    assert cli.main(["recipes", "show", recipe]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80 and " # " in line] == []


# -- Mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bake"], "bake"),
        (["run"], "RECIPE"),
        (["--frce"], "--frce"),
        (["run", POCKET, "--frce"], "--frce"),
        (["run", POCKET, "--runs"], "--runs"),
        (["run", POCKET, "seed=1", "--force", "-x", "seed=2"], "-x"),
        (["recipes", "pocket"], "pocket"),
        (["run", "none.yaml"], "none.yaml: no such recipe"),
        (["run", POCKET, "seed"], "'seed': expected key=value"),
        (["run", POCKET, "seed=one"], "seed: "),
        (["run", POCKET, "sead=1"], "did you mean seed?"),
        (["run", POCKET, "seed=[1"], "seed=[1"),
        (["curate", POCKET, "train.epochs=0"], "train.epochs: 0"),
    ],
)
def test_a_mistake_is_named_and_the_exit_code_is_2(fails, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    assert named in fails(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["run", "none.yaml"], ["run", POCKET, "sead=1"]])
def test_a_mistake_shows_no_traceback(arguments):
    done = ssb(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("ssb: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("stage", "first"), [("teach", "curate"), ("train", "curate"), ("evaluate", "curate"), ("report", "evaluate")]
)
def test_a_stage_before_its_time_says_which_comes_first(fails, tmp_path, stage, first):
    assert f"run `ssb {first}` first" in fails(stage, POCKET, "--runs", str(tmp_path))


def test_rollouts_that_are_not_there_are_named(fails, tmp_path):
    file = tmp_path / "none.jsonl"
    for command in ("run", "curate"):
        said = fails(command, POCKET, f"curate.rollouts_file={file}", "--runs", str(tmp_path / "runs"))
        assert f"{file}: no such file" in said


def test_a_place_for_runs_that_is_no_folder_is_named(fails, tmp_path):
    (tmp_path / "runs").write_text("")
    assert "cannot be made" in fails("curate", POCKET, "--runs", str(tmp_path / "runs"))


# -- Overrides, and what is run ---------------------------------------------------------------------------------------


def test_overrides_stand_before_and_after_options(fails, tmp_path):
    said = fails("teach", POCKET, "seed=-1", "--runs", str(tmp_path), "curate.pairs=-2", "--force", "train.epochs=-7")
    assert "3 things to fix" in said
    assert all(f"{key}: {value}" in said for key, value in (("seed", -1), ("curate.pairs", -2), ("train.epochs", -7)))
    said = fails("teach", POCKET, "--runs", str(tmp_path), "--force", "name=mine")
    assert str(tmp_path / "mine" / "curate") in said


ONE_STUDENT = [name for name in STAGES if name != "base"]


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """finished(arguments, code=0): the exit code of `ssb run` over empty stages, and the stages that it started,
    each as its process is told. Their processes end with that code; with 0 they leave an empty stage behind."""
    run = RunDir(tmp_path / "pocket")

    def write(name: str, *overrides: str) -> None:
        key, determined_by = key_of(name, load(Path(POCKET), overrides), run)
        with run.write(name, key, determined_by) as work:
            (work.folder / "report.json").write_text('{"scores": [], "differences": []}')

    for name in ONE_STUDENT:
        write(name)
    started = []

    class Process:
        def __init__(self, call: Call, code: int) -> None:
            self.call, self.exitcode = call, code
            self.sentinel, end = os.pipe()
            os.close(end)  # so that it is ready at once

        def start(self) -> None:
            started.append(self.call)
            if self.exitcode == 0:
                write(self.call.stage, *self.call.overrides)

        def join(self) -> None:
            os.close(self.sentinel)

    def go(*arguments: str, code: int = 0):
        monkeypatch.setattr(sweep.Sweep, "_process", lambda self, call, log, job: Process(call, code))
        return cli.main(["run", POCKET, "--runs", str(tmp_path), *arguments]), started

    return go


def test_on_a_cpu_all_stages_but_the_first_are_forked_from_one_that_imports_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.forkserver, "ensure_running", lambda: started.append("imports"))
    for card, unsloth, begun, kinds in (
        (None, "", ["imports"], ["SpawnProcess", "ForkServerProcess"]),
        ("a card", "", [], ["SpawnProcess", "SpawnProcess"]),  # Unsloth has to come first there, and CUDA last
        (None, "1", [], ["SpawnProcess", "SpawnProcess"]),
    ):
        started = []
        monkeypatch.setattr(sweep, "here", lambda card=card: card)
        monkeypatch.setenv("UNSLOTH_ALLOW_CPU", unsloth)
        job = sweep.Sweep(load(Path(POCKET)), POCKET, [], tmp_path, 1, False)
        first = job._process(job._call, None, job._todo[0])
        job._ran = True
        assert [type(first).__name__, type(job._process(job._call, None, job._todo[1])).__name__] == kinds
        assert started == begun


def test_the_process_that_imports_ends_with_the_run_that_started_it(tmp_path):
    """A run that is killed at once, while the other process has hardly begun."""
    code = (
        "import multiprocessing, os, signal; from multiprocessing import forkserver\n"
        "os.environ['SSB_STARTER'] = str(os.getpid())\n"
        "multiprocessing.set_forkserver_preload(['ssb_unsloth.pipeline.preload']); forkserver.ensure_running()\n"
        "print(forkserver._forkserver._forkserver_pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with (tmp_path / "pid").open("w+") as said:
        subprocess.run([sys.executable, "-c", code], stdout=said, timeout=60)
        pid = (tmp_path / "pid").read_text().strip()
    for _ in range(300):
        try:
            state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("it imports on")


def test_what_is_up_to_date_is_not_run_again(finished, capsys):
    assert finished() == (0, [])
    out, err = capsys.readouterr()
    assert err.count("up to date") == len(ONE_STUDENT) + 1
    assert "report.md" in out


def test_force_runs_everything_again_each_stage_in_a_process_of_its_own(finished, tmp_path):
    code, started = finished("--force", "seed=3407")
    assert code == 0
    assert started == [Call(name, POCKET, ["seed=3407"], tmp_path, force=True) for name in ONE_STUDENT]


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("seed=1", "curate"),
        ("problems.limit=10", "curate"),
        ("curate.pairs=10", "curate"),
        ("teach.targets=logits", "teach"),
        ("train.kd_temperature=3", "train"),
        ("train.epochs=1", "train"),
        ("evaluate.benchmarks.test.limit=10", "evaluate"),
    ],
)
def test_a_change_runs_again_what_depends_on_it(finished, override, first):
    code, started = finished(override)
    assert code == 0
    assert started[0].stage == first


def test_targets_of_another_format_or_temperature_are_never_used_again(finished, tmp_path):
    """The key of the teach stage differs for every format; that of top_k also for every temperature of the teacher."""
    run = RunDir(tmp_path / "pocket")

    def key(*overrides: str) -> str:
        return key_of("teach", load(Path(POCKET), overrides), run)[0]

    formats = ["hidden", "logits", "top_k", "one_hot", "online"]
    assert len({key(f"teach.targets={name}") for name in formats}) == len(formats)
    for name in formats:
        changes = ("train.kd_temperature=3", "train.kd_temperature=2", "train.sharpen=1")
        changed = [key(f"teach.targets={name}", change) for change in changes]
        assert (changed[0] != changed[1]) == (name == "top_k")
        assert changed[1] == changed[2]
    assert key("teach.targets=top_k", "train.sharpen=2") == key("teach.targets=top_k", "train.kd_temperature=1")
    assert key("teach.targets=top_k", "teach.top_k=8") != key("teach.targets=top_k", "teach.top_k=9")


def test_training_alone_refuses_targets_made_for_another_recipe(finished, fails, tmp_path):
    assert "run `ssb teach` first" in fails("train", POCKET, "--runs", str(tmp_path), "teach.targets=logits")


def test_a_stage_that_fails_stops_the_run(finished, capsys):
    for code, expected in ((2, 2), (130, 130), (1, 2)):
        assert finished("--force", code=code)[0] == expected
    assert len(finished("--force", code=2)[1]) == 4  # one a run
    assert "Stage curate failed (exit code 1)" in capsys.readouterr().err


# -- The package ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "home"),
    [("vllm", "backends/vllm.py"), ("unsloth", "backends/unsloth.py"), ("math_verify", "verifier/judge.py")],
)
def test_what_changes_often_is_imported_by_one_file_only(module, home):
    imports = re.compile(rf"^\s*(?:import|from)\s+{module}\b|import_module\(\s*[\"']{module}\b", re.M)
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if imports.search(path.read_text(encoding="utf-8"))
    }
    assert found == {home}


def test_no_file_has_what_a_newer_python_warns_of():
    r"""`"\s"` in a plain string is a warning since Python 3.12 and will be an error."""
    root = PACKAGE.parent
    files = [
        path for folder in ("ssb_unsloth", "benchmarks", "scripts", "tests") for path in (root / folder).rglob("*.py")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in files:
            compile(path.read_text(encoding="utf-8"), str(path), "exec")
    assert len(files) > 100
