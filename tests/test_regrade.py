"""`ssb grade`: the verdicts of today beside the stored ones, and nothing written that was not asked for."""

import json
import re

import pytest

from ssb_unsloth.cli import main
from ssb_unsloth.errors import UserError
from ssb_unsloth.records import write_jsonl
from ssb_unsloth.regrade import regrade

ROWS = [
    {"text": r"so \boxed{5,600}", "gold": "5600", "verdict": "wrong"},  # graded as a string by somebody else
    {"text": r"so \boxed{12}", "gold": "12", "verdict": "right"},
    {"text": r"so \boxed{12} and", "gold": "12", "verdict": "right", "finish_reason": "length"},
    {"text": "it is 7", "gold": "7", "verdict": "no_answer"},
]


@pytest.fixture
def save(tmp_path):
    def write(rows, name="replies.jsonl"):
        path = tmp_path / name
        write_jsonl(path, rows)
        return path

    return write


def test_what_changed_is_shown_and_nothing_is_written(save, capsys):
    path = save(ROWS)
    before = path.read_bytes()
    assert main(["grade", str(path)]) == 0
    said = capsys.readouterr().out
    cells = re.split(r" {2,}", said.splitlines()[1])
    assert cells[1:] == ["4", "50.0 %", "50.0 %", "2", "25.0 %", "100.0 %"]
    assert "line 1: '5,600' for gold '5600': wrong -> right" in said
    assert "line 3: '12' for gold '12': right -> truncated" in said
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


def test_out_gets_the_verdicts_of_today(save, tmp_path, capsys):
    rows = [{**row, "problem_id": f"p{i}", "note": i} for i, row in enumerate(ROWS)]
    save(rows)
    out = tmp_path / "again"
    assert main(["grade", str(tmp_path), "--out", str(out)]) == 0
    kept = [json.loads(line) for line in (out / "replies.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in kept] == ["right", "right", "truncated", "no_answer"]
    assert [(row["text"], row["note"]) for row in kept] == [(row["text"], row["note"]) for row in rows]
    assert regrade(out / "replies.jsonl").changes == []
    assert main(["grade", str(tmp_path / "replies.jsonl"), "--out", str(tmp_path)]) == 2
    assert "overwritten" in capsys.readouterr().err


def test_replies_without_verdicts_are_graded_for_the_first_time(save):
    result = regrade(save([{"text": r"\boxed{1}", "gold": "1"}] * 3))
    assert (result.before, result.right, result.changes) == (None, 3, [])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda rows: [], "holds no generation"),
        (lambda rows: [{**rows[0], "text": None}], "line 1: no 'text'"),
        (lambda rows: [rows[0], {"text": "a"}], "line 2: no 'gold'"),
        (lambda rows: [rows[0], {k: v for k, v in rows[1].items() if k != "problem_id"}], "line 2: no 'problem_id'"),
        (lambda rows: [*rows, rows[1]], r"line 5: this reply \(problem p1, sample 0\) stood already in line 2"),
        (lambda rows: rows[:-1], r"no reply to 1 of the problems in .*problems-test\.jsonl, the first of them p3"),
    ],
)
def test_replies_that_cannot_be_graded_are_one_sentence(save, capsys, spoil, says):
    rows = [{**row, "problem_id": f"p{i}", "sample": 0, "benchmark": "test"} for i, row in enumerate(ROWS)]
    save([{"id": f"p{i}", "question": "?", "gold": row["gold"]} for i, row in enumerate(ROWS)], "problems-test.jsonl")
    path = save(spoil(rows))
    with pytest.raises(UserError, match=says):
        regrade(path)
    assert main(["grade", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "none.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["grade", str(tmp_path)]) == 2
    assert "holds no .jsonl file" in capsys.readouterr().err
