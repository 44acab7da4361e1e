"""Problems from JSONL, Parquet, the hub and the generator; what is wrong in a file is named with its line."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from ssb_unsloth.data.problems import load_benchmark, load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe import loading
from ssb_unsloth.recipe.schema import ProblemsConfig

GSM8K = Path(__file__).parents[1] / "fixtures" / "gsm8k"
ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 1?", "answer": "3"}]


@pytest.fixture
def save(tmp_path):
    """save(name, rows): the path of a new file of that kind."""

    def write(name: str, rows: list[dict]) -> str:
        path = tmp_path / name
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return str(path)

    return write


def load(source, **kwargs):
    return load_problems(ProblemsConfig(source=str(source), **kwargs))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_local_file_gives_its_problems_in_order(save, name):
    problems = load(save(name, ROWS))
    assert [(p.question, p.gold) for p in problems] == [("1 + 1?", "2"), ("2 + 1?", "3")]
    assert len({p.id for p in problems}) == 2


def test_jsonl_and_parquet_of_the_same_rows_give_the_same_problems(save):
    assert load(save("a.jsonl", ROWS)) == load(save("b.parquet", ROWS))


def test_a_problems_id_depends_on_its_question_alone(save):
    first = load(save("a.jsonl", ROWS))
    others = load(save("b.jsonl", [{"n": 1, "q": "2 + 1?", "a": "x = 3"}]), question="q", gold="a")
    assert others[0].id == first[1].id


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_columns_are_named_in_the_recipe(save, name):
    source = save(name, [{"level": 5, "problem": "Q", "solution": r"So \boxed{\frac{1}{2}}."}])
    (problem,) = load(source, question="problem", gold="solution", gold_format="boxed")
    assert (problem.question, problem.gold) == ("Q", r"\frac{1}{2}")


@pytest.mark.parametrize(
    ("gold_format", "answer", "gold"),
    [
        ("plain", " 1,080 ", "1,080"),
        ("plain", 18, "18"),
        ("plain", 0, "0"),
        ("####", "so 2 #### 3\n#### 1,080", "1,080"),
        ("boxed", r"\boxed{1} or \boxed{\{1, 2\}}", r"\{1, 2\}"),
    ],
)
def test_the_gold_answer_is_found_as_the_recipe_says(save, gold_format, answer, gold):
    (problem,) = load(save("a.jsonl", [{"question": "Q", "answer": answer}]), gold_format=gold_format)
    assert problem.gold == gold


def test_limit_takes_the_first_and_looks_no_further(save):
    rows = [*ROWS, {"question": "", "answer": ""}]
    assert [p.question for p in load(save("a.jsonl", rows), limit=2)] == ["1 + 1?", "2 + 1?"]


def test_skip_leaves_out_the_first_distinct_questions_and_a_benchmark_of_them_shares_none(save):
    rows = [{"question": f"q{n % 7}", "answer": "1"} for n in range(10)]
    path = save("rows.jsonl", rows)
    assert [p.question for p in load(path, skip=3)] == ["q3", "q4", "q5", "q6"]
    assert [p.question for p in load(path, skip=3, limit=2)] == ["q3", "q4"]
    once = save("once.jsonl", rows[:7])
    benchmark = load_benchmark("b", loading.BenchmarkConfig(source=str(once), skip=1, limit=2))
    assert [p.question for p in benchmark] == ["q1", "q2"]
    with pytest.raises(UserError, match=r"holds no problem after the first 7 \(skip\)"):
        load(path, skip=7)
    pocket = ProblemsConfig(source="pocket", split="bootstrap", limit=5)
    assert (
        load_problems(ProblemsConfig(source="pocket", split="bootstrap", skip=2, limit=3)) == load_problems(pocket)[2:]
    )


def test_a_repeated_question_counts_once_and_another_gold_answer_is_said(save, capsys):
    source = save("a.jsonl", [ROWS[0], {**ROWS[0], "answer": "9"}, ROWS[0], ROWS[1]])
    assert [(p.question, p.gold) for p in load(source)] == [("1 + 1?", "2"), ("2 + 1?", "3")]
    assert "1 rows repeat a question with another gold answer; the first counts" in capsys.readouterr().err
    assert [p.question for p in load(source, limit=2)] == ["1 + 1?", "2 + 1?"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    ("row", "config", "message"),
    [
        ({"question": "Q", "solution": "1"}, {}, "no column 'answer'.*'solution'"),
        ({"problem": "Q", "answer": "1"}, {}, "no column 'question'.*'problem'"),
        ({"question": "  ", "answer": "1"}, {}, "question is empty"),
        ({"question": None, "answer": "1"}, {}, "question is empty"),
        ({"question": ["Q"], "answer": "1"}, {}, "no text"),
        ({"question": "Q", "answer": None}, {}, "gold answer"),
        ({"question": "Q", "answer": " "}, {}, "[Nn]o gold answer"),
        ({"question": "Q", "answer": ["1"]}, {}, r"the gold answer is \['1'\] \(list\), no text and no number"),
        ({"question": "Q", "answer": {"a": 1}}, {}, r"the gold answer is {'a': 1} \(dict\), no text and no number"),
        ({"question": "Q", "answer": True}, {}, r"the gold answer is True \(bool\), no text and no number"),
        ({"question": "Q", "answer": float("nan")}, {}, r"the gold answer is nan \(float\), no text and no number"),
        ({"question": "Q", "answer": float("inf")}, {}, r"the gold answer is inf \(float\), no text and no number"),
        ({"question": "Q", "answer": "so 3"}, {"gold_format": "####"}, "No gold answer.*gold_format"),
        ({"question": "Q", "answer": r"\boxed{3"}, {"gold_format": "boxed"}, "No gold answer.*gold_format"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_file_and_line(save, name, row, config, message):
    with pytest.raises(UserError, match=message) as error:
        load(save(name, [row]), **config)
    assert f"{name}, {'line' if name.endswith('jsonl') else 'row'} 1:" in str(error.value)


def test_the_line_named_is_that_of_the_file(save):
    source = save("a.jsonl", [*ROWS, {"question": "Q"}])
    with pytest.raises(UserError, match=r"a\.jsonl, line 3:"):
        load(source)


def test_files_that_cannot_be_used_are_named(tmp_path, save):
    (tmp_path / "a.txt").write_text("question,answer\n")
    (tmp_path / "a.parquet").write_text("no")
    for source, message in {
        "none.jsonl": "no such file",
        "none.parquet": "no such file",
        "a.txt": r"expected a file ending in .*jsonl.*parquet",
        "a.parquet": "not a Parquet file",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            load(tmp_path / source)
        assert source in str(error.value)
    with pytest.raises(UserError, match="holds no problem"):
        load(save("empty.jsonl", []))


def test_a_hub_data_set_that_cannot_be_had_is_one_clear_message():
    with pytest.raises(UserError, match=r"'nobody/no-such-set'.*cannot be loaded") as error:
        load("nobody/no-such-set", split="train")
    assert "give a local file (.jsonl, .json, .csv" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


def test_the_pocket_generator_gives_a_splits_first_problems():
    problems = load("pocket", split="test", limit=20)
    assert len({p.question for p in problems}) == 20
    assert problems == load("pocket", split="test", limit=20)
    assert problems[:5] == load("pocket", split="test", limit=5)
    with pytest.raises(UserError, match="no split 'tset'"):
        load("pocket", split="tset")


def test_gsm8ks_rows_load_as_they_are():
    rows = [json.loads(line) for line in (GSM8K / "train_rows.jsonl").open(encoding="utf-8")]
    problems = load(GSM8K / "train_rows.jsonl", gold_format="####")
    assert [p.question for p in problems] == [row["question"] for row in rows]
    assert [p.gold for p in problems] == [row["answer"].split("\n#### ")[1] for row in rows]


def test_gsm8ks_recorded_rollouts_are_also_a_file_of_problems():
    problems = load(GSM8K / "recorded_rollouts.jsonl", gold="gold")
    assert len(problems) == 38
    assert all(p.gold for p in problems)


# -- Benchmarks -------------------------------------------------------------------------------------------------------


def recipe_benchmark(tmp_path, key, **keys):
    """The benchmark as a recipe with these keys gives it."""
    path = tmp_path / "recipe.yaml"
    recipe = {"name": "x", "model": {"name": "pocket"}, "problems": {"source": "pocket"}}
    path.write_text(json.dumps({**recipe, "evaluate": {"benchmarks": {key: keys}}}))
    return loading.load(path).evaluate.benchmarks[key]


@pytest.mark.parametrize(
    ("name", "source", "split", "columns", "count"),
    [
        ("math500", "HuggingFaceH4/MATH-500", "test", ("problem", "answer", "plain"), 500),
        ("aime2024", "HuggingFaceH4/aime_2024", "train", ("problem", "answer", "plain"), 30),
        ("aime2025", "math-ai/aime25", "test", ("problem", "answer", "plain"), 30),
        ("gsm8k", "openai/gsm8k", "test", ("question", "answer", "####"), 1319),
    ],
)
def test_a_benchmark_is_known_by_its_name(tmp_path, name, source, split, columns, count):
    for key, keys in ((name, {}), ("mine", {"name": name})):
        b = recipe_benchmark(tmp_path, key, **keys)
        assert (b.source, b.split, b.count) == (source, split, count)
        assert (b.question, b.gold, b.gold_format) == columns
    mine = recipe_benchmark(tmp_path, name, source="here.jsonl", max_tokens=77, count=None)
    assert (mine.source, mine.max_tokens, mine.count, mine.question) == ("here.jsonl", 77, None, columns[0])
    with pytest.raises(UserError, match=rf"name: no benchmark '{name}x'; did you mean {name}\?"):
        recipe_benchmark(tmp_path, "mine", name=f"{name}x")


def aime_rows(n=30):
    return [{"id": 60 + i, "problem": f"Problem {i}?", "answer": f"{i:03}"} for i in range(n)]


def test_a_benchmark_from_a_local_copy_has_to_be_whole(tmp_path, save):
    b = recipe_benchmark(tmp_path, "aime2024", source=save("a.jsonl", aime_rows()), limit=5)
    assert [p.gold for p in load_benchmark("aime2024", b)] == ["000", "001", "002", "003", "004"]
    b.source = save("b.jsonl", aime_rows(29))
    with pytest.raises(UserError, match=r"'aime2024': .*b\.jsonl holds 29 problems and not 30.*count=null"):
        load_benchmark("aime2024", b)
    b.count = None
    assert len(load_benchmark("aime2024", b)) == 5


def test_a_benchmark_loads_in_the_hubs_form_from_a_folder(tmp_path, save):
    (tmp_path / "hub").mkdir()
    save("hub/train.parquet", aime_rows())
    b = recipe_benchmark(tmp_path, "aime2024", source=str(tmp_path / "hub"))
    assert len(load_benchmark("aime2024", b)) == 30


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 99, "problem": "Problem 3?", "answer": "1"}, r"line 31: the question stood already in .*line 4;"),
        ({"id": 64, "problem": "New?", "answer": "1"}, r"line 31: the id 64 stood already in .*line 5;"),
        ({"problem": "New?", "answer": "1"}, r"line 31: the id \(column 'id'\) is missing"),
        ({"id": None, "problem": "New?", "answer": "1"}, r"line 31: the id \(column 'id'\) is missing"),
        ({"id": 99, "problem": "New?", "answer": r"\frac{1}{2"}, r"line 31: .*does not parse"),
        ({"id": 99, "problem": "New?", "answer": "$$"}, r"line 31: .*does not parse"),
    ],
)
def test_a_problem_that_a_benchmark_cannot_have_is_named(tmp_path, save, row, message):
    b = recipe_benchmark(tmp_path, "aime2024", source=save("a.jsonl", [*aime_rows(), row]))
    with pytest.raises(UserError, match=message) as error:
        load_benchmark("aime2024", b)
    assert "\n" not in str(error.value)


def test_an_id_is_missed_where_only_a_later_problem_has_one(tmp_path, save):
    b = recipe_benchmark(tmp_path, "mine", source=save("a.jsonl", [ROWS[0], {**ROWS[1], "id": 1}]))
    with pytest.raises(UserError, match=r"line 1: the id \(column 'id'\) is missing, though other problems have one"):
        load_benchmark("mine", b)
    b = recipe_benchmark(tmp_path, "mine", source=save("b.jsonl", ROWS))
    assert len(load_benchmark("mine", b)) == 2


def test_json_with_a_key_twice_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "A?", "question": "B?", "answer": "1"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 1: not JSON \(the key 'question' stands there twice\)"):
        load_problems(ProblemsConfig(source=str(path)))


def test_a_parquet_column_of_float32_holds_the_decimals_that_were_written(tmp_path):
    path, names = tmp_path / "rows.parquet", ["question", "answer"]
    golds = pyarrow.array([0.1, 2.5, 1e-7], pyarrow.float32())
    pyarrow.parquet.write_table(pyarrow.table([["A?", "B?", "C?"], golds], names), path)
    found = load_problems(ProblemsConfig(source=str(path)))
    assert [float(problem.gold) for problem in found] == [0.1, 2.5, 1e-7]
    twice = pyarrow.Table.from_arrays([pyarrow.array(["A?"])] + [pyarrow.array(["1"])] * 2, names=[*names, "answer"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(UserError, match="2 columns are called 'answer'"):
        load_problems(ProblemsConfig(source=str(path)))
