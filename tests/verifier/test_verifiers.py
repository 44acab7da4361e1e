"""The one door to verifiers: another one goes through all that grade, and nobody goes round it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import ssb_unsloth
from ssb_unsloth.backends.sampler import Completion
from ssb_unsloth.backends.transformers import stop_ids
from ssb_unsloth.cli import main
from ssb_unsloth.commands.grade import regrade
from ssb_unsloth.data.pairs import load_pairs
from ssb_unsloth.data.problems import load_benchmark, load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.evaluation.evaluate import base_contestants
from ssb_unsloth.evaluation.run import Evaluation
from ssb_unsloth.method.curate import Curator
from ssb_unsloth.pocket.problems import VERSION
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import (
    BenchmarkConfig,
    CurateConfig,
    ModelConfig,
    ProblemsConfig,
    SamplerConfig,
    SamplingConfig,
)
from ssb_unsloth.records import Rollout, read_jsonl, write_jsonl
from ssb_unsloth.report.sections import evaluation_section
from ssb_unsloth.run import keys
from ssb_unsloth.run.rundir import RunDir
from ssb_unsloth.verifier.boxed import Boxed
from ssb_unsloth.verifier.protocol import Grade, Verdict
from ssb_unsloth.verifier.verifiers import VERIFIERS, verifier_for

PACKAGE = Path(ssb_unsloth.__file__).parent
POCKET = PACKAGE.parent / "recipes" / "pocket.yaml"
KNOWN = ", ".join([*VERIFIERS, "letters", "package.module:name of your own"]).replace(", package", ", or package")
ADDED = Path(__file__).parents[1] / "support" / "multiple_choice.py"


@pytest.fixture
def choice(monkeypatch):
    """The name of a verifier of multiple choice."""
    monkeypatch.setitem(VERIFIERS, "letters", "multiple_choice")
    return "letters"


# -- The door ---------------------------------------------------------------------------------------------------------


def test_a_verifier_that_nobody_knows_is_refused_with_the_known_ones(choice):
    with pytest.raises(UserError, match=rf"no verifier 'maths'; known: {KNOWN}\."):
        verifier_for("maths")
    assert type(verifier_for(choice)).__name__ == "MultipleChoice"


def test_the_table_imports_no_verifier():
    code = "import sys, ssb_unsloth.verifier.verifiers; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in modules if name.startswith("ssb_unsloth.verifier.")] == ["ssb_unsloth.verifier.verifiers"]


def imported(path):
    """The modules of the package that a file imports, and those that may be one: `from .. import verifier`."""
    own = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = ["ssb_unsloth", *own[: len(own) - node.level]] if node.level else []
            module = [*folder, *(node.module or "").split(".")] if node.module else folder
            yield from ([*module, alias.name] for alias in node.names)


def test_no_other_room_imports_more_of_the_verifier_than_protocol_door_and_replies():
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "verifier"]
    found = {
        (path.relative_to(PACKAGE).as_posix(), name[2])
        for path in files
        for name in imported(path)
        if name[:2] == ["ssb_unsloth", "verifier"]
    }
    assert {file for file, _ in found} >= {"method/curate.py", "evaluation/evaluate.py", "commands/grade.py"}
    assert {name for _, name in found} == {"protocol", "verifiers", "replies"}  # of these what parts thoughts


@pytest.mark.parametrize("heavy", ["math_verify", "sympy"])
def test_the_judge_alone_imports_what_is_heavy(heavy):
    files = [path for path in PACKAGE.rglob("*.py") if heavy in {name[0] for name in imported(path)}]
    assert [path.relative_to(PACKAGE).as_posix() for path in files] == ["verifier/judge.py"]


# -- What verifiers share ---------------------------------------------------------------------------------------------


def test_a_verifier_of_its_own_says_only_what_is_different():
    boxed = Boxed()
    assert boxed.grade(r"so \boxed{ 4 }", "4") == Grade(Verdict.RIGHT, "4")
    assert boxed.grade(r"so \boxed{4.0}", "4") == Grade(Verdict.WRONG, "4.0")
    assert boxed.grade("so 4", "4") == Grade(Verdict.NO_ANSWER, None)
    assert boxed.grade(r"so \boxed{4}", "4", "length") == Grade(Verdict.TRUNCATED, "4")
    assert boxed.format_free(r"so \boxed{4}", "4")
    assert not boxed.format_free("so 4", "4")
    assert boxed.answer_classes(["4", "4.0", "4"]) == [0, 1, 0]


@pytest.mark.parametrize("error", [RecursionError, MemoryError, ValueError])
def test_what_another_verifier_raises_costs_its_reply_alone(error):
    class Broken(Boxed):
        def equal(self, answer, gold):
            if "7" in answer + gold:
                raise error("on purpose")
            return super().equal(answer, gold)

    broken = Broken()
    assert broken.grade(r"\boxed{7}", "7") == Grade(Verdict.WRONG, "7", f"{error.__name__}: on purpose")
    assert broken.grade(r"\boxed{8}", "8").verdict == "right"
    assert broken.answer_classes(["7", "8", "17", "8"]) == [0, 1, 2, 1]
    assert not broken.format_free(r"\boxed{7}", "7")


def test_a_verifier_that_cannot_work_says_so():
    class Missing(Boxed):
        def equal(self, answer, gold):
            raise UserError("not installed")

    for ask in (
        lambda: Missing().grade(r"\boxed{7}", "8"),
        lambda: Missing().answer_classes(["7", "8"]),
        lambda: Missing().format_free(r"\boxed{7}", "8"),
    ):
        with pytest.raises(UserError, match="not installed"):
            ask()


# -- Another verifier, all the way ------------------------------------------------------------------------------------

QUESTIONS = [{"question": f"q{i}", "answer": f"{'ABCD'[i % 4]}) {i}"} for i in range(8)]


class Sampler:
    """Answers rightly by an odd seed, in a small letter; else with one wrong letter, written in two ways."""

    def render(self, messages):
        return [ord(letter) for letter in messages[-1]["content"]]

    def sample(self, requests, decoding, adapter=None, title="sample", keep=None):
        replies = []
        for request in requests:
            question = "".join(map(chr, request.prompt_ids))
            number = next((i for i in range(8) if f"q{i}" in question), 0)
            right, wrong = "ABCD"[number % 4], "ABCD"[(number + 1) % 4]
            wrongly = [wrong, f"({wrong.lower()}) that"][request.seed // 2 % 2]
            said = f"({right.lower()}) this" if request.seed % 2 else wrongly
            replies.append(Completion([1, 2], f"So \\boxed{{{said}}}.", "stop"))
        for index, reply in enumerate(replies):
            if keep is not None:
                keep(index, reply)
        return replies

    def close(self):
        pass


@pytest.fixture
def questions(tmp_path):
    write_jsonl(tmp_path / "questions.jsonl", QUESTIONS)
    return tmp_path / "questions.jsonl"


def test_golds_are_what_the_verifier_can_compare_with(choice, questions, tmp_path):
    config = ProblemsConfig(source=str(questions), verifier=choice)
    assert [problem.gold for problem in load_problems(config)] == [row["answer"] for row in QUESTIONS]
    write_jsonl(tmp_path / "numbers.jsonl", [*QUESTIONS, {"question": "q9", "answer": "12"}])
    with pytest.raises(UserError, match=r"numbers\.jsonl, line 9: The gold answer does not parse: '12'"):
        load_problems(replace(config, source=str(tmp_path / "numbers.jsonl")))
    assert len(load_problems(ProblemsConfig(source=str(tmp_path / "numbers.jsonl")))) == 9  # a number is mathematics


def test_curation_is_by_the_verifier_of_its_problems(choice, questions, tmp_path):
    problems = load_problems(ProblemsConfig(source=str(questions), verifier=choice))
    decoding = SamplingConfig(max_tokens=10)
    config = CurateConfig(pairs=8, rollouts=8, wave=8, rollout=decoding, refine=decoding)
    statistics = Curator(config, Sampler, 10_000, 1, tmp_path, verifier=choice).run(problems)
    rollouts = read_jsonl(tmp_path / "rollouts.jsonl", Rollout)
    assert {r.verdict for r in rollouts} == {"right", "wrong"}
    assert all((r.verdict == "right") == r.text.endswith("this}.") for r in rollouts)
    wrong = Counter(r.problem_id for r in rollouts if r.verdict == "wrong")  # all of a question are one answer
    assert statistics.repeated_wrong == sum(count > 1 for count in wrong.values()) > 0
    assert statistics.pairs > 0
    (tmp_path / "math").mkdir()
    with pytest.raises(UserError, match=r"0\.0% mixed"):
        Curator(config, Sampler, 10_000, 1, tmp_path / "math").run(problems)


def test_the_gold_of_a_pair_brought_along_is_what_its_verifier_finds(monkeypatch, tokenizer, tmp_path):
    class Announced(Boxed):
        def answer_in(self, text):
            return text.rpartition("Answer: ")[2] or None

    monkeypatch.setitem(sys.modules, "announced", SimpleNamespace(VERIFIER=Announced()))
    monkeypatch.setitem(VERIFIERS, "announced", "announced")
    write_jsonl(tmp_path / "pairs.jsonl", [{"question": "q", "right": "r", "wrong": "w", "reply": "So. Answer: C"}])
    assert load_pairs(str(tmp_path / "pairs.jsonl"), tokenizer, verifier="announced")[0].gold == "C"
    assert load_pairs(str(tmp_path / "pairs.jsonl"), tokenizer)[0].gold == ""


def test_the_reward_is_the_verifiers(choice, tokenizer):
    from ssb_unsloth.training.grpo import Reward

    ids = [[*tokenizer.encode(t, add_special_tokens=False), tokenizer.eos_token_id] for t in ("\\boxed{(b)}", "b")]
    stops = stop_ids(tokenizer)
    assert Reward(tokenizer, stops, choice)(completion_ids=ids, gold=["B", "B"]) == [1.0, 0.0]
    assert Reward(tokenizer, stops, "math")(completion_ids=ids, gold=["B) 4", "B"]) == [0.0, 0.0]


def evaluated(questions, root, verifier):
    """The rows of one evaluation, whose folder is root/evaluate."""
    config = BenchmarkConfig(source=str(questions), samples=5, temperature=0.8, max_tokens=10, verifier=verifier)
    benchmarks = {"mine": (config, load_benchmark("mine", config))}
    asked = Evaluation(base_contestants(ModelConfig(name="m"), 1), benchmarks, SamplerConfig(), 1, [])
    with RunDir(root).write("evaluate", verifier, {}) as work:
        return asked.run(work, root / "evaluate", make_sampler=lambda *_, **__: Sampler())


def test_evaluation_scores_and_grade_are_by_the_verifier_of_the_benchmark(choice, questions, tmp_path, capsys):
    rows = evaluated(questions, tmp_path / "run", choice)
    values = {(s["scoring"], s["metric"], s["temperature"]): s["value"] for s in rows["scores"]}
    replies = [json.loads(line) for line in (tmp_path / "run/evaluate/base-1-mine-0.8.jsonl").open()]
    share = sum("this" in reply["text"] for reply in replies) / len(replies)
    assert values["equivalent", "pass@1", 0.8] == values["format_free", "pass@1", 0.8] == pytest.approx(share)
    assert values["string", "pass@1", 0.8] == 0
    rights = Counter({r["problem_id"]: 0 for r in replies})
    rights.update(r["problem_id"] for r in replies if "this" in r["text"])
    assert values["equivalent", "majority@5", 0.8] == sum(count > 2 for count in rights.values()) / len(rights)

    described = keys.as_written(BenchmarkConfig(source="x", verifier=choice))
    said = evaluation_section(rows["scores"], rows["differences"], {"mine": described}, 1)
    assert "tokens, verifier letters" in said
    assert "Accuracy is pass@1: the answer is right to the verifier that its benchmark names below, and" in said
    folder, file = tmp_path / "run" / "evaluate", "base-1-mine-0.8.jsonl"
    assert regrade(folder / file).changes == []  # the run's folder says which verifier it was
    assert len(regrade(folder / file, "math").changes) > 0  # to which `d` is not `D`
    loose = tmp_path / "loose"
    loose.mkdir()
    shutil.copy(folder / file, loose)
    assert len(regrade(loose / file).changes) > 0 == len(regrade(loose / file, choice).changes)
    assert main(["grade", str(loose), "--verifier", choice]) == main(["grade", str(folder)]) == 0
    capsys.readouterr()
    assert main(["grade", str(loose), "--verifier", "choices"]) == 2
    assert f"--verifier: no verifier 'choices'; known: {KNOWN}." in capsys.readouterr().err


def test_replies_judged_by_another_verifier_are_not_taken_over(choice, questions, tmp_path):
    first = evaluated(questions, tmp_path / "run", choice)
    other = evaluated(questions, tmp_path / "run", "math")
    assert other != first
    assert "verifiers" not in json.loads((tmp_path / "run/evaluate/manifest.json").read_text())["summary"]
    assert evaluated(questions, tmp_path / "run", choice) == first


def test_two_files_are_all_that_a_verifier_takes(tmp_path):
    """The package with one file and one row more grades by it, and names it where it is asked for another."""
    package = tmp_path / "ssb_unsloth"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "model"))
    shutil.copy(ADDED, package / "verifier")
    table = package / "verifier" / "verifiers.py"
    row = '    MATH: ".mathematical",\n'
    text = table.read_text(encoding="utf-8")
    assert row in text
    table.write_text(text.replace(row, row + '    "letters": ".multiple_choice",\n'), encoding="utf-8")
    write_jsonl(tmp_path / "replies.jsonl", [{"text": r"\boxed{(b)}", "gold": "B", "verdict": "wrong"}])

    def ssb(*words):
        command = [sys.executable, "-m", "ssb_unsloth", *words]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    graded = ssb("grade", "replies.jsonl", "--verifier", "letters")
    assert "'(b)' for gold 'B': wrong -> right" in graded.stdout, graded.stderr
    refused = ssb("grade", "replies.jsonl", "--verifier", "choices")
    known = ", ".join(["math", "letters", *(name for name in VERIFIERS if name != "math")])  # as the row stands
    assert f"known: {known}, or package.module:name" in refused.stderr


# -- The recipe -------------------------------------------------------------------------------------------------------


def test_a_recipe_names_its_verifier_and_each_benchmark_its_own(choice):
    recipe = load(POCKET, ["problems.verifier=letters", "evaluate.benchmarks.test.verifier=letters"])
    benchmarks = recipe.evaluate.benchmarks
    assert (recipe.problems.verifier, benchmarks["test"].verifier) == (choice, choice)
    assert {config.verifier for name, config in benchmarks.items() if name != "test"} == {"math"}


def test_a_verifier_that_is_none_is_refused_when_the_recipe_is_read(choice):
    with pytest.raises(UserError) as error:
        load(POCKET, ["problems.verifier=maths", "evaluate.benchmarks.test.verifier=null"])
    assert f"problems.verifier: no verifier 'maths'; known: {KNOWN}." in str(error.value)
    assert "evaluate.benchmarks.test.verifier: " in str(error.value)


@pytest.mark.parametrize("source", ["pocket", "somebody/problems"])
def test_what_was_finished_before_verifiers_had_names_stays_up_to_date(choice, source):
    """The keys are those of then, and another verifier makes others."""
    before = {"config": None, "split": "train", "question": "question", "gold": "answer", "gold_format": "plain"}
    before["limit"] = None
    if source == "pocket":  # whose questions are others than then
        before["version"] = VERSION
    before["source"] = source if source == "pocket" else {"name": source, "files": None}
    assert keys.of_problems(ProblemsConfig(source=source)) == before
    assert keys.of_problems(ProblemsConfig(source=source, verifier=choice)) == {**before, "verifier": choice}
