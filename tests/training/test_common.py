"""What all ways of training share: one entry point, inputs that are read once, and figures in their order."""

import dataclasses
import importlib
import inspect
import subprocess
import sys

import pytest

from ssb_unsloth.backends.control_tokens import markers
from ssb_unsloth.recipe.methods import METHODS
from ssb_unsloth.recipe.schema import ModelConfig, Recipe
from ssb_unsloth.records import Pair, Problem, write_jsonl
from ssb_unsloth.run.rundir import RunDir
from ssb_unsloth.training.common import Inputs, Trained

QUESTIONS = [Problem(f"q{i}", f"Question {i}?", str(i)) for i in range(6)]
PAIRS = [
    Pair(f"p{q.id}", q.id, q.question, q.gold, "right", "wrong", "refined", [7, 8, 2], "r", "w", "f")
    for q in QUESTIONS[1:3]
]


@pytest.fixture
def inputs(tmp_path):
    """Of a run whose curate stage asked a question that spells a control token, besides the others."""
    recipe = Recipe(name="test", model=ModelConfig("pocket"))
    recipe.train.probe_questions = 3
    run = RunDir(tmp_path)
    run.stage("curate").mkdir()
    write_jsonl(run.stage("curate") / "pairs.jsonl", PAIRS)
    asked = [*QUESTIONS[:3], Problem("odd", "What is <|im_end|>?", "0"), *QUESTIONS[3:]]
    assert [q.id for q in asked if markers(q.question)] == ["odd"]
    write_jsonl(run.stage("curate") / "questions.jsonl", asked)
    return Inputs(recipe, run, tmp_path / "train")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_module_with_one_and_the_same_entry_point(method):
    train = importlib.import_module(f"ssb_unsloth.training.{METHODS[method].module}").train
    assert str(inspect.signature(train)) == "(inputs: 'Inputs') -> 'Trained'"
    names = vars(sys.modules[train.__module__])
    assert (names["Inputs"], names["Trained"]) == (Inputs, Trained)


def test_what_is_read_and_rendered_is_so_once(inputs):
    names = ("tokenizer", "pairs", "examples", "questions", "probes")
    first = {name: getattr(inputs, name) for name in names}
    for path in inputs.run.stage("curate").iterdir():
        path.unlink()
    assert all(getattr(inputs, name) is value for name, value in first.items())
    assert first["pairs"] == PAIRS
    assert [(e.id, e.reply_ids) for e in first["examples"]] == [(pair.id, pair.reply_ids) for pair in PAIRS]


def test_probes_are_questions_that_gave_no_pair_and_spell_no_control_token(inputs):
    assert [problem.id for problem in inputs.probes] == ["q0", "q3", "q4"]


def test_pairs_that_were_brought_along_have_no_rollouts(inputs):
    assert list(inputs.rollouts) == []


def test_the_summary_has_the_figures_that_there_are_in_their_order():
    history = [{"step": 0, "reply_tokens": 9.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2}]
    bare = Trained(None, history, 5, 50, tokens=7)
    start = [("steps", 2), ("first_loss", 3.0), ("last_loss", 2.0), ("trainable_parameters", 5)]
    start += [("total_parameters", 50)]
    assert list(bare.summary.items()) == start
    ssb = dataclasses.replace(bare, backend="transformers", drift=0.0)
    assert list(ssb.summary.items()) == [*start, ("backend", "transformers"), ("drift", 0.0)]
    lora = {"layers": {"q_proj": 2}, "left_out": {"the head": 9}}
    assert list(dataclasses.replace(bare, lora=lora).summary.items()) == [*start, ("lora", lora)]
    assert list(dataclasses.replace(bare, sampled_tokens=3).summary.items()) == [*start, ("sampled_tokens", 3)]
    assert list(dataclasses.replace(bare, learnt_tokens=4).summary.items()) == [*start, ("learnt_tokens", 4)]


FIRST = """
import sys
from pathlib import Path
from ssb_unsloth.pipeline.stage import Scope
from ssb_unsloth.pipeline.stages import {stage}
from ssb_unsloth.recipe.schema import Recipe
from ssb_unsloth.run.rundir import RunDir, Work

def backend(*_):
    sys.exit("too late" if {{"transformers", "peft", "trl"}} & set(sys.modules) else "first")

{stage}.TrainingBackend = backend
{stage}.STAGE.make(Scope(Recipe(name="test"), RunDir(Path("nowhere"))), Work(Path("nowhere")))
"""


@pytest.mark.parametrize("stage", ["teach", "train"])
def test_the_backend_is_made_before_transformers_is_imported(stage):
    """Unsloth patches what is imported after it, and nothing else."""
    done = subprocess.run([sys.executable, "-c", FIRST.format(stage=stage)], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "first", done.stderr
