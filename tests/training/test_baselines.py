"""The controls: what each learns from, that TRL computes the loss we say it does, and that all train."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from training import inputs_of
from transformers import TrainerCallback, set_seed

from ssb_unsloth.backends.chat_template import stop_ids
from ssb_unsloth.backends.transformers import add_lora
from ssb_unsloth.data.problems import load_problems
from ssb_unsloth.errors import UserError
from ssb_unsloth.method.collator import Example
from ssb_unsloth.prompts import student_messages
from ssb_unsloth.recipe.loading import load
from ssb_unsloth.recipe.schema import GrpoConfig, LoraConfig, ModelConfig, ProblemsConfig, TrainConfig
from ssb_unsloth.records import Pair, Problem, Rollout
from ssb_unsloth.training import grpo, sft, ssb
from ssb_unsloth.training.common import Trained, lora
from ssb_unsloth.training.grpo import train_grpo
from ssb_unsloth.training.log_probs import PlainLogProbs
from ssb_unsloth.training.sft import train_sft
from ssb_unsloth.training.ssb import train_ssb

ROOT = Path(__file__).parents[2]
QUESTIONS = [Problem(f"q{i}", f"Question {i}?", str(i)) for i in range(6)]
VERDICTS = {  # of each question's rollouts
    "q0": ["right", "wrong", "right", "wrong"],
    "q1": ["right", "right", "right", "right"],
    "q2": ["wrong", "wrong", "wrong", "wrong"],
    "q3": ["wrong", "right", "truncated", "no_answer"],
    "q4": ["right", "wrong", "right", "right"],
    "q5": ["wrong", "wrong", "wrong", "right"],
}
ROLLOUTS = [
    Rollout(f"{q}-{k}", q, f"{q} {k}", [5 + int(q[1]), 20 + k, 2], "stop", k, verdict, "1")
    for q, verdicts in VERDICTS.items()
    for k, verdict in enumerate(verdicts)
]


def pair(question, reply_ids=(7, 8, 2)):
    q = next(p for p in QUESTIONS if p.id == question)
    return Pair(f"p{question}", q.id, q.question, q.gold, "right", "wrong", "refined", list(reply_ids), "r", "w", "f")


PAIRS = [pair("q0"), pair("q3"), pair("q4")]


def drawn(method, pairs=PAIRS, questions=QUESTIONS, rollouts=ROLLOUTS, seed=1):
    return sft.draw(method, pairs, questions, rollouts, seed)


def learnt(tokenizer, method, pairs=PAIRS, rollouts=ROLLOUTS):
    """(text of the prompt, ids of the reply) for each example."""
    recipe = load(ROOT / "recipes" / "pocket.yaml", [f"train.method={method}"])
    given = inputs_of("nowhere", recipe=recipe, pairs=pairs, questions=QUESTIONS, rollouts=rollouts)
    return [(tokenizer.decode(prompt), reply) for prompt, reply in sft.learnt_from(given)]


def prompt_of(tokenizer, question):
    messages = student_messages(question)
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


# -- What each method learns from -------------------------------------------------------------------------------------


def test_sft_learns_the_pairs_own_ids_after_the_bare_question(tokenizer):
    assert learnt(tokenizer, "sft", rollouts=[]) == [(prompt_of(tokenizer, p.question), p.reply_ids) for p in PAIRS]


@pytest.mark.parametrize("method", ["rft", "ssd"])
def test_rollouts_are_learnt_by_their_own_ids_after_the_bare_question(tokenizer, method):
    expected = [(prompt_of(tokenizer, question), r.token_ids) for question, r in drawn(method, seed=3407)]
    assert learnt(tokenizer, method) == expected


def test_rft_takes_one_right_rollout_of_each_pairs_question():
    found = drawn("rft")
    assert [question for question, _ in found] == [p.question for p in PAIRS]
    assert all(rollout.verdict == "right" for _, rollout in found)
    assert [rollout.problem_id for _, rollout in found] == [p.problem_id for p in PAIRS]


def test_rft_takes_another_right_rollout_for_another_pair_of_the_same_question():
    found = [rollout.id for _, rollout in drawn("rft", [pair("q0"), pair("q4"), pair("q0"), pair("q4")])]
    assert len(set(found)) == 4
    assert sorted(id[:2] for id in found) == ["q0", "q0", "q4", "q4"]


def test_ssd_takes_the_first_questions_whatever_their_verdicts():
    verdicts = set()
    for seed in range(8):
        found = drawn("ssd", seed=seed)
        assert [rollout.problem_id for _, rollout in found] == ["q0", "q1", "q2"]
        verdicts |= {rollout.verdict for _, rollout in found}
    assert verdicts == {"right", "wrong"}


def test_ssd_does_not_depend_on_a_verdict():
    blind = [Rollout(**{**vars(r), "verdict": "wrong"}) for r in ROLLOUTS]
    assert [r.id for _, r in drawn("ssd", rollouts=blind)] == [r.id for _, r in drawn("ssd")]


@pytest.mark.parametrize("method", ["rft", "ssd"])
def test_the_seed_decides_which_rollouts(method):
    assert drawn(method, seed=1) == drawn(method, seed=1)
    assert len({str(drawn(method, seed=seed)) for seed in range(8)}) > 1


def test_fewer_rollouts_than_pairs_are_said(capsys):
    assert len(drawn("rft", [pair("q3"), pair("q3")])) == 1
    assert "1 examples, where there are 2 pairs" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["rft", "ssd"])
def test_no_rollouts_at_all_is_a_users_mistake(method):
    with pytest.raises(UserError, match=f"train.method: {method}"):
        drawn(method, rollouts=[])


def test_a_rollout_brought_along_as_text_ends_its_turn_unless_it_was_cut_off(tokenizer):
    for finish, ending in (("stop", [tokenizer.eos_token_id]), ("length", [])):
        rollout = Rollout("a", "q0", "So 1+2=3.", None, finish, None, "right", "3")
        ((_, ids),) = learnt(tokenizer, "rft", [pair("q0")], [rollout])
        assert ids == tokenizer.encode("So 1+2=3.", add_special_tokens=False) + ending


# -- The loss ---------------------------------------------------------------------------------------------------------


def config(**settings):
    return TrainConfig(lora=LoraConfig(r=4, alpha=8, target_modules=["q_proj", "v_proj"]), **settings)


SHORT = [("How many?", [9, 10, 11, 12, 13, 14, 2]), ("1+1?", [30, 2]), ("And 7?", [40, 41, 42, 2]), ("", [50])]


def examples(tokenizer):
    return [(tokenizer.encode(prompt_of(tokenizer, question)), reply) for question, reply in SHORT]


def run_sft(model, tokenizer, settings, folder, probes=()):
    given = inputs_of(folder, settings, tokenizer=tokenizer, probes=probes)
    return train_sft(given, model, examples(tokenizer))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "cohere"])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_sft_is_the_mean_cross_entropy_over_the_steps_reply_tokens(make_model, tokenizer, tmp_path, family, micro):
    """Against float64 log-probabilities, example by example, of a model that no trainer has touched."""
    model, total, tokens = make_model(family), 0.0, 0
    for question, reply in SHORT:
        prompt = tokenizer.encode(prompt_of(tokenizer, question))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + reply])).logits[0].double()
        for j, token in enumerate(reply):
            total -= torch.softmax(logits[len(prompt) - 1 + j], -1)[token].log().item()
        tokens += len(reply)
    trained = run_sft(make_model(family), tokenizer, config(epochs=1, micro_batch_size=micro), tmp_path)
    assert trained.history[0]["loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert trained.history[0]["step"] == 1


def test_a_run_of_sft_leaves_the_adapter_and_the_papers_curves(make_model, tokenizer, tmp_path):
    settings = config(epochs=6, learning_rate=5e-2, probe_steps=3, save_steps=2)
    result = run_sft(make_model("qwen2"), tokenizer, settings, tmp_path, QUESTIONS[:2])
    steps = [row for row in result.history if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "grad_norm", "learning_rate"} <= set(steps[0])
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert [row["step"] for row in result.history if "reply_tokens" in row] == [0, 3, 6]
    assert all("entropy" in row for row in steps)  # the length probe does not swallow a step's figures
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


def test_sft_resumes_from_a_checkpoint(make_model, tokenizer, tmp_path, monkeypatch):
    """Stopped after 2 of 4 steps and resumed, the adapter is that of an unbroken run."""
    settings = config(epochs=4, learning_rate=1e-2, save_steps=2)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    whole = run_sft(make_model("qwen2"), tokenizer, settings, tmp_path / "whole")
    monkeypatch.setattr(sft, "Bar", Stop)
    with pytest.raises(KeyboardInterrupt):
        run_sft(make_model("qwen2"), tokenizer, settings, tmp_path / "broken")
    monkeypatch.undo()
    again = run_sft(make_model("qwen2"), tokenizer, settings, tmp_path / "broken")
    losses = [[row["loss"] for row in result.history if "loss" in row] for result in (whole, again)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    adapters = [(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "broken")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_every_method_starts_from_the_same_adapter_and_takes_steps_the_same_way(make_model, tokenizer, tmp_path):
    """But for GRPO's learning rate, batch and single pass over its questions, which its own keys state."""
    settings = config(grpo=GrpoConfig(**GRPO), weight_decay=0.01, warmup_steps=3, max_grad_norm=0.7)
    students, arguments = [add_lora(make_model("qwen2"), settings.lora, 5, False)], []

    def keep(trainer, *_):
        students.append(trainer.model)
        arguments.append(trainer.args)
        return Trained(trainer.model, [{"rollout_tokens": 0, "step": 1}], 0, 0)

    with pytest.MonkeyPatch.context() as patch:
        for module in (ssb, sft, grpo):
            patch.setattr(module, "fit", keep)
        given = inputs_of(tmp_path, settings, tokenizer=tokenizer, examples=[Example("a", [5], [6], [7])], probes=[])
        train_ssb(given, students[0], None)
        train_sft(given, make_model("qwen2"), examples(tokenizer))
        questions = [Problem(f"g{i}", f"Question {i}?", str(i)) for i in range(12)]
        train_grpo(given, make_model("qwen2"), questions)
    first, *others = [
        {name: p.detach() for name, p in student.named_parameters() if p.requires_grad} for student in students
    ]
    assert len(first) == 8
    for adapter in others:
        assert adapter.keys() == first.keys()
        assert all(torch.equal(adapter[name], first[name]) for name in first)
    how = "optim adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm lr_scheduler_type warmup_steps"
    for name in (*how.split(), "seed", "data_seed"):
        assert len({str(getattr(a, name)) for a in arguments}) == 1, name
    for name in ("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"):
        assert getattr(arguments[0], name) == getattr(arguments[1], name), name
    assert (arguments[2].learning_rate, arguments[2].num_train_epochs) == (GRPO["learning_rate"], 1)


# -- TRL's log-probabilities on a CPU ---------------------------------------------------------------------------------


INTERPRETED = """
import torch
from trl.kernels import ChunkedLogProbFunction
from ssb_unsloth.training.log_probs import PlainLogProbs
FIELDS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
for softcap, scale, temperature, biased in ((None, 1.0, 1.0, False), (3.0, 0.5, 0.7, True)):
    got = []
    for function in (ChunkedLogProbFunction, PlainLogProbs):
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(5, 8, generator=generator).requires_grad_()
        weight = torch.randn(40, 8, generator=generator).requires_grad_()
        bias = torch.randn(40, generator=generator).requires_grad_() if biased else None
        targets = torch.tensor([0, 39, 7, 7, 21])
        with torch.no_grad():  # one target that is the likeliest word
            weight[39] = 3 * hidden[1]
        out = function.apply(hidden, weight, bias, targets, temperature, 16, softcap, scale, FIELDS)
        (out[0] * torch.arange(5.0) + 0.3 * out[1]).sum().backward()
        got.append([*out, hidden.grad, weight.grad, *([bias.grad] if biased else [])])
    assert bool(got[0][4].any()) and not bool(got[0][4].all())
    for kernel, plain in zip(*got, strict=True):
        torch.testing.assert_close(plain.float(), kernel.float(), rtol=1e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_plain_log_probabilities_are_the_kernels(monkeypatch):
    """Values and gradients, with and without soft cap, scale, temperature and bias; the kernels are interpreted."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when triton is imported: hence another process
    done = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


def test_fields_that_nobody_asks_for_are_left_out():
    out = PlainLogProbs.apply(torch.ones(2, 3), torch.ones(4, 3), None, torch.tensor([0, 1]), 1.0, 8)
    torch.testing.assert_close(out[0], torch.full((2,), -(torch.tensor(4.0).log().item())))
    assert out[1:] == (None, None, None, None)


# -- GRPO -------------------------------------------------------------------------------------------------------------


class Even:
    """A stand-in for the verifier, since no random model boxes an answer: right where the last word's id is even."""

    __name__ = "verifier"

    def __init__(self, *_):
        pass

    def __call__(self, completion_ids, **_):
        return [float(ids[-1] % 2 == 0) for ids in completion_ids]


GRPO = {"questions": 10, "questions_per_step": 2, "generations": 4, "max_tokens": 6, "learning_rate": 1e-2}


def run_grpo(make_model, tokenizer, folder, **settings):
    shared = {"probe_steps": 0, "save_steps": 50, "gradient_checkpointing": False}
    shared |= {name: settings.pop(name) for name in shared if name in settings}
    whole = config(method="grpo", grpo=GrpoConfig(**{**GRPO, **settings}), probe_questions=2, **shared)
    questions = [Problem(f"g{i}", f"Question {i}?", str(i)) for i in range(12)]
    return train_grpo(inputs_of(folder, whole, tokenizer=tokenizer), make_model("qwen2"), questions)


def test_the_reward_is_the_verifiers_verdict_on_the_last_box(make_model, tokenizer):
    def ids(text, ended=True):
        return tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id] * ended

    replies = [
        (ids("So \\boxed{3}."), "3", 1),
        (ids("So \\boxed{4}."), "3", 0),
        (ids("\\boxed{3} no, \\boxed{4}."), "3", 0),
        (ids("So 3."), "3", 0),
        (ids("So \\boxed{3}.", ended=False), "3", 0),  # cut off
        ([], "3", 0),
    ]
    given, golds, expected = zip(*replies, strict=True)
    reward = grpo.Reward(tokenizer, stop_ids(tokenizer), "math")
    assert reward(completion_ids=given, gold=golds, prompts=None) == list(expected)


def test_a_run_of_grpo_leaves_the_adapter_and_its_curves(make_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo, "Reward", Even)
    result = run_grpo(make_model, tokenizer, tmp_path, probe_steps=5, steps=10)
    steps = [row for row in result.history if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 11))
    kept = {"loss", "grad_norm", "learning_rate", "reward", "reward_std", "same_reward", "rollout_tokens"}
    assert kept | {"rollout_truncated"} <= set(steps[0])
    assert [row["step"] for row in result.history if "reply_tokens" in row] == [0, 5, 10]
    assert result.sampled_tokens == sum(row["rollout_tokens"] for row in steps) * 8
    assert result.tokens > result.sampled_tokens
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_grpo_raises_the_pockets_reward(tokenizer, tmp_path):
    """The real verifier, the real model: in 20 steps over 16 questions the share of right rollouts about doubles."""
    from ssb_unsloth.backends.transformers import load_model

    own = GrpoConfig(questions=16, steps=20, max_tokens=96, learning_rate=2e-3)
    settings = TrainConfig(method="grpo", grpo=own, probe_steps=0)
    result = train_grpo(
        inputs_of(tmp_path, settings, seed=3407, tokenizer=tokenizer),
        load_model(ModelConfig("pocket", dtype="float32")),
        load_problems(ProblemsConfig("pocket", split="bootstrap", limit=16)),
    )
    rewards = [row["reward"] for row in result.history if "reward" in row]
    assert len(rewards) == 20
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.15


def test_the_first_step_of_grpo_is_the_policy_gradient(make_model, tokenizer, tmp_path, monkeypatch):
    """Its gradient against one taken here: -mean over tokens of advantage x log-probability, at temperature 1."""
    seen = {}

    class Recording(Even):
        def __call__(self, completion_ids, prompts, **_):
            seen["replies"], seen["prompts"] = [list(ids) for ids in completion_ids], prompts
            return super().__call__(completion_ids)

    monkeypatch.setattr(grpo, "Reward", Recording)
    result = run_grpo(make_model, tokenizer, tmp_path, steps=1)
    base = make_model("qwen2")
    set_seed(5)
    model = get_peft_model(base, lora(config(), base))
    rewards = torch.tensor(Even()(seen["replies"])).view(2, 4)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).view(-1)
    total = 0.0
    for messages, reply, advantage in zip(seen["prompts"], seen["replies"], advantages, strict=True):
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        log_probs = model(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
        for j, token in enumerate(reply):
            total = total - advantage * log_probs[len(prompt) - 1 + j, token]
    (total / sum(map(len, seen["replies"]))).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
    assert norm > 0
    assert result.history[0]["grad_norm"] == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("settings", [{"micro_batch_size": 2}, {"gradient_checkpointing": True}])
def test_how_a_step_is_computed_does_not_change_it(make_model, tokenizer, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(grpo, "Reward", Even)
    plain = run_grpo(make_model, tokenizer, tmp_path / "plain", steps=3)
    other = run_grpo(make_model, tokenizer, tmp_path / "other", steps=3, **settings)
    norms = [[row["grad_norm"] for row in result.history if "loss" in row] for result in (plain, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_rewards_that_are_all_equal_end_in_a_sentence(make_model, tokenizer, tmp_path, monkeypatch, capsys):
    run_grpo(make_model, tokenizer, tmp_path / "few")  # a handful of steps, which may be chance
    assert "GRPO learns nothing here: in 5 steps every reply was wrong" in capsys.readouterr().err
    monkeypatch.setattr(grpo, "FEW", 0)
    with pytest.raises(UserError, match=r"in 5 steps every reply was wrong \(mean reward 0\.00\)"):
        run_grpo(make_model, tokenizer, tmp_path)


def test_a_long_run_without_a_difference_is_given_up_early(make_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo, "PATIENCE", 3)
    monkeypatch.setattr(grpo, "FEW", 0)
    with pytest.raises(UserError, match="in 3 steps every reply was wrong"):
        run_grpo(make_model, tokenizer, tmp_path, steps=20)


def test_too_few_problems_for_a_step_are_named(make_model, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"train\.grpo\.questions_per_step: a step takes 11"):
        run_grpo(make_model, tokenizer, tmp_path, questions_per_step=11)


@pytest.mark.parametrize("more", [{}, {"questions": 4, "questions_per_step": 2, "steps": 5}], ids=["within", "passes"])
def test_grpo_resumes_from_a_checkpoint(make_model, tokenizer, tmp_path, monkeypatch, more):
    """Stopped after step 3 and resumed from step 2, the run ends where an unbroken one does; also where a pass over the
    questions ends there."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(grpo, "Reward", Even)
    whole = run_grpo(make_model, tokenizer, tmp_path / "whole", save_steps=2, **more)
    with monkeypatch.context() as patch:
        patch.setattr(grpo, "Bar", Stop)
        with pytest.raises(KeyboardInterrupt):
            run_grpo(make_model, tokenizer, tmp_path / "broken", save_steps=2, **more)
    again = run_grpo(make_model, tokenizer, tmp_path / "broken", save_steps=2, **more)
    for name in ("loss", "reward", "rollout_tokens"):
        of_both = [[row[name] for row in result.history if name in row] for result in (whole, again)]
        assert of_both[0] == pytest.approx(of_both[1], rel=1e-4, abs=1e-6)


# -- All of them, as a user runs them ---------------------------------------------------------------------------------

CONTROLS = {name: {"train": {"method": name}} for name in ("sft", "rft", "ssd", "grpo")}
HINTED = {f"hint-{hint}": {"teach": {"hint": hint}} for hint in ("right", "wrong", "none", "gold", "shuffled")}


@pytest.mark.slow
def test_every_control_and_every_hint_runs_from_one_recipe(tmp_path):
    """One curation for all; each student differs from the base (the evaluation insists on it) and from the others."""
    recipe = {
        "base": str(ROOT / "recipes" / "pocket.yaml"),
        "problems": {"limit": 64},
        "sampler": {"engine": "transformers"},
        "curate": {"pairs": 8, "wave": 64},
        "train": {
            "epochs": 4,
            "learning_rate": 5e-3,
            "probe_steps": 0,
            "token_pairs": 0,
            "grpo": {"steps": 2, "questions_per_step": 4, "generations": 4, "max_tokens": 64, "learning_rate": 5e-3},
        },
        "evaluate": {"benchmarks": {"test": {"limit": 8, "temperature": None}, "test-hard": {"limit": 2}}},
        "variants": {**CONTROLS, **HINTED},
    }
    path = tmp_path / "controls.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    words = [sys.executable, "-m", "ssb_unsloth", "run", str(path), "--runs", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    root = tmp_path / "pocket"
    report = json.loads((root / "report" / "report.json").read_text())
    assert {row["model"] for row in report["scores"]} == {"base", "ssb", *CONTROLS, *HINTED}
    assert {name: row["method"] for name, row in report["training"].items()} == {
        **{name: name for name in ("ssb", *CONTROLS)},
        **dict.fromkeys(HINTED, "ssb"),
    }
    assert len(list(tmp_path.rglob("curate/pairs.jsonl"))) == 1
    curated = json.loads((root / "curate" / "statistics.json").read_text())
    costs = {row["model"]: row for row in report["students"]}
    assert costs["ssb"]["sampled"] == costs["sft"]["sampled"] == curated["tokens"]
    assert 0 < costs["ssd"]["sampled"] < costs["rft"]["sampled"] == curated["rollout_tokens"] < curated["tokens"]
    assert costs["rft"]["read"] < costs["ssb"]["read"]  # no teacher pass
    adapters = list(tmp_path.rglob("adapter_model.safetensors"))
    assert len({path.read_bytes() for path in adapters}) == len(adapters) == 1 + len(CONTROLS) + len(HINTED)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


@pytest.mark.slow
def test_a_grpo_run_that_learns_nothing_ends_in_a_sentence_and_exit_code_2(tmp_path):
    words = [sys.executable, "-m", "ssb_unsloth", "train", str(ROOT / "recipes" / "pocket.yaml"), "train.method=grpo"]
    words += ["train.grpo.steps=20", "train.grpo.max_tokens=3", "--runs", str(tmp_path)]  # every reply is cut off
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "ssb: GRPO learns nothing here: in 20 steps every reply was wrong" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "pocket" / "train").exists()
