"""The student, by the recipe's way of training; and what is measured of it once it is trained."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backends import TrainingBackend
from ...machine.out_of_memory import explained
from ...machine.processes import refuse_processes
from ...published import FEW, STEPS
from ...recipe.methods import METHODS
from ...recipe.schema import Recipe
from ...records import write_jsonl
from ...run import clock, keys
from ...run.rundir import SPENT_BY_FIRST, RunDir, Work, peak_memory
from ..stage import Scope, Stage
from ..together import Seat, together


class Train(Stage):
    name = "train"

    def reads(self, recipe: Recipe) -> tuple[str, ...]:
        return METHODS[recipe.train.method].reads

    def determined_by(self, scope: Scope) -> dict[str, Any]:
        recipe = scope.recipe
        model = keys.of_model(recipe.model, trained=METHODS[recipe.train.method].by_backend)
        return {"model": model, **_of_method(recipe)}

    def make(self, scope: Scope, work: Work) -> None:
        recipe = scope.recipe
        if recipe.train.processes == 1:
            work.tokens, work.summary = _trained(recipe, scope.run, work.folder)
            return
        refuse_processes(recipe)
        done = together(_one_of_several, (recipe, scope.run, work.folder), recipe.train.processes, recipe.threads)
        work.tokens, work.summary = done[0].result
        clock.add(done[0].spent)
        resident, device = ([one.peak[key] for one in done] for key in ("peak_rss_bytes", "peak_device_bytes"))
        work.peak = {"peak_rss_bytes": sum(resident), "peak_device_bytes": max(device)}  # of the machine, of a card


@dataclass(frozen=True)
class Done:
    """What one of several processes hands back."""

    result: tuple[int, dict[str, Any]]
    spent: dict[str, float]  # of the first; earlier attempts included
    peak: dict[str, int]


def _one_of_several(seat: Seat, recipe: Recipe, run: RunDir, folder: Path) -> Done:
    from ...training.group import join, leave

    watch = clock.Watch(folder / SPENT_BY_FIRST) if seat.is_first else None
    with explained("train", recipe, run.stage("train")), watch or contextlib.nullcontext():
        join(seat.number, seat.processes, seat.meeting, recipe.train.sharding == "fsdp")
        done = Done(_trained(recipe, run, folder), watch.spent if watch else {}, peak_memory())
        leave()
        return done


def _trained(recipe: Recipe, run: RunDir, folder: Path) -> tuple[int, dict[str, Any]]:
    """Train, and leave what comes of it in the folder. Returned: the tokens that were read, and the summary."""
    method, train = METHODS[recipe.train.method], recipe.train
    # First: Unsloth has to be imported before transformers.
    backend = TrainingBackend(recipe.model, train.lora is None, train.processes > 1) if method.by_backend else None
    from ...training.common import Inputs
    from ...training.group import is_first
    from ...training.token_kl import FILE

    inputs = Inputs(recipe, run, folder, backend)
    trained = importlib.import_module(f"...training.{method.module}", __package__).train(inputs)
    if is_first() or train.sharding != "none":  # of a sharded model each has a part of what is asked
        rows = _looked_at(inputs, trained)
        if is_first():
            if rows is not None:
                write_jsonl(folder / FILE, rows)
            write_jsonl(folder / "history.jsonl", trained.history)
    return trained.tokens, {"method": train.method, **trained.summary}


def _looked_at(inputs: Any, trained: Any) -> list[dict[str, Any]] | None:
    """Check what was trained, and measure how far it was moved. Returned: the pairs followed token by token."""
    from ...method.selfchecks import check_trained
    from ...training.drift import drift, unrelated
    from ...training.sharded import whole
    from ...training.token_kl import measure

    recipe, rows = inputs.recipe, None
    method, base = METHODS[recipe.train.method], None if recipe.train.lora is not None else _base(recipe, inputs.device)
    with whole(trained.model), contextlib.nullcontext() if base is None else whole(base):
        few = trained.history[-1]["step"] < FEW * STEPS
        if not (method.samples and few):  # its first steps may have had equal rewards alone, which it has said then
            check_trained(trained.model, inputs.tokenizer, recipe.prompts.texts, base)
        if recipe.train.token_pairs and "curate" in method.reads:
            taught = [one for one in inputs.examples if one.taught] or inputs.examples
            followed = taught[: recipe.train.token_pairs], base, recipe.teach.guidance
            with clock.on(clock.MEASURING):
                rows = list(measure(trained.model, inputs.tokenizer, *followed))
        if recipe.train.drift_texts is not None:
            with clock.on(clock.MEASURING):
                texts = unrelated(recipe.train.drift_texts, inputs.tokenizer)
                trained.drift = drift(trained.model, texts, base)
    return rows


def _base(recipe: Recipe, device: str | None) -> Any:
    """The base, loaded once more to be compared with a student that is no adapter on it, where its trainer was."""
    import gc

    import torch

    from ...backends.transformers import load_model
    from ...training.group import shards
    from ...training.sharded import shard

    gc.collect()  # trainer and optimizer, which hold each other
    torch.cuda.empty_cache()
    base = load_model(recipe.model, device)
    if shards():
        shard(base)
    return base


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
