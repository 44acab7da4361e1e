"""Recipes by name, beside files of one's own, and where each value comes from."""

from pathlib import Path

import pytest

from ssb_unsloth import cli
from ssb_unsloth.commands.recipes import shown
from ssb_unsloth.data.problems import load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.origins import leaves
from ssb_unsloth.recipe.shipped import GROUPS, find, is_recipe, shipped

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("word", ["pocket", "pocket.yaml", "recipes/pocket.yaml"])
def test_a_shipped_recipe_is_found_from_anywhere(word, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find(word).resolve() == ROOT / "recipes" / "pocket.yaml"
    assert is_recipe(word)


def test_a_file_of_ones_own_wins_and_a_folder_does_not(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()  # such as a run's
    assert find("pocket").resolve() == ROOT / "recipes" / "pocket.yaml"
    (tmp_path / "pocket.yaml").write_text("base: pocket.yaml\nname: own\n")
    assert find("pocket.yaml") == Path("pocket.yaml")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("pockt", "Did you mean pocket?"),
        ("recipes/pocket.yml", "Did you mean pocket?"),
        ("elsewhere/pocket.yaml", "Did you mean pocket?"),
        ("smal-gsm8k", "Did you mean small-gsm8k?"),
        ("nothing-like-it", "no such recipe. `ssb recipes` lists"),
    ],
)
def test_what_is_no_recipe_is_a_sentence(word, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such recipe") as refused:
        find(word)
    assert said in str(refused.value)


def test_a_base_that_is_none_is_named_with_the_recipe_that_names_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: smal-gsm8k\nname: mine\n")
    with pytest.raises(UserError, match=r"^mine\.yaml: base: smal-gsm8k: no such recipe\. Did you mean small-gsm8k\?"):
        load(Path("mine.yaml"))


def test_every_name_under_a_heading_is_a_recipe():
    assert {name for names in GROUPS.values() for name in names} <= set(shipped())


def test_a_copy_is_loaded_like_its_original_its_base_by_name(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipes", "copy", "qwen2.5-0.5b-t4"]) == 0
    assert "ssb run qwen2.5-0.5b-t4.yaml" in capsys.readouterr().out
    assert load(Path("qwen2.5-0.5b-t4.yaml")) == load(ROOT / "recipes" / "qwen2.5-0.5b-t4.yaml")
    assert cli.main(["recipes", "copy", "qwen2.5-0.5b-t4"]) == 2  # the copy may have been changed
    assert "is there already, and stays" in capsys.readouterr().err
    assert cli.main(["recipes", "copy", "pocket", "--out", "mine.txt"]) == 2
    assert "ends in .yaml" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pocket", "pocket-choice", "pocket-code", "llama-3.2-1b"])
def test_a_recipe_can_be_copied_into_a_folder_that_is_not_there_and_its_files_are_found(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipes", "copy", name, "--out", "new/mine.yaml"]) == 0
    copy = load(Path("new/mine.yaml"))
    assert copy == load(find(name))
    for problems in (copy.problems, *copy.evaluate.benchmarks.values()):
        assert Path(problems.source).is_file() or not problems.source.startswith("recipes/")


def test_the_files_of_a_shipped_recipe_run_outside_of_a_checkout_and_ones_own_come_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    recipe = load(find("pocket-choice"))
    theirs = [problem.gold for problem in load_problems(recipe.problems)]
    assert len(theirs) > 100
    own = tmp_path / "recipes" / "tasks" / "choices.csv"
    own.parent.mkdir(parents=True)
    own.write_text("question,A,B,C,D,answer\nWhich?,1,2,3,4,B\n")
    assert load(find("pocket-choice")).problems.source == "recipes/tasks/choices.csv"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "choices.refine.txt").write_text("<question>\n\n<right>\n\n<wrong>")
    assert cli.main(["recipes", "copy", "pocket-choice"]) == 0
    assert load(Path("pocket-choice.yaml")).prompts.refine == "<question>\n\n<right>\n\n<wrong>"


@pytest.mark.parametrize("name", sorted(name for name in shipped() if "evidence-" not in name))
def test_what_show_prints_is_the_recipe(name, tmp_path):
    path = shipped()[name]
    printed = tmp_path / f"{name}.yaml"
    printed.write_text(shown(path, leaves(path)), encoding="utf-8")
    assert load(printed) == load(path)


def test_show_says_where_values_come_from(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "base: small-gsm8k.yaml\nname: mine\npreset: author_code\nmodel: {name: some/model}\n"
        "train: {temperature: 3}\nvariants: {rft: {train: {method: rft}}}\n"
    )
    assert cli.main(["recipes", "show", "mine.yaml", "seed=5", "train.lora.r=8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    origins = {line.split("#")[0].strip(): line.split("# ")[-1] for line in lines[1:] if "#" in line}
    assert origins["seed: 5"] == "command line"
    assert origins["r: 8"] == "command line"
    assert origins["name: mine"] == "mine.yaml"
    assert origins["kd_temperature: 3"] == "mine.yaml"  # by its first name
    assert origins["wording: released"] == "preset author_code"
    assert origins["alpha: 32"] == "default"
    assert origins["method: rft"] == "mine.yaml"
    assert origins["source: openai/gsm8k"] in ("small-gsm8k.yaml", "benchmark gsm8k")
    assert origins["count: 500"] == "benchmark math500"
    assert cli.main(["recipes", "show", "mine.yaml", "sead=5"]) == 2
    assert "did you mean seed?" in capsys.readouterr().err


def test_a_recipes_name_is_no_models_to_evaluate(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", "pocket"]) == 2  # the recipe, of which nothing is made yet
    assert "run `ssb curate` first" in capsys.readouterr().err
