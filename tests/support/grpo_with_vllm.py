"""GRPO on the pocket with the real vLLM beside it, in a process of its own: what is asked of it as JSON in argv[1]."""

import json
import sys
from functools import partial
from pathlib import Path

import torch

from ssb_unsloth.backends.transformers import load_model
from ssb_unsloth.backends.vllm import start
from ssb_unsloth.data.problems import load_problems
from ssb_unsloth.recipe.schema import GrpoConfig, ModelConfig, ProblemsConfig, Recipe, SamplerConfig, TrainConfig
from ssb_unsloth.run.rundir import RunDir
from ssb_unsloth.training import grpo
from ssb_unsloth.training.common import Inputs
from ssb_unsloth.training.rollouts import merged_weights

asked = json.loads(sys.argv[1])
base = ModelConfig("pocket", dtype=asked["dtype"])
sampler = SamplerConfig(max_model_len=512, attention_backend="auto")
own = GrpoConfig(
    questions=asked["steps"] * 2, questions_per_step=2, generations=4, max_tokens=64, learning_rate=5e-3, use_vllm=True
)
config = TrainConfig(method="grpo", grpo=own, probe_steps=0)
model = load_model(base)
before = {name: weight.clone() for name, weight in model.named_parameters()}
rollouts, trainers = [], []


class Any:
    """A reward that replies differ in, whatever they say: there is always something to learn."""

    __name__ = "verifier"

    def __init__(self, *_):
        pass

    def __call__(self, completion_ids, **_):
        rollouts.append([list(ids) for ids in completion_ids])
        return [sum(ids) % 7 / 7 for ids in completion_ids]


class Seen(grpo.Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        trainers.append(self)


grpo.Reward, grpo.Trainer = Any, Seen
problems = load_problems(ProblemsConfig("pocket", split="bootstrap", limit=64))
folder = Path(asked["folder"])
recipe = Recipe(name="grpo", seed=asked["seed"], model=base, sampler=sampler, train=config)
student = grpo.train_grpo(Inputs(recipe, RunDir(folder), folder), model, problems, partial(start, base, sampler)).model
after = {name.replace(".base_layer", ""): weight for name, weight in student.get_base_model().named_parameters()}
unchanged = all(torch.equal(weight, after[name]) for name, weight in before.items())
(engine,) = [trainer.vllm_generation for trainer in trainers]
engine.step = lambda: 1000
prompts = [list(range(5, 40))] * 3
first = []  # log-probability of the first token, with the weights of the last step, and with the trained adapter's
for weights in (False, True):
    if weights:
        engine.sync_weights()
    _, ids, logprobs, _ = engine.generate(prompts, None, 3)
    first.append(logprobs[0][0][0])
merged = load_model(base)
merged.load_state_dict(dict(merged_weights(student)), strict=False)
with torch.no_grad():
    logits = merged(torch.tensor([prompts[0] + ids[0]])).logits[0].float().log_softmax(-1)
ours = [logits[len(prompts[0]) - 1 + j, token].item() for j, token in enumerate(ids[0])]
figures = {
    "unchanged": unchanged,
    "rollouts": rollouts,
    "apart": max(abs(a - b[0]) for a, b in zip(ours, logprobs[0], strict=True)),
    "first": first,
    "moved": max(p.detach().abs().max().item() for n, p in student.named_parameters() if "lora_B" in n),
}
print("RESULT", json.dumps(figures))
