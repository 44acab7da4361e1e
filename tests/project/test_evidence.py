"""docs/evidence.md holds what the stored rows give, and nothing else between its marks."""

import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ssb_unsloth.pocket import corpus, problems
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.records import Generation, Problem, write_jsonl
from ssb_unsloth.report import figures

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import evidence  # noqa: E402
import readings  # noqa: E402

STORED = sorted((ROOT / "docs" / "evidence").glob("*.json"))


def test_the_documents_tables_are_those_of_the_stored_rows():
    document = evidence.DOCUMENT.read_text(encoding="utf-8")
    assert STORED
    for path in STORED:
        text = evidence.tables(json.loads(path.read_text(encoding="utf-8")))
        assert evidence.rewrite(document, path.stem, text) == document, path.stem


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_documents_pictures_are_drawn_from_the_stored_rows_by_todays_code(path, tmp_path):
    rows = json.loads(path.read_text(encoding="utf-8"))
    benchmarks = load(ROOT / "recipes" / f"{path.stem}.yaml").evaluate.benchmarks
    titles = {name: benchmark.title for name, benchmark in benchmarks.items() if benchmark.title}
    figures.comparison(rows["scores"], tmp_path / "accuracy.png", rows["students"], titles)
    figures.cost(rows["scores"], rows["students"], tmp_path / "cost.png", titles)
    if "token_kl" in rows:
        figures.token_kl(rows["token_kl"], tmp_path / "token_kl.png")
    if path.stem == evidence.TUNING:
        evidence.rates.figure(rows["scores"], evidence.TUNED_AT, tmp_path / "rates.png")
    shown = [name for name in tmp_path.glob("*.png") if (path.parent / f"{path.stem}-{name.name}").exists()]
    assert shown
    for drawn in shown:
        stored = imread(path.parent / f"{path.stem}-{drawn.name}")
        assert stored.shape[1] == 1290 or drawn.name == "token_kl.png"
        # Of one drawing the libraries of two machines may smooth a line's edge differently.
        assert np.abs(imread(drawn) - stored).mean() < 1e-3, drawn.name


def test_a_mean_in_the_table_is_the_mean_of_the_seeds():
    for path in STORED:
        rows = json.loads(path.read_text(encoding="utf-8"))
        boxed = [s for s in rows["scores"] if (s["scoring"], s["metric"]) == ("equivalent", "pass@1")]
        for mean in (s for s in boxed if s["seed"] is None):
            own = [
                s["value"]
                for s in boxed
                if s["seed"] is not None
                and (s["model"], s["benchmark"], s["temperature"])
                == (mean["model"], mean["benchmark"], mean["temperature"])
            ]
            assert abs(sum(own) / len(own) - mean["value"]) < 1e-9


def test_readmes_table_is_that_of_the_stored_rows():
    rows = json.loads((ROOT / "docs" / "evidence" / "evidence.json").read_text(encoding="utf-8"))
    means = {(s["model"], s["benchmark"], s["temperature"]): s["value"] for s in rows["scores"] if s["seed"] is None}
    drifts = {}
    for student in rows["students"]:
        drifts.setdefault(student["model"], []).append(student["drift"])
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| on the pocket, % |")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    models = ("base", "ssb", "sft", "grpo", "rft", "rft-t2", "mix-all")
    for model, (_, *accuracies) in zip(models, lines, strict=True):
        expected = [f"{100 * means[model, benchmark, 0.8]:.1f}" for benchmark in ("test", "test-hard", "drills")]
        if model in drifts:
            expected.append(f"{sum(drifts[model]) / len(drifts[model]):.4f}")
        assert accuracies == expected, model


def test_every_picture_of_the_document_is_there():
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", evidence.DOCUMENT.read_text(encoding="utf-8")):
        assert (evidence.DOCUMENT.parent / name).is_file(), name


def test_a_readers_readings_are_found_in_what_it_wrote(tmp_path):
    rng = random.Random(0)
    asked, replies, expected = [], [], {}
    for number in range(400):
        story = problems.draw_story(rng, "test_hard")
        assert readings.events(story.question) == [(event.wording, event.number) for event in story.events]
        asked.append(Problem(str(number), story.question, story.gold))
        solution = corpus.attempt(rng, story)
        text = corpus.refined(solution, corpus.attempt(rng, story)) if number % 2 else solution.text
        text = text if number % 5 else text.split(".")[0] + "."  # broken off after a step or none
        kept = len(story.events) if number % 5 else 1 - number % 2
        for place, (event, step) in enumerate(zip(story.events, solution.steps, strict=True)):
            right = place < kept and step.operation == event.wording.means
            expected.setdefault(event.wording.misread, []).append(right)
        sampling = {
            "temperature": 0.8,
            "top_p": 1.0,
            "top_k": 0,
            "repetition_penalty": 1.0,
            "max_tokens": 99,
            "seed": 0,
        }
        rest = {"text": text, "n_tokens": 9, "finish_reason": "stop", "verdict": "wrong", "answer": None, "gold": "1"}
        who = {"model": "reader", "run_seed": 1, "benchmark": "test", "problem_id": str(number), "sample": 0}
        replies.append(Generation(**who, prompt="tutor", **sampling, **rest))
    write_jsonl(tmp_path / "problems-test.jsonl", asked)
    write_jsonl(tmp_path / "reader-1-test-0.8.jsonl", replies)
    found = {row["misread"]: (row["events"], row["right"]) for row in readings.readings(tmp_path, "test")}
    assert found == {rate: (len(rights), pytest.approx(sum(rights) / len(rights))) for rate, rights in expected.items()}


def test_the_places_of_a_refined_solution():
    text = "Read| care|.| has| |9|-|3|=|6|,| not| |9|+|3|.| has| |6|+|2|=|8|.| The"
    found = dict(zip(enumerate(text.split("|")), readings._places(text.split("|")), strict=True))
    named = {key: place for key, place in found.items() if place != "all else"}
    assert named == {
        (0, "Read"): "opening",
        (2, "."): "caution or not",
        (6, "-"): "sign of a step",
        (10, ","): "caution or not",
        (14, "+"): "sign in a caution",
        (20, "+"): "sign of a step",
        (24, "."): "caution or not",
    }
