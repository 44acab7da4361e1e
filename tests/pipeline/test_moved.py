"""A run is the same wherever it lies and however its paths are spelt; and no evaluation deletes another's replies."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from evaluating import ENGINE, evaluate
from stage_keys import determined_by, key_of

from ssb_unsloth.commands.export import finished
from ssb_unsloth.errors import UserError
from ssb_unsloth.pipeline.students import students
from ssb_unsloth.pocket import MODEL_DIR
from ssb_unsloth.recipe import loading
from ssb_unsloth.records import write_jsonl
from ssb_unsloth.run.rundir import SMALL, RunDir, fingerprint

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"


def make(recipe, root):
    """Finish every stage that there is before evaluation, without the work; `base` writes a model folder."""
    for student in students(recipe, root):
        for name in student.chain:
            if student.owns(name):
                key, determined_by = key_of(name, student.recipe, student.run)
                with student.run.write(name, key, determined_by) as work:
                    folder = work.folder / ("model" if name == "base" else "adapter")
                    folder.mkdir()
                    (folder / "config.json").write_text(json.dumps([name, student.label]))
                    if name == "base":  # larger than what is read to tell whether it changed
                        with (folder / "model.safetensors").open("wb") as file:
                            file.truncate(SMALL + 1)


def stale(recipe, root):
    return [
        (student.label, name)
        for student in students(recipe, root)
        for name in student.chain
        if not student.run.is_fresh(name, key_of(name, student.recipe, student.run)[0])
    ]


@pytest.mark.parametrize("how", ["moved", "copied", "relative", "linked"])
def test_a_run_with_rounds_is_up_to_date_wherever_it_lies(tmp_path, monkeypatch, how):
    recipe = loading.load(POCKET, ["rounds=3"])
    root = tmp_path / "runs" / "pocket"
    make(recipe, root)
    assert stale(recipe, root) == []
    if how == "moved":
        (tmp_path / "elsewhere").mkdir()
        root = root.rename(tmp_path / "elsewhere" / "pocket")
    elif how == "copied":  # with other times
        root = Path(shutil.copytree(root, tmp_path / "copy" / "pocket", copy_function=shutil.copyfile))
    elif how == "relative":
        monkeypatch.chdir(tmp_path)
        root = Path("runs/../runs/pocket")
    else:
        (tmp_path / "link").symlink_to(root, target_is_directory=True)
        root = tmp_path / "link"
    assert stale(recipe, root) == []
    third = students(recipe, root)[2]
    assert third.run.model_before is not None
    assert Path(third.run.model_before.name).is_dir()  # what its base is merged from lies here too
    (third.before.run.stage("base") / "model" / "config.json").write_text("other weights")
    assert ("ssb-round2-s3407", "curate") in stale(recipe, root)


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("model.name", "model"),
        ("problems.source", "problems.jsonl"),
        ("curate.rollouts_file", "rollouts.jsonl"),
        ("curate.pairs_file", "pairs.jsonl"),
        ("train.drift_texts", "texts.jsonl"),
        ("evaluate.adapters.other", "adapter"),
        ("evaluate.benchmarks.test.source", "problems.jsonl"),
    ],
)
def test_a_file_is_its_contents_and_not_its_path(tmp_path, monkeypatch, key, file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / file
    if path.suffix:
        path.write_text("{}\n")
    else:
        path.mkdir()
        (path / "config.json").write_text("{}")

    def keys(value):
        recipe = loading.load(POCKET, [f"{key}={value}"])
        student = students(recipe, tmp_path / "run")[0]
        of_stages = [determined_by(name, student.recipe, student.run) for name in student.chain]
        return of_stages, determined_by("report", recipe, RunDir(tmp_path / "run"))

    spelt = [keys(value) for value in (f"./{file}", path, f"~/{file}", f"../{tmp_path.name}/{file}")]
    assert all(other == spelt[0] for other in spelt)
    (path if path.suffix else path / "config.json").write_text('{"other": 1}\n')
    assert keys(path) != spelt[0]


def test_a_large_file_of_a_finished_stage_is_known_by_its_manifest(tmp_path):
    run = RunDir(tmp_path / "run")
    with run.write("train", "k", {}) as work, (work.folder / "large").open("wb") as file:
        file.truncate(SMALL)
    known = fingerprint(run.stage("train"))
    os.utime(run.stage("train") / "large", (1, 1))
    assert fingerprint(run.stage("train")) == known
    with (run.stage("train") / "large").open("ab") as file:
        file.write(b"x")
    assert fingerprint(run.stage("train")) != known


@pytest.mark.parametrize("runs", ["students", "runs", "students/students"])
def test_a_place_for_runs_may_have_any_name(tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    shutil.copy(POCKET, "recipe.yaml")  # beside it, so that the folder above looks like a run
    recipe = loading.load(POCKET, ["variants.hot.train.epochs=1"])
    root = Path(runs) / "pocket"
    make(recipe, root)
    loading.save(recipe, root / "recipe.yaml")
    for student in students(recipe, root):
        assert finished(student.run.root).label == student.label
    with pytest.raises(UserError, match="no run folder"):
        finished(Path(runs))


# -- ssb evaluate MODEL ----------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"question": f"{name} + {i}?", "answer": str(i)} for i in range(3)])
    for name in ("a", "b"):
        shutil.copytree(MODEL_DIR, tmp_path / name / "final")
    return [*ENGINE, "--max-tokens", 12]


def replies(folder):
    return {path: path.read_bytes() for path in folder.rglob("model-*.jsonl")}


def test_another_benchmark_leaves_the_replies_of_before_and_samples_none_twice(asked, tmp_path, capsys):
    assert evaluate("a/final", "--benchmark", "one=one.jsonl", *asked) == 0
    before = replies(tmp_path / "runs")
    assert len(before) == 1
    assert evaluate(tmp_path / "a" / "final", "--benchmark", "two=two.jsonl", *asked) == 0  # spelt otherwise: the same
    both = replies(tmp_path / "runs")
    assert len(both) == 2
    assert before.items() <= both.items()
    assert len({path.parent for path in both}) == 1
    assert {path.name for path in next(iter(both)).parent.glob("problems-*")} == {
        "problems-one.jsonl",
        "problems-two.jsonl",
    }
    capsys.readouterr()
    assert evaluate("a/final", "--benchmark", "one=one.jsonl", "--benchmark", "two=two.jsonl", *asked) == 0
    assert "reply" not in capsys.readouterr().err  # no bar: nothing was sampled
    assert replies(tmp_path / "runs") == both


def test_another_model_whose_path_ends_alike_has_a_folder_of_its_own(asked, tmp_path):
    (tmp_path / "b" / "final" / "note.txt").write_text("another model")
    assert evaluate("a/final", "--benchmark", "one=one.jsonl", *asked) == 0
    before = replies(tmp_path / "runs")
    assert evaluate("b/final", "--benchmark", "one=one.jsonl", *asked) == 0
    after = replies(tmp_path / "runs")
    assert before.items() <= after.items()
    assert len(after) == 2


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_out_folder_in_use_is_refused_before_anything_changes(asked, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate("a/final", "--benchmark", "one=one.jsonl", *asked, "--out", out) == 0
    before = snapshot(out)
    with RunDir(out).lock():
        assert evaluate("b/final", "--benchmark", "two=two.jsonl", *asked, "--out", out) == 2
    assert "another ssb process" in capsys.readouterr().err
    assert snapshot(out) == before
    for words in (
        ["a/final", "--benchmark", "one=two.jsonl"],
        ["a/final", "--benchmark", "one=one.jsonl", "--max-tokens", 13],
    ):
        assert evaluate(words[0], *asked, *words[1:], "--out", out) == 2
        assert "Take another folder, or --force" in capsys.readouterr().err
        assert snapshot(out) == before
    partial = out / "evaluate.partial"
    (partial / "kept").mkdir(parents=True)
    (partial / ".key").write_text("of another call")
    assert evaluate("a/final", "--benchmark", "two=two.jsonl", *asked, "--out", out) == 2
    assert "an evaluation that was stopped" in capsys.readouterr().err
    shutil.rmtree(partial)
    assert evaluate("a/final", "--benchmark", "one=two.jsonl", *asked, "--out", out, "--force") == 0
    assert snapshot(out) != before


def test_the_run_of_a_recipe_is_no_out_folder(asked, tmp_path, capsys):
    make(replace(loading.load(POCKET)), tmp_path / "run")
    before = snapshot(tmp_path / "run")
    words = ["a/final", "--benchmark", "one=one.jsonl", *asked, "--out", tmp_path / "run"]
    assert evaluate(*words) == evaluate(*words, "--force") == 2
    assert "holds the run of a recipe" in capsys.readouterr().err
    assert {path: data for path, data in snapshot(tmp_path / "run").items() if path.name != ".lock"} == before
