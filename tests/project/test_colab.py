"""The Colab notebook and its script: an environment beside the kernel, and what cannot work is a sentence."""

import importlib
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
NO_GPU = "This runtime has no GPU: choose Runtime, Change runtime type, T4 GPU, then Run all."


@pytest.fixture
def colab(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    for name in ("colab", "setup"):
        sys.modules.pop(name, None)
    yield importlib.import_module("colab")
    for name in ("colab", "setup"):
        sys.modules.pop(name, None)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """driver(version): an nvidia-smi that says so; none: there is none."""

    def say(version):
        if version:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {version}\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin" if version else str(tmp_path))

    return say


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("", NO_GPU),
        ("WARNING: infoROM is corrupted", NO_GPU),
        ("WARNING: infoROM is corrupted; echo 550.54.15; echo 550.54.15", "This runtime's NVIDIA driver is 550.54.15,"),
        ("550.54.15", "This runtime's NVIDIA driver is 550.54.15, and 580 or newer is needed: choose Runtime, Change"),
    ],
)
def test_a_runtime_that_cannot_work_is_a_sentence_before_anything_is_installed(colab, driver, version, said):
    driver(version)
    with pytest.raises(colab.Stop) as stop:
        colab.environment("gpu")
    assert str(stop.value).startswith(said)
    assert stop.value._render_traceback_() == [str(stop.value)]


def test_packages_that_cannot_be_installed_are_the_last_thing_said_and_what_to_choose(
    colab, driver, monkeypatch, tmp_path
):
    driver("580.65.06")
    failing = tmp_path / "failing.py"
    failing.write_text("import sys; print('Making', sys.argv[1], flush=True); sys.exit('SSB needs Python 3.11.')")
    monkeypatch.setattr(colab.setup, "__file__", str(failing))
    shown = []
    with pytest.raises(colab.Stop) as stop:
        colab.environment("gpu", shown.append)
    assert shown == ["Making gpu", "SSB needs Python 3.11."]
    assert str(stop.value) == (
        "SSB needs Python 3.11. On Colab: choose Runtime, Change runtime type, take another Runtime version, then Run"
        " all."
    )


def test_the_environment_stands_beside_the_kernel(colab, driver, monkeypatch, tmp_path):
    driver("580.65.06")
    quiet = tmp_path / "quiet.py"
    quiet.write_text("import os; print(sorted({'MPLBACKEND', 'UV_SYSTEM_PYTHON'} & set(os.environ)))")
    monkeypatch.setattr(colab.setup, "__file__", str(quiet))
    monkeypatch.setenv("MPLBACKEND", "module://of.the.kernel")
    monkeypatch.setenv("UV_SYSTEM_PYTHON", "true")
    shown = []
    assert colab.environment("gpu", shown.append) == ROOT / ".venv-gpu" / "bin" / "python"
    assert shown == ["[]"]  # what the kernel has set for itself is not handed on
    assert colab.environment("cpu") == Path(sys.executable)  # which has the packages


def test_on_a_runtime_without_a_gpu_the_notebook_ends_at_once_with_that_sentence(monkeypatch):
    monkeypatch.setenv("SSB_NOTEBOOK", "")
    if not os.environ.get("SSB_REQUIRE_GPU"):
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no nvidia-smi, whatever machine this is
    notebook = nbformat.read(ROOT / "notebooks" / "02_colab_t4.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.pop("execution_count", None)
        cell.pop("outputs", None) if cell.cell_type != "code" else cell.update(outputs=[], execution_count=None)
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    _, install, after, *_ = (cell for cell in notebook.cells if cell.cell_type == "code")
    (error,) = (output for output in install.outputs if output.output_type == "error")
    assert error.traceback == [NO_GPU]
    assert after.execution_count is None
