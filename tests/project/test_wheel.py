"""The wheel and the sdist hold what they need, and work where there is no checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "uv", "build", "--out-dir", out, ROOT], check=True, capture_output=True)
    return out


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(listed.stdout.splitlines())


def test_the_wheel_holds_the_package_and_the_recipes(built):
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == tracked("ssb_unsloth") | {f"ssb_unsloth/{name}" for name in tracked("recipes")}


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked("ssb_unsloth", "recipes", "README.md", "LICENSE", "pyproject.toml") <= names


def test_recipes_run_by_name_from_the_wheel(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    work = tmp_path / "work"
    work.mkdir()

    def ssb(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [sys.executable, "-m", "ssb_unsloth", *words], cwd=work, env=environment, capture_output=True, text=True
        )

    assert "  pocket  " in ssb("recipes").stdout
    assert str(tmp_path / "site" / "ssb_unsloth" / "recipes") in ssb("recipes", "show", "gemma-3-1b").stdout
    assert ssb("plan", "small-gsm8k", "--gpu", "t4").returncode in (0, 2)
    small = [
        "curate.pairs=4",
        "curate.wave=16",
        "train.epochs=1",
        "sampler.engine=transformers",
        "evaluate.benchmarks.test-hard=null",
        "evaluate.benchmarks.test.limit=8",
    ]
    run = ssb("run", "pocket", *small)
    assert run.returncode == 0, run.stderr
    assert (work / "runs" / "pocket" / "report" / "report.md").is_file()
