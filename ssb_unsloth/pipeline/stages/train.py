"""The student, by the recipe's way of training; and what is measured of it once it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ...backends import TrainingBackend
from ...backends.control_tokens import REMEDY, markers
from ...errors import UserError
from ...io.progress import say
from ...recipe.methods import METHODS
from ...recipe.schema import Recipe
from ...records import Pair, Problem, Rollout, read_jsonl, write_jsonl
from ...run import clock, keys
from ...run.curated import read_pairs
from ...run.rundir import RunDir, Work
from ..stage import Scope, Stage


class Train(Stage):
    name = "train"

    def reads(self, recipe: Recipe) -> tuple[str, ...]:
        return METHODS[recipe.train.method].reads

    def determined_by(self, scope: Scope) -> dict[str, Any]:
        recipe = scope.recipe
        model = keys.of_model(recipe.model, trained=METHODS[recipe.train.method].by_backend)
        return {"model": model, **_of_method(recipe)}

    def make(self, scope: Scope, work: Work) -> None:
        recipe, run = scope.recipe, scope.run
        method = {"ssb": _train_ssb, "grpo": _train_grpo}.get(recipe.train.method, _train_sft)
        result = method(recipe, run, work.folder)
        from ...backends.transformers import load_tokenizer  # after Unsloth
        from ...method.selfchecks import check_trained

        model, history, work.tokens = (result.pop(key) for key in ("model", "history", "tokens"))
        check_trained(model, load_tokenizer(recipe.model))
        if recipe.train.token_pairs and "curate" in METHODS[recipe.train.method].reads:
            from ...method.examples import examples as examples_of
            from ...training.token_kl import FILE, measure

            tokenizer = load_tokenizer(recipe.model)
            examples = examples_of(recipe, read_pairs(run), tokenizer)[: recipe.train.token_pairs]
            with clock.on(clock.MEASURING):
                write_jsonl(work.folder / FILE, measure(model, tokenizer, examples))
        if recipe.train.drift_texts is not None:
            from ...training.drift import drift, unrelated

            with clock.on(clock.MEASURING):
                result["drift"] = drift(model, unrelated(recipe.train.drift_texts, load_tokenizer(recipe.model)))
        write_jsonl(work.folder / "history.jsonl", history)
        losses = [row["loss"] for row in history if "loss" in row]
        steps = {"steps": history[-1]["step"], "first_loss": losses[0], "last_loss": losses[-1]}
        work.summary = {"method": recipe.train.method, **steps, **result}


def _of_method(recipe: Recipe) -> dict[str, Any]:
    """GRPO reads problems and no pairs. The others read none of its settings; their tokens are compared with a teacher
    that is shown this hint.
    """
    train, prompts = keys.of_training(recipe.train), asdict(recipe.prompts)
    if METHODS[recipe.train.method].samples:
        return {"train": train, "prompts": prompts, "problems": keys.of_problems(recipe.problems)}
    del train["grpo"]
    return {"train": train, "prompts": prompts, "hint": recipe.teach.hint}


def _train_ssb(recipe: Recipe, run: RunDir, folder: Path) -> dict[str, Any]:
    backend = TrainingBackend(recipe.model)  # first: Unsloth has to be imported before transformers
    from ...backends.transformers import load_tokenizer
    from ...method.examples import examples as examples_of
    from ...method.selfchecks import check_student
    from ...method.targets import Targets
    from ...training.ssb import train

    tokenizer = load_tokenizer(recipe.model)
    pairs = read_pairs(run)
    examples = examples_of(recipe, pairs, tokenizer)
    targets = None if recipe.teach.targets == "online" else Targets(run.stage("teach"))
    length, checkpointing = recipe.sampler.max_model_len, recipe.train.gradient_checkpointing
    model = backend.load(length, recipe.train.lora, recipe.seed, checkpointing)
    check_student(recipe, model, examples, targets)
    result = train(
        model,
        tokenizer,
        examples,
        targets,
        _probes(recipe, run, pairs),
        recipe.train,
        recipe.curate.rollout.max_tokens,
        recipe.seed,
        folder,
        recipe.prompts.wording,
    )
    tokens = sum(len(e.student_ids) + len(e.reply_ids) for e in examples)
    if recipe.teach.targets == "online":  # the teacher reads with the student
        tokens += sum(len(e.teacher_ids) + len(e.reply_ids) for e in examples)
    tokens *= recipe.train.epochs
    return {**result, "tokens": tokens, "backend": backend.name}


def _train_sft(recipe: Recipe, run: RunDir, folder: Path) -> dict[str, Any]:
    from ...backends.transformers import load_model, load_tokenizer
    from ...training.sft import learnt_from, train_sft

    tokenizer = load_tokenizer(recipe.model)
    pairs, rollouts = read_pairs(run), run.stage("curate") / "rollouts.jsonl"
    return train_sft(
        load_model(recipe.model),
        tokenizer,
        learnt_from(
            recipe,
            pairs,
            read_jsonl(run.stage("curate") / "questions.jsonl", Problem),
            read_jsonl(rollouts, Rollout) if rollouts.exists() else [],
            tokenizer,
        ),
        _probes(recipe, run, pairs),
        recipe.train,
        recipe.curate.rollout.max_tokens,
        recipe.seed,
        folder,
        recipe.prompts.wording,
    )


def _train_grpo(recipe: Recipe, run: RunDir, folder: Path) -> dict[str, Any]:
    from ...backends.transformers import load_model, load_tokenizer
    from ...backends.vllm import start
    from ...data.problems import load_problems
    from ...training.grpo import train_grpo

    tokenizer = load_tokenizer(recipe.model)
    return train_grpo(
        load_model(recipe.model),
        tokenizer,
        _rendered_by_trl(load_problems(recipe.problems), tokenizer, recipe.prompts.control_text),
        recipe.prompts.wording,
        recipe.train,
        recipe.sampler.max_model_len,
        recipe.seed,
        folder,
        partial(start, recipe.model, recipe.sampler),
    )


def _rendered_by_trl(problems: Sequence[Problem], tokenizer: Any, control_text: str) -> list[Problem]:
    """Those that TRL, which renders and tokenizes by itself, reads as the text that they are."""
    from ...backends.chat_template import spells_control_tokens

    unsafe = [problem for problem in problems if spells_control_tokens(tokenizer, problem.question)]
    if unsafe and control_text == "refuse":
        raise UserError(f"Question {unsafe[0].id} spells a control token of the model; {REMEDY}")
    if unsafe:
        say(f"grpo: {len(unsafe):,} questions left out, since they spell a control token (prompts.control_text)")
    return [problem for problem in problems if problem not in unsafe]


def _probes(recipe: Recipe, run: RunDir, pairs: Sequence[Pair]) -> list[Problem]:
    """Questions that were sampled and gave no pair: the student's own reply length is measured on them."""
    paired = {pair.problem_id for pair in pairs}
    asked = read_jsonl(run.stage("curate") / "questions.jsonl", Problem)
    rest = [problem for problem in asked if problem.id not in paired and not markers(problem.question)]
    return rest[: recipe.train.probe_questions]


STAGE = Train()
