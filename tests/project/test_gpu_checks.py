"""The checks that only a GPU can make, from end to end on a CPU at toy size; and the script of a visit to a machine."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import common, report
from scripts import gpu_checks


@pytest.mark.slow
def test_the_gpu_checks_twin(tmp_path):
    """The same code without a GPU; only the caps on its memory are left out."""
    assert gpu_checks.main(["all", "--device", "cpu", "--tiny", "--out", str(tmp_path / "lines.jsonl")]) == 0
    lines = {line["check"]: line for line in map(json.loads, (tmp_path / "lines.jsonl").read_text().splitlines())}
    assert list(lines) == ["unsloth-train", "memory-caps", "kd-kernel", "kd-parts", "teacher-pass", "numerics"]
    for line in lines.values():
        assert line["versions"]["torch"]
        assert line["backend"].startswith("transformers (")
        for row in line["figures"].get("rows", []):
            common.check_row(row)
    steps = {report.name_of(row).replace(":512", ":256"): row for row in lines["unsloth-train"]["figures"]["rows"]}
    formats = ["ours:hidden", "ours:logits", "ours:top_k", "ours:online"]
    assert set(steps) == {*formats, "raw:256", "paper", "dense"}
    assert "left_out" in lines["memory-caps"]["figures"]
    for distance in lines["kd-kernel"]["figures"]["distance_from_float64"].values():
        assert distance["loss"] < 1e-4
        assert distance["gradient"] < 1e-4
    parts = [found["part"] for found in lines["kd-parts"]["figures"]["parts"]]
    assert set(parts) == {"logits", "cast", "gradient", "whole"}  # the kernel's own time needs a GPU
    apart = lines["numerics"]["figures"]["apart_from_float32"]
    assert apart["plain"]["kl_max"] < 1e-6
    assert apart["transformers"]["kl_max"] < 1e-6
    assert apart["one_percent"]["kl_mean"] > 1e-5  # an error of 1 % is seen
    assert apart["one_percent"]["hidden"] == pytest.approx(0.01, rel=0.1)
    stored, online = lines["numerics"]["figures"]["stored_against_online"].values()
    assert online["loss"] == pytest.approx(stored["loss"], rel=1e-4)
    assert online["gradient_apart"] < 1e-4


def test_a_gpu_check_that_fails_says_so_and_the_others_go_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(gpu_checks.CHECKS, "unsloth-train", lambda session: 1 / 0)
    out = ["--device", "cpu", "--tiny", "--out", str(tmp_path / "lines.jsonl")]
    assert gpu_checks.main(["unsloth-train", "memory-caps", *out]) == 1
    broken, other = map(json.loads, (tmp_path / "lines.jsonl").read_text().splitlines())
    assert broken["figures"]["error"].startswith("ZeroDivisionError")
    assert "error" not in other["figures"]


def test_the_visit_calls_what_there_is_and_a_part_ends_within_ten_minutes():
    root = Path(gpu_checks.__file__).parents[1]
    text = (root / "scripts" / "visit.sh").read_text()
    modules = set(re.findall(r"python3 -m ([\w.]+)", text)) - {"pip"}
    assert "scripts.gpu_checks" in modules
    assert [name for name in modules if find_spec(name) is None] == []
    checks = [word for line in re.findall(r"^  check \S+ \d+ (.+)$", text, re.M) for word in line.split()]
    assert sorted(checks) == sorted(gpu_checks.CHECKS)
    files = re.findall(r"(?:recipes|tests|scripts)/[\w./-]*\w", text)
    assert [name for name in files if not (root / name).exists()] == []
    functions, _, parts = text.partition("\ncase ")
    _, one, two, three = re.split(r"^[123]\)$", parts, flags=re.M)
    limit = re.compile(r"\b(?:step|ssb|check) [a-z]\S* (\d+) ")
    beside = max(int(seconds) for seconds in limit.findall(functions))
    controls = int(re.findall(r"CONTROLS_SECONDS:-(\d+)", functions)[0])
    for part, more in ((one, beside), (two, 0), (three, controls)):
        assert sum(map(int, limit.findall(part))) + more < 600
