"""`ssb recipes new`: a model folder and a file of data become a recipe that runs, or a sentence that says why not."""

import csv
import json
from pathlib import Path

import pytest
from families import FAMILIES, write

from ssb_unsloth.cli import main
from ssb_unsloth.commands.columns import columns_of
from ssb_unsloth.data.problems import load_benchmark, load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.verifier.verifiers import verifier_for

GSM8K = Path(__file__).parents[1] / "fixtures" / "gsm8k" / "train_rows.jsonl"
ROWS = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
NUMBERS = [row["answer"].rpartition("#### ")[2] for row in ROWS]
QUESTIONS = [row["question"] for row in ROWS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    names = ("qwen3", "llama-3.2")
    return {name: write(FAMILIES[name], tmp_path_factory.mktemp("m") / name) for name in names}


def lay(folder, rows, name="data.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def new(model, data, out, *words):
    return main(["recipes", "new", "--model", str(model), "--data", str(data), "--out", str(out), *words])


def test_a_recipe_comes_of_it_that_holds_questions_out_and_says_what_was_guessed(models, tmp_path, capsys):
    data = lay(tmp_path, [{"n": i, "Problem": r["question"], "Solution": r["answer"]} for i, r in enumerate(ROWS)])
    out = tmp_path / "mine.yaml"
    assert new(models["qwen3"], data, out) == 0
    told = capsys.readouterr().out
    assert "the question is column 'Problem'; the gold answer is column 'Solution'; it stands behind ####" in told
    assert f"{len(ROWS)} questions: the first 4 are the benchmark" in told
    assert f"Run it: ssb run {out}" in told
    recipe = load(out)
    assert (recipe.name, recipe.model.name, recipe.model.template) == (
        "mine",
        str(models["qwen3"]),
        {"enable_thinking": False},
    )
    benchmark = load_benchmark("held-out", recipe.evaluate.benchmarks["held-out"])
    trained_on = load_problems(recipe.problems)
    assert [p.question for p in benchmark] == QUESTIONS[:4]
    assert [(p.question, p.gold) for p in trained_on] == list(zip(QUESTIONS[4:], NUMBERS[4:], strict=True))
    assert len(out.read_text().splitlines()) <= 40
    assert out.read_text().startswith("# qwen3 on data.jsonl: ")


def test_what_is_given_is_taken_and_no_file_is_written_over(models, tmp_path, capsys):
    data = lay(tmp_path, [{"a": q, "b": n, "answer": "no"} for q, n in zip(QUESTIONS, NUMBERS, strict=True)])
    out = tmp_path / "mine.yaml"
    words = ("--question", "a", "--answer", "b")
    assert new(models["llama-3.2"], data, out, *words) == 0
    assert (load(out).problems.question, load(out).problems.gold, load(out).model.template) == ("a", "b", {})
    text = out.read_text()
    assert new(models["llama-3.2"], data, out, *words) == 2
    assert "mine.yaml: is there already, and stays" in capsys.readouterr().err
    assert out.read_text() == text


def test_a_multiple_choice_and_an_answer_in_words_have_their_verifiers(tmp_path):
    for answers, form in ((("A", "C"), "letter"), ((0, 2), "index"), ((1, 3), "index1"), (("red", "blue"), "text")):
        rows = [{"question": f"Q{a}?", "choices": ["red", "green", "blue"], "answer": a} for a in answers]
        found = columns_of(str(lay(tmp_path, rows)), None, None)
        assert (found.verifier, found.choices, found.gold_format) == ("choice", "choices", form)
    labels = (["A", "B"], ["1", "2"])  # as in ARC, whose rows have the one or the other
    labelled = [
        {"question": f"Q{label}?", "choices": {"text": ["red", "blue"], "label": label}, "answerKey": label[1]}
        for label in labels
    ]
    found = columns_of(str(lay(tmp_path, labelled)), None, None)
    assert (found.choices, found.gold_format) == ("choices", "letter")
    assert [p.gold.partition("\n")[0] for p in load_problems(found.problems(str(tmp_path / "data.jsonl")))] == [
        "B",
        "B",
    ]
    assert columns_of(str(lay(tmp_path, [{"question": "Q?", "answer": True}])), None, None).verifier == "exact"


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ({"A": "1", "B": "2"}, {"answer": "B"}, (["A", "B"], "letter")),
        ({"opa": "x", "opb": "y", "opc": "z"}, {"correct_option": 0}, (["opa", "opb", "opc"], "index")),
        ({"sol1": "do this", "sol2": "do that"}, {"label": 0}, (["sol1", "sol2"], "index")),
        ({"answerA": "to go", "answerB": "to stay"}, {"label": "2"}, (["answerA", "answerB"], "index1")),
        ({"Option 1": "12", "Option 2": "13"}, {"answer": 13}, (["Option 1", "Option 2"], "text")),
        ({"options": {"A": "red", "B": "blue"}}, {"answer_idx": "B"}, ("options", "letter")),
    ],
)
def test_options_are_known_in_columns_of_their_own_too(tmp_path, options, answer, expected):
    found = columns_of(str(lay(tmp_path, [{"question": "Which?", **options, **answer}])), None, None)
    assert (found.verifier, found.choices, found.gold_format) == ("choice", *expected)


MBPP = {"text": "Write f.", "code": "def f(): ...", "test_list": ["assert f(1) == 2", "assert f(2) == 3"]}
HUMAN_EVAL = {"prompt": "def f(x):", "test": "def check(candidate):\n    assert candidate(1) == 2", "entry_point": "f"}


@pytest.mark.parametrize(
    ("row", "given", "expected"),
    [
        (MBPP, None, ("text", "test_list", None)),
        (HUMAN_EVAL, None, ("prompt", "test", "entry_point")),
        (
            {"question": "Write f.", "answer": "long " * 30, "tests": "assert f(1) == 2"},
            None,
            ("question", "tests", None),
        ),
        ({"question": "Write f.", "answer": "assert f(1) == 2"}, "answer", ("question", "answer", None)),
    ],
)
def test_unit_tests_are_known_as_such(tmp_path, row, given, expected):
    found = columns_of(str(lay(tmp_path, [row])), None, given)
    assert (found.question, found.gold, found.entry_point, found.verifier) == (*expected, "code")


@pytest.mark.parametrize(
    ("golds", "verifier"),
    [
        ([1.5, 2.25, 3], "numeric"),
        (["6.02e23", "-1e-3"], "numeric"),
        ([3, "1,200", "$40"], None),
        (["\\frac{1}{2}", "0.5"], "numeric"),
        (["x^2+1.5", "2"], None),
        (["2 pi", "3 km", "x = 5"], None),
        (["2024-01-05", "10:30"], "exact"),
        (["Apollo 11", "room 7b", "12"], "exact"),
        (["}{", "a{"], "exact"),
        (["Paris", "no"], "exact"),
    ],
)
def test_answers_have_the_verifier_that_reads_them(tmp_path, golds, verifier):
    rows = [{"question": f"Q{gold}?", "answer": gold} for gold in golds]
    assert columns_of(str(lay(tmp_path, rows)), None, None).verifier == verifier


def test_texts_that_are_no_tests_and_no_options_are_answers(tmp_path):
    rows = [{"question": "Q?", "tests": "two", "choices": "red or blue", "answer": "4"}]
    found = columns_of(str(lay(tmp_path, rows)), None, None)
    assert (found.gold, found.verifier, found.choices) == ("answer", None, None)
    assert "column 'choices' is left alone" in "; ".join(found.guessed)


TASKS = Path(__file__).parents[2] / "recipes" / "tasks"
PROGRAMS = [json.loads(line) for line in (TASKS / "programs.jsonl").read_text(encoding="utf-8").splitlines()[:6]]
CHOICES = list(csv.DictReader((TASKS / "choices.csv").open(encoding="utf-8")))[:6]
PROGRAM = "```python\ndef f(xs):\n    return [x for x in xs if x >= 7][:2]\n```"  # of the first of them
LETTER = f"\\boxed{{{CHOICES[0]['answer']}}}"
EIGHTHS = [{"question": f"What is {n} / 8?", "answer": n / 8} for n in range(1, 7)]
DAYS = [{"question": f"Which day comes after day {n}?", "answer": f"2026-01-0{n + 1}"} for n in range(1, 7)]


@pytest.mark.parametrize(
    ("rows", "verifier", "reply", "right"),
    [
        (PROGRAMS, "code", PROGRAM, [row["tests"] for row in PROGRAMS]),
        (
            [{"question": row["question"], "test_list": row["tests"].split("\n")} for row in PROGRAMS],
            "code",
            PROGRAM,
            [row["tests"] for row in PROGRAMS],
        ),
        (
            CHOICES,
            "choice",
            f"\\boxed{{{CHOICES[0]['answer']}}}",
            [f"{row['answer']}) {row[row['answer']]}" for row in CHOICES],
        ),
        (EIGHTHS, "numeric", "\\boxed{0.12500001}", [str(row["answer"]) for row in EIGHTHS]),
        (DAYS, "exact", "\\boxed{2026-01-02}", [row["answer"] for row in DAYS]),
    ],
    ids=["programs", "lists of asserts", "options", "decimals", "days"],
)
def test_the_recipe_for_another_verifier_is_one_that_doctor_plan_and_run_take(
    rows, verifier, reply, right, tmp_path, capsys
):
    out = tmp_path / "mine.yaml"
    assert new("pocket-tasks", lay(tmp_path, rows), out) == 0
    assert main(["plan", str(out)]) == 0
    assert main(["doctor", str(out), "sampler.engine=transformers", "model.backend=transformers", "--json"]) == 0
    told = capsys.readouterr().out
    template = next(f for f in json.loads(told[told.index('{\n "recipe"') :])["findings"] if f["name"] == "template")
    assert template["found"] == "has a place for every message, and ends its replies"
    recipe = load(out)
    benchmark = load_benchmark("held-out", recipe.evaluate.benchmarks["held-out"])
    problems = [*benchmark, *load_problems(recipe.problems)]
    judge = verifier_for(recipe.judge(recipe.problems))
    assert (recipe.problems.verifier, len(benchmark)) == (verifier, 1)
    assert [p.question.splitlines()[0] for p in problems] == [row["question"] for row in rows]
    assert [judge.shown(p.gold).removeprefix("a program that passes these tests:\n") for p in problems] == right
    assert judge.grade(reply, problems[0].gold).verdict == "right"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"text": "What is it?", "label": 3}], ("text", "label", "plain", None)),
        ([{"Problem": "Why?", "solution": "So \\boxed{3}."}], ("Problem", "solution", "boxed", None)),
        (
            [{"prompt": "How?", "solution": "long " * 30, "Final Answer": "3"}],
            ("prompt", "Final Answer", "plain", None),
        ),
        ([{"x": "A long question, is it?", "y": "\\frac{1}{2}"}], ("x", "y", "plain", None)),
        ([{"problem": "P?", "question": "Q?", "answer": "so #### 3"}], ("question", "answer", "####", None)),
    ],
)
def test_columns_are_known_by_their_names_and_what_is_in_them(tmp_path, rows, expected):
    found = columns_of(str(lay(tmp_path, rows)), None, None)
    assert (found.question, found.gold, found.gold_format, found.verifier) == expected


@pytest.mark.parametrize(
    ("rows", "given", "says"),
    [
        ([{"question": "Q?", "reply": "3", "b": 1}], {}, "no column is a gold answer's: 'question', 'reply', 'b'"),
        ([{"u": 1, "v": 2}], {}, "no column is a question's: 'u', 'v'"),
        ([{"question": "Q?", "answer": "word " * 20}], {}, r"neither #### nor \\boxed\{\}"),
        ([{"question": "Q?", "answer": [1, 2]}], {}, "holds lists or objects"),
        ([{"question": "Q?", "answer": None}], {}, "is empty in the first 1 row"),
        ([{"question": "Q?", "answer": 1}], {"gold": "c"}, "--answer: .* has no column 'c'"),
    ],
)
def test_data_of_which_no_recipe_comes_is_told_in_a_sentence(tmp_path, rows, given, says):
    with pytest.raises(UserError, match=says):
        columns_of(str(lay(tmp_path, rows)), None, given.get("gold"))


def test_a_model_of_which_no_recipe_comes_leaves_no_file(tmp_path, models, capsys):
    data = lay(tmp_path, ROWS)
    other = tmp_path / "t5"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    assert new(other, data, tmp_path / "mine.yaml") == 2
    assert "an encoder-decoder (t5)" in capsys.readouterr().err
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in models["qwen3"].iterdir():
        if path.name != "chat_template.jinja":
            (bare / path.name).write_bytes(path.read_bytes())
    assert new(bare, data, tmp_path / "mine.yaml") == 2
    assert "has no chat template" in capsys.readouterr().err
    assert new(models["qwen3"], lay(tmp_path, ROWS[:1], "one.jsonl"), tmp_path / "mine.yaml") == 2
    assert "holds 1 question; at least 2" in capsys.readouterr().err
    assert new(models["qwen3"], lay(tmp_path, [*ROWS, ROWS[0]], "twice.jsonl"), tmp_path / "mine.yaml") == 2
    assert "a benchmark has each problem once" in capsys.readouterr().err
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.slow
def test_a_new_recipe_goes_through_the_whole_pipeline(models, tmp_path, capsys):
    """Nothing but lengths is changed: a random model answers no question, so pairs made elsewhere stand in."""
    data = lay(tmp_path, ROWS)
    out = tmp_path / "mine.yaml"
    assert new(models["llama-3.2"], data, out) == 0
    reply = "9+3=12. The answer is \\boxed{12}."
    pairs = [{"question": q, "right": reply, "wrong": "\\boxed{1}", "reply": reply} for q in QUESTIONS[4:6]]
    brought = lay(tmp_path, pairs, "pairs.jsonl")
    words = ["curate.pairs=2", f"curate.pairs_file={brought}", "train.epochs=1", "evaluate.benchmarks.held-out.limit=1"]
    short = ["curate.rollout.max_tokens=6", "evaluate.benchmarks.held-out.max_tokens=6", "sampler.engine=transformers"]
    assert main(["run", str(out), "--runs", str(tmp_path / "runs"), *words, *short, "train.learning_rate=0.1"]) == 0
    report = (tmp_path / "runs" / "mine" / "report" / "report.md").read_text()
    assert "**Nothing can be concluded from this run**" in report
