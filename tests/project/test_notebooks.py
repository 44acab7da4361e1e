"""The notebooks run from a clean kernel by their one switch, and what is stored is what they say."""

import io
import re
import shutil
from base64 import b64decode
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from ssb_unsloth.commands import notebook as helper

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
PICTURES = {
    "01_pocket_cpu.ipynb": 6,
    "02_colab_t4.ipynb": 3,
    "03_reproduce_a100.ipynb": 2,
    "04_your_own_task.ipynb": 3,
}
ALONE = [name for name in PICTURES if not name.startswith("01")]  # which get the package themselves
WIDEST = 900  # pixels of a page of GitHub's


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook: nbformat.NotebookNode) -> list[tuple[str, dict]]:
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    return [(output.data["image/png"], output.metadata) for output in outputs if "image/png" in output.get("data", {})]


def printed(notebook: nbformat.NotebookNode) -> str:
    """All that the cells printed, and the text of what they displayed."""
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    return "\n".join(texts + [output.get("data", {}).get("text/markdown", "") for output in outputs])


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_runs(name, monkeypatch, tmp_path):
    """In a copy of the checkout's tracked folders, so that no run is there."""
    monkeypatch.setenv("SSB_NOTEBOOK", "pocket")  # the one switch: a tiny model, few questions, nothing installed
    for folder in ("ssb_unsloth", "recipes", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    notebook = read(name)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    assert len(pictures(notebook)) >= PICTURES[name]
    if name.startswith("03"):
        assert "`ssb run`: interrupted" in printed(notebook)
        assert "There is so far: curate\n" in printed(notebook)
        assert "6 stages are finished; none was done again" in printed(notebook)
    if name.startswith("04"):
        assert re.search(r"student: (right|wrong)\n", printed(notebook))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_stored_with_its_outputs_and_without_errors(path):
    notebook = read(path.name)
    nbformat.validate(notebook)
    code = code_of(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type in ("error", "stderr")]
    assert not [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]
    assert len(pictures(notebook)) >= PICTURES[path.name]


@pytest.mark.parametrize("name", PICTURES)
def test_no_place_of_the_machine_that_ran_it_is_stored(name):
    assert re.findall(r"(?<![\w.:/])/[a-z]+/[\w.-]+", printed(read(name))) == []
    assert str(ROOT) not in (NOTEBOOKS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PICTURES)
def test_no_picture_is_wider_than_a_page_or_tells_by_red_and_green(name):
    notebook = read(name)
    for encoded, metadata in pictures(notebook):
        with Image.open(io.BytesIO(b64decode(encoded))) as picture:
            width = metadata.get("image/png", {}).get("width", picture.width)
        assert width <= WIDEST
    sources = "".join(cell.source for cell in code_of(notebook))
    assert not re.search(r"RdYlGn|RdYlBu|color=\"(red|green)|\b(tab:)?(red|green)\b", sources)


def test_the_notebooks_that_stand_alone_get_the_package_by_the_same_cell():
    cells = {name: next(cell for cell in code_of(read(name)) if cell.id == "package").source for name in ALONE}
    assert len(set(cells.values())) == 1


def test_the_own_tasks_files_are_those_of_its_page():
    page = (ROOT / "docs" / "your-own-task.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^`([\w.-]+)`:\n\n```\w+\n(.*?)^```$", page, re.M | re.S))
    cells = [cell.source for cell in code_of(read("04_your_own_task.ipynb")) if cell.source.startswith("%%writefile")]
    written = dict(re.fullmatch(r"%%writefile (\S+)\n(.*)", source, re.S).groups() for source in cells)
    assert {name: text.rstrip("\n") for name, text in files.items()} == {name: written[name] for name in files}
    assert set(written) - set(files) == {"ask.py"}


@pytest.mark.parametrize("document", ["README.md", "docs/notebooks.md"])
def test_all_notebooks_are_named(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS.glob("*.ipynb") if f"notebooks/{path.name}" not in text] == []


def test_what_is_installed_before_the_plan_is_what_the_package_asks_for():
    assert f'    "{helper.CLI}",' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
