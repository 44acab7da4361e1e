"""Before anything is installed: a Python without a package looks at the machine, and says what is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """bare(words): a command of this checkout in an environment that holds nothing."""
    folder = tmp_path_factory.mktemp("bare")
    make = [getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--without-pip", folder / "env"]
    subprocess.run(make, check=True)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env = {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def ssb(*words):
        command = [folder / "env" / "bin" / "python", "-m", "ssb_unsloth", *words]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)

    return ssb


def test_doctor_looks_at_the_machine(bare):
    done = bare("doctor", "--machine")
    assert (done.returncode, done.stderr) == (0, "")
    assert "The pocket (make demo): can run here." in done.stdout
    findings = json.loads(bare("doctor", "--machine", "--json").stdout)["findings"]
    assert {"python", "system", "gpu"} <= {finding["name"] for finding in findings}


def test_doctor_says_that_the_packages_are_missing_and_what_to_do(bare):
    done = bare("doctor")
    assert (done.returncode, done.stderr) == (2, "")
    said = " ".join(done.stdout.split())
    assert "packages not installed: accelerate, datasets," in said
    assert "installs the locked set" in said


@pytest.mark.parametrize(
    "words", [["run", "pocket"], ["plan", "pocket"], ["recipes", "show", "pocket"], ["train", "x"]]
)
def test_what_needs_packages_says_so_in_a_sentence(bare, words):
    done = bare(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ssb: the package ")
    assert " is not installed here, which this command needs: " in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["recipes"], ["--version"]])
def test_help_version_and_the_list_of_recipes_need_nothing(bare, words):
    done = bare(*words)
    assert (done.returncode, done.stderr) == (0, "")
