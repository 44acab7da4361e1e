"""Trainings of a tiny model in float64, by one process or by several: what test_processes.py compares.

Eleven examples in steps of five: two processes have three and two of a step, and one and none of an epoch's last.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from unittest.mock import patch

import refreshing
from tiny import tiny_model
from training import inputs_of, make_examples, store

from ssb_unsloth.backends.transformers import add_lora, freeze_the_rest, load_tokenizer
from ssb_unsloth.method.targets import Targets
from ssb_unsloth.recipe.schema import GrpoConfig, LoraConfig, ModelConfig, Recipe, TrainConfig
from ssb_unsloth.records import Pair, Problem, Rollout
from ssb_unsloth.training import callbacks, group, grpo, sft, ssb
from ssb_unsloth.verifier import verifiers

POCKET = ModelConfig(name="pocket")
LORA = LoraConfig(r=4, alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
SSB = {
    "hidden": {},
    "token": {"denominator": "token", "micro_batch_size": 1},
    "online": {"micro_batch_size": 1},
    "ce": {"kd_weight": 0.5, "ce_weight": 0.5, "micro_batch_size": 1},
    "mixed": {"divergence": "jsd", "clip": 2.0},  # some taught by their own tokens, of other weights than the rest
    "recomputed": {"gradient_checkpointing": True},
    "probed": {"probe_steps": 2, "probe_questions": 2},
}
WHOLE = {"all": {"learning_rate": 1e-4}, "all-resumed": {"learning_rate": 1e-4}}
CONTROLS = {"sft": {"micro_batch_size": 1}, "rft": {}, "ssd": {}}
GRPO = {
    "grpo": GrpoConfig(questions=8, questions_per_step=2, generations=4, max_tokens=5, learning_rate=1e-2),
    "grpo-mean": GrpoConfig(
        questions=8, questions_per_step=2, generations=4, max_tokens=5, loss="grpo", beta=0.1, micro_batch_size=2
    ),
}
RESUMED = ("hidden-resumed", "sft-resumed", "grpo-resumed")
RENEWED = {"refreshed": {"refresh": {"below": 1.0}}, "kept": {"guard": {"questions": 4, "every": 2}}}
TEACH = {"replies": "rollouts", "targets": "hidden"}
ALL = (*SSB, *WHOLE, *CONTROLS, *GRPO, *RENEWED, *RESUMED)
UNEQUAL = ("hidden", "sft")  # by three: two have two examples of a step, one has one
SHARDED = ("hidden", "online", "ce", "recomputed", "probed", *WHOLE, "sft", "hidden-resumed", "sft-resumed")
QUESTIONS = [Problem(f"q{i}", f"Question {i}?", str(i)) for i in range(11)]
ROLLOUTS = [
    Rollout(f"{q.id}-{k}", q.id, "", [5 + i, *range(20, 24 + i % 4 + k), 2], "stop", k, verdict, "1")
    for i, q in enumerate(QUESTIONS)
    for k, verdict in enumerate(("right", "wrong", "right"))
]
PAIRS = [
    Pair(f"p{q.id}", q.id, q.question, q.gold, "r", "w", "refined", [7, *range(30, 31 + i), 2], "a", "b", "c")
    for i, q in enumerate(QUESTIONS)
]


class Even:
    """A reward that a random model earns: right where the last word's id is even."""

    __name__ = "verifier"

    def __init__(self, *_):
        pass

    def __call__(self, completion_ids, **_):
        return [float(ids[-1] % 2 == 0) for ids in completion_ids]


class Stop(callbacks.Bar):
    """Ends a training after its fifth step, or its third of GRPO's four: one after a checkpoint."""

    at = 5

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            raise KeyboardInterrupt


def examples(name):
    found = make_examples(11)
    if name == "mixed":
        found = [replace(one, taught=i % 3 > 0, weight=1 + i / 4) for i, one in enumerate(found)]
    return found


def prepare(root):
    """The base and its stored targets, by one process."""
    model = tiny_model("qwen2")
    model.save_pretrained(root / "base")
    load_tokenizer(POCKET).save_pretrained(root / "base")
    store(model.double(), make_examples(11), root / "targets")
    lessons = refreshing.inputs_for(root / "lessons", refreshing.recipe_for(teach=TEACH), load_tokenizer(POCKET))
    store(model, lessons.examples, root / "lessons" / "targets")


def train(name, root, folder, processes=1, sharding="none"):
    """Leaves `adapter` or `model`, history.json and figures.json in the folder. `root`: where all was prepared."""
    kind = name.removesuffix("-resumed")
    settings = {**SSB, **WHOLE, **CONTROLS}.get(kind, {})
    config = TrainConfig(
        **{
            "method": kind if kind in CONTROLS else "grpo" if kind in GRPO else "ssb",
            "lora": None if kind in WHOLE else LORA,
            "grpo": GRPO.get(kind, GrpoConfig()),
            "epochs": 2,
            "batch_size": 5,
            "learning_rate": 1e-2,
            "save_steps": 2,
            "probe_steps": 0,
            "processes": processes,
            "sharding": sharding,
            **settings,
        }
    )
    recipe = Recipe(name="test", seed=5, train=config, model=ModelConfig(name=str(root / "base")))
    made = {"pairs": PAIRS, "questions": QUESTIONS, "rollouts": ROLLOUTS, "probes": QUESTIONS[: config.probe_questions]}
    if kind not in CONTROLS:
        made["examples"] = examples(kind)
    tokenizer = load_tokenizer(POCKET)
    inputs = inputs_of(folder, recipe=recipe, tokenizer=tokenizer, **made)
    if kind in RENEWED:
        recipe = refreshing.recipe_for(**RENEWED[kind], teach=TEACH, lora=LORA, processes=processes)
        inputs = refreshing.inputs_for(folder, recipe, tokenizer)
    module = sft if kind in CONTROLS else grpo if kind in GRPO else ssb
    Stop.at = 3 if kind in GRPO else 5
    # Undone at the end: one process of several is that of the tests, which have others after these.
    with patch.object(grpo, "Reward", Even), patch.dict(verifiers.VERIFIERS, {"parity": "parity"}):
        if name.endswith("-resumed"):
            with patch.object(module, "Bar", Stop), contextlib.suppress(KeyboardInterrupt):
                once(kind, inputs, root)
                raise AssertionError("it was to stop")
        trained = once(kind, inputs, root)
    if group.is_first():
        (folder / "history.json").write_text(json.dumps(trained.history))
        figures = {"tokens": trained.tokens, "summary": trained.summary, "dtypes": dtypes(trained.model)}
        (folder / "figures.json").write_text(json.dumps(figures))


def once(kind, inputs, root):
    model, config = tiny_model("qwen2").double(), inputs.recipe.train
    if kind in CONTROLS:
        return sft.train_sft(inputs, model, sft.learnt_from(inputs))
    if kind in GRPO:
        return grpo.train_grpo(inputs, model, QUESTIONS)
    if config.lora is None:
        freeze_the_rest(model)
        student = model
    else:
        student = add_lora(model, config.lora, 5, config.gradient_checkpointing)
    where = "lessons" if kind in RENEWED else ""
    return ssb.train_ssb(inputs, student, None if kind == "online" else Targets(root / where / "targets"))


def dtypes(model):
    return sorted({str(weight.dtype) for weight in model.parameters()})


def several(seat, root, names):
    """One of the processes: all of these trainings, one after another; {sharding: names}."""
    for sharding, of_these in names.items():
        group.join(seat.number, seat.processes, f"{seat.meeting}-{sharding}", sharding == "fsdp")
        for name in of_these:
            folder = root / f"{sharding}-{seat.processes}" / name
            folder.mkdir(parents=True, exist_ok=True)
            train(name, root, folder, seat.processes, sharding)
        group.leave()
    return seat.number
