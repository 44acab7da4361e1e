"""What the Colab notebook's install cell does before it installs anything."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import colab  # noqa: E402

LINES = colab.LOCK.read_text(encoding="utf-8").splitlines()


def test_the_set_is_the_gpu_set_without_what_only_tests_need():
    wanted = colab.pins(LINES, colab.roots())
    assert {"torch", "vllm", "unsloth", "transformers", "numpy", "pillow", "math-verify"} <= set(wanted)
    assert {"pytest", "ipykernel", "mypy", "ruff"} & set(wanted) == set()
    for name, version in wanted.items():
        assert any(line.lower().replace("_", "-").startswith(f"{name}=={version}") for line in LINES), name


def test_every_package_that_one_of_them_asks_for_is_there():
    """Asked of the installed packages' own metadata, where the CPU environment has them in the same version."""
    from importlib import metadata

    from packaging.requirements import Requirement

    wanted = colab.pins(LINES, colab.roots())
    there = colab.installed()
    seen = 0
    for name in wanted:
        if there.get(name) != wanted[name]:
            continue
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert colab.name_of(requirement.name) in wanted, f"{name} asks for {requirement.name}"
                seen += 1
    assert seen > 50


def test_numpy_and_pillow_stay_where_they_are_there_and_come_where_they_are_not():
    wanted = {"numpy": "2.3.0", "pillow": "13.0", "torch": "2.13.0", "peft": "0.21.2"}
    there = {"numpy": "2.0.2", "pillow": "11.3", "torch": "2.9.0", "peft": "0.21.2"}
    assert colab.to_install(wanted, there) == {"torch": "2.13.0"}
    assert colab.to_install(wanted, {}) == wanted


def test_a_restart_is_asked_for_where_a_replaced_package_had_been_imported():
    assert colab.replaced_and_imported(["packaging", "torch"], ["packaging.version", "os"]) == ["packaging"]
    assert colab.replaced_and_imported(["torch"], ["packaging.version", "os"]) == []


def test_torch_imported_before_is_told():
    assert colab.install(["torch", "os"], dry_run=True).startswith("torch is imported already: restart")


def test_the_script_imports_nothing_that_it_would_replace():
    code = (
        "import runpy, sys; sys.argv = ['colab.py', '--dry-run'];"
        "runpy.run_path('scripts/colab.py', run_name='__main__');"
        "print(sorted({'torch', 'numpy', 'PIL', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    told, imported = done.stdout.strip().splitlines()
    assert "kept: numpy, pillow." in told
    assert imported == "[]"
