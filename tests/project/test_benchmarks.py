"""Every benchmark from end to end at toy size; what it refuses; and the results and the document that are kept."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ray_here import ray_here

from benchmarks import (
    common,
    curate,
    kd_loss,
    memory,
    problems,
    replicas,
    report,
    startup,
    targets,
    teacher_pass,
    train_step,
)

LOSS = ["--square", "64", "--hidden", "16", "--vocab", "300", "--no-memory", "--repeats", "2"]
TINY = ["--geometry", "tiny", "--prompt", "6", "--teacher-prompt", "12", "--repeats", "1", "--no-memory"]


def rows_of(main, path, *argv):
    main([*argv, "--out", str(path)])
    rows = json.loads(path.read_text())
    for row in rows:
        common.check_row(row)
    return {report.name_of(row) + f"@{row['rows']}": row for row in rows}


def test_the_loss(tmp_path):
    names = ["--contestants", "ours", "dense", "paper"]
    rows = rows_of(kd_loss.main, tmp_path / "rows.json", *LOSS, *names, "--rows", "12", "--sweep", "5", "20")
    assert list(rows) == [
        *("raw@12", "ours@12", "dense@12", "paper@12"),
        *("raw@5", "ours@5", "dense@5", "raw@20", "ours@20", "dense@20"),
    ]
    assert rows["ours@12"]["repeats"] == 2
    assert rows["ours@12"]["vocabulary"] == 300


def test_the_divergences(tmp_path):
    kinds = ["forward", "reverse", "jsd"]
    argv = [*LOSS, "--contestants", "ours", "dense", "--rows", "12", "--divergences", *kinds]
    rows = rows_of(kd_loss.main, tmp_path / "rows.json", *argv)
    assert list(rows) == ["raw@12", *(f"{name}:{kind}@12" for kind in kinds for name in ("ours", "dense"))]
    assert {row["work"] for row in rows.values()} == {"kd-divergence"}
    table = report._rows_table([{**row, "gpu": False} for row in rows.values()])
    assert [line.split(" | ")[8] for line in table[2:] if "ours" in line] == ["1.00"] * 3


@pytest.mark.slow  # importing TRL and Liger
def test_the_divergences_against_the_libraries(tmp_path):
    """All of a divergence agree, or there are no rows."""
    argv = [*LOSS, "--rows", "64", "--contestants", "ours", "dense", "trl:dense", "liger", "--divergences", "reverse"]
    rows = rows_of(kd_loss.main, tmp_path / "rows.json", *argv, "jsd")
    assert len(rows) == 1 + 2 * 4


@pytest.mark.slow  # half of it is importing TRL and Liger
def test_the_loss_against_the_libraries_and_its_memory(tmp_path):
    size = ["--square", "64", "--rows", "300", "--sweep", "--hidden", "32", "--vocab", "30000", "--repeats", "1"]
    names = ["--contestants", "ours", "dense", "paper", "trl:dense", "liger"]
    rows = rows_of(kd_loss.main, tmp_path / "rows.json", *size, *names)
    assert {name.partition(":")[0].partition("@")[0] for name in rows} == {"raw", *names[1:3], "paper", "trl", "liger"}
    logits = 300 * 30_000 * 4
    assert rows["dense@300"]["peak_bytes"] > 2 * logits
    assert rows["paper@300"]["peak_bytes"] > 2 * logits
    assert 0 < rows["ours@300"]["peak_bytes"] < rows["dense@300"]["peak_bytes"]


def test_a_contestant_with_another_loss_is_refused(monkeypatch):
    args = argparse.Namespace(device="cpu", dtype="float32", hidden=8, vocab=50)
    work = kd_loss.Work(args, 6)
    honest = work.contestant
    monkeypatch.setattr(work, "contestant", lambda name: lambda: honest(name)() / (4 if name == "dense" else 1))
    with pytest.raises(SystemExit, match="dense: loss"):
        kd_loss.enter(work, ["ours", "dense"], "cpu")


def test_the_store(tmp_path):
    size = ["--pairs", "6", "--hidden", "2048", "--vocab", "100", "--repeats", "1"]
    targets.main([*size, "--out", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    found = {(row["work"], report.name_of(row)): row for row in rows}
    for row in rows:
        common.check_row(row)
    assert {work for work, _ in found} == {"targets-write", "targets-read"}
    hidden = found["targets-write", "ours:hidden"]["bytes_per_token"]
    assert 2 * 2048 <= hidden <= 2 * 2048 * 1.01
    assert found["targets-write", "paper"]["bytes_per_token"] > 4 * 100
    assert found["targets-write", "raw"]["bytes_per_token"] == 2 * 2048


def test_the_teacher_pass(tmp_path):
    rows = rows_of(teacher_pass.main, tmp_path / "rows.json", *TINY, "--pairs", "3", "--reply", "3", "6")
    assert {name.partition("@")[0] for name in rows} == {"ours", "ours:single", "paper", "paper:steps"}
    assert [row["extrapolated"] for row in rows.values()] == [False, False, False, True]


def test_the_training_step(tmp_path):
    """The exact contestants have one loss and one gradient, or `check_agreement` ends the run."""
    names = ["ours:hidden", "ours:logits", "ours:top_k", "ours:online", "raw", "paper", "dense"]
    argv = [*TINY, "--reply", "4", "9", "--no-scaling", "--contestants", *names]
    rows = rows_of(train_step.main, tmp_path / "rows.json", *argv)
    assert {name.partition("@")[0].replace(":256", "").replace(":512", "") for name in rows} == set(names)
    losses = {report.name_of(row): row["loss"] for row in rows.values()}
    assert losses["paper"] == pytest.approx(losses["ours:hidden"], rel=1e-4)
    assert losses["ours:hidden"] > 0


@pytest.mark.slow  # six processes
def test_the_training_steps_memory(tmp_path):
    argv = ["--geometry", "tiny", "--prompt", "8", "--reply", "40", "60", "--repeats", "1", "--contestants"]
    rows_of(train_step.main, tmp_path / "rows.json", *argv, "ours:hidden", "raw")
    rows = json.loads((tmp_path / "rows.json").read_text())
    memory = [row for row in rows if row["work"] == "train-step-memory"]
    assert [(row["vocabulary"], row["reply"]) for row in memory] == [
        *((4000, [40, 60]), (4000, [80, 120])),
        *((1000, [40, 60]), (1000, [80, 120])),
    ]
    assert all(row["peak_bytes"] > 0 for row in rows)


def test_other_losses_are_refused():
    same = {"ours:hidden": {"loss": 1.0, "gradient_apart": 0.0}, "raw:256": {"loss": 9.0, "gradient_apart": 9.0}}
    train_step.check_agreement(same, 1e-3)
    for wrong in ({"loss": 1.1, "gradient_apart": 0.0}, {"loss": 1.0, "gradient_apart": 0.5}):
        with pytest.raises(SystemExit, match="paper is not the same loss"):
            train_step.check_agreement(same | {"paper": wrong}, 1e-3)


@pytest.mark.parametrize("chunk", [2, 3, 7, 50])
def test_the_yardstick_of_the_training_step_is_a_cross_entropy(chunk):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 5, generator=generator, requires_grad=True)
    weight, labels = torch.randn(11, 5, generator=generator), torch.randint(11, (7,), generator=generator)
    expected = F.cross_entropy(rows @ weight.T, labels)
    (gradient,) = torch.autograd.grad(3 * expected, rows)
    found = train_step.ChunkedCrossEntropy.apply(rows, weight, labels, chunk)
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(torch.autograd.grad(3 * found, rows)[0], gradient)


def test_curation_without_vllm(tmp_path):
    size = ["--questions", "8", "--max-tokens", "96", "--loop-requests", "2", "--repeats", "1"]
    rows = rows_of(curate.main, tmp_path / "rows.json", "--engine", "transformers", *size)
    assert {name.partition("@")[0] for name in rows} == {"ours", "paper"}
    assert {row["tokens"] for row in rows.values()} == {next(iter(rows.values()))["tokens"]}


@pytest.mark.slow  # starts vLLM
def test_curation_with_vllm(tmp_path):
    pytest.importorskip("vllm")
    size = ["--questions", "8", "--loop-requests", "2", "--repeats", "1"]
    rows = rows_of(curate.main, tmp_path / "rows.json", "--engine", "vllm", *size)
    assert {name.partition("@")[0] for name in rows} == {"ours", "raw", "paper"}  # raw's replies are those of ours


@pytest.mark.slow
def test_the_reading_of_problems(tmp_path):
    rows = rows_of(problems.main, tmp_path / "rows.json", "--rows", "300")
    forms = {f"{which}:{form}" for which in ("raw", "ours") for form in ("csv", "jsonl", "parquet")}
    assert {name.partition("@")[0] for name in rows} == {*forms, "ours:list"}
    assert all(row["peak_bytes"] is not None and row["rows"] == 300 for row in rows.values())


@pytest.mark.slow
def test_the_memory_of_many_questions(tmp_path):
    """Four times the questions take nearly the same, where all held in memory took four times as much."""
    peaks = {}
    for count in (1024, 4096):
        rows = rows_of(memory.main, tmp_path / f"{count}.json", "--questions", str(count))
        peaks[count] = {name.partition("@")[0]: row["peak_bytes"] for name, row in rows.items()}
    assert set(peaks[1024]) == {f"ours:{part}" for part in ("curate", "grade", "score", "report")}
    for part, small in peaks[1024].items():
        assert peaks[4096][part] < 1.5 * small + (8 << 20)  # a bounded cache of comparisons fills meanwhile


@pytest.mark.slow
def test_spreading_over_replicas(tmp_path):
    with ray_here():
        rows = rows_of(replicas.main, tmp_path / "rows.json", "--requests", "600", "--batch", "64", "--repeats", "1")
    assert list(rows) == ["ours:start@2", "ours@600", "raw@600"]
    assert rows["ours@600"]["replies_per_second"] < rows["raw@600"]["replies_per_second"]


def test_the_start(tmp_path):
    rows = rows_of(startup.main, tmp_path / "rows.json", "--repeats", "1")
    assert rows["ours@1"]["seconds"]["min"] > rows["raw@1"]["seconds"]["min"] > 0


# ---- how is timed


def test_contestants_take_turns_and_cpu_time_is_that_of_all_threads():
    order = []

    def busy():
        order.append("busy")
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass

    def idle():
        order.append("idle")
        time.sleep(0.03)

    times = common.in_turn({"busy": busy, "idle": idle}, 3, "cpu", before=lambda: order.append("-"))
    assert order == ["-", "busy", "-", "idle"] * 3
    assert min(times["busy"].cpu) >= 0.029
    assert max(times["idle"].cpu) < 0.02
    assert min(times["idle"].wall) >= 0.029
    assert times["busy"].scaled(2).wall == [2 * t for t in times["busy"].wall]


def test_peak_memory_is_seen():
    """In a fresh process, as the benchmarks measure it: an allocator that keeps what others freed hides memory."""
    size = 50 << 20
    code = (
        "import torch; from benchmarks import common;"
        f" print(common.peak_of(lambda: torch.ones({size}, dtype=torch.uint8), 'cpu'))"
    )
    root = Path(common.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert 0.9 * size < int(done.stdout) < 1.5 * size


# ---- what is kept


def good_row(**change):
    args = argparse.Namespace(device="cpu", dtype="float32")
    times = common.Times([1.0, 3.0, 2.0], [1.0, 1.0, 1.0], 0.0)
    return {**common.row("kd-loss", "ours", times, args, rows=1, hidden=1, vocabulary=1), **change}


def test_a_row():
    row = good_row()
    assert row["seconds"] == {"min": 1.0, "median": 2.0, "max": 3.0}
    common.check_row(row)


@pytest.mark.parametrize(
    "change",
    [
        {"contestant": "theirs"},
        {"rows": "12"},
        {"threads": None},
        {"seconds": {"min": 1.0, "median": 2.0}},
        {"seconds": {"min": 3.0, "median": 2.0, "max": 4.0}},
        {"seconds": {"min": 0.0, "median": 0.0, "max": 0.0}},
        {"date": "yesterday"},
    ],
)
def test_a_wrong_row_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        common.check_row(good_row(**change))


def test_the_kept_results_have_the_form_and_the_document_says_what_they_say():
    rows = report.load()
    assert rows
    document = report.DOCUMENT.read_text(encoding="utf-8")
    assert report.with_section(document, rows) == document
    assert report.PLOT.stat().st_size > 1000


def kd_row(name, rows, seconds, peak=None, **more):
    contestant, _, option = name.partition(":")
    times = {"min": seconds, "median": seconds, "max": seconds}
    size = {"rows": rows, "hidden": 2048, "vocabulary": 151_936}
    return good_row(contestant=contestant, option=option, seconds=times, peak_bytes=peak, gpu=False, **size) | more


def verdicts(rows):
    table = report.target_table(report.Results(rows))[2:]
    return {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip(" |") for line in table}


def test_verdicts():
    rows = [kd_row("ours", 256, 1.0), kd_row("dense", 256, 0.95), kd_row("liger:64", 256, 1.5), kd_row("raw", 256, 0.9)]
    found = verdicts(rows)
    assert found["loss + gradient, N 256, H 2048, V 151,936, fp32, CPU: ours / dense autograd"] == "met"
    assert found["the same: ours / Liger's best"] == "**missed**"
    assert found["share of a large matrix product's speed, CPU"] == "met"
    assert found["`ssb --help`, seconds"] == ""
    assert "not yet measured" in "".join(report.target_table(report.Results(rows)))
    found = verdicts([kd_row("ours", n, n / 100, 4 * 2048 * n) for n in (64, 512, 2048, 4096)])
    assert found["rows 64 to 4,096: time, distance from a line"] == "met"
    assert found["memory from 2,048 to 4,096 rows: growth, in rows of the [N, H] gradient"] == "met"
    found = verdicts([kd_row("ours", n, n**1.5, 4 * 151_936 * n) for n in (64, 512, 2048, 4096)])
    assert found["rows 64 to 4,096: time, distance from a line"] == "**missed**"
    assert found["memory from 2,048 to 4,096 rows: growth, in rows of the [N, H] gradient"] == "**missed**"


@pytest.mark.parametrize(
    ("seconds", "head", "cell"),
    [(0.002871, "median ms", "2.87"), (0.25, "median ms", "250.00"), (3, "median s", "3.000")],
)
def test_times_are_in_a_unit_that_shows_them(seconds, head, cell):
    table = report._rows_table([kd_row("ours", 64, seconds), kd_row("raw", 64, seconds / 2)])
    place = table[0].split(" | ").index(head)
    assert table[2].split(" | ")[place] == cell


def test_a_plot_is_drawn(tmp_path):
    rows = [kd_row(name, n, n / 100, 1000 * n) for name in ("ours", "dense") for n in (64, 256)]
    report.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
