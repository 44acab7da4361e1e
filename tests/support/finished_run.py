"""A finished run without a model: every stage closed under its real key, with files of the real names."""

import json
import random
from pathlib import Path

from stage_keys import key_of

from ssb_unsloth.pipeline.students import students
from ssb_unsloth.recipe.loading import load, save
from ssb_unsloth.run.rundir import RunDir

ROOT = Path(__file__).parents[2]
FILES = {
    "base": ["model/config.json", "model/model.safetensors"],
    "curate": ["pairs.jsonl", "rollouts.jsonl", "questions.jsonl", "statistics.json"],
    "teach": ["targets.json", "targets-00000.safetensors"],
    "train": ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "history.jsonl"],
    "evaluate": ["base-3407-test-0.jsonl", "problems-test.jsonl", "scores.json", "origins.json"],
    "report": ["report.json", "report.md", "accuracy.png"],
}


def close(run, recipe, name, chance=None):
    """Finish a stage with some bytes in each of its files."""
    chance = chance or random.Random(name)
    with run.write(name, *key_of(name, recipe, run)) as work:
        for file in FILES[name]:
            path = work.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(json.dumps({"stage": name, "é": 0.1}).encode() + chance.randbytes(chance.randrange(400)))
        work.summary = {"note": "naïve ↔ 1e-05", "share": 1e-05, "steps": 4}


def make(recipe_file, root, changes=()):
    """All stages of all students of the recipe, and their recipe.yaml. Returns the folder."""
    recipe = load(recipe_file, list(changes))
    root.mkdir(parents=True)
    save(recipe, root / "recipe.yaml")
    for student in students(recipe, root):
        for name in student.chain:
            if student.owns(name):
                close(student.run, student.recipe, name)
        if student.run.root != root:
            save(student.recipe, student.run.root / "recipe.yaml")
    for name in ("evaluate", "report"):
        close(RunDir(root), recipe, name)
    (root / ".lock").touch()
    return root
