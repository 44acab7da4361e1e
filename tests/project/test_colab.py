"""A notebook that is opened alone: where its package comes from, the environment beside its kernel, and what cannot
work as one sentence.
"""

import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ssb_unsloth.commands import notebook

ROOT = Path(__file__).parents[2]
NO_GPU = "This runtime has no GPU: choose Runtime, Change runtime type, {} GPU, then Run all."
WHEEL = "ssb_unsloth-0.0.1-py3-none-any.whl"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """driver(version): an nvidia-smi that says so; none: there is none."""

    def say(version):
        if version:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {version}\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin" if version else str(tmp_path))

    return say


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where the package lies, in a notebook's eyes: a folder that holds nothing yet."""
    folder = tmp_path / "home"
    (folder / "scripts").mkdir(parents=True)
    monkeypatch.setattr(notebook, "HOME", folder)
    return folder


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("", NO_GPU.format("A100")),
        ("WARNING: infoROM is corrupted", NO_GPU.format("A100")),
        ("WARNING: infoROM is corrupted; echo 550.54.15; echo 550.54.15", "This runtime's NVIDIA driver is 550.54.15,"),
        ("550.54.15", "This runtime's NVIDIA driver is 550.54.15, and 580 or newer is needed: choose Runtime, Change"),
    ],
)
def test_a_runtime_that_cannot_work_is_a_sentence_before_anything_is_installed(driver, version, said):
    driver(version)
    with pytest.raises(notebook.Stop) as stop:
        notebook.environment("gpu", card="A100")
    assert str(stop.value).startswith(said)
    assert stop.value._render_traceback_() == [str(stop.value)]


def test_packages_that_cannot_be_installed_are_the_last_thing_said_and_what_to_choose(driver, home):
    driver("580.65.06")
    setup = "import sys; print('Making', sys.argv[1], flush=True); sys.exit('SSB needs Python 3.11.')"
    (home / "scripts" / "setup.py").write_text(setup)
    shown = []
    with pytest.raises(notebook.Stop) as stop:
        notebook.environment("gpu", shown.append)
    assert shown == ["Making gpu", "SSB needs Python 3.11."]
    assert str(stop.value) == (
        "SSB needs Python 3.11. On Colab: choose Runtime, Change runtime type, take another Runtime version, then Run"
        " all."
    )


def test_the_environment_stands_beside_the_kernel(driver, home, monkeypatch):
    driver("580.65.06")
    setup = "import os; print(sorted({'MPLBACKEND', 'UV_SYSTEM_PYTHON'} & set(os.environ)))"
    (home / "scripts" / "setup.py").write_text(setup)
    monkeypatch.setenv("MPLBACKEND", "module://of.the.kernel")
    monkeypatch.setenv("UV_SYSTEM_PYTHON", "true")
    shown = []
    assert notebook.environment("gpu", shown.append) == home / ".venv-gpu" / "bin" / "python"
    assert shown == ["[]"]  # what the kernel has set for itself is not handed on
    assert notebook.environment("cpu") == Path(sys.executable)  # which has the packages


def test_where_setup_makes_the_environment_is_where_the_notebook_looks_for_it(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import setup

    assert {wanted: setup.folder(wanted) for wanted in ("cpu", "gpu")} == {
        wanted: notebook.HOME / name for wanted, name in notebook.ENVIRONMENTS.items()
    }


def test_from_a_wheel_the_environment_is_made_of_it(driver, home, monkeypatch):
    """uv itself, told to take nothing but the wheel."""
    driver("580.65.06")
    monkeypatch.setenv("UV_OFFLINE", "1")
    (home / "scripts").rmdir()
    with pytest.raises(notebook.Stop, match="holds neither a checkout of the project nor its wheel"):
        notebook.environment("gpu")
    with zipfile.ZipFile(home / WHEEL, "w") as wheel:
        info = "ssb_unsloth-0.0.1.dist-info"
        wheel.writestr("ssb_unsloth/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: ssb_unsloth\nVersion: 0.0.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"ssb_unsloth/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    for _ in range(2):  # the same cell once more
        python = notebook.environment("gpu", lambda _: None)
    code = "import ssb_unsloth; print(ssb_unsloth.__file__)"
    found = subprocess.run([python, "-I", "-c", code], cwd=home, capture_output=True, text=True).stdout
    assert found.startswith(str(home / ".venv-gpu"))


def test_a_command_shows_its_end_and_returns_what_it_prints(capsys):
    ssb = notebook.Ssb(Path(sys.executable))
    assert "  pocket  " in ssb("recipes")
    with pytest.raises(notebook.Stop) as stop:
        ssb("plan", "pocket", "train.epoch=1")
    assert str(stop.value).startswith("ssb: ")
    assert "train.epoch: unknown key" in str(stop.value)
    with pytest.raises(notebook.Stop) as stop:
        ssb("plan", "qwen2.5-7b", "--gpu", "rtx2080ti")
    assert "does not fit" in str(stop.value)  # what a plan says of it, it prints


def test_a_command_is_interrupted_where_that_is_asked_for(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, time\nprint('kept')\ntry:\n    print('first', file=sys.stderr)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n    sys.exit(130)\n"
    )
    assert notebook.Ssb(Path(sys.executable)).python(str(slow), until="first") == "kept\ninterrupted\n"


@pytest.fixture
def package_cell(tmp_path, monkeypatch):
    """Runs the cell that gets the package, in a folder outside of any checkout: address -> ROOT."""
    cells = nbformat.read(ROOT / "notebooks" / "02_colab_t4.ipynb", as_version=4).cells
    source = next(cell for cell in cells if cell.id == "package").source
    folder = tmp_path / "alone"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(address=""):
        monkeypatch.chdir(folder)
        space = {}
        exec(source.replace('REPOSITORY = ""', f"REPOSITORY = {address!r}"), space)
        assert Path.cwd() == space["ROOT"] == Path(sys.path[0])
        return space["ROOT"].relative_to(folder)

    run.folder = folder
    return run


def test_without_an_address_and_without_a_wheel_there_is_one_sentence(package_cell):
    with pytest.raises(Exception, match=r"^There is neither an address in REPOSITORY nor a wheel") as stop:
        package_cell()
    assert stop.value._render_traceback_() == [str(stop.value)]


def test_a_wheel_beside_the_notebook_is_taken(package_cell):
    with zipfile.ZipFile(package_cell.folder / WHEEL, "w") as wheel:
        wheel.writestr("ssb_unsloth/cli.py", "")
    assert package_cell() == Path("ssb_unsloth-wheel")
    assert (package_cell.folder / "ssb_unsloth-wheel" / WHEEL).is_file()  # which the environment is made from
    assert package_cell() == Path("ssb_unsloth-wheel")  # the same cell once more


def test_on_colab_a_wheel_is_asked_for(package_cell, monkeypatch):
    def upload():
        with zipfile.ZipFile(WHEEL, "w") as wheel:
            wheel.writestr("ssb_unsloth/cli.py", "")
        return {WHEEL: b""}

    colab = types.SimpleNamespace(files=types.SimpleNamespace(upload=upload))  # Colab's own; no package has it
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    assert package_cell() == Path("ssb_unsloth-wheel")


def test_what_is_no_wheel_is_said(package_cell):
    (package_cell.folder / WHEEL).write_text("half of it")
    with pytest.raises(Exception, match=f"^{WHEEL} is no wheel: upload"):
        package_cell()


def test_an_address_is_cloned_and_one_that_cannot_be_is_said(package_cell, tmp_path):
    with pytest.raises(Exception, match=r"^git could not clone REPOSITORY, .*nowhere: fatal: .*does not exist"):
        package_cell(str(tmp_path / "nowhere"))
    project = tmp_path / "project"
    (project / "ssb_unsloth").mkdir(parents=True)
    (project / "ssb_unsloth" / "cli.py").touch()
    git = ["git", "-C", str(project), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    assert package_cell(project.as_uri()) == Path("ssb_unsloth-checkout")


def test_on_a_runtime_without_a_gpu_the_notebook_ends_at_once_with_that_sentence(monkeypatch):
    monkeypatch.setenv("SSB_NOTEBOOK", "")
    if not os.environ.get("SSB_REQUIRE_GPU"):
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no nvidia-smi, whatever machine this is
    book = nbformat.read(ROOT / "notebooks" / "02_colab_t4.ipynb", as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    with pytest.raises(CellExecutionError):
        NotebookClient(book, timeout=60, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    _, install, after, *_ = (cell for cell in book.cells if cell.cell_type == "code")
    (error,) = (output for output in install.outputs if output.output_type == "error")
    assert error.traceback == [NO_GPU.format("T4")]
    assert after.execution_count is None
