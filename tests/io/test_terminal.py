"""Output: what a model, a server or a file says is shown, and never obeyed by the terminal; no password is shown."""

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.cli import main
from ssb_unsloth.io.credentials import has_credentials, masked
from ssb_unsloth.io.progress import say
from ssb_unsloth.io.terminal import complain, tell, visible, write

PACKAGE = Path(__file__).parents[2] / "ssb_unsloth"
ESCAPES = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r",
    "\x08",
    "\x1b[1A",
    "\u202e",
    "\u2066",
    "\x00",
    "\ud800",
    "\u200b",
]


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_a_terminal_would_obey_is_shown(capsys, escape):
    for way in (tell, complain, say):
        way(f"a{escape}b")
    out = "".join(capsys.readouterr())
    assert escape not in out
    assert out.count("\\") >= 3
    assert visible("tab\tline\nÄ 数 🙂") == "tab\tline\nÄ 数 🙂"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet=st.characters(max_codepoint=0x2100)))
def test_no_control_character_comes_through(text):
    assert not set(visible(text)) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}


def test_what_an_encoding_does_not_have_is_written_out():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    write("Ä\x1b", stream)
    stream.seek(0)
    assert stream.read() == r"\xc4\x1b"


def test_nothing_writes_to_the_terminal_but_by_that_way():
    """print, the streams and tqdm's own, everywhere in the package; the judge's lines go through a pipe to us."""
    ways = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            streams = ("sys.stdout.write", "sys.stderr.write", "tqdm.write", "sys.stdout.buffer.write")
            if (called == "print" and not any(k.arg == "file" for k in node.keywords)) or called in streams:
                ways.append(f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}")
    assert ways == ["io/progress.py: tqdm.write(visible(text), file=sys.stderr)"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host/v1 refused", "http://***@host/v1 refused"),
        ("at https://pw@host:8/a?b=c#d.", "at https://***@host:8/a?b=c#d."),
        ("http:/me:pw@host: no such file", "http:/***@host: no such file"),
        ("http://me:p@w@host", "http://***@host"),
        ("http://h/v1?a=1&api_key=pw&b=2", "http://h/v1?a=1&api_key=***&b=2"),
        ("http://h/x?X-Amz-Signature=pw", "http://h/x?X-Amz-Signature=***"),
        ("token hf_abcdefghijklmnopqrst!", "token ***!"),
        ("Authorization: Bearer pw", "Authorization: Bearer ***"),
        ("a@b, 3 = x @ y, key=1, see http://h/v1#name", "a@b, 3 = x @ y, key=1, see http://h/v1#name"),
    ],
)
def test_passwords_and_keys_are_masked(text, shown):
    assert masked(text) == visible(text) == shown


def test_the_environments_keys_are_masked(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-very-secret")
    assert visible("invalid key sk-very-secret") == "invalid key ***"
    assert not has_credentials("a plain name/of-a-model")


@pytest.mark.parametrize("word", ["a\x1b[31m", "a\0b", "\ud800"])
def test_a_control_character_in_a_command_is_one_sentence(capsys, word):
    for command in (
        ["run", word],
        ["run", "recipes/pocket.yaml", f"name={word}"],
        ["evaluate", word],
        ["export", word],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "holds the control character" in said
        assert word not in said


def test_replies_in_a_file_are_shown_by_grade_and_not_obeyed(tmp_path, capsys):
    row = {"text": "\x1b[2J\\boxed{3}", "gold": "4\x1b[31m", "verdict": "right", "problem_id": "\x1b]0;x\x07"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    main(["grade", str(path)])
    assert "\x1b" not in "".join(capsys.readouterr())


URLS = ["http://me:hunter2@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?api_key=hunter2", "https://hunter2@127.0.0.1:9/v1#m"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "URL", "--benchmark", "pocket-test"],
        ["evaluate", "pocket", "--benchmark", "mine=URL"],
        ["evaluate", "pocket", "--benchmark", "pocket-test", "--adapter", "URL"],
        ["evaluate", "pocket", "--benchmark", "pocket-test", "--adapter", "a=URL"],
        ["evaluate", "pocket", "--benchmark", "URL"],
        ["evaluate", "pocket", "--benchmark", "pocket-test", "model.revision=URL"],
        ["run", "RECIPE", "model.name=URL"],
        ["run", "RECIPE", "curate.pairs_file=URL"],
        ["run", "RECIPE", "URL"],
        ["run", "URL"],
        ["plan", "RECIPE", "evaluate.adapters.a=URL"],
        ["grade", "URL"],
        ["export", "URL"],
        ["URL"],
        ["run", "RECIPE", "--URL"],
    ],
)
def test_a_password_stands_in_no_file_no_name_and_no_message(tmp_path, url, words):
    recipe = str(Path(__file__).parents[2] / "recipes" / "pocket.yaml")
    words = [word.replace("URL", url).replace("RECIPE", recipe) for word in words]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ssb_unsloth", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for path in tmp_path.rglob("*"):
        assert "hunter2" not in path.name
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


@pytest.mark.parametrize("sign", "\u034f\u115f\u1160\u180e\u3164\uffa0\U0001d173\U000e0100")
def test_a_sign_that_shows_nothing_is_written_out(sign):
    assert visible(f"a{sign}b") in (f"a\\u{ord(sign):04x}b", f"a\\U{ord(sign):08x}b")
