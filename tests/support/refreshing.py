"""A training of a tiny model that samples anew, or is guarded: its inputs, and what comes out, byte for byte."""

from __future__ import annotations

import json

from training import inputs_of

from ssb_unsloth.method.examples import render_examples
from ssb_unsloth.method.lessons import lessons
from ssb_unsloth.recipe.schema import GuardConfig, LoraConfig, Recipe, RefreshConfig, TeachConfig, TrainConfig
from ssb_unsloth.records import Pair, Problem, Rollout
from ssb_unsloth.training import callbacks

LORA = LoraConfig(r=4, alpha=8, dropout=0.1, target_modules=["q_proj", "v_proj"])
QUESTIONS = [Problem(f"q{i}", f"Question {i}?", str(i)) for i in range(6)]
OTHERS = [Problem(f"h{i}", f"Another {i}?", str(i)) for i in range(8)]
VERDICTS = ("right", "wrong", "right", "wrong")
ROLLOUTS = [
    Rollout(f"{q.id}-{k}", q.id, f"rollout {k}", [100 + 10 * i + k, 20 + k, 2], "stop", k, verdict, "1")
    for i, q in enumerate(QUESTIONS)
    for k, verdict in enumerate(VERDICTS)
]
PAIRS = [
    Pair(f"p{q.id}", q.id, q.question, q.gold, "rollout 0", "rollout 1", "", [], f"{q.id}-0", f"{q.id}-1", "")
    for q in QUESTIONS
]


class Watch(callbacks.Bar):
    """Keeps what is trained on in each epoch, and the trained weights after each step; `at`: ends there, as a kill."""

    at, epochs, weights = 0, [], {}

    def on_epoch_end(self, args, state, control, **kwargs):
        self.epochs.append(list(kwargs["train_dataloader"].dataset))

    def on_step_end(self, args, state, control, **kwargs):
        trained = {n: p.detach().clone() for n, p in kwargs["model"].named_parameters() if p.requires_grad}
        self.weights[state.global_step] = trained
        if state.global_step == self.at:
            raise KeyboardInterrupt


def recipe_for(refresh=None, guard=None, verifier="parity", teach=None, **train):
    """Six questions of four rollouts, learnt in batches of 4 for 3 epochs; a checkpoint every 4 steps."""
    config = TrainConfig(
        **{
            "lora": LORA,
            "epochs": 3,
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 1e-2,
            "save_steps": 4,
            "probe_steps": 0,
            "refresh": None if refresh is None else RefreshConfig(**refresh),
            "guard": None if guard is None else GuardConfig(**guard),
            **train,
        }
    )
    recipe = Recipe(name="test", seed=5, train=config, teach=TeachConfig(**{"targets": "online", **(teach or {})}))
    recipe.problems.verifier = verifier
    return recipe


def inputs_for(folder, recipe, tokenizer):
    folder.mkdir(exist_ok=True)
    found = lessons(recipe.teach, PAIRS, ROLLOUTS, recipe.seed, lambda rollout: rollout.token_ids)
    examples = render_examples(recipe, found, tokenizer)
    made = {"tokenizer": tokenizer, "examples": examples, "pairs": PAIRS, "probes": [], "guarded": OTHERS}
    return inputs_of(folder, recipe=recipe, probe_tokens=8, **made)


def outcome(folder, trained):
    """What later stages and readers see of a training."""
    files = {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.parent.name == "adapter"}
    if (folder / "refreshed.jsonl").exists():
        files["refreshed.jsonl"] = (folder / "refreshed.jsonl").read_bytes()
    return files, json.dumps(trained.history), trained.tokens, trained.summary
