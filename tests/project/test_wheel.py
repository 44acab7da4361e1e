"""The wheel and the sdist hold what they need, and work where there is no checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts import index_readme

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


def description(wheel: Path) -> str:
    """What an index page shows."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name).decode().partition("\n\n")[2]


def test_an_index_page_takes_both_and_has_no_dead_link(built):
    files = [str(path) for path in built.iterdir() if path.suffix in (".whl", ".gz")]
    assert len(files) == 2
    checked = subprocess.run(
        [sys.executable, "-m", "uv", "tool", "run", "twine", "check", "--strict", *files],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("PASSED") == 2
    (wheel,) = built.glob("*.whl")
    page = description(wheel)
    assert "# ssb_unsloth" in page
    assert "Semantic Soft Bootstrapping" in page
    links = index_readme.LINK.findall(page)
    assert links
    assert [to for _, _, to in links if "://" not in to] == []


def test_links_of_an_index_page_lead_to_the_address_if_there_is_one():
    text = "![A picture](docs/a.svg)\n\n\nSee [data](docs/data.md#csv), [the paper](https://arxiv.org/) and [here](#b)."
    assert index_readme.readme(text, "https://example.org/we/ssb/") == (
        "![A picture](https://example.org/we/ssb/raw/main/docs/a.svg)\n\nSee "
        "[data](https://example.org/we/ssb/blob/main/docs/data.md#csv), [the paper](https://arxiv.org/) and [here](#b)."
    )
    assert index_readme.readme(text, None) == "\n\nSee data, [the paper](https://arxiv.org/) and [here](#b)."
    whole = index_readme.readme((ROOT / "README.md").read_text(encoding="utf-8"), "https://example.org/we/ssb")
    files = [to for _, _, to in index_readme.LINK.findall(whole) if "example.org" in to]
    assert len(files) > 20
    for to in files:
        assert (ROOT / to.partition("/main/")[2]).exists(), to


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
    # README's snippet, on the pairs of a run of one's own.
    for path in (ROOT / "examples" / "train_by_hand.py", work / "runs" / "pocket" / "curate" / "pairs.jsonl"):
        shutil.copy(path, work)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    snippet = subprocess.run(
        [sys.executable, "train_by_hand.py"], cwd=work, env=environment, capture_output=True, text=True
    )
    assert snippet.returncode == 0, snippet.stderr
    assert (work / "student" / "adapter_model.safetensors").is_file()
