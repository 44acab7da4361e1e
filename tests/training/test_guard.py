"""A guard measures what it says, keeps the best student and stops in time; one that decides nothing changes nothing."""

import json

import pytest
import torch
from recipe_texts import POCKET
from refreshing import OTHERS, Watch, inputs_for, outcome, recipe_for
from safetensors.torch import load_file

from ssb_unsloth.backends.chat_template import render, stop_ids
from ssb_unsloth.backends.transformers import add_lora
from ssb_unsloth.data.problems import load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import GrpoConfig, ProblemsConfig
from ssb_unsloth.records import Problem
from ssb_unsloth.run import clock
from ssb_unsloth.training import grpo, sft, ssb
from ssb_unsloth.training.grpo import train_grpo
from ssb_unsloth.training.guard import best_step, held_out
from ssb_unsloth.training.sft import train_sft
from ssb_unsloth.training.ssb import train_ssb
from ssb_unsloth.verifier import verifiers

ONLY_LOOKS = {"keep": "last", "every": 2, "questions": 8}
KEEPS = {"keep": "best", "every": 2, "questions": 8}
STOPS = {"keep": "best", "every": 1, "questions": 8, "patience": 2}
TEACH = {"replies": "wrong"}
ASKED = [Problem(f"g{i}", f"Question {i}?", str(i)) for i in range(20)]  # of GRPO: one pass over the first 12
LEAST = GrpoConfig(
    questions=12, questions_per_step=2, generations=4, max_tokens=6, learning_rate=1e-2, micro_batch_size=4, steps=6
)


@pytest.fixture
def run(make_model, tokenizer, monkeypatch):
    """run(folder, at=0, **recipe): train by it, ending after step `at`. Returns the folder's outcome."""
    monkeypatch.setitem(verifiers.VERIFIERS, "parity", "parity")
    for module in (ssb, sft, grpo):
        monkeypatch.setattr(module, "Bar", Watch)

    def do(folder, at=0, **recipe):
        monkeypatch.setattr(Watch, "at", at)
        monkeypatch.setattr(Watch, "epochs", [])
        monkeypatch.setattr(Watch, "weights", {})
        recipe = recipe_for(**{"teach": TEACH, **recipe})
        inputs, model = inputs_for(folder, recipe, tokenizer), make_model("qwen2")
        if recipe.train.method == "sft":
            replies = [(one.student_ids, one.reply_ids) for one in inputs.examples]
            return outcome(folder, train_sft(inputs, model, replies))
        if recipe.train.method == "grpo":
            return outcome(folder, train_grpo(inputs, model, ASKED))
        return outcome(folder, train_ssb(inputs, add_lora(model, recipe.train.lora, 5, False), None))

    return do


def accuracies(history):
    return {row["step"]: row["probe_accuracy"] for row in json.loads(history) if "probe_accuracy" in row}


def saved(folder):
    """The adapter that is saved, by the names of the trainer's model."""
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {name.replace("weight", "default.weight"): weight for name, weight in weights.items()}


def assert_is_of(folder, step):
    kept = saved(folder)
    assert kept.keys() == Watch.weights[step].keys()
    assert all(torch.equal(kept[name], weight) for name, weight in Watch.weights[step].items())


def test_a_guard_that_decides_nothing_changes_nothing(run, tmp_path):
    looked = run(tmp_path / "a", guard=ONLY_LOOKS, probe_steps=3)
    without = run(tmp_path / "b", probe_steps=3)
    assert looked[0] == without[0]
    assert looked[2:] == without[2:]  # nor is it charged
    rows = [row for row in json.loads(looked[1]) if "probe_accuracy" not in row]
    assert rows == json.loads(without[1])
    assert list(accuracies(looked[1])) == [0, 2, 4, 6, 8, 9]


def test_its_time_counts_as_training_only_where_it_decides(run, tmp_path, monkeypatch):
    for number, (guard, measured) in enumerate(((ONLY_LOOKS, True), (KEEPS, False))):
        monkeypatch.setattr(clock, "_spent", {})
        run(tmp_path / str(number), guard=guard)
        assert (clock.MEASURING in clock._spent) == measured


def test_accuracy_is_the_share_of_greedy_replies_that_are_right(run, tmp_path, make_model, tokenizer):
    _, history, _, _ = run(tmp_path / "a", guard=ONLY_LOOKS)
    model, right = make_model("qwen2"), 0
    stops = stop_ids(tokenizer, model.generation_config)
    for problem in OTHERS:
        ids = torch.tensor([render(tokenizer, student_messages(problem.question))])
        out = model.generate(ids, do_sample=False, max_new_tokens=8, eos_token_id=stops, pad_token_id=0)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        right += len(text) % 2 == 0
    assert accuracies(history)[0] == right / len(OTHERS)
    assert len(set(accuracies(history).values())) > 1


def test_the_best_student_is_saved_of_equally_good_ones_the_earliest(run, tmp_path):
    _, history, _, summary = run(tmp_path / "a", guard=KEEPS)
    measured = {step: value for step, value in accuracies(history).items() if step}
    best = min(step for step, value in measured.items() if value == max(measured.values()))
    assert summary["kept_step"] == best
    assert best < 9, "else the test shows nothing"
    assert_is_of(tmp_path / "a", best)
    assert summary["steps"] == 9
    assert "stopped_step" not in summary
    assert summary["sampled_tokens"] == sum(row.get("probe_tokens", 0) for row in json.loads(history))


@pytest.mark.parametrize("method", ["ssb", "sft", "grpo"])
def test_training_stops_where_nothing_gets_better_and_resumes_to_the_same_end(run, tmp_path, method):
    guard = {**STOPS, "questions": 4} if method == "grpo" else STOPS
    more = {"guard": guard, "method": method, "save_steps": 2, "learning_rate": 3e-2, "grpo": LEAST, "epochs": 4}
    expected = run(tmp_path / "whole", **more)
    summary, measured = expected[3], accuracies(expected[1])
    steps = [step for step in measured if step]
    end = steps[-1]
    best = max(steps, key=lambda step: (measured[step], -step))
    assert summary["kept_step"] == best
    assert summary["stopped_step"] == summary["steps"] == end == best + 2 < (6 if method == "grpo" else 12)
    assert_is_of(tmp_path / "whole", best)
    for at in {1, best, end - 1}:
        folder = tmp_path / f"{at}"
        with pytest.raises(KeyboardInterrupt):
            run(folder, at, **more)
        assert run(folder, **more) == expected, at
    assert run(tmp_path / "whole", **more) == expected  # it is over, and not done again


def test_of_students_that_were_best_before_only_those_are_on_the_disk_that_a_resume_can_need(run, tmp_path):
    _, history, _, _ = run(tmp_path / "a", guard={**KEEPS, "every": 1}, save_steps=2, learning_rate=3e-2)
    log, folder = json.loads(history), tmp_path / "a" / "checkpoints"
    resumable = [int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")]
    kept = {int(path.stem.split("-")[1]) for path in folder.glob("best-*")}
    assert kept == {best_step(log, step) for step in resumable}


def test_the_best_step_is_the_first_of_the_highest():
    log = [{"step": step, "probe_accuracy": value} for step, value in ((0, 0.9), (2, 0.5), (4, 0.7), (6, 0.7))]
    assert [best_step(log, until) for until in (0, 1, 2, 4, 6, None)] == [None, None, 2, 4, 4, 4]


def test_it_asks_problems_that_were_not_sampled_and_then_unpaired_ones():
    problems = ProblemsConfig(source="pocket", limit=20)
    every = load_problems(problems)
    seen, unpaired = {one.id for one in every[:15]}, every[3:10]
    assert held_out(problems, seen, unpaired, 4) == every[15:19]
    assert held_out(problems, seen, unpaired, 8) == [*every[15:], *every[7:10]]
    assert held_out(problems, seen, unpaired, 99) == [*every[15:], *unpaired]
    assert held_out(problems, seen, [], 5) == every[15:]


def test_without_a_question_it_is_refused(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("refreshing.OTHERS", [])
    with pytest.raises(UserError, match=r"train\.guard: no question is left that is not trained on"):
        run(tmp_path / "a", guard=KEEPS)
    monkeypatch.setattr("refreshing.OTHERS", [Problem("h", "A question?", "1")])
    run(tmp_path / "b", guard=KEEPS)
    assert "train.guard: 1 questions; there are no more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.guard.questions=0", "train.guard.questions: 0 is not a number above 0"),
        ("train.guard.every=0", "train.guard.every: 0 is not a number above 0"),
        ("train.guard.patience=0", "train.guard.patience: 0 is not a number above 0"),
        ("train.guard.keep=first", "train.guard.keep: .*best or last"),
        ("train.guard.patient=1", r"did you mean train\.guard\.patience\?"),
    ],
)
def test_a_guard_that_cannot_be_is_refused(override, complaint):
    with pytest.raises(UserError, match=complaint):
        load(POCKET, [override])
