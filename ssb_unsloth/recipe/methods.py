"""The ways of training: one row each, from which recipe, stages, planner, report and model card take all they need.

A new one is a row here, its name in `MethodName`, and a module in `training/` with a `train` function. Nothing heavy is
imported, since the command line reads this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MethodName = Literal[
    "ssb",
    "sft",
    "rft",
    "ssd",
    "grpo",
]


@dataclass(frozen=True)
class Method:
    title: str  # in a report's heading
    card: str  # the model card's sentence
    colour: str  # in figures, as #rrggbb
    module: str  # of training/, whose `train` it is
    reads: tuple[str, ...] = ()  # the stages whose results it reads, besides the questions
    # Which tokens of curation the cost table charges it: all, all rollouts, or only the rollouts that it learns from.
    pays: Literal["all", "rollouts", "learnt"] = "all"
    by_backend: bool = False  # its model is loaded by `model.backend`; TRL's trainers take plain transformers
    samples: bool = False  # it samples replies while it trains, from the questions, by its own settings
    head_products: int = 2  # products with the output head for a reply token, forward and backward (planner)


METHODS: dict[MethodName, Method] = {
    "ssb": Method(
        title="Semantic Soft Bootstrapping",
        card="Semantic Soft Bootstrapping ([arXiv 2512.05105](https://arxiv.org/abs/2512.05105)): a LoRA student, which"
        " sees the bare question, learns the full distribution of its own base, which sees a right and a wrong"
        " solution, at every token of a verified reply",
        colour="#2f7fc1",
        module="ssb",
        reads=("curate", "teach"),
        by_backend=True,
        head_products=3,  # the teacher's too
    ),
    "sft": Method(
        title="fine-tuning on the refined answers",
        card="supervised fine-tuning on verified replies that the base wrote when it saw a right and a wrong solution",
        colour="#e08214",
        module="sft",
        reads=("curate",),
    ),
    "rft": Method(
        title="fine-tuning on right rollouts",
        card="rejection-sampling fine-tuning: supervised, on the base's own right solutions",
        colour="#c9699b",
        module="sft",
        reads=("curate",),
        pays="rollouts",
    ),
    "ssd": Method(
        title="fine-tuning on unverified rollouts",
        card="simple self-distillation (arXiv 2604.01193): supervised, on the base's own solutions, verified by nobody",
        colour="#a6761d",
        module="sft",
        reads=("curate",),
        pays="learnt",
    ),
    "grpo": Method(
        title="GRPO",
        card="GRPO, with the verifier of final answers as the reward",
        colour="#00a3a3",
        module="grpo",
        samples=True,
    ),
}
