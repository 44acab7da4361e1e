"""The report of a small run made by hand: report.json for programs, the rest for people."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

from ssb_unsloth.evaluation.scores import as_rows, score
from ssb_unsloth.method.yields import Statistics
from ssb_unsloth.pipeline.students import students
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import BenchmarkConfig
from ssb_unsloth.records import EXAMPLES_BENCHMARK, Generation, Pair, Problem, Rollout, generations_file, write_jsonl
from ssb_unsloth.report import figures, sections
from ssb_unsloth.report.sections import evaluation_section
from ssb_unsloth.report.worked_examples import worked_examples
from ssb_unsloth.report.write import closing_lines, write_report
from ssb_unsloth.run.rundir import RunDir
from ssb_unsloth.run.student import Student

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
FENCE = "Look:\n```python\nprint(1)\n```\n# Not a heading\n````\n~~~\n"  # a text with fences of its own
BENCHMARKS = {"math": BenchmarkConfig(source="a.jsonl"), "math-500": BenchmarkConfig(source="b.jsonl", split="test")}
SCORE_NAMES = {
    *("model", "benchmark", "split", "scoring", "temperature", "seed", "n_questions", "n_samples"),
    *("value", "low", "high", "no_answer", "truncated", "mean_tokens"),
}
PAIRS = [
    Pair("a1", "q1", f"Q1? {FENCE}", "2`3", f"right {FENCE}", f"wrong {FENCE}", f"refined {FENCE}", [1], "r", "w", "f")
]
FIGURES = ["accuracy.png", "curation.png", "gains.png", "token_kl.png", "training.png"]


def _curate(folder: Path) -> None:
    pair = PAIRS[0]
    rollouts = [
        Rollout("w", "q1", pair.wrong, [1, 2], "stop", 1, "wrong", "1`\n# 3"),
        Rollout("r", "q1", pair.right, [1, 2], "stop", 2, "right", "2`3"),
    ]
    counts = {"questions": 20, "all_right": 5, "all_wrong": 9, "mixed": 6, "repeated_wrong": 2, "refined": 6}
    statistics = Statistics(**counts, accepted=4, pairs=1, rollouts=80, no_answer=3, truncated=1, tokens=999)
    write_jsonl(folder / "pairs.jsonl", PAIRS)
    write_jsonl(folder / "rollouts.jsonl", rollouts)
    (folder / "statistics.json").write_text(json.dumps(dataclasses.asdict(statistics)))


def _train(folder: Path) -> None:
    rows = [{"step": s, "loss": 1 / s, "grad_norm": 2 / s, "learning_rate": 1e-4} for s in range(1, 41)]
    write_jsonl(
        folder / "history.jsonl", [{"step": 0, "reply_tokens": 50.0}, *rows, {"step": 40, "reply_tokens": 60.0}]
    )
    expected = {name: [[[1, 0.5]], [[1, 0.75]]] for name in ("teacher", "base", "student")}
    tokens = {"pair": "a1", "teacher_prompt": FENCE, "ids": [1, 1], "kinds": ["digit", "word"], "before": [0.25, 1.0]}
    tokens |= {
        "after": [0.5, 0.1],
        "p": {name: [0.5, 0.75] for name in expected},
        "top": expected,
        "pieces": {"1": FENCE},
    }
    write_jsonl(folder / "tokens.jsonl", [tokens])


def _generation(model: str, benchmark: str, problem: Problem, temperature: float, verdict: str) -> Generation:
    text = f"{model} at {temperature} on {problem.id}\n{FENCE}"
    sampling = ("tutor", temperature, 1.0, 0, 1.0, 99)
    return Generation(*(model, 7, benchmark, problem.id, 0), *sampling, 1, text, 9, "stop", verdict, None, problem.gold)


def _evaluate(folder: Path) -> None:
    replies = []
    for benchmark in BENCHMARKS:
        problems = [Problem(f"{benchmark}-{i}", f"{benchmark} question {i}? {FENCE}", str(i)) for i in range(4)]
        write_jsonl(folder / f"problems-{benchmark}.jsonl", problems)
        for model, right in (("base", {0}), ("ssb", {1, 2})):
            for temperature in (0.0, 0.8):
                made = [
                    _generation(model, benchmark, problem, temperature, "right" if i in right else "no_answer")
                    for i, problem in enumerate(problems)
                ]
                write_jsonl(folder / generations_file(model, 7, benchmark, temperature), made)
                replies += made
    for model, verdict in (("base", "wrong"), ("ssb", "right")):
        asked = [Problem(pair.problem_id, pair.question, pair.gold) for pair in PAIRS]
        made = [_generation(model, EXAMPLES_BENCHMARK, problem, 0.0, verdict) for problem in asked]
        write_jsonl(folder / generations_file(model, 7, EXAMPLES_BENCHMARK, 0.0), made)
    scores, differences = score(replies, BENCHMARKS, seed=7)
    rows = {"scores": as_rows(scores), "differences": as_rows(differences)}
    (folder / "scores.json").write_text(json.dumps(rows))


LAYERS = {"layers": {"qkv_proj": 4, "o_proj": 4}, "left_out": {"the vision_tower": 1234}}
TAUGHT = {"targets": "top_k", "mean_mass": 0.987, "least_mass": 0.5, "mass_temperature": 2.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: the first four stages made by hand, the report by `write_report`."""
    recipe, run = load(POCKET, ["name=mine", "seed=7"]), RunDir(tmp_path_factory.mktemp("runs") / "mine")
    trained = {"steps": 40, "first_loss": 1.0, "last_loss": 0.025, "trainable_parameters": 10, "total_parameters": 110}
    trained["lora"] = LAYERS
    for name, make in {"curate": _curate, "teach": None, "train": _train, "evaluate": _evaluate}.items():
        with run.write(name, "key", {}) as work:
            work.tokens, work.summary = 1234, {"train": trained, "teach": TAUGHT}.get(name, {})
            if make:
                make(work.folder)
    with run.write("report", "key", {}) as work:
        write_report(recipe, run, work.folder, students(recipe, run.root))
    return run


@pytest.fixture(scope="module")
def report(run):
    return json.loads((run.stage("report") / "report.json").read_text(encoding="utf-8"))


def text(run: RunDir, name: str) -> str:
    return (run.stage("report") / name).read_text(encoding="utf-8")


def fenced_blocks(markdown: str) -> tuple[list[str], list[str]]:
    """(contents of the fenced blocks, lines outside of them), read as CommonMark reads fences."""
    blocks, outside, fence = [], [], ""
    for line in markdown.split("\n"):
        run_of_ticks = re.match(r" {0,3}(`{3,})([^`]*)$", line)
        if fence and run_of_ticks and len(run_of_ticks[1]) >= len(fence) and not run_of_ticks[2].strip():
            fence = ""
        elif fence:
            blocks[-1] += line + "\n"
        elif run_of_ticks:
            fence = run_of_ticks[1]
            blocks.append("")
        else:
            outside.append(line)
    assert not fence
    return [block.removesuffix("\n") for block in blocks], outside


# -- report.json ------------------------------------------------------------------------------------------------------


def test_report_json_has_the_names_that_others_read(report):
    assert {"format", "recipe", "scores", "curation", "training", "cost", "versions", "seed"} <= set(report)
    assert (report["format"], report["recipe"], report["seed"]) == (1, "mine", 7)
    for row in report["scores"]:
        assert set(row) >= SCORE_NAMES
    expected = ["questions", "all_right", "all_wrong", "mixed", "refined", "accepted", "no_answer", "truncated"]
    assert [report["curation"][name] for name in expected] == [20, 5, 9, 6, 6, 4, 3, 1]
    assert report["training"] == {
        "ssb": {
            "method": "ssb",
            "steps": 40,
            "first_loss": 1.0,
            "last_loss": 0.025,
            "trainable_parameters": 10,
            "total_parameters": 110,
            "lora": LAYERS,
        }
    }
    assert list(report["cost"]) == ["curate", "teach", "train", "evaluate"]
    for spent in report["cost"].values():
        assert set(spent) == {"seconds", "peak_rss_bytes", "peak_device_bytes", "tokens"}
        assert spent["tokens"] == 1234
    assert {"python", "torch", "transformers"} <= set(report["versions"])


def test_scores_lie_between_0_and_1(report):
    assert len(report["scores"]) == 24  # two models, two benchmarks, two decodings, three scorings
    for row in report["scores"]:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert 0 <= row["no_answer"] <= 1
        assert 0 <= row["truncated"] <= 1
    accuracies = [row for row in report["scores"] if row["scoring"] == "equivalent"]
    assert {(row["model"], row["value"]) for row in accuracies} == {("base", 0.25), ("ssb", 0.5)}


# -- For people -------------------------------------------------------------------------------------------------------


def test_report_md_says_on_which_layers_the_adapter_was(run):
    page = text(run, "report.md")
    said = "LoRA (ssb) was on 4 x qkv_proj, 4 x o_proj. Left out: the vision_tower (1,234 parameters)."
    assert f"\n\n{said}\n\nLosses can be" in page


def test_report_md_holds_the_table_and_the_figures(run, report):
    page = text(run, "report.md")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    for s in (s for s in report["scores"] if s["scoring"] == "equivalent"):
        decoding = f"T={s['temperature']:g}" if s["temperature"] else "greedy"
        small, large = [row for row in rows if row[:3] == [s["benchmark"], decoding, s["model"]]]
        assert small[3] == f"{100 * s['value']:.1f} %"
        assert small[4] == f"{100 * s['low']:.1f} to {100 * s['high']:.1f}"
        assert small == large[: len(small)]
    assert any("ssb: +25.0 points" in cell for row in rows for cell in row)
    assert {"curate", "teach", "train", "evaluate"} <= {row[0] for row in rows}
    for name in re.findall(r"\]\(([\w.]+)\)", page):
        assert (run.stage("report") / name).is_file()
    assert "targets (top_k) are **approximate**: they hold 98.7% of" in " ".join(page.split())
    assert set(re.findall(r"!\[[^]]+\]\(([\w.]+)\)", page)) == set(FIGURES)


def test_replies_that_could_not_be_compared_are_said(run, report):
    assert "count as wrong because" not in text(run, "report.md")
    scores = [{**row, "undecided": 2} for row in report["scores"]]
    page = evaluation_section(scores, [], {}, 7)
    boxed = [row for row in scores if (row["scoring"], row["metric"]) == ("equivalent", "pass@1")]
    assert f"**{2 * len(boxed)} replies** count as wrong because" in page
    curated = {**report, "curation": {**report["curation"], "undecided": 3}}
    assert "**3 rollouts and refinements** count as wrong because" in sections.curation_section(curated)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_png_with_something_on_it(run, name):
    path = run.stage("report") / name
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = matplotlib.image.imread(path)
    assert min(picture.shape[:2]) >= 400
    inked = (picture[..., :3] < 0.9).any(axis=-1)
    assert 0.01 < inked.mean() < 0.6
    assert inked.any(axis=0).mean() > 0.8  # and over its whole width


def test_a_training_that_failed_or_was_not_logged_is_drawn_too(tmp_path):
    figures.training({"ssb": []}, tmp_path / "empty.png")
    failed = [{"step": 1, "loss": float("nan"), "grad_norm": float("inf")}]
    figures.training({"ssb": failed, "grpo": [{"step": 1, "reward": 0.5}]}, tmp_path / "failed.png")
    assert all(path.stat().st_size > 5_000 for path in tmp_path.iterdir())


def test_every_student_has_its_row_and_every_method_its_curves(run, tmp_path):
    """One by GRPO, and three by one method: with LoRA, with LoRA elsewhere (two seeds), and without."""
    summary = run.manifest("train")["summary"]
    without = {key: value for key, value in summary.items() if key != "lora"}
    elsewhere = {**summary, "lora": {"layers": {"q_proj": 2, "lm": 1}, "left_out": {}}}
    whole = {**without, "left_as_it_is": {"embeddings": 100}, "trainable_parameters": 90}
    recipe = load(POCKET, ["name=mine", "seed=7"])
    everyone = students(recipe, run.root)
    for name, method, seed, its in (
        ("grpo", "grpo", 7, {**summary, "steps": 64}),
        ("wide", "ssb", 7, {**elsewhere, "steps": 41}),
        ("whole", "ssb", 7, {**whole, "steps": 42}),
        ("wide", "ssb", 8, {**elsewhere, "steps": 99}),
    ):
        other = RunDir(tmp_path / f"{name}-{seed}")
        with other.write("train", "key", {}) as work:
            work.summary = its
            write_jsonl(work.folder / "history.jsonl", [{"step": s, "loss": 0.0, "reward": s / 64} for s in (1, 64)])
        everyone.append(Student(name, load(POCKET, [f"train.method={method}", f"seed={seed}"]), other, ("train",)))
    folder = tmp_path / "report"
    folder.mkdir()
    write_report(recipe, run, folder, everyone)
    training = json.loads((folder / "report.json").read_text())["training"]
    found = {name: (row["method"], row["steps"]) for name, row in training.items()}
    assert found == {"ssb": ("ssb", 40), "grpo": ("grpo", 64), "wide": ("ssb", 41), "whole": ("ssb", 42)}
    told = (folder / "report.md").read_text()
    for name, (method, steps) in found.items():
        assert f"| {name} | {method} | {steps} | 1.000 | 0.025 | {90 if name == 'whole' else 10} | 110 |" in told
    assert "LoRA (ssb, grpo) was on " in told
    assert "LoRA (wide) was on 2 x q_proj, 1 x lm. Left out: nothing." in told
    assert "All weights (whole) were trained but embeddings (100 parameters)." in told
    assert "Figure 2 of each method's first student;" in told
    wide, three = (matplotlib.image.imread(path / "training.png") for path in (folder, run.stage("report")))
    assert wide.shape[0] > 1.5 * three.shape[0]  # a panel more, in a second line: GRPO's reward


def test_without_a_difference_to_the_base_no_gain_is_drawn(run, tmp_path):
    shutil.copytree(run.root, tmp_path / "mine")
    path = tmp_path / "mine" / "evaluate" / "scores.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({**rows, "differences": [{**d, "reference": "sft"} for d in rows["differences"]]}))
    (tmp_path / "report").mkdir()
    recipe = load(POCKET, ["name=mine", "seed=7"])
    mine = RunDir(tmp_path / "mine")
    write_report(recipe, mine, tmp_path / "report", students(recipe, mine.root))
    assert not (tmp_path / "report" / "gains.png").exists()
    assert "gains.png" not in (tmp_path / "report" / "report.md").read_text()


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    recipe = load(POCKET, ["name=mine", "seed=7"])
    mine = run
    write_report(recipe, mine, tmp_path, students(recipe, mine.root))
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (run.stage("report") / path.name).read_bytes(), path.name


def test_examples_show_a_pair_with_its_origins(run):
    blocks, _ = fenced_blocks(text(run, "examples.md"))
    pair = PAIRS[0]
    answers = [f"{model} at 0.0 on {pair.problem_id}\n{FENCE}" for model in ("base", "ssb")]
    assert blocks[:6] == [pair.question, pair.wrong, pair.right, pair.reply, *answers]


def test_examples_are_those_of_the_recipes_seed_among_several(run, tmp_path):
    shutil.copytree(run.root, tmp_path / "mine")
    path = tmp_path / "mine" / "evaluate" / "scores.json"
    rows = json.loads(path.read_text())
    rows["scores"] += [{**row, "seed": seed} for row in rows["scores"] for seed in (8, None)]
    path.write_text(json.dumps(rows))
    assert worked_examples(RunDir(tmp_path / "mine"), "ssb", 7) == text(run, "examples.md")


def test_a_recipe_of_several_seeds_reports_its_first_students_examples(run, tmp_path):
    recipe = load(POCKET, ["name=mine", "seeds=[7,8]"])
    mine = run
    write_report(recipe, mine, tmp_path, students(recipe, mine.root))
    assert "Seeds 7, 8." in (tmp_path / "report.md").read_text()
    assert (tmp_path / "examples.md").read_text() == text(run, "examples.md")


def test_no_text_breaks_out_of_its_block(run):
    _, outside = fenced_blocks(text(run, "examples.md"))
    assert [line for line in outside if "Not a heading" in line or "~~~" in line or "```" in line] == []
    titles = [line for line in outside if line.startswith("#")]
    assert titles[0] == "# Worked examples"
    assert titles[2] == "### q1, gold answer `` 2`3 ``"
    assert "Wrong rollout w, answer `` 1` # 3 ``:" in outside


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_examples_show_what_base_and_student_answer_greedily(run, benchmark):
    blocks, outside = fenced_blocks(text(run, "examples.md"))
    titles = [line for line in outside if line.startswith(f"### {benchmark}, ")]
    assert [title.split()[2].rstrip(",") for title in titles] == [f"{benchmark}-{i}" for i in (1, 2, 0, 3)]
    for i in range(4):  # gained, gained, lost, and one that both get wrong
        question = blocks.index(f"{benchmark} question {i}? {FENCE}")
        base, student = blocks[question + 1 : question + 3]
        assert base == f"base at 0.0 on {benchmark}-{i}\n{FENCE}"
        assert student == f"ssb at 0.0 on {benchmark}-{i}\n{FENCE}"


def test_a_finished_run_closes_with_the_table_and_where_the_rest_is(run):
    lines = closing_lines(run)
    assert max(map(len, lines.replace(str(run.root), "runs/mine").splitlines())) <= 80
    said = "SSB made no significant difference to accuracy on math: 25.0 % before, 50.0 % after (T = 0.8, n = 4; "
    assert " ".join(lines.split()).startswith(said)
    assert text(run, "report.md").split("\n\n")[1].startswith(said)
    assert re.search(r"^math +greedy +base +25\.0 % ", lines, re.M)
    assert re.search(r"^math-500 +T=0\.8 +ssb +50\.0 % ", lines, re.M)
    for name in ("report.md", "examples.md", "tokens.html", "*.png"):
        assert name in lines


def test_figures_are_the_same_bytes_whatever_the_hashes(tmp_path):
    program = (
        "import sys; from pathlib import Path; from ssb_unsloth.report import figures\n"
        "common = {'scoring': 'equivalent', 'metric': 'pass@1', 'seed': 1, 'n_questions': 9}\n"
        "values = [0.1, 0.7, 0.3, 0.6]\n"  # each model has them in another order: equal means but for the last bits
        "scores = [{**common, 'model': model, 'benchmark': b, 'temperature': 0.8, 'value': v, 'low': v, 'high': v}\n"
        "          for n, model in enumerate('abcd') for b, v in zip('xyzu', values[n:] + values[:n])]\n"
        "figures.comparison(scores, Path(sys.argv[1]))\n"
    )
    drawn = []
    for hashes in ("1", "2", "3"):
        path = tmp_path / f"{hashes}.png"
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        subprocess.run([sys.executable, "-c", program, path], check=True, env=environment)
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1] == drawn[2]
