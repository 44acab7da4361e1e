"""A verifier of the user's own: named by its module, held in a process of its own, and refused from elsewhere."""

import re
import sys
from pathlib import Path

import pytest

from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.trust import refuse_others_code
from ssb_unsloth.verifier.protocol import Grade, Verdict
from ssb_unsloth.verifier.verifiers import verifier_for, wrong_with

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """The working directory is where the module lies."""
    monkeypatch.chdir(SUPPORT)


def made(name, **options):
    verifier = verifier_for({"name": f"own_verifier:{name}", **options})
    verifier._failures = 0
    return verifier


def test_one_of_ones_own_grades_with_its_options_and_its_module_is_not_imported_here():
    assert made("Suffix").grade(r"\boxed{A12}", "B2") == Grade(Verdict.RIGHT, "A12")
    two = made("Suffix", length=2)
    assert two.grade(r"\boxed{A12}", "B2") == Grade(Verdict.WRONG, "A12")
    assert two.grade(r"\boxed{A12}", "B2", "length").verdict == "truncated"
    assert two.answer_classes(["A12", "B12", "7"]) == [0, 0, 1]
    assert two.answer_in("nothing") is None
    assert two.posed("q", "B2", "plain") == ("q", "B2")
    with pytest.raises(ValueError, match="No gold answer"):
        two.gold_from(" ", "plain")
    assert "own_verifier" not in sys.modules
    least = made("Least")
    assert (least.grade("it is 4", "4").verdict, least.gold_from("4", "plain"), least.shown("4")) == ("right", "4", "4")
    assert least.example == "42"
    assert least.string_equal("it is 4", "4")
    assert not least.format_free("it is 5", "4")


def test_what_it_raises_prints_or_never_ends_costs_its_reply_alone(capfd):
    loud = made("Loud", seconds=1)
    assert loud.grade(r"\boxed{1}", "1") == Grade(Verdict.RIGHT, "1")
    assert loud.grade(r"\boxed{2}", "1") == Grade(Verdict.WRONG, "2")
    err = capfd.readouterr().err
    assert err.count("prints (shown once)") == 1
    assert "LOUD 1" in err
    for answer, note in (
        ("raise", "SystemExit"),
        ("nonsense", "AttributeError"),
        ("die", "no result"),
        ("hang", "1 s"),
    ):
        grade = loud.grade(rf"\boxed{{{answer}}}", "1")
        assert grade.verdict == "wrong"
        assert note in grade.note
        assert loud.grade(r"\boxed{1}", "1").verdict == "right"  # and the next one is graded as ever


def test_failures_in_a_row_and_a_module_that_cannot_be_imported_name_the_verifier():
    loud = made("Loud")
    for _ in range(2):
        assert loud.grade(r"\boxed{raise}", "1").note == "SystemExit"
    with pytest.raises(UserError, match="'own_verifier:Loud' failed 3 times in a row"):
        loud.grade(r"\boxed{raise}", "1")
    for name, reason in (
        ("no_such_module:Thing", "ModuleNotFoundError"),
        ("own_verifier:Nothing", "AttributeError"),
        ("own_verifier:time", "has no grade"),
        ("os:system", "has no grade"),  # what is no verifier is never called
    ):
        with pytest.raises(UserError, match=reason):
            verifier_for(name).grade("4", "4")
    with pytest.raises(UserError, match="unexpected keyword"):
        verifier_for({"name": "own_verifier:Suffix", "size": 1}).grade("4", "4")


def test_a_recipe_from_elsewhere_names_no_code(tmp_path, monkeypatch):
    text = "base: {base}\nname: mine\nproblems: {{verifier: 'own_verifier:Suffix'}}\n"
    pocket = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
    mine, other = tmp_path / "here" / "mine.yaml", tmp_path / "there" / "other.yaml"
    snapshot = tmp_path / "here" / "datasets--somebody--set" / "recipe.yaml"
    for path in (mine, other, snapshot):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(base=pocket))
    monkeypatch.chdir(mine.parent)
    refuse_others_code(load(mine), mine)
    for path in (other, snapshot):
        with pytest.raises(UserError, match="own_verifier:Suffix, which is code"):
            refuse_others_code(load(path), path)
        refuse_others_code(load(path, ["model.trust_remote_code=true"]), path)
    within = tmp_path / "there" / "variant.yaml"
    within.write_text(
        f"base: {pocket}\nname: v\nvariants: {{a: {{problems: {{verifier: {{name: 'x.y:Z', n: 1}}}}}}}}\n"
    )
    with pytest.raises(UserError, match="names the verifier x"):
        refuse_others_code(load(within), within)


def test_a_name_is_looked_at_without_running_anything():
    assert wrong_with("a.b:C") is None
    assert wrong_with({"name": "a.b:C", "anything": [1]}) is None
    for spec in ("a.b", "a b:c", ":c", "a:", "math:", 3, {"absolute": 1}, None):
        assert wrong_with(spec) is not None


def test_the_example_of_the_documentation_works(tmp_path, monkeypatch, capsys):
    text = (SUPPORT.parents[1] / "docs" / "verifiers.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "mine.py").write_text(example)
    (line,) = re.findall(r"echo '(.*)' > replies.jsonl", text)
    (tmp_path / "replies.jsonl").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    assert main(["grade", "replies.jsonl", "--verifier", "mine:Anagram"]) == 0
    assert re.search(r"\n1\s+-\s+100\.0 %.* replies\.jsonl\n", capsys.readouterr().out)
    spaced = verifier_for({"name": "mine:Anagram", "spaces": True})
    assert spaced.grade(r"\boxed{a gentleman}", "elegant man").verdict == "right"
    assert spaced.grade(r"\boxed{agentleman}", "elegant man").verdict == "wrong"
