"""Multiple choice, texts, numbers: what is right, what is wrong, and what no data set may hold."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.data.problems import load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.curate import choose
from ssb_unsloth.recipe.loading import load, save
from ssb_unsloth.recipe.schema import BenchmarkConfig, ProblemsConfig
from ssb_unsloth.records import Rollout
from ssb_unsloth.run import keys
from ssb_unsloth.verifier.protocol import Verdict
from ssb_unsloth.verifier.verifiers import VERIFIERS, verifier_for, with_form, written

POCKET = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
GOLD = "B\nA) 12\nB) 13\nC) Aa\nD) aa"


def verdict(spec, answer, gold):
    return str(verifier_for(spec).grade(rf"\boxed{{{answer}}}", gold).verdict)


# -- Multiple choice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["B", "b", "(b)", "B.", "B) 13", "13", r"\text{(B)}", "option B", "B: 13.", "$13$"])
def test_letter_text_and_both_are_right(answer):
    assert verdict("choice", answer, GOLD) == "right"


@pytest.mark.parametrize(
    "answer", ["A", "12", "A) 12", "C", "Aa", "E", "14", "Bob", "1", "B or C", "3", "B) 12", "A) 13"]
)
def test_near_misses_are_wrong(answer):
    assert verdict("choice", answer, GOLD) == "wrong"


def test_a_letter_that_disagrees_with_its_text_is_said():
    choice = verifier_for("choice")
    assert "names option A and gives the text of B" in choice.grade(r"\boxed{A) 13}", GOLD).note
    assert verdict("choice", "aa", GOLD.replace("B\n", "D\n", 1)) == verdict(
        "choice", "Aa", GOLD.replace("B\n", "C\n", 1)
    )
    assert verdict("choice", "aa", GOLD.replace("B\n", "C\n", 1)) == "wrong"
    assert choice.shown(GOLD) == "B) 13"
    assert choice.string_equal(r"\boxed{B}", GOLD)
    assert not choice.string_equal(r"\boxed{b}", GOLD)
    assert choice.grade(r"\boxed{B}", GOLD, exact=True).verdict == Verdict.RIGHT
    assert choice.format_free("The answer is (B).", GOLD)
    assert not choice.format_free("B) no. So the answer is A.", GOLD)


def test_ways_to_name_one_wrong_option_are_one_class():
    choice = verifier_for("choice")
    grades = [choice.grade(rf"\boxed{{{answer}}}", GOLD) for answer in ("C", "A", "12", "(a) 12", "13")]
    rollouts = [
        Rollout(f"q-{k}", "q", "", None, "stop", 1, str(grade.verdict), grade.answer) for k, grade in enumerate(grades)
    ]
    import random

    drawn = {choose(rollouts, random.Random(seed), verifier="choice").wrong.id for seed in range(40)}
    assert drawn == {"q-1", "q-2", "q-3"}


ROWS = {
    "mmlu": (
        {"question": "Q?", "choices": ["w", "x", "y", "z"], "answer": 1},
        {"choices": "choices", "gold_format": "index"},
    ),
    "arc": (
        {"question": "Q?", "choices": {"text": ["w", "x", "y"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"choices": "choices", "gold": "answerKey", "gold_format": "letter"},
    ),
    "csqa": (
        {"question": "Q?", "choices": {"label": ["A", "B"], "text": ["w", "x"]}, "answerKey": "B"},
        {"choices": "choices", "gold": "answerKey"},
    ),
    "piqa": (
        {"question": "Q?", "one": "w", "two": "x", "label": 1},
        {"choices": ["one", "two"], "gold": "label", "gold_format": "index"},
    ),
    "siqa": (
        {"question": "Q?", "a": "w", "b": "x", "label": "2"},
        {"choices": ["a", "b"], "gold": "label", "gold_format": "index1"},
    ),
    "aqua": ({"question": "Q?", "options": ["A)w", "B)x"], "answer": "B"}, {"choices": "options"}),
    "text": ({"question": "Q?", "options": ["w", "x"], "answer": "x"}, {"choices": "options", "gold_format": "text"}),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_form_of_data_set_comes_to_the_same_question(name, tmp_path):
    row, config = ROWS[name]
    (tmp_path / "set.jsonl").write_text(json.dumps(row) + "\n")
    (problem,) = load_problems(ProblemsConfig(source=str(tmp_path / "set.jsonl"), verifier="choice", **config))
    assert problem.question.startswith("Q?\nA) w\nB) x")
    assert verdict("choice", "B", problem.gold) == verdict("choice", "x", problem.gold) == "right"


WRONG = [
    ({"choices": []}, "there are no options"),
    ({"choices": None}, "there are no options"),
    ({"choices": ["w"]}, "there are 1 options"),
    ({"choices": ["w", " w "]}, "two options are the same"),
    ({"choices": ["w", None]}, "an option is"),
    ({"answer": "E"}, "none of the options"),
    ({"answer": 2}, "gold_format: index"),
    ({"answer": "z"}, "none of the options"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_a_bad_row_is_named_with_its_line_and_columns(change, reason, tmp_path):
    good = {"question": "Q?", "choices": ["w", "x"], "answer": "A"}
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(json.dumps({**good, "question": f"{n}?", **(change if n == 2 else {})}) for n in (1, 2)))
    with pytest.raises(UserError, match=rf"set.jsonl, line 2: .*{reason}.*'answer' and 'choices'"):
        load_problems(ProblemsConfig(source=str(path), verifier="choice", choices="choices"))


# -- Texts and numbers ------------------------------------------------------------------------------------------------


def test_exact_answers():
    assert verdict("exact", r"\text{New  York}.", "New York") == verdict("exact", "Cafe\u0301", "Caf\u00e9") == "right"
    assert verdict("exact", "new york", "New York") == "wrong"
    assert verdict({"name": "exact", "case": False}, "new york", "New York") == "right"
    assert verdict("exact", "Yes", "yes") == verdict("exact", "TRUE", "true") == "right"
    assert verdict("exact", "", "yes") == "no_answer"


def test_boolean_golds(tmp_path):
    (tmp_path / "set.jsonl").write_text('{"question": "Q?", "answer": true}\n')
    source = str(tmp_path / "set.jsonl")
    assert load_problems(ProblemsConfig(source=source, verifier="exact"))[0].gold == "true"
    spec = {"name": "exact", "true": "yes", "false": "no"}
    assert load_problems(ProblemsConfig(source=source, verifier=spec))[0].gold == "yes"


@settings(max_examples=25, deadline=None)
@given(st.fractions(-100, 100, max_denominator=1000), st.integers(-20, 20))
def test_numbers_are_right_within_the_tolerance_and_wrong_beyond(gold, steps):
    answer = gold + steps * type(gold)(1, 100)
    spec = {"name": "numeric", "absolute": 0.05, "relative": 0}
    written_out = f"{float(answer):.12f}"
    if abs(steps) != 5:  # there the twelfth decimal decides
        assert (verdict(spec, written_out, f"{gold.numerator}/{gold.denominator}") == "right") == (abs(steps) < 5)


def test_numbers_with_units_and_what_is_none():
    assert verdict("numeric", r"50\%", "0.5") == verdict("numeric", "500 cm", "5 m") == "right"
    assert verdict("numeric", "1.5e3", "1500") == verdict("numeric", r"\sqrt{4}", "2") == "right"
    for answer in ("5 s", "many", "5.00001 m", "6 m"):
        assert verdict("numeric", answer, "5 m") == "wrong"
    assert verdict({"name": "numeric", "relative": 0.01}, "99.1", "100") == "right"
    with pytest.raises(ValueError, match="does not parse"):
        verifier_for("numeric").gold_from("about five", "plain")


# -- Forms, options, recipes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["Answer: ...", "<answer>...</answer>", "The answer is ....", r"Answer: \boxed{...}", "####..."]
)
@pytest.mark.parametrize("name", VERIFIERS)
def test_every_verifier_reads_its_example_in_the_recipes_form(name, form):
    verifier = verifier_for(with_form(name, form))
    reply = form.replace("...", verifier.example, 1)
    assert verifier.answer_in(f"So.\n{reply}\n") in (
        verifier.example,
        verifier.example.split("python\n")[-1].rstrip("`"),
    )
    assert verifier.answer_in("nothing of it") is None


def test_the_last_answer_in_the_form_counts_behind_the_thoughts():
    spec = with_form("exact", "Answer: ...")
    found = verifier_for(spec).answer_in
    assert found("Answer: 1\nAnswer: 2\nAnswer: ...\nAnswer:\n") == "2"
    assert found("<think>Answer: 1</think>\n**Answer:** 3.5") == "3.5"
    assert found(r"\boxed{4}") is None
    assert with_form("math", r"\boxed{...}") == "math"


def test_a_spec_with_options_stands_in_keys_and_recipes(tmp_path):
    spec = {"name": "numeric", "absolute": 0.5}
    recipe = load(POCKET, ["problems.verifier={name: numeric, absolute: 0.5}"])
    assert recipe.problems.verifier == spec
    save(recipe, tmp_path / "recipe.yaml")
    assert load(tmp_path / "recipe.yaml") == recipe
    changed = load(tmp_path / "recipe.yaml", ["problems.verifier={name: exact}"])
    assert written(changed.problems.verifier) == "exact"
    assert load(tmp_path / "recipe.yaml", ["problems.verifier.absolute=0.25"]).problems.verifier["absolute"] == 0.25
    other = keys.of_problems(ProblemsConfig(source="x/y", verifier=spec))
    assert other["verifier"] == spec
    assert keys.of_problems(BenchmarkConfig(source="x/y", verifier={"name": "math"})) == keys.of_problems(
        BenchmarkConfig(source="x/y")
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["problems.verifier={name: numeric, absolut: 1}"], "did you mean absolute"),
        (["problems.verifier={absolute: 1}"], "names no verifier"),
        (["problems.verifier=7"], "names no verifier"),
        (["problems.verifier=choice", "problems.choices=[]"], "problems.choices"),
        (["problems.choices=options"], "the verifier is math"),
        (["problems.gold_format=index"], "is for the verifier choice"),
        (["problems.verifier=code", "teach.hint=gold"], "teach.hint"),
    ],
)
def test_what_cannot_be_is_said_when_the_recipe_is_read(words, said):
    with pytest.raises(UserError, match=said):
        load(POCKET, words)
