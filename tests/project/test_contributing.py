"""CONTRIBUTING.md's diffs apply, touch the files that it says, pass the checks, and what they add works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DIFFS = dict(re.findall(r"^## To add an? ([a-z ]+)\n.*?^```diff\n(.*?)^```", TEXT, re.M | re.S))
FILES = {"benchmark": 1, "verifier": 2, "method": 2, "sampler": 3, "model family": 2, "stage": 2}
COPIED = ("ssb_unsloth", "recipes", "tests", "pyproject.toml")


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A copy of the repository to which all diffs have been applied, each alone first."""
    root = tmp_path_factory.mktemp("changed")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    for check in (["--check"], []):
        for name, diff in DIFFS.items():
            git = subprocess.run(
                ["git", "apply", "--unidiff-zero", *check], input=diff, text=True, cwd=root, capture_output=True
            )
            assert git.returncode == 0, f"{name}: {git.stderr}"
    return root


def run(root, code, *arguments):
    """What the code prints, in a process of its own with the changed package."""
    path = os.pathsep.join([str(root), str(root / "tests" / "support")])
    env = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_diff_touches_as_many_files_as_the_text_says():
    assert {name: diff.count("\n+++ b/") + diff.startswith("+++ b/") for name, diff in DIFFS.items()} == FILES


def test_what_is_added_passes_the_linter(changed):
    new = re.findall(r"^\+\+\+ b/(.*\.py)$", "".join(DIFFS.values()), re.M)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *new], cwd=changed, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_the_benchmark_is_listed_and_a_recipe_may_name_it(changed):
    code = """
from pathlib import Path
from ssb_unsloth.recipe.loading import load
config = load(Path("recipes/qwen2.5-3b-gsm8k.yaml"), ["evaluate.benchmarks.amc2023={}"]).evaluate.benchmarks["amc2023"]
print(config.source, config.count)
"""
    assert run(changed, code) == "math-ai/amc23 40\n"
    assert "amc2023" in run(changed, "from ssb_unsloth.cli import main; main(['evaluate', '--help'])")


def test_the_verifier_grades_and_a_recipe_may_name_it(changed):
    code = r"""
from pathlib import Path
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.verifier.verifiers import verifier_for
letters = verifier_for(load(Path("recipes/pocket.yaml"), ["problems.verifier=letters"]).problems.verifier)
for answer in ("A, C", "ca", r"\text{C and A}", "{(A), (C)}", "A", "12", "Both"):
    print(letters.grade(f"So it is \\boxed{{{answer}}}.", letters.gold_from("A and C", "plain")).verdict)
print(letters.grade("It is A, C.", "AC").verdict, letters.grade(r"\boxed{AC}", "AC", "length").verdict)
print(letters.answer_classes(["A", "(a)", "B, A", "AB"]))
"""
    assert run(changed, code).split("\n") == [
        *["right"] * 4,
        *["wrong"] * 3,
        "no_answer truncated",
        "[0, 0, 1, 1]",
        "",
    ]


def test_the_model_family_can_be_planned_without_a_network(changed):
    code = "from ssb_unsloth.cli import main; main(['plan', 'recipes/smollm2-360m.yaml', '--gpu', 't4'])"
    assert "train" in run(changed, code)


def test_the_stage_runs(changed, tmp_path):
    code = """
import sys
from pathlib import Path
import finished_run
from ssb_unsloth.cli import main
from ssb_unsloth.run.manifests import file_hash
root = finished_run.make(Path("recipes/pocket.yaml"), Path(sys.argv[1], "pocket"))
assert main(["checksums", "recipes/pocket.yaml", "--runs", sys.argv[1]]) == 0
sums = (root / "checksums" / "SHA256SUMS").read_text().splitlines()
assert f"{file_hash(root / 'report' / 'report.md')}  report.md" in sums
assert main(["verify", str(root)]) == 0
"""
    run(changed, code, tmp_path)


@pytest.mark.slow  # imports TRL, and trains
def test_the_method_trains_and_the_sampler_samples(changed, tmp_path):
    code = r"""
import sys
from importlib import import_module
from pathlib import Path
from ssb_unsloth.backends import load_sampler
from ssb_unsloth.backends.sampler import Request
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.methods import METHODS
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import SamplingConfig
from ssb_unsloth.records import Problem, Rollout
from ssb_unsloth.training.common import Inputs

changes = ["train.method=star", "train.epochs=1", "train.batch_size=2", "train.probe_steps=0", "train.logging_steps=1"]
recipe = load(Path("recipes/pocket.yaml"), [*changes, "sampler.engine=one-by-one"])

def sampled(engine, temperature):
    recipe.sampler.engine = engine
    sampler = load_sampler(recipe.model, recipe.sampler, 1, adapters=False)
    asked = [Request(sampler.render(student_messages("Mia has 9 shells and finds 3. How many?")), n) for n in (1, 2)]
    return sampler.sample(asked, SamplingConfig(temperature=temperature, max_tokens=12), quiet=True)

assert sampled("one-by-one", 0.0) == sampled("transformers", 0.0)
drawn = sampled("one-by-one", 1.0)
assert drawn == sampled("one-by-one", 1.0)

problems = [Problem(f"q{i}", f"Mia has {i} shells. How many?", str(i)) for i in range(3)]
verdicts = {"q0": ["right", "right"], "q1": ["right", "wrong"], "q2": ["right", "no_answer"]}
inputs = Inputs(recipe, None, Path(sys.argv[1]))
inputs.questions, inputs.probes, inputs.rollouts = problems, [], [
    Rollout(f"{q}-{k}", q, "text", drawn[0].token_ids, "stop", k, verdict, q[1:])
    for q, found in verdicts.items() for k, verdict in enumerate(found)
]
trained = import_module(f"ssb_unsloth.training.{METHODS['star'].module}").train(inputs)
assert trained.summary["steps"] == 2, trained.summary
assert trained.learnt_tokens == 4 * len(drawn[0].token_ids)
assert (inputs.folder / "adapter" / "adapter_model.safetensors").exists()
"""
    run(changed, code, tmp_path)
