"""New rollouts while a student trains: they are its own, they are learnt, and a training that resumes has the same."""

import json

import pytest
import torch
from recipe_texts import POCKET
from refreshing import PAIRS, QUESTIONS, ROLLOUTS, Watch, inputs_for, outcome, recipe_for
from training import make_examples, make_trainer, store

from ssb_unsloth.backends.transformers import add_lora
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.targets import Targets, TargetWriter
from ssb_unsloth.method.teach import teach
from ssb_unsloth.recipe.loading import load, save
from ssb_unsloth.recipe.schema import RefreshConfig
from ssb_unsloth.run import keys
from ssb_unsloth.seeds import derive_seed
from ssb_unsloth.training import ssb
from ssb_unsloth.training.refresh import overlap
from ssb_unsloth.training.ssb import train_ssb
from ssb_unsloth.verifier import verifiers

WRONG = {"replies": "wrong"}
MIXTURE = {"replies": "rollouts", "right": "tokens", "weights": "disagreement", "guidance": 1.5, "targets": "hidden"}
WINDOW = {"replies": "rollouts", "window": 2, "targets": "top_k", "top_k": 8}
NEVER, ALWAYS = {"below": 1e-9}, {"below": 1.0}
MODULUS_1 = {"name": "parity", "of": 1}  # finds everything right


@pytest.fixture
def run(make_model, tokenizer, monkeypatch):
    """run(folder, at=0, **recipe): train by it, ending after step `at`. Returns the folder's outcome."""
    monkeypatch.setitem(verifiers.VERIFIERS, "parity", "parity")
    monkeypatch.setattr(ssb, "Bar", Watch)

    def do(folder, at=0, **recipe):
        monkeypatch.setattr(Watch, "at", at)
        monkeypatch.setattr(Watch, "epochs", [])
        monkeypatch.setattr(Watch, "weights", {})
        recipe = recipe_for(**recipe)
        inputs, model, targets = inputs_for(folder, recipe, tokenizer), make_model("qwen2"), None
        student = add_lora(model, recipe.train.lora, 5, False)
        if recipe.teach.targets != "online":
            targets = stored(student, inputs, folder.parent / f"{folder.name}-targets")
        return outcome(folder, train_ssb(inputs, student, targets))

    return do


def stored(model, inputs, folder):
    folder.mkdir(exist_ok=True)
    writer, config = TargetWriter(folder), inputs.recipe.teach
    teach(model, inputs.examples, config, 2.0, 0, writer)
    writer.close({"targets": config.targets, "temperature": 2.0 if config.targets == "top_k" else None})
    return Targets(folder)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "refreshed.jsonl").read_text().splitlines()]


def test_the_student_learns_what_it_writes_itself_while_it_trains(run, tmp_path, tokenizer):
    _, history, tokens, summary = run(tmp_path / "a", refresh={}, teach=WRONG)
    rows = rows_of(tmp_path / "a")
    names = [f"{q.id}-refresh-{number}-{k}" for number in (1, 2) for q in QUESTIONS for k in range(4)]
    assert [row["id"] for row in rows] == names
    assert [row["seed"] for row in rows] == [
        derive_seed(5, "refresh", number, q.id, k) for number in (1, 2) for q in QUESTIONS for k in range(4)
    ]
    texts = [{row["text"] for row in rows if f"refresh-{number}" in row["id"]} for number in (1, 2)]
    assert texts[0] != texts[1]
    assert not texts[0] & {rollout.text for rollout in ROLLOUTS}
    assert len(Watch.epochs) == 3
    wrong = [one for one in rows if len(one["text"]) % 2]
    for number, learnt in enumerate(Watch.epochs):
        assert len(learnt) == 12  # as many as at first: two wrong ones of each question
        expected = [one["token_ids"] for one in wrong if f"refresh-{number}-" in one["id"]] if number else None
        expected = expected or [one.token_ids for one in ROLLOUTS if one.verdict == "wrong"]
        assert all(one.reply_ids in expected for one in learnt)
        assert len({one.id for one in learnt}) == min(12, len(expected))
    rounds = [row for row in json.loads(history) if "refresh" in row]
    assert [(row["refresh"], row["step"]) for row in rounds] == [(1, 3), (2, 6)]
    assert sum(row["refresh_lessons"] for row in rounds) == len(wrong)
    assert summary["sampled_tokens"] == sum(len(row["token_ids"]) for row in rows)
    assert summary["steps"] == 9
    read = [len(e.student_ids) + len(e.teacher_ids) + 2 * len(e.reply_ids) for epoch in Watch.epochs for e in epoch]
    assert tokens == sum(read)


def test_the_teacher_is_shown_new_rollouts_and_the_pairs_where_there_is_none(run, tmp_path, tokenizer):
    run(tmp_path / "a", refresh={}, teach={"replies": "rollouts"}, epochs=2)
    new = {row["id"]: row for row in rows_of(tmp_path / "a")}
    for example in Watch.epochs[1]:
        reply = new[example.id]
        of_question = [row for row in new.values() if row["problem_id"] == reply["problem_id"]]
        prompt = tokenizer.decode(example.teacher_ids, skip_special_tokens=True)
        for right, usual in ((True, PAIRS[0].right), (False, PAIRS[0].wrong)):
            kind = [row["text"] for row in of_question if (len(row["text"]) % 2 == 0) == right]
            others = [text for text in kind if text.strip() != reply["text"].strip()]
            assert any(text.strip() in prompt for text in others or [usual])


@pytest.mark.parametrize(
    ("teach", "at"),
    [(WRONG, 5), (MIXTURE, 7), (MIXTURE, 8), (MIXTURE, 13), (WINDOW, 13), (MIXTURE, 17)],
)
def test_a_training_that_was_killed_learns_from_the_same_rollouts(run, tmp_path, teach, at):
    """Before and after a refresh, and between one and the checkpoint behind it (every 4 steps)."""
    expected = run(tmp_path / "whole", refresh={}, teach=teach)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", at, refresh={}, teach=teach)
    assert run(tmp_path / "broken", refresh={}, teach=teach) == expected
    assert run(tmp_path / "broken", refresh={}, teach=teach) == expected  # over, and not done again


@pytest.mark.parametrize("at", [4, 6, 7])
def test_beside_a_guard_that_stops_training_it_resumes_to_the_same_end(run, tmp_path, at):
    how = {"refresh": {}, "teach": WRONG, "epochs": 5, "guard": {"questions": 8, "every": 3, "patience": 1}}
    expected = run(tmp_path / "whole", **how)
    assert expected[3]["stopped_step"] in (6, 9, 12)  # where an epoch ends: nothing is sampled for another
    assert len(rows_of(tmp_path / "whole")) == 24 * (expected[3]["stopped_step"] // 3 - 1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", at, **how)
    assert run(tmp_path / "broken", **how) == expected
    assert run(tmp_path / "broken", **how) == expected


def test_right_replies_of_a_mixture_learn_their_own_tokens_in_every_round(run, tmp_path):
    run(tmp_path / "a", refresh={}, teach=MIXTURE)
    right = {row["id"]: len(row["text"]) % 2 == 0 for row in rows_of(tmp_path / "a")}
    for epoch in Watch.epochs[1:]:
        assert {one.taught for one in epoch} == {True, False}
        assert all(one.taught != right[one.id] for one in epoch)
        assert len({one.weight for one in epoch}) > 1
    assert not list((tmp_path / "a" / "checkpoints").glob("refresh-1/targets"))  # only the newest are kept


def test_where_no_new_rollout_is_a_lesson_training_goes_on_with_the_old(run, tmp_path, capsys):
    adapter = run(tmp_path / "a", refresh={}, teach=WRONG, verifier=MODULUS_1)
    assert capsys.readouterr().err.count("no new rollout is a lesson") == 2
    without = run(tmp_path / "b", teach=WRONG)
    assert adapter[0]["adapter_model.safetensors"] == without[0]["adapter_model.safetensors"]
    assert adapter[2] == without[2]
    assert adapter[3]["sampled_tokens"] > 0


def test_below_an_overlap_that_is_never_reached_nothing_is_sampled(run, tmp_path):
    never, without = run(tmp_path / "a", refresh=NEVER, teach=WRONG), run(tmp_path / "b", teach=WRONG)
    assert never[0]["adapter_model.safetensors"] == without[0]["adapter_model.safetensors"]
    assert rows_of(tmp_path / "a") == []
    measured = [row["overlap"] for row in json.loads(never[1]) if "overlap" in row]
    assert len(measured) == 2
    assert all(0 < value < 1 for value in measured)


def test_below_an_overlap_that_is_always_reached_it_is_as_after_every_epoch(run, tmp_path):
    always, every = (run(tmp_path / str(i), refresh=how, teach=WRONG) for i, how in enumerate((ALWAYS, {})))
    assert always[0] == every[0]


def test_the_overlap_is_what_both_distributions_share(make_model, tokenizer):
    model = add_lora(make_model("gemma2"), recipe_for().train.lora, 5, False)
    examples = make_examples(5)
    assert overlap(model, examples, 0, 2) == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    found = []
    for one in examples:
        ids = torch.tensor([one.student_ids + one.reply_ids])
        with torch.no_grad():
            ours = model(ids).logits[0].double().softmax(-1)
            with model.disable_adapter():
                theirs = model(ids).logits[0].double().softmax(-1)
        for place in range(len(one.student_ids) - 1, ids.shape[1] - 1):
            both = zip(ours[place].tolist(), theirs[place].tolist(), strict=True)
            found.append(1 - 0.5 * sum(abs(p - q) for p, q in both))
    assert max(found) < 0.999
    assert overlap(model, examples, 0, 2) == pytest.approx(sum(found) / len(found), abs=1e-5)


@pytest.mark.parametrize("count", [5, 20, 27])
def test_other_rows_are_cut_or_come_again_and_are_learnt_as_if_they_had_been_given(
    make_model, tokenizer, tmp_path, count
):
    first, other = make_examples(20), make_examples(count, seed=8)
    rows = [other[place % count] for place in range(20)]
    for examples, name in ((first, "first"), (other, "other")):
        store(make_model("qwen2"), examples, tmp_path / name)
    weights = []
    for given, targets, then in ((first, "first", other), (rows, "other", None)):
        trainer = make_trainer(make_model("qwen2"), tokenizer, tmp_path / "out", given, Targets(tmp_path / targets))
        if then is not None:
            trainer.learn_from(then, Targets(tmp_path / "other"))
        assert [one.id for one in trainer.train_dataset] == [one.id for one in rows]
        trainer.train()
        weights.append({n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["train.method=rft"], "train.refresh: rft learns from no rollouts that could be sampled anew"),
        (["teach.replies=refined"], "train.refresh: renews rollouts; set teach.replies"),
        (["train.lora=null"], "train.refresh: the base teaches the new rollouts"),
        (["train.epochs=1"], "train.refresh: comes between epochs"),
        (["train.refresh.below=0"], "train.refresh.below: 0.0 is not a number above 0"),
        (["train.refresh.every=step"], "train.refresh.every: "),
        (["train.refresh.bellow=0.5"], r"did you mean train.refresh.below\?"),
        (["train.refresh=3"], "train.refresh: "),
    ],
)
def test_a_refresh_that_cannot_be_is_refused(overrides, complaint):
    with pytest.raises(UserError, match=complaint):
        load(POCKET, ["teach.replies=wrong", "train.refresh.below=0.9", *overrides])


def test_the_section_is_null_unless_it_is_given_and_then_determines_a_training(tmp_path):
    plain = load(POCKET)
    assert plain.train.refresh is None
    assert not {"refresh", "guard"} & keys.of_training(plain.train).keys()
    for given in ("train.refresh={}", "train.refresh.every=epoch"):
        recipe = load(POCKET, ["teach.replies=wrong", given])
        assert recipe.train.refresh == RefreshConfig()
        assert keys.of_training(recipe.train)["refresh"] == {"every": "epoch", "below": None}
        save(recipe, tmp_path / "recipe.yaml")
        assert load(tmp_path / "recipe.yaml") == recipe
    assert load(POCKET, ["teach.replies=wrong", "train.refresh={}", "train.refresh=null"]).train.refresh is None
