"""The recipes of docs/domains.md, from their data files to the report, with other verifiers than the mathematical."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssb_unsloth.cli import main
from ssb_unsloth.commands.model_card import model_card
from ssb_unsloth.data.problems import load_benchmark, load_problems
from ssb_unsloth.pipeline.students import finished
from ssb_unsloth.pocket.tasks.data import COUNTS, TASKS
from ssb_unsloth.recipe.loading import load

ROOT = Path(__file__).parents[2]
DOMAINS = {"choice": "choices", "code": "programs"}
each = pytest.mark.parametrize("domain", DOMAINS)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the recipes' data files are looked for


@each
def test_a_recipe_asks_the_tasks_questions_under_the_texts_that_the_model_knows(domain: str) -> None:
    path = ROOT / "recipes" / f"pocket-{domain}.yaml"
    recipe, task = load(path), TASKS[DOMAINS[domain]]
    learnt, tested = COUNTS[DOMAINS[domain]]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    assert (recipe.model.name, recipe.problems.verifier) == ("pocket-tasks", domain)
    assert (recipe.prompts.texts.tutor, recipe.prompts.texts.refine) == (task.TUTOR, task.REFINE)
    asked = [made.question for made in task.generate("bootstrap", learnt, seed=0)]
    assert [problem.question for problem in load_problems(recipe.problems)] == asked
    held_out = load_benchmark("test", recipe.evaluate.benchmarks["test"])
    assert len(held_out) == tested
    assert not {problem.question for problem in held_out} & set(asked)


@pytest.mark.slow
@each
def test_a_recipe_goes_from_its_data_to_a_report_that_speaks_of_no_box(domain: str, tmp_path: Path) -> None:
    small = ["curate.questions=48", "curate.pairs=8", "train.epochs=1", "evaluate.benchmarks.test.limit=12"]
    recipe = ROOT / "recipes" / f"pocket-{domain}.yaml"
    assert main(["run", str(recipe), "--runs", str(tmp_path), *small]) == 0
    folder = tmp_path / f"pocket-{domain}"
    report, examples = ((folder / "report" / name).read_text(encoding="utf-8") for name in ("report.md", "examples.md"))
    card = model_card(finished(folder), "adapter", ["adapter_model.safetensors"])
    said = [text.partition("Prompt *own-")[0] for text in (report, card.partition("## How to load it")[0])]
    for text in said:
        assert not re.search(r"box|mathemat", text), re.findall(r".*(?:box|mathemat).*", text)
    assert f"verifier {domain}" in report
    tests = r"Gold answer:\n\n```text\na program that passes these tests:\n"
    assert re.search({"choice": r"gold answer `[ABCD]\) ", "code": tests}[domain], examples)
