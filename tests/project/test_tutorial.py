"""docs/your-own-task.md: its files and commands, taken out of the page and run as they stand."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssb_unsloth.pocket.tasks.slices import Slices
from ssb_unsloth.recipe.loading import load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-own-task.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^`(?P<file>[\w.-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
FILES = {block["file"]: block["text"] for block in BLOCK.finditer(PAGE) if block["file"]}


def write_files(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")


def test_every_block_is_a_file_or_a_command() -> None:
    blocks = list(BLOCK.finditer(PAGE))
    assert PAGE.count("\n```") == 2 * len(blocks)
    assert [block["text"][:40] for block in blocks if not block["file"] and block["language"] != "bash"] == []
    assert set(FILES) == {"tutor.txt", "refine.txt", "slices.py", "slices.yaml"}


def test_the_recipe_asks_under_the_texts_that_the_model_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    texts = load(tmp_path / "slices.yaml").prompts.texts
    assert (texts.tutor, texts.refine, texts.answer_form) == (Slices.TUTOR, Slices.REFINE, Slices.ANSWER_FORM)


def test_files_and_packages_that_the_page_names_are_there() -> None:
    for link in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    for path in re.findall(r"`((?:ssb_unsloth|tests)/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, words in (("python", ""), ("ssb", "-m ssb_unsloth")):
        (bin_ / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (bin_ / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "task"
    folder.mkdir()
    printed = []
    for block in BLOCK.finditer(PAGE):
        if block["file"]:
            (folder / block["file"]).write_text(block["text"], encoding="utf-8")
            continue
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block["text"]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert ran.returncode == 0, f"{block['text']}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
        printed.append(ran.stdout)
    with (folder / "slices.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 240
    tried = next(text for text in printed if "Answer: the first three" in text).splitlines()
    verdicts = re.findall(r"Verdict\.(\w+)", "\n".join(tried))
    assert verdicts == ["RIGHT", "RIGHT", "WRONG", "WRONG", "NO_ANSWER"]
    report = printed[-1]
    assert "verifier slices:Slices" in report
    rows = re.findall(r"\| test \| greedy \| (base|ssb) \| ([\d.]+ %)", report)  # at its head, and among all
    assert {name for name, _ in rows} == {"base", "ssb"}
    assert len(set(rows)) == 2
