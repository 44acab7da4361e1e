"""GRPO through TRL's GRPOTrainer: the reward is 1 where the verifier finds the reply right, else 0.

The same LoRA, prompts, seed handling, schedule and clipping as every other method (`common.common_arguments`); what is
GRPO's own stands under `train.grpo`. One optimizer step samples `generations` replies to each of `questions_per_step`
questions and uses them once. A reply that is cut off earns 0. A stopped run resumes from its last checkpoint.

Sampling is by plain transformers on a CPU, and by vLLM in the same process on a GPU (rollouts.py).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import BatchSampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..backends.chat_template import completion, spells_control_tokens
from ..backends.control_tokens import REMEDY
from ..backends.sampler import Completion
from ..backends.transformers import load_model, only_stops
from ..backends.vllm import start as start_vllm
from ..data.problems import load_problems
from ..errors import UserError
from ..io.progress import say
from ..prompts import student_messages
from ..published import FEW, STEPS
from ..recipe.schema import TrainConfig
from ..records import Problem
from ..verifier.protocol import Verdict
from ..verifier.replies import answer_part
from ..verifier.verifiers import Spec, prepare, verifier_for
from .callbacks import Bar
from .common import Inputs, Trained, common_arguments, fit, lora, steps_of
from .group import same_numbers
from .log_probs import make_trl_ready
from .rollouts import Rollouts, StartEngine, in_trl
from .shares import Shared, Shares

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about the version of a vLLM that a CPU run does not use
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

PATIENCE = 32  # steps in which no question had replies of both kinds, before the run is given up
NAMES = {  # what TRL calls the figures that history.jsonl keeps, beside the Trainer's own
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "same_reward",
    "completions/mean_length": "rollout_tokens",
    "completions/clipped_ratio": "rollout_truncated",
    "entropy": "entropy",
    "kl": "kl",
}


class Trainer(Shared, GRPOTrainer):
    """TRL's, with checkpoints that count when they are whole, and the same order of the questions in a later pass over
    them whether training resumes there or not: TRL's sampler draws it from wherever its generator stands.

    Where there are several processes each samples and grades all replies of a step, by the same random numbers, and
    learns from its share: so the replies are those of one process, where TRL would give each process other ones.
    """

    def _shares(self, steps: BatchSampler) -> Shares:
        return Shares(steps, 0, 1, steps.batch_size)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.args.world_size == 1 or not cast(nn.Module, self.model).training:
            return super()._prepare_inputs(generation_batch)
        held, passes = cast(Any, self), cast(GRPOConfig, self.args).steps_per_generation
        if held._step % passes == 0 or held._buffered_inputs is None:  # the latter where training resumes
            sampled: Any = shuffle_sequence_dict(self._generate_and_score_completions(generation_batch))
            parts = split_tensor_dict(sampled, passes * self.args.world_size)
            held._buffered_inputs = parts[self.args.process_index :: self.args.world_size]
        return held._buffered_inputs[held._step % passes]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """As the method of one process does; all have the same replies, and TRL counts those of each as others."""
        before, count = self.state.num_input_tokens_seen, self.args.world_size
        found: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if count > 1:
            self.state.num_input_tokens_seen = before + (self.state.num_input_tokens_seen - before) // count
            found["num_items_in_batch"] = found["num_items_in_batch"] / count
            replies = len(inputs)  # of a step; the standard deviation of so many, not of their copies too
            spread = cast(Any, self)._metrics["train"]["reward_std"]
            spread[-1] *= math.sqrt((count * replies - 1) / (count * (replies - 1)))
        return found

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler: Any = super()._get_train_sampler(dataset)
        # Which the Trainer calls with the number of the pass; that of the first leaves TRL's own order.
        sampler.set_epoch = lambda number: sampler.generator.manual_seed(sampler.seed + number)
        return sampler


def train(inputs: Inputs) -> Trained:
    """Train a fresh adapter on the recipe's problems.

    Raises:
        UserError: as `train_grpo`; or a question spells a control token, and the recipe says to refuse that.
    """
    recipe = inputs.recipe
    problems = _read_as_text_by_trl(load_problems(recipe.problems), inputs.tokenizer, recipe.prompts.control_text)
    model = load_model(recipe.model, inputs.device)
    return train_grpo(inputs, model, problems, partial(start_vllm, recipe.model, recipe.sampler))


def train_grpo(
    inputs: Inputs, model: nn.Module, problems: Sequence[Problem], start: StartEngine | None = None
) -> Trained:
    """Train a fresh adapter on `model`, the base.

    The first `train.grpo.questions` problems are trained on; the next `probe_questions` measure the student's own reply
    length. History, a row a step: `reward` and `reward_std` over all replies of the step, `same_reward` (share of
    questions whose replies all earned the same), `rollout_tokens` and `rollout_truncated` of the sampled replies.

    `start` starts vLLM, where that is to sample.

    Raises:
        UserError: fewer problems than a step takes, rewards from which nothing can be learned, or what `fit` raises.
    """
    recipe, tokenizer, config = inputs.recipe, inputs.tokenizer, inputs.recipe.train
    grpo = config.grpo
    trained_on, rest = problems[: grpo.questions], problems[grpo.questions :]
    if len(trained_on) < grpo.questions_per_step:
        raise UserError(
            f"train.grpo.questions_per_step: a step takes {grpo.questions_per_step} questions, and there are"
            f" {len(trained_on)} problems; take fewer a step, or more problems."
        )
    make_trl_ready()
    dtype, checkpoints = next(model.parameters()).dtype, inputs.folder / "checkpoints"
    stops = only_stops(model, tokenizer)  # TRL hands them to transformers, and not to vLLM
    asked = [
        {"prompt": student_messages(problem.question, recipe.prompts.texts), "gold": problem.gold}
        for problem in trained_on
    ]
    with in_trl(start, recipe.seed, stops):
        trainer = Trainer(
            cast(PreTrainedModel, model),
            reward_funcs=Reward(tokenizer, stops, recipe.judge(recipe.problems)),
            args=arguments(config, recipe.sampler.max_model_len, recipe.seed, dtype, checkpoints),
            train_dataset=Dataset.from_list(asked),
            processing_class=tokenizer,
            peft_config=lora(config, model),
            callbacks=[Bar(), EqualRewards()],
        )
    trainer.step_size = cast(GRPOConfig, trainer.args).generation_batch_size
    same_numbers()  # TRL gives each process others
    if config.processes > 1 and grpo.use_vllm is None and torch.cuda.is_available():
        say("grpo: several processes train, so transformers samples, and not vLLM.")
    if trainer.use_vllm:
        cast(Rollouts, trainer.vllm_generation).step = lambda: trainer.state.global_step
    guarded = rest[: config.guard.questions] if config.guard is not None else []
    probes, rate = rest[: config.probe_questions], "train.grpo.learning_rate"
    trained = fit(trainer, inputs, probes, grpo.max_tokens, rate, guarded)
    kept = [{NAMES.get(key, key): value for key, value in row.items() if _is_kept(key)} for row in trained.history]
    replies = grpo.questions_per_step * grpo.generations  # a step
    sampled = replies * sum(row["rollout_tokens"] * steps for row, steps in steps_of(kept, "rollout_tokens"))
    return replace(
        trained,
        history=kept,
        tokens=int(trainer.state.num_input_tokens_seen),
        sampled_tokens=round(sampled) + (trained.sampled_tokens or 0),
    )


def _read_as_text_by_trl(problems: Sequence[Problem], tokenizer: Any, control_text: str) -> list[Problem]:
    """Those that TRL, which renders and tokenizes by itself, reads as the text that they are."""
    unsafe = [problem for problem in problems if spells_control_tokens(tokenizer, problem.question)]
    if unsafe and control_text == "refuse":
        raise UserError(f"Question {unsafe[0].id} spells a control token of the model; {REMEDY}")
    if unsafe:
        say(f"grpo: {len(unsafe):,} questions left out, since they spell a control token (prompts.control_text)")
    return [problem for problem in problems if problem not in unsafe]


def arguments(config: TrainConfig, max_model_len: int, seed: int, dtype: Any, checkpoints: Path) -> GRPOConfig:
    """The recipe's `train` section as GRPOTrainer takes it; what no key names is TRL's default."""
    grpo = config.grpo
    replies = grpo.questions_per_step * grpo.generations
    share = replies // config.processes
    micro = min(grpo.micro_batch_size or share, share)
    by_default = torch.cuda.is_available() and config.processes == 1
    use_vllm = by_default if grpo.use_vllm is None else grpo.use_vllm
    vllm: dict[str, Any] = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": grpo.gpu_memory_utilization,
        "vllm_max_model_length": max_model_len,
    }
    own: dict[str, Any] = {
        "learning_rate": grpo.learning_rate,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "num_train_epochs": 1,
        "max_steps": grpo.steps or -1,
        "num_generations": grpo.generations,
        "max_completion_length": grpo.max_tokens,
        "temperature": grpo.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "beta": grpo.beta,
        "loss_type": grpo.loss,
        "logging_first_step": True,
        **(vllm if use_vllm else {}),
    }
    return GRPOConfig(**{**common_arguments(config, checkpoints, seed, dtype), **own})


class Reward:
    """TRL's reward function: 1 for a reply that the verifier finds right, 0 for any other."""

    __name__ = "verifier"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], verifier: Spec) -> None:
        self._tokenizer, self._stops, self._verifier = tokenizer, stops, verifier_for(verifier)

    def __call__(self, completion_ids: Sequence[list[int]], gold: Sequence[str], **_: Any) -> list[float | None]:
        """`completion_ids`: the sampled replies, end of turn included; `gold`: the answer of each."""
        replies = [completion(self._tokenizer, ids, self._stops) for ids in completion_ids]
        prepare(
            self._verifier, ((answer_part(reply.text), answer) for reply, answer in zip(replies, gold, strict=True))
        )
        return [self._reward(reply, answer) for reply, answer in zip(replies, gold, strict=True)]

    def _reward(self, reply: Completion, gold: str) -> float:
        grade = self._verifier.grade(answer_part(reply.text), gold, reply.finish_reason)
        return float(grade.verdict == Verdict.RIGHT)


class EqualRewards(TrainerCallback):
    """Gives up a run in which no question ever has both right and wrong replies: its gradient is zero throughout. A
    handful of steps is no such run.
    """

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._check(state, PATIENCE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check(state, 1)

    def _check(self, state: TrainerState, patience: int) -> None:
        rows = [row for row in state.log_history if "frac_reward_zero_std" in row]
        if state.global_step < patience or any(row["frac_reward_zero_std"] < 1 for row in rows):
            return
        mean = sum(row["reward"] for row in rows) / len(rows)
        found = "all replies to a question earned the same"
        if mean in (0, 1):
            found = "every reply was right" if mean else "every reply was wrong"
        steps = state.global_step
        what = f"GRPO learns nothing here: in {steps:,} step{'s' * (steps > 1)} {found} (mean reward {mean:.2f})."
        if steps < FEW * STEPS:  # that may be chance: the report says that nothing can be concluded from so few
            say(what)
            return
        raise UserError(
            f"{what} Take problems that the model gets right now and then, more train.grpo.generations, or, where"
            " replies are cut off, a larger train.grpo.max_tokens. Earlier stages are kept."
        )


def _is_kept(key: str) -> bool:
    return (
        key in NAMES
        or key in ("loss", "grad_norm", "learning_rate", "epoch", "step", "reply_tokens")
        or (key.startswith(("train_", "reply_", "probe_")))
    )
