"""`train.lora: null` from the questions to the report, beside a LoRA student and over two rounds; and what is done with
what comes out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssb_unsloth.backends.transformers import load_model
from ssb_unsloth.commands.export import export
from ssb_unsloth.commands.push import format_of
from ssb_unsloth.errors import UserError
from ssb_unsloth.pipeline.students import finished
from ssb_unsloth.recipe.schema import ModelConfig
from ssb_unsloth.run import manifests

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
RECIPE = f"""base: {POCKET}
name: mixed
problems: {{limit: 64}}
sampler: {{engine: transformers}}
curate: {{pairs: 6, wave: 32}}
train: {{epochs: 2, learning_rate: 1e-3, probe_steps: 2, probe_questions: 2, drift_texts: pocket}}
evaluate: {{benchmarks: {{test: {{limit: 4, temperature: null}}, test-hard: null}}}}
variants:
  whole: {{rounds: 2, train: {{lora: null}}}}
  whole-sft: {{train: {{lora: null, method: sft, token_pairs: 0}}}}
"""


def ssb(*words, said=""):
    command = [sys.executable, "-m", "ssb_unsloth", *map(str, words)]
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_whole_chain(tmp_path):
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(RECIPE)
    ssb("run", recipe, "--runs", tmp_path / "runs")
    run = tmp_path / "runs" / "mixed"
    whole, second = (run / "students" / f"whole-round{n}-s3407" for n in (1, 2))

    assert not (whole / "teach").exists()  # the targets are the LoRA student's too
    stored = [manifests.read(folder / "train")["summary"] for folder in (run, whole)]
    assert stored[0]["first_loss"] == pytest.approx(stored[1]["first_loss"], rel=1e-5)
    assert (stored[1]["trainable_parameters"], stored[1]["total_parameters"]) == (756_352, 823_936)
    assert stored[1]["last_loss"] < stored[1]["first_loss"]
    assert stored[1]["drift"] > 0
    rows = [json.loads(line) for line in (whole / "train" / "tokens.jsonl").read_text().splitlines()]
    before, after = (sum(sum(row[key]) for row in rows) for key in ("before", "after"))
    assert 0 < after < before

    parts = [
        load_model(ModelConfig(str(path), dtype="float32")).state_dict()
        for path in (whole / "train" / "model", second / "base" / "model", second / "train" / "model")
    ]
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    assert any(not torch.equal(parts[1][name], parts[2][name]) for name in parts[0])

    scores = json.loads((run / "evaluate" / "scores.json").read_text())["scores"]
    names = {"base", "ssb", "whole-round1", "whole-round2", "whole-sft"}
    assert {row["model"] for row in scores} == names
    report = (run / "report" / "report.md").read_text()
    left = "embeddings, with the head tied to them (67,584 parameters)"
    assert f"All weights (whole-round1, whole-round2, whole-sft) were trained but {left}." in report
    assert "LoRA (ssb) was on 4 x q_proj" in report
    ssb("verify", run)

    replies = ssb("chat", whole, said="What is 2 + 3?\n")
    assert "base (" in replies
    assert "whole-round1 (" in replies
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "What is 2 + 3?", "answer": "5"}\n')
    asked = ("--benchmark", f"sum={questions}", "--max-tokens", 64, "--out", tmp_path / "alone")
    told = ssb("evaluate", whole / "train" / "model", *asked, "sampler.engine=transformers")
    assert "sum" in told

    assert finished(whole).adapter is None
    assert format_of(whole) == "merged"
    with pytest.raises(UserError, match="all weights were trained, so there is no adapter; take --format merged"):
        export(whole, ["adapter"])
    (folder,) = export(whole, ["merged"])
    exported = load_model(ModelConfig(str(folder), dtype="float32")).state_dict()
    assert all(torch.equal(exported[name], parts[0][name].half().float()) for name in parts[0])
    card = (folder / "README.md").read_text()
    assert "all weights but embeddings, with the head tied to them, 91.8 % of all parameters." in card
    assert "The base with its weights trained, 16-bit." in card
    assert "LoRA" not in card.partition("## How it was made")[0].replace("a LoRA student", "")
