"""Every form that problems are stored in gives the same ones; what is wrong in a file is named with its place."""

import csv
import gzip
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ssb_unsloth.data import readers
from ssb_unsloth.data.problems import iter_problems, load_problems
from ssb_unsloth.data.readers import cell
from ssb_unsloth.errors import UserError
from ssb_unsloth.recipe.schema import ProblemsConfig

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40)
QUESTIONS = TEXTS.filter(lambda text: text.strip() != "")
GOLDS = (
    st.integers(-(10**15), 10**15),
    st.sampled_from(["1/2", '"3", or 4', "x,y", "12\n"]),
    st.sampled_from([0.1, 2.5]),
)


def load(source, **keys):
    return load_problems(ProblemsConfig(source=str(source), **keys))


def complaint(source, **keys):
    with pytest.raises(UserError) as error:
        load(source, **keys)
    assert str(source) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def separated(path: Path, rows: list[dict], sign: str) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=sign)
        writer.writeheader()
        writer.writerows(rows)


def stored(rows: list[dict], folder: Path) -> list[Path]:
    """The rows in every form."""
    lines = "".join(f"{json.dumps(row)}\n\n" for row in rows)
    (folder / "a.jsonl").write_text(lines)
    (folder / "lines.json").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "a.json").write_text(json.dumps(rows))
    (folder / "b.json").write_text(json.dumps({"version": "1", "data": rows}, indent=1))
    separated(folder / "a.csv", rows, ",")
    separated(folder / "A.TSV", rows, "\t")
    (folder / "a.csv.gz").write_bytes(gzip.compress((folder / "a.csv").read_bytes()))
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=2)
    for name in ("parts", "of_csv"):
        (folder / name).mkdir()
    pyarrow.parquet.write_table(table, folder / "parts" / "train-00000-of-00001.parquet")
    (folder / "of_csv" / "train.csv").write_bytes((folder / "a.csv").read_bytes())
    made = datasets.Dataset(table)
    made.save_to_disk(str(folder / "saved"))
    datasets.DatasetDict({"test": made.select([0]), "train": made}).save_to_disk(str(folder / "splits"))
    return sorted(folder.iterdir())


@settings(max_examples=6, deadline=None, phases=[Phase.generate])  # an example takes a second, so it is not shrunk
@given(st.data())
def test_the_same_rows_in_every_form_are_the_same_problems(data):
    golds = data.draw(st.sampled_from(GOLDS))
    rows = [{"question": q, "answer": data.draw(golds)} for q in data.draw(st.lists(QUESTIONS, min_size=1, max_size=5))]
    with TemporaryDirectory() as folder:
        sources = stored(rows, Path(folder))
        found = [load(source) for source in sources]
    assert len(sources) == 13
    assert [p.question for p in found[0]] == list(dict.fromkeys(row["question"] for row in rows))
    assert all(problems == found[0] for problems in found)


def test_a_column_may_lie_deeper(tmp_path):
    row = {
        "turns": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}],
        "answer": {"value": 42.0, "aliases": ["42", "XLII"]},
        "a.b": "7",
        "choices": {"text": ["x", "y"], "label": ["A", "B"]},
        "options": [{"text": "x"}, {"text": "y"}],
        "nothing": None,
    }
    (tmp_path / "a.json").write_text(json.dumps([row]))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    for name in ("a.json", "a.parquet"):
        (problem,) = load(tmp_path / name, question="turns.0.content", gold="answer.value")
        assert (problem.question, problem.gold) == ("Q?", "42")
        for column, gold in (("answer.aliases.1", "XLII"), ("turns.-1.content", "A"), ("a.b", "7")):
            assert load(tmp_path / name, question="turns.0.content", gold=column)[0].gold == gold
        said = complaint(tmp_path / name, question="turns.0.content", gold="answer.valeu")
        assert "row 1: no column 'answer.valeu'; 'answer' is an object with 'value', 'aliases'" in said
        said = complaint(tmp_path / name, question="turns.2.content", gold="a.b")
        assert "no column 'turns.2.content'; 'turns' is a list of 2" in said
        said = complaint(tmp_path / name, question="turns.0.content", gold="answer.aliases")
        assert "is ['42', 'XLII'] (list), no text and no number (column 'answer.aliases'); name one of the list" in said
    assert cell(row, "choices.text", "") == cell(row, "options.text", "") == ["x", "y"]
    assert cell(row, "nothing.deeper", "") is None


@pytest.mark.parametrize(
    ("value", "gold"), [(42.0, "42"), (-0.0, "0"), (0.5, "0.5"), (7, "7"), (1e300, "1e+300"), ("42.0", "42.0")]
)
def test_a_whole_number_among_floats_is_written_as_one(tmp_path, value, gold):
    """As pandas makes floats of a column of integers where one is missing."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "Q", "answer": value}))
    assert load(tmp_path / "a.jsonl")[0].gold == gold


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question;answer\nx;4\n", "line 1: the header is one column, 'question;answer'; semicolons separate"),
        ("a.csv", "question\tanswer\nx\t4\n", "line 1: .*tabs separate its names.* or call it .tsv"),
        ("a.tsv", "question,answer\nx,4\n", "line 1: .*commas separate its names, where a tab is expected"),
        ("a.csv", 'question,answer\n"x\ny",4\nz,5,6\n', "line 4: 3 cells, and the header has 2 columns"),
        ("a.csv", "question,answer\nx\n", "line 2: 1 cells, and the header has 2 columns"),
        ("a.csv", "question,answer,answer\nx,4,4\n", "line 1: 2 columns are called 'answer'"),
        ("a.csv", "question,answer\nx,\0004\n", "line 2: holds a NUL byte"),
        ("a.csv", b"question,answer\nx,4\nz\xe9,5\n", "line 3: not UTF-8 text .*byte 21"),
        ("a.csv", "question,answer\nx,3\n".encode("utf-16"), "line 1: not UTF-8 text"),
        ("a.csv", 'question,answer\n"x" y,4\n', "line 2: text follows the quotation mark .* doubled"),
        ("a.csv", 'question,answer\nx,4\n"y,5\nz,6\n', "line 3: a quotation mark opens a cell .* nothing closes it"),
        ("a.csv", "question,answer\rx,4\r", "line 1: a carriage return stands alone"),
        ("a.csv", 'question,answer\n"two\nlines",4\nx,\n', r"line 4: the gold answer is empty \(column 'answer'\)"),
        ("a.csv", "question,answer\n ,4\n", r"line 2: the question is empty or no text \(column 'question'\)"),
        ("a.csv", "question,anwser\nx,4\n", "line 2: no column 'answer'; it has 'question', 'anwser'"),
        ("a.csv", "", "empty; expected a line with the names of the columns"),
        ("a.csv", "question,answer\n", "holds no problem"),
        ("a.json", "[1]", "row 1: expected a JSON object, found a number"),
        ("a.json", "7", "a number; expected a list of objects"),
        ("a.json", '{"a": [], "b": []}', "an object with 2 lists; expected a list of objects"),
        ("a.json", '[{"question": "Q",\n"answer": }]', "not JSON .*in line 2, column 11"),
        ("a.json", "", "not JSON"),
        ("a.jsonl.gz", b"no", "not a .gz file, or a damaged one"),
        (
            "a.csv.gz",
            gzip.compress(b"question,answer\n" + b"x,4\n" * 999, mtime=0)[:40],
            "not a .gz file, or a damaged one",
        ),
        ("a.parquet.gz", b"", "expected a file ending in '.jsonl', '.json', '.csv', '.tsv', '.parquet'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert re.search(message, complaint(tmp_path / name))


def test_a_file_that_cannot_be_read_whole_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "JSON_BYTES", 10)
    (tmp_path / "a.json").write_text('[{"question": "Q", "answer": 1}]')
    assert "write one object a line, as .jsonl" in complaint(tmp_path / "a.json")
    monkeypatch.setattr(readers, "CELL_CHARACTERS", 10)
    (tmp_path / "a.csv").write_text('question,answer\nx,"4\nand so on and on\n')
    assert "line 2: a quotation mark opens a cell of this row" in complaint(tmp_path / "a.csv")


def test_a_folder_gives_the_split_that_the_recipe_names(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"question,answer\nof {split},007\n")
    assert [(p.question, p.gold) for p in load(tmp_path, split="test")] == [("of test", "007")]
    assert "Unknown split" in complaint(tmp_path, split="other")
    (tmp_path / "load.py").write_text("print('run')")
    assert "holds a script (load.py), and none is run" in complaint(tmp_path)


def test_a_saved_data_set_is_read_from_its_own_folder_alone(tmp_path):
    made = datasets.Dataset.from_dict({"question": ["Q", "R"], "answer": [1, None]})
    datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "a"))
    assert "no split 'test'; it has 'train'" in complaint(tmp_path / "a", split="test")
    assert load(tmp_path / "a", limit=1)[0].gold == "1"
    with pytest.raises(UserError, match=r"data-00000-of-00001\.arrow, row 2: the gold answer is empty"):
        load(tmp_path / "a")
    state = tmp_path / "a" / "train" / "state.json"
    state.write_text(state.read_text().replace("data-0", "../../data-0"))
    assert "names no data files of this folder" in complaint(tmp_path / "a")
    state.write_text(json.dumps({"_data_files": [{"filename": "state.json"}]}))
    with pytest.raises(UserError, match=r"state\.json: not an Arrow file, or a damaged one"):
        load(tmp_path / "a")


def test_problems_come_one_at_a_time_and_the_limit_ends_the_reading(tmp_path):
    (tmp_path / "a.csv").write_text('question,answer\nx,1\nx,2\ny,3\nz,4\n"never closed')
    problems = iter_problems(ProblemsConfig(source=str(tmp_path / "a.csv")))
    assert [next(problems).question for _ in range(3)] == ["x", "y", "z"]
    with pytest.raises(UserError, match="line 6"):
        next(problems)
    assert len(load(tmp_path / "a.csv", limit=3)) == 3
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.jsonl").write_text('{"question": "x", "answer": 1}\n' * 3)
    assert [p.gold for p in load(tmp_path / "parts", split="train", streaming=True)] == ["1"]
