"""Names and files from outside: pipes, huge numbers, other encodings, shapes that are not what they should be."""

import json
import os
import random
import time
from pathlib import Path

import pytest
from bad_input import complaint

from ssb_unsloth.backends.sources import adapter_config
from ssb_unsloth.cli import main
from ssb_unsloth.data.problems import load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.io.files import check_folder, local, parse_json, read_lines, read_object, read_text
from ssb_unsloth.machine.geometry import from_config
from ssb_unsloth.recipe.schema import ProblemsConfig
from ssb_unsloth.records import Rollout, read_jsonl, read_rows
from ssb_unsloth.run.rundir import fingerprint

ROW = '{"question": "1 + 1?", "answer": "2"}'


@pytest.mark.parametrize("name", ["", "a\0b.jsonl", "~nouser/a.jsonl", "x" * 5000, "a\x1b[31m", "\ud800", "a\nb"])
def test_what_cannot_be_a_files_name_is_said(name):
    with pytest.raises(UserError, match=r"problems\.source: ") as error:
        local(name, "problems.source")
    assert len(str(error.value)) < 400 or "x" * 200 in name
    assert "\x1b" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{ROW}\n{ROW.replace('1 +', '2 +')}\n".encode())
    assert [number for number, _ in read_rows(path)] == [1, 2]
    assert len(load_problems(ProblemsConfig(source=str(path)))) == 2
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(path) == "{}"
    assert read_object(path) == {}


@pytest.mark.parametrize("read", [read_text, read_object, lambda path: list(read_lines(path))])
def test_a_pipe_a_device_and_a_folder_are_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", "/dev/zero", tmp_path):
        with pytest.raises(UserError, match=r"cannot be read|pipe or a device"):
            read(path)
    with pytest.raises(UserError, match="pipe or a device"):
        load_problems(ProblemsConfig(source=str(tmp_path / "pipe.jsonl")))
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(UserError, match="pipe or a device"):
        load_problems(ProblemsConfig(source=str(tmp_path / "pipe.parquet")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "levels"),
        ("[" * 100 + "]" * 100, "levels"),
        ('{"a":' * 100 + "1" + "}" * 100, "levels"),
        ('"\\ud800"', "half a character"),
        ("9" * 5000, "digits"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
)
def test_json_that_cannot_be_kept_is_refused(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json: not JSON"):
        read_object(tmp_path / "a.json")


@pytest.mark.parametrize("value", ["[]", "3", '"text"', "null", "true"])
def test_a_config_that_is_no_object_is_refused(tmp_path, value):
    (tmp_path / "adapter_config.json").write_text(value)
    with pytest.raises(UserError, match="expected a JSON object"):
        adapter_config(tmp_path, "evaluate.adapters.a")


@pytest.mark.parametrize("rank", ["8", 0, -1, 8.0, True, None, [8], {"r": 8}, 10**400])
def test_an_adapters_rank_is_a_number_above_0(tmp_path, rank):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    with pytest.raises(UserError, match=r"evaluate\.adapters\.a: .*rank"):
        adapter_config(tmp_path, "evaluate.adapters.a")


@pytest.mark.parametrize("value", ["64", 0, -2, 1.5, True, None, [64], {"a": 1}, 10**400])
@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "vocab_size", "head_dim"])
def test_a_models_sizes_are_numbers_above_0(key, value):
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    config = {**dict.fromkeys(sizes, 64), "text_config": ["no mapping"]}
    assert from_config(config, "m").H == 64
    if key == "head_dim" and value is None:
        return
    with pytest.raises(UserError, match=f"config.json of m: {key} is "):
        from_config({**config, key: value}, "m")


@pytest.mark.parametrize("gold", ["9" * 400, f"-{'9' * 400}", "1e400", "NaN"])
def test_a_gold_answer_beyond_all_bounds_is_refused(tmp_path, gold):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"question": "Q", "answer": {gold}}}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: the gold answer is"):
        load_problems(ProblemsConfig(source=str(path)))


@pytest.mark.parametrize(("field", "value"), [("seed", 10**400), ("token_ids", [2**70]), ("token_ids", [1, True])])
def test_a_record_with_a_number_beyond_all_bounds_is_refused(tmp_path, field, value):
    row = {"id": "a", "problem_id": "b", "text": "", "token_ids": None, "finish_reason": "stop", "seed": 1}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**row, "verdict": "right", "answer": None, field: value}))
    with pytest.raises(UserError, match=rf"line 1: '{field}' is "):
        read_jsonl(path, Rollout)


def test_a_folder_of_gigabytes_is_no_data_set(tmp_path):
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(5 << 30)  # sparse: takes no room
    with pytest.raises(UserError, match=r"source: the folder .* holds more than 4 GiB; name the file"):
        load_problems(ProblemsConfig(source=str(tmp_path)))
    with pytest.raises(UserError, match="holds more than 10,000 files"):
        check_folder(Path("/usr"), 1 << 60, "problems.source")


@pytest.mark.parametrize("kind", ["pipe", "gigabytes", "files"])
def test_an_input_that_cannot_be_told_by_its_content_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "files":
        path = Path("/usr")
    else:
        path.mkdir()
        for number in range(20):
            with (path / f"{number}.jsonl").open("wb") as file:
                file.truncate(60 << 20)  # sparse
    start = time.process_time()
    with pytest.raises(UserError, match=r"pipe or a device|holds more than"):
        fingerprint(path)
    words = ["run", "recipes/pocket.yaml", f"problems.source={path}", "--runs", str(tmp_path / "runs")]
    assert main(words) == 2
    assert time.process_time() - start < 5


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_parquet_file_is_a_sentence_or_its_rows(tmp_path, seed):
    import pyarrow
    import pyarrow.parquet

    rows = [{"question": f"{i} + 1?", "answer": str(i + 1), "other": {"a": [i]}} for i in range(40)]
    path, rng = tmp_path / "a.parquet", random.Random(seed)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression=rng.choice(["none", "zstd"]))
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3, 30])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content[: rng.choice([None, None, rng.randrange(len(content))])])
    said = complaint(load_problems, ProblemsConfig(source=str(path)))
    assert said is None or ("a.parquet" in said and "\n" not in said)
