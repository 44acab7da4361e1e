"""JSONL files: what is written reads back, and what cannot be read is named with its line."""

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.errors import UserError
from ssb_unsloth.records import Generation, Pair, Problem, Rollout, read_jsonl, read_rows, stable_id, write_jsonl

ODD = 'quotes " \\ line\nbreaks\r\n\u2028\x85 ünï 数 {brace}'
RECORDS = [
    [Problem("p", ODD, "1"), Problem("q", "", "")],
    [
        Rollout("r", "p", ODD, [1, 2], "stop", 7, "right", "1"),
        Rollout("s", "p", "", None, "length", None, "wrong", None),
    ],
    [Pair("p", "q", ODD, "1", "r", "w", "reply", [1, 2, 3], "a", "b", "c")],
    [Generation("base", 3, "test", "p", 0, "tutor", 0.8, 1.0, 0, 1.0, 64, 5, ODD, 5, "stop", "right", "1", "1")],
]


@pytest.mark.parametrize("records", RECORDS, ids=lambda records: type(records[0]).__name__)
def test_records_read_back_unchanged(tmp_path, records):
    path = tmp_path / "records.jsonl"
    assert write_jsonl(path, records) == len(records)
    assert read_jsonl(path, type(records[0])) == records
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [dataclasses.asdict(r) for r in records]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_reads_back_unchanged(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "texts.jsonl"
    write_jsonl(path, ({"text": text} for text in texts))
    assert list(read_rows(path)) == [(number, {"text": text}) for number, text in enumerate(texts, start=1)]


def test_empty_lines_are_passed_over_and_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": 2}')
    assert list(read_rows(path)) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"id": "p", "question": "Q"}, "gold"),
        ({"id": "p", "question": "Q", "gold": "1", "colour": "red"}, "colour"),
        ({"id": "p", "question": "Q", "golden": "1"}, "gold, golden"),
    ],
)
def test_missing_and_unknown_fields_are_named_with_the_line(tmp_path, row, field):
    path = tmp_path / "problems.jsonl"
    write_jsonl(path, [Problem("o", "Q", "1"), row])
    with pytest.raises(UserError, match=rf"problems\.jsonl, line 2: not a Problem.*: {field}\."):
        read_jsonl(path, Problem)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("text", None, "null; expected str"),
        ("text", 5, "5; expected str"),
        ("sample", "0", '"0"; expected int'),
        ("sample", True, "true; expected int"),
        ("n_tokens", 1.5, "1.5; expected int"),
        ("temperature", float("nan"), "NaN; expected float"),
        ("temperature", "hot", '"hot"; expected float'),
        ("answer", ["1"], '["1"]; expected str | null'),
    ],
)
def test_a_value_of_another_type_is_named_with_its_line(tmp_path, field, value, said):
    path, good = tmp_path / "g.jsonl", dataclasses.asdict(RECORDS[3][0])
    write_jsonl(path, [good, {**good, field: value}])
    with pytest.raises(UserError, match=re.escape(f"g.jsonl, line 2: {field!r} is {said}.")):
        read_jsonl(path, Generation)


def test_token_ids_are_whole_numbers_and_a_whole_number_is_a_temperature(tmp_path):
    path, good = tmp_path / "r.jsonl", dataclasses.asdict(RECORDS[1][0])
    write_jsonl(path, [{**good, "token_ids": [1, "2"]}])
    with pytest.raises(UserError, match=r"'token_ids' is \[1, \"2\"\]; expected list\[int\] \| null"):
        read_jsonl(path, Rollout)
    write_jsonl(path, [{**dataclasses.asdict(RECORDS[3][0]), "temperature": 1}])
    assert read_jsonl(path, Generation)[0].temperature == 1


@pytest.mark.parametrize("half", ["\\ud800", "\\uDC00 and more"])
def test_half_a_character_is_named(tmp_path, half):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": "\\ud83d\\ude00"}}\n{{"a": "{half}"}}\n')  # the first are two halves of one
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 2: .*\{half[:6].lower()} is half a character"):
        list(read_rows(path))


@pytest.mark.parametrize(
    "line", ["{", "no", "{'a': 1}", '{"a": 1} {"a": 2}', "\ufeff{}", "[" * 100_000, f'{{"a": {"9" * 5000}}}']
)
def test_a_line_that_is_not_json_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{{}}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: not JSON"):
        list(read_rows(path))


@pytest.mark.parametrize("line", ["[1]", "1", "null", '"text"'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=r"rows\.jsonl, line 1: expected a JSON object"):
        list(read_rows(path))


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"rows\.jsonl, line 1: not UTF-8"):
        list(read_rows(path))


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_rows(tmp_path))


def test_a_failure_while_writing_leaves_no_half_file(tmp_path):
    path = tmp_path / "problems.jsonl"

    def failing():
        yield Problem("p", "Q", "1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(path, failing())
    assert not path.exists()
    write_jsonl(path, [Problem("o", "Q", "1")])
    with pytest.raises(RuntimeError):
        write_jsonl(path, failing())
    assert read_jsonl(path, Problem) == [Problem("o", "Q", "1")]


def test_ids_depend_on_the_parts_and_where_they_are_split():
    assert stable_id("a", "b") == stable_id("a", "b")
    assert len({stable_id("a", "b"), stable_id("ab"), stable_id("b", "a"), stable_id("a", "", "b")}) == 4
    assert stable_id("1 + 1?") == "c97c3a9c9b99"  # the same in every release


@pytest.mark.parametrize("text", ["é", "漢字 🙂", "\u2028", "naïve"])
def test_text_is_written_as_it_is_for_whoever_opens_the_file(tmp_path, text):
    write_jsonl(tmp_path / "a.jsonl", [{"text": text}])
    assert text in (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert [row for _, row in read_rows(tmp_path / "a.jsonl")] == [{"text": text}]
