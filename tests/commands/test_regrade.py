"""`ssb grade`: the verdicts of today beside the stored ones, and nothing written that was not asked for."""

import json
import re
import shlex
import tracemalloc
from pathlib import Path

import pytest

from ssb_unsloth.cli import main
from ssb_unsloth.commands.grade import graded_again, regrade
from ssb_unsloth.errors import UserError
from ssb_unsloth.records import write_jsonl
from ssb_unsloth.run.rundir import RunDir

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
    cells = re.split(r" {2,}", said.splitlines()[2])
    assert cells[:-1] == ["4", "50.0 %", "50.0 %", "2", "25.0 %", "100.0 %"]
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


def test_out_overwrites_nothing(save, tmp_path, capsys):
    path = save(ROWS)
    theirs, stage = tmp_path / "theirs", tmp_path / "run" / "evaluate"
    theirs.mkdir(), stage.mkdir(parents=True)
    (theirs / path.name).write_text("mine")
    (stage / "manifest.json").write_text("{}")
    for out, said in ((theirs, "would be overwritten"), (stage, "a stage's own"), (stage / "deep", "a stage's own")):
        assert main(["grade", str(path), "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    assert (theirs / path.name).read_text() == "mine"
    assert [file.name for file in stage.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("byte", [0, 100, -3])
def test_replies_of_a_stage_that_were_changed_since_are_not_graded(tmp_path, capsys, byte):
    rows = [{**row, "problem_id": f"p{i}"} for i, row in enumerate(ROWS)]
    with RunDir(tmp_path).write("evaluate", "key", {}) as work:
        write_jsonl(work.folder / "replies.jsonl", rows)
    path = tmp_path / "evaluate" / "replies.jsonl"
    assert main(["grade", str(path)]) == 0
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)
    assert main(["grade", str(path.parent)]) == 2
    assert (
        "replies.jsonl: changed since it was written; put it back as it was, or grade a copy" in capsys.readouterr().err
    )


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
        (lambda rows: [{**rows[0], "gold": " "}], "line 1: No gold answer in the text"),
        (lambda rows: [rows[0], {**rows[1], "gold": r"\frac{1}{2"}], "line 2: The gold answer does not parse"),
        (lambda rows: [{**rows[0], "problem_id": ["p0"]}], r"line 1: 'problem_id' is \[\"p0\"\]; expected one value"),
        (lambda rows: [*rows, {**rows[1], "sample": 1}], "1 of 2 replies to problem p0, where others have all 2"),
        (
            lambda rows: [*rows, {**rows[1], "model": "other"}],
            "no reply to 3 of the problems in .*the first of them p0",
        ),
        (lambda rows: [*rows, {**rows[1], "problem_id": "p9"}], "line 5: a reply to a problem that is not in .*-test"),
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


def test_generations_under_another_files_name_are_not_graded_as_its_own(save, tmp_path):
    rows = [
        {
            **row,
            "problem_id": f"p{i}",
            "sample": 0,
            "benchmark": "test",
            "model": "ssb",
            "run_seed": 1,
            "temperature": 0,
        }
        for i, row in enumerate(ROWS)
    ]
    path = save(rows, "base-1-test-0.jsonl")
    assert regrade(path).replies == 4  # a file of one's own may have any name
    (tmp_path / "manifest.json").write_text("{}")  # in a run's folder the name says what is in it
    with pytest.raises(
        UserError, match=r"base-1-test-0\.jsonl: holds generations that belong into ssb-1-test-0\.jsonl"
    ):
        regrade(path)
    assert regrade(save(rows, "ssb-1-test-0.jsonl")).replies == 4


def test_verdicts_of_others_are_no_verdicts_before(save):
    result = regrade(save([{"text": r"\boxed{1}", "gold": "1", "verdict": odd} for odd in ("correct", 1, ["right"])]))
    assert (result.before, result.right, result.changes) == (None, 3, [])


@pytest.mark.parametrize("name", ["replies.jsonl", "replies.jsonl/below"])
def test_a_folder_that_cannot_be_made_is_named(save, tmp_path, capsys, name):
    path = save(ROWS)
    assert main(["grade", str(path), "--out", str(tmp_path / name)]) == 2
    assert re.search(r"--out .*replies\.jsonl.*: cannot be written to", capsys.readouterr().err)


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "none.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["grade", str(tmp_path)]) == 2
    assert "holds no .jsonl file" in capsys.readouterr().err


NEAR = [{"text": r"It is \boxed{3.15}.", "gold": "3.1416"}]


def test_a_verifier_has_its_options_on_the_command_line_as_in_a_recipe(save, capsys):
    for words, share in (("numeric", "0.0 %"), ("{name: numeric, absolute: 0.01}", "100.0 %")):
        assert main(["grade", str(save(NEAR)), "--verifier", words]) == 0
        assert f"-       {share}" in capsys.readouterr().out


def test_the_documentation_of_the_option_can_be_typed(save, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "verifiers.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    ssb (grade replies.jsonl --verifier .*[a-z}]'?)$", text, re.M)
    monkeypatch.chdir(save(NEAR, "replies.jsonl").parent)
    for line in lines[:2]:
        assert main(shlex.split(line)) == 0
    assert "{name: numeric" in lines[1]
    with pytest.raises(SystemExit):
        main(["grade", "--help"])
    assert "'{name: numeric, absolute: 0.01}'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("{name: numeric, absolute: 0.01", "the value is not valid YAML"),
        ("{name: numeric, absolut: 0.01}", "has no option 'absolut'; did you mean absolute?"),
        ("{name: numeric, absolute: much}", "absolute is 'much'; expected float"),
        ("{name: numeric, absolute: -1}", "expected a number of at least 0"),
        ("{absolute: 1}", "names no verifier; expected a name, or a mapping with name and options"),
        ("[numeric]", "names no verifier"),
        ("", "names no verifier"),
        ("!!python/name:os.system x", "is not read here"),
        ("numerik", "no verifier 'numerik'; known: math"),
    ],
)
def test_a_verifier_that_is_none_is_one_error_and_nothing_is_graded(save, tmp_path, capsys, word, says):
    out = tmp_path / "again"
    assert main(["grade", str(save(NEAR)), "--verifier", word, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("ssb: --verifier: ")
    assert says in told
    assert told.count("\n") == 1
    assert not out.exists()


def test_four_times_the_replies_take_no_more_memory(save, tmp_path):
    def peak(problems):
        rows = [
            {"text": "word " * 400 + "\\boxed{7}", "gold": "7", "problem_id": f"p{i}", "sample": k}
            for i in range(problems)
            for k in range(20)
        ]
        path = save(rows, f"{problems}.jsonl")
        del rows
        tracemalloc.start()
        try:
            graded_again([path], tmp_path / f"again-{problems}", "exact")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    one, four = peak(75), peak(300)
    assert four < 1.1 * one


def test_nothing_is_written_where_one_of_the_files_cannot_be_graded(save, tmp_path, capsys):
    good, bad = save(ROWS, "a.jsonl"), save([{"text": "no gold"}], "b.jsonl")
    assert main(["grade", str(good), str(bad), "--out", str(tmp_path / "again")]) == 2
    assert "b.jsonl, line 1: no 'gold'" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_changes_are_counted_beyond_those_that_are_shown(save, capsys):
    path = save([{"text": r"\boxed{1}", "gold": "1", "verdict": "wrong"}] * 33)
    result = regrade(path)
    assert (result.changed, len(result.changes)) == (33, 20)
    assert main(["grade", str(path)]) == 0
    assert "13 more changes" in capsys.readouterr().out


def test_a_reply_that_stands_there_twice_is_found_and_one_of_the_same_hash_is_none(save):
    """hash(-1) is hash(-2)."""
    row = {**ROWS[1], "problem_id": "p"}
    assert hash(-1) == hash(-2)
    assert regrade(save([{**row, "sample": -1}, {**row, "sample": -2}])).replies == 2
    with pytest.raises(UserError, match=r"line 3: this reply \(problem p, sample -1\) stood already in line 1"):
        regrade(save([{**row, "sample": sample} for sample in (-1, -2, -1)]))
