"""`make setup` and `make reproduce`: what they do on machines that lack something; a run beside the paper."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssb_unsloth.commands import reproduction
from ssb_unsloth.errors import UserError
from ssb_unsloth.published import TABLE_1

ROOT = Path(__file__).parents[2]
THREE_B = "recipes/qwen2.5-3b-gsm8k.yaml"


@pytest.fixture
def scripts(monkeypatch):
    """The two scripts as modules, freshly imported."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    for name in ("setup", "reproduce"):
        sys.modules.pop(name, None)
    setup, reproduce = importlib.import_module("setup"), importlib.import_module("reproduce")
    yield setup, reproduce
    for name in ("setup", "reproduce"):
        sys.modules.pop(name, None)


# -- make reproduce


def reproduce(*words, **environment):
    script = ROOT / "scripts" / "reproduce.py"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, env=env, timeout=120)


def test_without_a_gpu_it_is_a_sentence_the_plan_and_the_demo_and_nothing_is_installed():
    before = {path.name for path in ROOT.iterdir()}
    done = reproduce(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"{THREE_B} cannot run on this machine: ")
    assert "To fix it: " in first
    assert "Plan for qwen2.5-3b-gsm8k on NVIDIA A100-SXM4-40GB" in done.stdout
    assert "train grpo" in done.stdout
    assert "`make demo` runs the whole method here" in done.stdout
    assert {path.name for path in ROOT.iterdir()} == before


def test_what_is_wrong_with_a_machine_is_said_by_its_name(nvidia_smi):
    nvidia_smi("0, GPU-a, NVIDIA A100-SXM4-40GB, 40960, 40339, 535.183.01, 8.0")
    done = reproduce(THREE_B, "card.price=2")
    assert done.returncode == 2
    assert "cannot run on this machine: driver: 535.183.01; torch's CUDA 13.0 needs 580 or newer. To fix" in done.stdout
    assert re.search(r"Cost: .* h; at 2 per hour, \d", done.stdout)


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("a b.yaml", "", ["a b.yaml"]),
        ("a; touch PWNED #.yaml", "seed=1 x='a b'", ["a; touch PWNED #.yaml", "seed=1", "x=a b"]),
        ("it's $(shell touch PWNED) $$HOME.yaml", "x=`touch PWNED`", None),
        ("$(touch PWNED)", "problems.source='data/a #1/q.jsonl' $(shell touch PWNED)", None),
    ],
)
def test_make_reproduce_hands_its_words_over_as_they_are(scripts, tmp_path, recipe, overrides, words):
    recipe, overrides = (text.replace("PWNED", str(tmp_path / "pwned")) for text in (recipe, overrides))
    shows = tmp_path / "python"
    shows.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > ' + str(tmp_path / "words"))
    shows.chmod(0o755)
    command = ["make", "-s", "-C", str(ROOT), "reproduce", f"PYTHON={shows}", f"RECIPE={recipe}"]
    subprocess.run([*command, f"OVERRIDES={overrides}"], check=True, timeout=60)
    _, *given = (tmp_path / "words").read_text().split("\0")[:-1]
    assert given == [recipe, "--overrides", overrides]
    assert not (tmp_path / "pwned").exists()
    if words is not None:
        assert scripts[1].split(given) == [word.replace("PWNED", str(tmp_path / "pwned")) for word in words]


def test_quotes_that_do_not_close_are_a_sentence():
    done = reproduce("recipes/none.yaml", "--overrides", "name='a")
    assert done.returncode == 2
    assert done.stderr.startswith("OVERRIDES=name='a: No closing quotation.")
    assert "Traceback" not in done.stderr


def test_a_mistake_in_the_recipe_is_said_before_anything_else():
    done = reproduce("recipes/none.yaml")
    assert done.returncode == 2
    assert "recipes/none.yaml: no such recipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_a_gpu_each_step_follows_the_one_before(scripts, monkeypatch, capsys, tmp_path):
    """The order of the commands; what each one does is tested where it is defined."""
    setup, module = scripts
    steps, failing = [], set()

    def python(executable, *words, output=False):
        words = words[2:] if words[1:2] == ("ssb_unsloth",) else words[1:]
        steps.append(" ".join(words))
        answers = {"--json": '{"findings": [], "recipe": "r"}'}
        said = answers["--json"] if "--json" in words else "the plan" if words[0] == "plan" else ""
        return subprocess.CompletedProcess([], 2 if words[0] in failing else 0, said, "")

    monkeypatch.setattr(module, "python", python)
    monkeypatch.setattr(setup, "main", lambda name: steps.append(f"install {name}") or setup.folder(name))
    monkeypatch.setattr(module, "LOG", tmp_path / "reproduce.log")
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "r.yaml", "seed=1"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    after = steps[steps.index("doctor r.yaml seed=1 --machine --json") :]
    assert after == [
        "doctor r.yaml seed=1 --machine --json",
        "plan r.yaml seed=1",
        "install gpu",
        "doctor r.yaml seed=1",
        "run r.yaml seed=1",
        "plan r.yaml seed=1 --json",
        f"ssb_unsloth.commands.reproduction {Path('runs') / 'r'}",
    ]
    assert "the plan" in capsys.readouterr().out  # before the installation
    steps.clear()
    failing.add("run")
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 2
    assert steps[-1] == "run r.yaml seed=1"


STAND_IN = """
import os, signal, sys, time
sys.path.insert(0, {scripts!r})
import reproduce, setup
from pathlib import Path

reproduce.LOG = Path({log!r})
reproduce.everything = lambda words: [print("working on", *words, flush=True), time.sleep(60)]
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    {do}
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_it_is_started_detached_once_and_stopped_by_the_command_that_is_printed(scripts, monkeypatch, tmp_path, capsys):
    """The part that would need a GPU is a stand-in that takes long; the session, its log and its end are real."""
    _, module = scripts
    log, file = tmp_path / "runs" / "reproduce.log", tmp_path / "stand_in.py"
    do = "with reproduce.alone(): reproduce.everything(sys.argv[1:])"
    file.write_text(STAND_IN.format(scripts=str(ROOT / "scripts"), log=str(log), do=do))
    monkeypatch.setattr(module, "LOG", log)
    monkeypatch.setattr(module, "__file__", str(file))
    module.in_the_background(["r.yaml", "name=a b"])
    follow, stop = capsys.readouterr().out.splitlines()[:2]
    assert follow.endswith(f"tail -f {log}")
    for _ in range(200):
        if "working on r.yaml name=a b" in log.read_text():
            break
        time.sleep(0.1)
    with pytest.raises(SystemExit), module.alone():
        pass
    assert "runs here already" in capsys.readouterr().err
    subprocess.run(["bash", "-c", stop.partition(": ")[2]], check=True)
    for _ in range(200):
        if log.read_text().endswith("stopped\n"):
            break
        time.sleep(0.1)
    assert log.read_text().splitlines() == ["working on r.yaml name=a b", "stopped"]
    with module.alone():  # and it can be started again
        pass


@pytest.mark.slow
def test_from_nothing_it_takes_three_small_packages_to_show_the_plan(tmp_path):
    """A checkout and a bare Python: what is then installed is what `ssb plan` imports (needs the package registry)."""
    for name in ("scripts", "constraints", "recipes", "ssb_unsloth", "pyproject.toml"):
        source = ROOT / name
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, tmp_path / name, ignore=skip) if source.is_dir() else shutil.copy(source, tmp_path)
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)
    command = [sys._base_executable, str(tmp_path / "scripts" / "reproduce.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "Plan for qwen2.5-3b-gsm8k" in done.stdout
    installed = {
        path.name.split("-")[0].lower() for path in tmp_path.glob(".venv-gpu/lib/python3*/site-packages/*.dist-info")
    }
    assert installed - {"pip", "setuptools", "wheel", "uv"} == {"omegaconf", "pyyaml", "antlr4_python3_runtime"}


# -- Beside the paper


def score(model, benchmark, value, low, high, **more):
    row = {"model": model, "benchmark": benchmark, "value": value, "low": low, "high": high, "temperature": 0.0}
    row |= {"scoring": "equivalent", "metric": "pass@1", "prompt": "tutor", "seed": 1, "n_seeds": 1}
    return {**row, **more}


def test_table_1_puts_each_score_beside_the_same_models_published_one():
    scores = [
        score("base", "math500", 0.60, 0.557, 0.642),
        score("base", "math500", 0.50, 0.4, 0.6, prompt="default"),
        score("base", "math500", 0.38, 0.33, 0.43, scoring="strict"),
        score("ssb", "mine", 0.55, 0.50, 0.60),
        score("sft", "math500", 0.5, 0.4, 0.6),
    ]
    rows = reproduction.table_1(scores, {"math500": {"name": "math500"}, "mine": {"name": "math500"}})[1:]
    published = TABLE_1["math500"]
    assert [(row[1].lower(), row[-1]) for row in rows] == [("base", "apart"), ("ssb", "overlap")]
    right, n = next(value for key, value in published.items() if key.lower() == "base")
    assert rows[0][2] == f"{100 * right / n:.1f} %" == "37.6 %"


def test_table_1_puts_the_mean_of_several_seeds_beside_the_published_one():
    values = {1: 0.5, 2: 0.6}
    scores = [score("ssb", "math500", v, v - 0.04, v + 0.04, seed=seed) for seed, v in values.items()]
    scores.append(score("ssb", "math500", 0.55, 0.52, 0.58, seed=None, n_seeds=2))
    (row,) = reproduction.table_1(scores, {"math500": {"name": "math500"}})[1:]
    assert row[4:7] == ["55.0 %", "52.0 to 58.0", "2"]


def test_figure_2_compares_ends_and_directions():
    history = [{"loss": 1 - 0.02 * i, "grad_norm": 1 + 0.01 * i} for i in range(50)]
    history += [{"reply_tokens": 240.0}, {"reply_tokens": 300.0}]
    rows = {row[0]: row[1:] for row in reproduction.figure_2(history)[1:]}
    assert rows["loss"] == ["0.56 to 0.25", "0.91 to 0.11", "the same"]
    assert rows["gradient norm"][2] == "the other"
    assert rows["reply length, tokens"] == ["235 to 385", "240 to 300", "the same"]


def test_a_run_that_is_not_finished_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="the run is not finished"):
        reproduction.compare(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "ssb_unsloth.commands.reproduction", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_json_of_the_plan_names_the_run(capsys):
    """What reproduce.py finds the run's folder by."""
    from ssb_unsloth import cli

    assert cli.main(["plan", str(ROOT / THREE_B), "name=mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "mine"
