"""Which students a recipe asks for, and what they share: decided from the recipe alone."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import finished_run
import pytest
import recomputed

from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.carried import carry_over, origins
from ssb_unsloth.evaluation.evaluate import Contestant
from ssb_unsloth.pipeline.students import students, trained
from ssb_unsloth.pipeline.sweep import Sweep, _replies
from ssb_unsloth.recipe import loading
from ssb_unsloth.recipe.schema import BenchmarkConfig
from ssb_unsloth.records import Problem, generations_file, write_jsonl
from ssb_unsloth.run.rundir import RunDir

ROOT = Path(__file__).parents[2]
POCKET = ROOT / "recipes" / "pocket.yaml"


@pytest.fixture
def plan(tmp_path):
    """plan(yaml text): the students of a recipe on top of the pocket's."""

    def make(text):
        path = tmp_path / "mine.yaml"
        path.write_text(f"base: {POCKET}\n{text}")
        return students(loading.load(path), Path("runs/mine"))

    return make


def folders(student):
    return {stage: str(student.run.stage(stage)) for stage in student.chain}


def test_what_is_not_trained_yet_is_named_with_the_command_for_it(tmp_path):
    (tmp_path / "two.yaml").write_text(f"base: {POCKET}\nvariants: {{hot: {{train: {{learning_rate: 1e-3}}}}}}\n")
    for recipe, command in (
        (POCKET, "`ssb curate` first"),
        (tmp_path / "two.yaml", "`ssb curate --student ssb-s3407` first"),
    ):
        with pytest.raises(UserError, match=re.escape(command)):
            trained(loading.load(recipe), tmp_path / "runs")


def test_a_recipe_alone_is_one_student_in_its_own_folder(plan):
    (only,) = plan("")
    assert only.label == "ssb-s3407"
    assert folders(only) == {stage: f"runs/mine/{stage}" for stage in ("curate", "teach", "train")}


def test_students_that_differ_in_training_share_pairs_and_targets(plan):
    main, hot, sft = plan("variants: {hot: {train: {learning_rate: 1e-3}}, sft: {train: {method: sft}}}")
    assert folders(hot) == {**folders(main), "train": "runs/mine/students/hot-s3407/train"}
    assert folders(sft) == {"curate": "runs/mine/curate", "train": "runs/mine/students/sft-s3407/train"}


def test_a_students_recipe_is_one_students(plan):
    for student in plan("seeds: [1, 2]\nrounds: 2\nvariants: {hot: {train: {learning_rate: 1e-3}}}"):
        assert (student.recipe.seeds, student.recipe.variants, student.recipe.rounds) == ([], {}, 1)


def test_nothing_is_shared_between_seeds(plan):
    found = plan("seeds: [1, 2]\nvariants: {hot: {train: {learning_rate: 1e-3}}}")
    assert [s.label for s in found] == ["ssb-s1", "hot-s1", "ssb-s2", "hot-s2"]
    assert folders(found[3])["curate"] == "runs/mine/students/ssb-s2/curate"
    assert [s.recipe.seed for s in found] == [1, 1, 2, 2]


def test_a_variant_that_changes_nothing_is_not_trained_again(plan):
    main, same = plan("variants: {same: {train: {epochs: 3}}}")
    assert folders(same) == folders(main)
    assert not any(same.owns(stage) for stage in same.chain)


def test_variants_share_among_themselves(plan):
    _, four, eight = plan(
        "variants: {four: {curate: {pairs: 64}}, eight: {curate: {pairs: 64}, train: {learning_rate: 1e-3}}}"
    )
    assert eight.run.stage("teach") == four.run.stage("teach")
    assert four.owns("curate")
    assert not eight.owns("curate")


def test_each_round_starts_from_the_student_of_the_one_before(plan):
    main, one, two, three = plan("variants: {rounds: {rounds: 3}}")
    assert [s.name for s in (one, two, three)] == ["rounds-round1", "rounds-round2", "rounds-round3"]
    assert folders(one) == folders(main)
    assert two.chain == ("base", "curate", "teach", "train")
    assert two.recipe.model.name == str(two.run.root / "base" / "model")
    assert two.run.stage("round-before") == main.run.stage("train")
    assert three.run.stage("round-before") == two.run.stage("train")
    assert all(three.owns(stage) for stage in three.chain)


def test_two_rows_of_one_name_are_refused(plan):
    with pytest.raises(UserError, match="another name"):
        plan("variants: {ssb: {train: {learning_rate: 1e-3}}}")


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ("{hot: {train: {learning_rat: 1}}}", r"variants\.hot\.train\.learning_rat: unknown key; did you mean"),
        ("{hot: {train: {learning_rate: -1}}}", r"variants\.hot\.train\.learning_rate: -1"),
        ("{hot: {seed: 1}}", r"variants\.hot\.seed: belongs to the whole recipe"),
        ("{base: {train: {epochs: 1}}}", r"variants\.base: the table has a row of that name"),
        ("{hot: 3}", r"variants\.hot: expected a name .* and a mapping"),
        ("{'../up': {train: {epochs: 1}}}", r"variants\.\.\./up: expected a name"),
    ],
)
def test_a_mistake_in_a_variant_is_named(plan, variants, said):
    with pytest.raises(UserError, match=said):
        plan(f"variants: {variants}")


def test_a_base_is_one_level_and_what_stands_on_it_wins(tmp_path):
    (tmp_path / "one.yaml").write_text(f"base: {POCKET}\nname: one\ntrain: {{epochs: 7}}")
    recipe = loading.load(tmp_path / "one.yaml", ["train.batch_size=8"])
    assert (recipe.name, recipe.train.epochs, recipe.train.batch_size) == ("one", 7, 8)
    assert recipe.curate == loading.load(POCKET).curate
    (tmp_path / "less.yaml").write_text(f"base: {POCKET}\nevaluate: {{benchmarks: {{test-hard: null}}}}")
    assert list(loading.load(tmp_path / "less.yaml").evaluate.benchmarks) == ["test"]
    (tmp_path / "two.yaml").write_text("base: one.yaml\nname: two")
    with pytest.raises(UserError, match="one level"):
        loading.load(tmp_path / "two.yaml")
    (tmp_path / "three.yaml").write_text("base: none.yaml\nname: three")
    with pytest.raises(UserError, match=r"none\.yaml: no such recipe"):
        loading.load(tmp_path / "three.yaml")


def test_a_saved_recipe_with_variants_is_read_back_unchanged(tmp_path):
    (tmp_path / "one.yaml").write_text(f"base: {POCKET}\nseeds: [1, 2]\nvariants: {{hot: {{train: {{epochs: 1}}}}}}")
    recipe = loading.load(tmp_path / "one.yaml")
    loading.save(recipe, tmp_path / "saved.yaml")
    assert loading.load(tmp_path / "saved.yaml") == recipe


def test_kept_replies_are_taken_over_until_the_model_adapter_or_benchmark_changes(tmp_path, capsys):
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder in (model, adapter):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    recipe = loading.load(POCKET, [f"model.name={model}"])
    run, problems = RunDir(tmp_path / "run"), [Problem("p", "1+1?", "2")]
    contestants = [Contestant("ssb", recipe.model, adapter, 1)]
    name = generations_file("ssb", 1, "sums", 0.0)

    def taken_over(problems=problems, **keys):
        """Whether a new evaluation takes the kept file; it then becomes the kept one."""
        benchmarks = {"sums": (BenchmarkConfig(source="x", temperature=None, **keys), problems)}
        with run.write("evaluate", "key", {}) as work:
            carry_over(run.stage("evaluate"), work.folder, origins(contestants, benchmarks, recipe.sampler))
            taken = (work.folder / name).exists()
            (work.folder / name).write_text("the replies")
        return taken

    assert not taken_over()
    assert taken_over()
    assert not taken_over(max_tokens=7)
    assert not taken_over(problems=[Problem("p", "1+1?", "3")], max_tokens=7)
    assert not taken_over()
    (adapter / "config.json").write_text('{"other": 1}')
    assert not taken_over()
    (model / "config.json").write_text('{"other": 1}')  # other weights under the same path
    assert not taken_over()
    assert taken_over()
    for damaged in (
        name,
        "origins.json",
    ):  # by hand, or by the disk: what the stage did not write is never sealed again
        path = run.stage("evaluate") / damaged
        path.write_text(path.read_text().replace("e", "f", 1))
        assert not taken_over()
        assert taken_over()
    assert "changed since it was written; these replies are sampled again" in capsys.readouterr().err


def test_a_run_that_is_up_to_date_is_looked_at_by_sizes_and_times(tmp_path, capsys):
    root = finished_run.make(POCKET, tmp_path / "pocket")

    def again():
        code = Sweep(loading.load(POCKET), str(POCKET), [], root.parent, 1, False)()
        return code, capsys.readouterr().err

    code, said = again()
    assert code == 0
    assert said.count(": up to date") == 5
    assert f"`ssb verify {root}` reads every byte" in said
    path = root / "train" / "history.jsonl"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(path, (time.time() + 9, time.time() + 9))
    code, said = again()
    assert code == 0
    assert f"{path}: touched since its stage was finished; `ssb verify {root}` reads all of it" in said
    path.write_bytes(data + b"\n")
    code, said = again()
    assert code == 2
    assert f"ssb: {path}: changed since it was written: {len(data) + 1:,} bytes, not {len(data):,}" in said
    assert f"`ssb verify {root}` reads every byte" in said
    path.unlink()
    code, said = again()
    assert code == 2
    assert f"ssb: {path}: missing" in said


@pytest.fixture
def brought(tmp_path):
    """A recipe whose students learn by SFT from two pairs that were made elsewhere: only evaluation samples."""
    ask = [{"role": "user", "content": "What is 1 + 1?"}]
    rows = [{"prompt": ask, "teacher_prompt": ask, "reply": f"{n} \\boxed{{2}}"} for n in range(2)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    recipe = {
        "base": str(POCKET),
        "name": "brought",
        "curate": {"pairs_file": str(tmp_path / "pairs.jsonl")},
        "train": {"method": "sft", "epochs": 2, "probe_steps": 0, "token_pairs": 0, "save_steps": 1},
    }

    def write(**keys):
        path = tmp_path / "brought.yaml"
        path.write_text(json.dumps({**recipe, **keys}))  # JSON is YAML
        return path

    return write


def sweep(path, folder, *words):
    command = [sys.executable, "-m", "ssb_unsloth", "sweep", str(path), "--runs", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_a_student_that_fails_is_named_and_the_others_are_made(brought, tmp_path):
    """Weights that are no numbers any more, a file that is no JSON: exit code 2, and the third student is trained."""
    (tmp_path / "torn.jsonl").write_text('{"prompt": [')
    torn = {"curate": {"pairs_file": str(tmp_path / "torn.jsonl")}}
    variants = {"hot": {"train": {"learning_rate": 1e30}}, "torn": torn}
    path, root = brought(variants={**variants, "calm": {"train": {"epochs": 3}}}), tmp_path / "brought"
    done = sweep(path, tmp_path, "--workers", "2")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Training diverged: after 2 steps" in done.stderr
    assert "Lower train.learning_rate (1e+30)" in done.stderr
    assert "torn.jsonl, line 1: not JSON" in done.stderr
    said = done.stderr.strip().splitlines()[-1]
    failed = re.search(r"ssb: 2 of 8 stages failed \((.*)\), and 3 wait for that; all others are done", said)
    assert set(failed[1].split("; ")) == {"hot-s3407, train", "torn-s3407, curate"}
    made = {str(p.parent.relative_to(root)) for p in root.rglob("manifest.json")}
    assert made == {"curate", "train", "students/calm-s3407/train"}


def test_a_second_sweep_on_the_same_folder_is_refused(brought, tmp_path, capsys):
    path = brought(seeds=[1, 2])
    with RunDir(tmp_path / "brought").lock(".run.lock"):
        assert main(["sweep", str(path), "--runs", str(tmp_path)]) == 2
    assert "brought: another ssb process is at work on this run; wait for it or stop it." in capsys.readouterr().err
    assert not list((tmp_path / "brought").rglob("recipe.yaml"))


def test_time_left_counts_the_replies_that_the_evaluation_will_sample(plan, tmp_path):
    """Two seeds, two students: 2 bases and 4 adapters answer 300 + 200 problems, greedily and once at T = 0.8."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {POCKET}\nseeds: [1, 2]\nvariants: {{hot: {{train: {{learning_rate: 1e-3}}}}}}")
    assert _replies(loading.load(path), trained=4) == 6 * (300 + 200) * 2
    assert _replies(loading.load(path, ["evaluate.benchmarks.own={source: own.jsonl, max_tokens: 9}"]), trained=4) == 0


@pytest.mark.slow
def test_a_sweep_shares_what_is_equal_goes_on_where_it_was_and_ends_in_one_table(tmp_path):
    """Three students with two workers: one curation; a later variant adds its own stages and nothing else."""
    path = tmp_path / "mine.yaml"
    text = (ROOT / "tests" / "fixtures" / "sweep.yaml").read_text().replace("POCKET", str(POCKET))

    def run(recipe):
        path.write_text(recipe)
        done = sweep(path, tmp_path, "--workers", "2")
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    run(text)
    root = tmp_path / "tiny"
    made = {str(p.parent.relative_to(root)) for p in root.rglob("manifest.json")}
    rounds = {f"students/rounds-round2-s3407/{stage}" for stage in ("base", "curate", "teach", "train")}
    assert made == {"curate", "teach", "train", "evaluate", "report", "students/hot-s3407/train", *rounds}
    scores = json.loads((root / "evaluate" / "scores.json").read_text())["scores"]
    assert {"base", "ssb", "hot", "rounds-round2"} <= {s["model"] for s in scores}

    report = json.loads((root / "report" / "report.json").read_text())
    assert {row["model"] for row in report["students"]} == {"ssb", "hot", "rounds-round1", "rounds-round2"}
    assert (root / "report" / "cost.png").exists()
    assert recomputed.of_run(root) == []

    before = {name: json.loads((root / name / "manifest.json").read_text())["id"] for name in made}
    again = run(text)
    assert "All stages are up to date" in again.stderr
    done = run(text + "  cold: {train: {kd_temperature: 1}}\n")
    after = {name: json.loads((root / name / "manifest.json").read_text())["id"] for name in made}
    assert {name for name in made if after[name] != before[name]} == {"evaluate", "report"}
    assert "cold-s3407, train: done" in done.stderr
