"""The student, by the recipe's way of training; and what is measured of it once it is trained."""

from __future__ import annotations

import importlib
from typing import Any

from ...backends import TrainingBackend
from ...published import FEW, STEPS
from ...recipe.methods import METHODS
from ...recipe.schema import Recipe
from ...records import write_jsonl
from ...run import clock, keys
from ...run.rundir import Work
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
        recipe, method = scope.recipe, METHODS[scope.recipe.train.method]
        # First: Unsloth has to be imported before transformers.
        backend = TrainingBackend(recipe.model, recipe.train.lora is None) if method.by_backend else None
        from ...method.selfchecks import check_trained
        from ...training.common import Inputs

        inputs = Inputs(recipe, scope.run, work.folder, backend)
        trained = importlib.import_module(f"...training.{method.module}", __package__).train(inputs)
        base = None if recipe.train.lora is not None else _base(recipe)
        few = trained.history[-1]["step"] < FEW * STEPS
        if not (method.samples and few):  # its first steps may have had equal rewards alone, which it has said then
            check_trained(trained.model, inputs.tokenizer, recipe.prompts.texts, base)
        if recipe.train.token_pairs and "curate" in method.reads:
            from ...training.token_kl import FILE, measure

            taught = [one for one in inputs.examples if one.taught] or inputs.examples
            followed = taught[: recipe.train.token_pairs], base, recipe.teach.guidance
            with clock.on(clock.MEASURING):
                write_jsonl(work.folder / FILE, measure(trained.model, inputs.tokenizer, *followed))
        if recipe.train.drift_texts is not None:
            from ...training.drift import drift, unrelated

            with clock.on(clock.MEASURING):
                texts = unrelated(recipe.train.drift_texts, inputs.tokenizer)
                trained.drift = drift(trained.model, texts, base)
        write_jsonl(work.folder / "history.jsonl", trained.history)
        work.tokens, work.summary = trained.tokens, {"method": recipe.train.method, **trained.summary}


def _base(recipe: Recipe) -> Any:
    """The base, loaded once more to be compared with a student that is no adapter on it, where its trainer was."""
    import gc

    import torch

    from ...backends.transformers import load_model

    gc.collect()  # trainer and optimizer, which hold each other
    torch.cuda.empty_cache()
    return load_model(recipe.model)


def _of_method(recipe: Recipe) -> dict[str, Any]:
    """GRPO reads problems and no pairs. The others read none of its settings; their tokens are compared with a teacher
    that is shown this hint.
    """
    train, prompts = keys.of_training(recipe.train), keys.of_prompts(recipe.prompts)
    if METHODS[recipe.train.method].samples:
        return {"train": train, "prompts": prompts, "problems": keys.of_problems(recipe.problems)}
    del train["grpo"]
    lessons = {"lessons": found} if (found := keys.of_lessons(recipe.teach)) else {}
    guarded = {} if recipe.train.guard is None else {"problems": keys.of_problems(recipe.problems)}
    return {"train": train, "prompts": prompts, "hint": recipe.teach.hint, **lessons, **guarded}


STAGE = Train()
