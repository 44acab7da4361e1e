"""The examples run as they stand, without a network, and the documents' Python is theirs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose Python another test takes out and runs.
RUN_ELSEWHERE = {"verifiers.md": "verifier/test_own.py", "your-own-task.md": "project/test_tutorial.py"}
# What is asked of each when it has run, in its own process.
HOLDS = {
    "train_by_hand": """
from pathlib import Path
assert (trainer.state.epoch, trainer.state.global_step) == (3, 6)
assert Path("student/adapter_model.safetensors").exists()
""",
    "loss_alone": """
import sys
from ssb_unsloth.method.losses import kd_loss_dense
found, student.grad = student.grad, None
dense = kd_loss_dense(student, teacher, Head(weight), row_weights(lengths), temperature=2.0)
dense.loss.backward()
torch.testing.assert_close(out.loss, dense.loss)
torch.testing.assert_close(found, student.grad, rtol=1e-4, atol=1e-6)
assert not {"transformers", "peft", "trl", "accelerate", "triton"} & set(sys.modules), "imported"
""",
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    copy = tmp_path / "examples" / example.name
    copy.write_text(copy.read_text(encoding="utf-8") + HOLDS[example.stem], encoding="utf-8")
    assert len(ast.parse(example.read_text(encoding="utf-8")).body) <= 10
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, copy], cwd=copy.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # mypy reads transformers and peft
def test_the_examples_are_typed_strictly(tmp_path):
    """As a user's own checker sees them: errors within the package are none of the user's."""
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\nuntyped_calls_exclude = torch\n"  # whose Tensor.backward has no types
        "[mypy-ssb_unsloth.*]\nfollow_imports = silent\n[mypy-datasets.*]\nignore_missing_imports = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path, *EXAMPLES]
    done = subprocess.run(
        command, env=os.environ | {"MYPYPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # fetched from the package registry, and reads transformers and peft
def test_the_examples_pass_pyright(tmp_path):
    """By basedpyright, which is pyright with all that it needs in its wheel."""
    for example in EXAMPLES:
        shutil.copy(example, tmp_path)
    settings = {
        "include": [path.name for path in EXAMPLES],
        "extraPaths": [str(ROOT)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "standard",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "uv",
        "tool",
        "run",
        "basedpyright",
        "--pythonpath",
        sys.executable,
        "--outputjson",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == len(EXAMPLES), done.stderr
    assert [line["message"] for line in found["generalDiagnostics"] if line["severity"] == "error"] == []


def test_the_python_in_the_documents_is_that_of_the_examples():
    shown = [
        block
        for path in DOCUMENTS
        if path.name not in RUN_ELSEWHERE
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    ]
    assert sorted(shown) == sorted(path.read_text(encoding="utf-8") for path in EXAMPLES)


@pytest.mark.parametrize(("page", "test"), RUN_ELSEWHERE.items())
def test_a_page_with_python_of_its_own_is_read_by_the_test_that_runs_it(page, test):
    assert page in (ROOT / "tests" / test).read_text(encoding="utf-8")
