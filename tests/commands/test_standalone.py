"""`ssb evaluate MODEL`: any model on any benchmark without a recipe."""

import json
import re
import threading

import pytest
from evaluating import ENGINE, evaluate
from fake_server import Server

from ssb_unsloth.prompts import texts
from ssb_unsloth.recipe import schema as config
from ssb_unsloth.records import Generation, read_jsonl, write_jsonl

ROWS = [{"id": i, "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(6)]
SHORT = ["--max-tokens", 40]  # the pocket's context is short
AIME = "evaluate.benchmarks.aime2024"


@pytest.fixture
def problems(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", ROWS)
    return tmp_path / "mine.jsonl"


def test_the_pocket_on_its_own_and_on_given_problems(tmp_path, problems, capsys):
    out = tmp_path / "out"
    words = ["pocket", "--benchmark", "pocket-test", "--benchmark", f"mine={problems}", "--samples", 2, "--out", out]
    words += ["--max-tokens", 40, *ENGINE, "evaluate.benchmarks.pocket-test.limit=5", "seed=4"]
    assert evaluate(*words) == 0
    said = capsys.readouterr().out
    assert re.search(r"^mine +greedy +model +\d", said, re.M)
    assert re.search(r"^pocket-test +T=0\.8 +model +\d", said, re.M)
    names = sorted((path.name for path in (out / "evaluate").glob("model-*.jsonl")), key=lambda name: name[:-6])
    assert names == [f"model-4-{b}-{t}.jsonl" for b in ("mine", "pocket-test") for t in ("0", "0.8")]
    replies = read_jsonl(out / "evaluate" / names[1], Generation)
    assert [(g.sample, g.max_tokens, g.prompt) for g in replies] == [(0, 40, "tutor"), (1, 40, "tutor")] * 6
    assert "mine: 6 questions, greedy and 2 at T=0.8" in (out / "evaluate" / "report.md").read_text()
    assert not list(out.glob("*.partial"))
    before = {path: path.stat().st_mtime_ns for path in (out / "evaluate").iterdir()}
    assert evaluate(*words) == 0  # up to date: nothing is sampled again
    assert {path: path.stat().st_mtime_ns for path in (out / "evaluate").iterdir()} == before


def test_an_adapter_is_compared_with_its_base(tmp_path, problems, capsys):
    import torch
    from peft import LoraConfig, get_peft_model

    from ssb_unsloth.backends.transformers import load_model
    from ssb_unsloth.training.common import save_adapter

    model = load_model(config.ModelConfig(name="pocket", dtype="float32"))
    torch.manual_seed(0)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapter = tmp_path / "runs" / "ssb" / "train" / "adapter"
    save_adapter(peft, adapter)
    asked = ["--benchmark", f"mine={problems}", "--max-tokens", 30, *ENGINE]
    assert evaluate("pocket", "--adapter", adapter, *asked, "--out", tmp_path / "both") == 0
    rows = json.loads((tmp_path / "both" / "evaluate" / "scores.json").read_text())
    assert {s["model"] for s in rows["scores"]} == {"base", "ssb"}
    assert {(d["model"], d["reference"]) for d in rows["differences"]} == {("ssb", "base")}
    assert evaluate(adapter, *asked, "--out", tmp_path / "alone") == 0
    both, alone = tmp_path / "both/evaluate/ssb-3407-mine-0.jsonl", tmp_path / "alone/evaluate/model-3407-mine-0.jsonl"
    assert [g.text for g in read_jsonl(both, Generation)] == [g.text for g in read_jsonl(alone, Generation)]
    recipe = "name: x\nmodel: {name: pocket}\nproblems: {source: pocket}\nprompts: {tutor: Answer in <answer_form>.}\n"
    (adapter.parent.parent / "recipe.yaml").write_text(recipe)  # now it lies in a run
    assert evaluate(adapter, *asked, "--out", tmp_path / "own") == 0
    told = {g.prompt for g in read_jsonl(tmp_path / "own/evaluate/model-3407-mine-0.jsonl", Generation)}
    assert told == {texts(tutor=r"Answer in \boxed{...}.").name}
    assert "\nAnswer in \\boxed{...}.\n" in (tmp_path / "own/evaluate/report.md").read_text()
    capsys.readouterr()


def test_a_server_is_a_model_like_another(tmp_path, problems):
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert evaluate(f"{server.url}#ssb", "--benchmark", f"mine={problems}", "--out", tmp_path / "out") == 0
        server.shutdown()
    assert len(read_jsonl(tmp_path / "out" / "evaluate" / "model-3407-mine-0.jsonl", Generation)) == 6
    assert {body["model"] for _, body in server.bodies} == {"ssb"}


def test_a_model_without_a_benchmark_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate("some/model") == 2
    assert "--benchmark: name at least one: math500" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--benchmark", "math5000"], "--benchmark math5000: not known"),
        (["--benchmark", "math500"], r"math500\.max_tokens: 3072 is not between"),
        (["--benchmark", "mine=none.jsonl", *SHORT], "none.jsonl: no such file"),
        (["--benchmark", "math500=mine.jsonl", *SHORT], "mine.jsonl.*no column 'problem'"),
        (["--benchmark", "gsm8k=mine.jsonl", *SHORT], r"line 1: No gold answer after \"####\""),
        (["--benchmark", "aime2024=mine.jsonl", *SHORT, f"{AIME}.question=question"], "6 problems and not 30"),
        (["--benchmark", "pocket-test", "--adapter", "nowhere"], "holds no adapter_config.json"),
        (["--benchmark", "mine=mine.jsonl", *SHORT, "--adapter", "base=adapter"], "'base' cannot be its name"),
        (["--benchmark", "mine=mine.jsonl", *SHORT, "--adapter", "a/b=adapter"], "'a/b' cannot be its name"),
        (["--benchmark", "pocket-test", "--temperature", "-1"], "temperature: -1.0 is not a number above 0"),
        (["--benchmark", "pocket-test", "evaluate.benchmark.x=1"], "unknown key; did you mean evaluate.benchmarks"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, problems, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert evaluate("pocket", *words) == 2
    assert re.search(says, capsys.readouterr().err)
