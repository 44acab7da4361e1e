"""What the command line says of itself: every command's help, with one example that works, and what is missing."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ssb_unsloth import cli
from ssb_unsloth.commands.words import parser
from ssb_unsloth.machine.versions import commit
from ssb_unsloth.pipeline.table import STAGES
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.shipped import find

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """Every command that a help lists, those of `ssb recipes` after it."""
    found = []
    for within in ("", "recipes "):
        text = parser_of(within.split()).format_help()
        found += [within + name for name in re.findall(r"^    (\w+) ", text, re.M)]
    return found


def parser_of(words):
    found = parser()
    for word in words:
        (choices,) = [action.choices for action in found._actions if isinstance(action.choices, dict)]
        found = choices[word]
    return found


COMMANDS = commands()
NAMES_SOMETHING = [name for name in COMMANDS if name not in ("doctor", "recipes", "recipes new")]


@pytest.fixture
def printed(capsys):
    """printed(words): the exit code of a command, and what it wrote to either stream."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = cli.main(words)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def example(words: str) -> list[str]:
    (line,) = re.findall(r"^example:\n  (ssb .*)\n\Z", parser_of(words.split()).format_help(), re.M)
    return shlex.split(line)[1:]


def test_there_are_all_commands():
    assert {"run", "sweep", "plan", "doctor", "verify", "grade", "recipes", "recipes copy", *STAGES} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_says_in_sentences_what_it_does_within_80_columns(printed, name):
    code, out, err = printed(*name.split(), "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    told = out.split("\n\n")[1]
    assert re.fullmatch(r"[A-Z][^\n]{20,}(\n[^\n]+)*\.", told), told


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_what_runs_a_recipe_lists_its_stages(printed, name):
    listed = printed(name, "--help")[1].split("stages:\n")[1].split("\n\n")[0]
    assert re.findall(r"^  (\w+) ", listed, re.M) == list(STAGES)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_one_of_it_and_its_recipe_takes_it(name):
    words = example(name)
    assert words[: len(name.split())] == name.split()
    arguments, rest = parser().parse_known_args(words)
    assert not any(word.startswith("-") for word in rest)
    if hasattr(arguments, "overrides") and arguments.recipe is not None:
        load(find(arguments.recipe), [*arguments.overrides, *rest])


@pytest.mark.parametrize("name", ["plan", "recipes", "recipes show", "recipes copy"])
def test_examples_that_need_no_run_work(printed, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    code, out, err = printed(*example(name))
    assert (code, err) == (0, "")
    assert out


@pytest.mark.parametrize("name", NAMES_SOMETHING)
def test_a_command_without_its_argument_says_what_is_missing_and_what_to_do(printed, name):
    code, out, err = printed(*name.split())
    assert (code, out) == (2, "")
    what = {"grade": "FILE", "recipes copy": "NAME"}.get(name, "RUN" if "RUN is missing" in err else "RECIPE")
    assert err.startswith(f"ssb {name}: {what} is missing: ")
    assert "key=value" not in err  # which may be left out
    assert f"\nFor example: {shlex.join(['ssb', *example(name)])}\n" in err
    assert max(map(len, err.splitlines())) <= 80


@pytest.mark.parametrize("given", [[], ["--model", "pocket"], ["--data", "questions.jsonl"]])
def test_a_new_recipe_without_model_or_data_says_which(printed, given):
    code, _, err = printed("recipes", "new", *given)
    assert code == 2
    missing = [option for option in ("--model", "--data") if option not in given]
    assert f"{missing[0]} is missing" in err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("rnu pocket", "run"),
        ("recipes shw", "show"),
        ("export runs/x --format ggf", "gguf"),
        ("pocket", "`ssb run pocket`"),
    ],
)
def test_a_word_that_is_mistyped_is_answered_with_the_nearest(printed, words, meant):
    code, out, err = printed(*words.split())
    assert (code, out) == (2, "")
    assert f"Did you mean {meant}?" in " ".join(err.split())
    assert max(map(len, err.splitlines())) <= 80


@pytest.mark.parametrize("name", ["run", "plan", "verify", "recipes copy"])
def test_an_option_that_is_none_is_answered_by_the_command_that_was_typed(printed, name):
    code, _, err = printed(*example(name), "--frce")
    assert code == 2
    assert err.startswith(f"ssb {name}: unknown: --frce.\n")
    assert f"`ssb {name} --help` says more" in err


# -- The version ------------------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *own, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_checkouts_commit_is_known_and_whether_files_are_changed(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    assert git(tmp_path, "rev-parse", "HEAD").startswith(commit(tmp_path) or "none")
    git(tmp_path, "tag", "v1")
    assert git(tmp_path, "rev-parse", "HEAD").startswith(commit(tmp_path) or "none")
    (tmp_path / "a").write_text("b")
    assert str(commit(tmp_path)).endswith("-dirty")


def test_an_installation_has_no_commit_even_within_a_checkout(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") is None
    assert commit(tmp_path) is None  # nothing is committed
    monkeypatch.setenv("PATH", "")
    assert commit(ROOT) is None  # no git


def test_the_version_of_a_checkout_names_its_commit():
    done = subprocess.run([sys.executable, "-m", "ssb_unsloth", "--version"], cwd=ROOT, capture_output=True, text=True)
    known = commit(ROOT)
    assert done.stdout.removesuffix("\n").endswith(f" (commit {known})" if known else cli.__version__)
