"""Controls that learn by supervised fine-tuning on the bare question, through TRL's SFTTrainer.

    sft  the pairs' own replies: the refined answers that SSB learns from
    rft  for each pair a right rollout of the same question, by the model itself and without a hint
    ssd  raw rollouts of the first questions that were sampled, right or wrong, cut off or not (arXiv 2604.01193)

All three see as many examples as there are pairs, for the same epochs, in batches of the same size, from the same first
adapter. RFT stays with the pairs' questions, each of which has a right rollout: then it differs from SFT in who wrote
the answer, and in nothing else. SSD may not do so: a pair's question is one that the verifier found mixed, and nothing
the verifier said may enter. Where a question has several pairs, RFT draws as many of its right rollouts, or what there
are; SSD goes through the questions a second time where there are fewer of them than pairs. Its paper also truncates
(top-k, top-p) when it samples; here the rollouts are those of `curate.rollout`, for all methods the same.

The loss is TRL's: cross-entropy, mean over all reply tokens of the optimizer step (SSB's Eq. 6 is a mean over examples
of token means: a short reply weighs as much as a long one there, and less here). The end of turn is a reply token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import cast

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from ..backends.transformers import load_model, only_stops
from ..errors import UserError
from ..io.progress import say
from ..method.examples import learnt, student_prompt_ids, token_ids
from ..method.lessons import in_turn
from ..prompts import student_messages
from ..recipe.methods import MethodName
from ..records import Pair, Problem, Rollout
from ..verifier.protocol import Verdict
from ..verifier.replies import answer_part
from .callbacks import Bar
from .common import Inputs, Trained, common_arguments, fit, lora
from .log_probs import make_trl_ready
from .shares import Shared


class Trainer(Shared, SFTTrainer):
    """TRL's, with checkpoints that count when they are whole, and steps that several processes share."""


Reply = tuple[list[int], list[int]]  # the token ids of a prompt, and of an answer to it


def train(inputs: Inputs) -> Trained:
    """Train a fresh adapter on what the recipe's method learns from.

    Raises:
        UserError: there are no pairs, or no rollouts to learn from, or what `fit` raises.
    """
    replies = learnt_from(inputs)
    return train_sft(inputs, load_model(inputs.recipe.model, inputs.device), replies)


def train_sft(inputs: Inputs, model: nn.Module, replies: Sequence[Reply]) -> Trained:
    """Train a fresh adapter on `model`, the base, or all its weights, by these replies."""
    make_trl_ready()
    only_stops(model, inputs.tokenizer)
    config, checkpoints = inputs.recipe.train, inputs.folder / "checkpoints"
    rows = [{"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply} for prompt, reply in replies]
    trainer = Trainer(
        cast(PreTrainedModel, model),
        args=SFTConfig(
            max_length=None,  # what was sampled fits
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are there: nothing to tokenize or to map
            **common_arguments(config, checkpoints, inputs.recipe.seed, next(model.parameters()).dtype),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=inputs.tokenizer,
        peft_config=lora(config, model),
        callbacks=[Bar()],
    )
    trainer.step_size = config.batch_size
    trained = fit(trainer, inputs, inputs.probes, inputs.recipe.curate.rollout.max_tokens)
    return replace(
        trained,
        tokens=round(trained.epochs * sum(len(row["input_ids"]) for row in rows)),
        learnt_tokens=sum(len(reply) for _, reply in replies),
    )


def learnt_from(inputs: Inputs) -> list[Reply]:
    """What the recipe's method learns from, as the module says.

    Raises:
        UserError: there are no pairs, or no rollouts to learn from.
    """
    recipe, tokenizer = inputs.recipe, inputs.tokenizer
    if recipe.train.method == "sft":
        return [(example.student_ids, example.reply_ids) for example in inputs.refined]
    made, prompts = [], recipe.prompts
    rollouts = inputs.rollouts
    if prompts.thinking == "drop":  # of one that has nothing but thoughts nothing would be left
        rollouts = (rollout for rollout in rollouts if answer_part(rollout.text) or not rollout.text)
    for question, rollout in draw(recipe.train.method, inputs.pairs, inputs.questions, rollouts, recipe.seed):
        asked = student_messages(question, prompts.texts)
        prompt_ids, ids = student_prompt_ids(prompts, asked, tokenizer), token_ids(rollout, tokenizer)
        (context,), reply_ids = learnt(prompts, [prompt_ids], ids, tokenizer)
        made.append((context, reply_ids))
    return made


def draw(
    method: MethodName, pairs: Sequence[Pair], questions: Iterable[Problem], rollouts: Iterable[Rollout], seed: int
) -> list[tuple[str, Rollout]]:
    """The questions and rollouts that `rft` or `ssd` learns from. `rollouts` come in the order of their questions, and
    are read no further than needed.
    """
    texts = {pair.problem_id: pair.question for pair in pairs}
    of: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        if method == "ssd" and len(of) == len(pairs) and rollout.problem_id not in of:
            break  # one of each question in turn: a later one would not be drawn
        if method == "ssd" or (rollout.verdict == Verdict.RIGHT and rollout.problem_id in texts):
            of.setdefault(rollout.problem_id, []).append(rollout)
    if method == "ssd":
        texts = {question.id: question.question for question in questions if question.id in of}
    drawn = list(islice(in_turn([of[problem_id] for problem_id in texts if problem_id in of], seed), len(pairs)))
    if not drawn:
        raise UserError(
            f"train.method: {method} learns from rollouts, and the curate stage has none for these questions; let it"
            " sample them, or take train.method=sft."
        )
    if len(drawn) < len(pairs):
        say(f"{method}: {len(drawn):,} examples, where there are {len(pairs):,} pairs; there are no more rollouts")
    return [(texts[rollout.problem_id], rollout) for rollout in drawn]
