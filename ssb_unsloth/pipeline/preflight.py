"""What a whole recipe can be refused for before its first stage samples: what would else be noticed after a night.

Benchmarks are loaded and counted, and their prompts measured; adapters and references are looked up; the chat template,
the architecture and LoRA's targets are looked at (`selfchecks`). No weights are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends import engine_of
from ..backends.sources import adapter_path
from ..data.problems import load_benchmark
from ..errors import UserError
from ..evaluation.evaluate import Contestant, assert_adapters_fit, base_contestants, check_room
from ..io.progress import say
from ..machine.all_weights import all_weights
from ..machine.lora_targets import select
from ..machine.processes import refuse_processes
from ..prompts import Texts, student_messages
from ..recipe.methods import METHODS
from ..recipe.schema import BenchmarkConfig, Recipe
from ..records import Problem
from .stages.teach import published_targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..run.student import Student

Benchmarks = Mapping[str, tuple[BenchmarkConfig, Sequence[Problem]]]


def check(recipe: Recipe, everyone: Sequence[Student], root: Path) -> None:
    """Look at a recipe with all its students, whose run folder is `root`.

    Raises:
        UserError: the first thing that a later stage would refuse.
    """
    for student in everyone:
        refuse_processes(student.recipe)
    if recipe.sampler.engine == "ray":
        from ..backends.cluster import connect
        from ..backends.replicas import refuse_replicas

        refuse_replicas(recipe.model, recipe.sampler, engine_of(recipe.sampler), connect())
    benchmarks = {name: (config, load_benchmark(name, config)) for name, config in recipe.evaluate.benchmarks.items()}
    for name, source in recipe.evaluate.adapters.items():
        if not Path(source).expanduser().resolve().is_relative_to(root.resolve()):  # this run's own come later
            path = adapter_path(source, f"evaluate.adapters.{name}", recipe.sampler.max_lora_rank)
            assert_adapters_fit([Contestant(name, recipe.model, path, recipe.seed)], recipe.sampler)
    rows = [e.name for e in base_contestants(recipe.model, 0, recipe.evaluate.default_prompt)]
    check_references(recipe, [*rows, *(student.name for student in everyone), *recipe.evaluate.adapters])
    first = [student.recipe for student in everyone if student.before is None]  # later rounds have the same model
    _check_targets(first)
    for same in {json.dumps(asdict(r.model)): [o for o in first if o.model == r.model] for r in first}.values():
        _check_model(same, recipe, benchmarks)


def _check_targets(recipes: Sequence[Recipe]) -> None:
    """What is known of targets made elsewhere before there are pairs."""
    taught = [one for one in recipes if "teach" in METHODS[one.train.method].reads and one.teach.targets_from]
    for recipe in taught:
        published_targets(str(recipe.teach.targets_from), tensors=False).check_settings(recipe)


def check_references(recipe: Recipe, names: Sequence[str]) -> None:
    """Every model that others are compared with takes part. `names`: those that do."""
    for reference in recipe.evaluate.references:
        if reference not in names:
            known = ", ".join(dict.fromkeys(names))
            raise UserError(f"evaluate.references: no model {reference!r} here; there are {known}.")


def _check_model(same: Sequence[Recipe], whole: Recipe, benchmarks: Benchmarks) -> None:
    """What the students of one base model ask of it."""
    from ..backends.transformers import load_tokenizer
    from ..method import selfchecks

    model = same[0].model
    tokenizer = load_tokenizer(model)
    if said := check_template(tokenizer, list(dict.fromkeys(recipe.prompts.texts for recipe in same))):
        say(said)
    if model == whole.model:
        _check_rooms(tokenizer, whole, benchmarks)
    lm = selfchecks.skeleton(model)
    selfchecks.check_end_is_known(tokenizer, lm, model.name)
    for recipe in same:
        lora = recipe.train.lora
        _ = all_weights(lm) if lora is None else select(lm, lora.target_modules, model.name)
    if any("teach" in METHODS[recipe.train.method].reads for recipe in same):
        selfchecks.check_arithmetic(lm, model.name)


def check_template(tokenizer: PreTrainedTokenizerBase, several: Sequence[Texts]) -> str:
    """Look at the chat template. Returns what was chosen of it, as a sentence; empty where it is as its makers have it.

    Raises:
        UserError: what the method says under it is dropped, doubled or refused.
    """
    from ..backends.template_choice import choices, told
    from ..method import selfchecks

    for texts in several:
        selfchecks.check_template(tokenizer, texts)
    return told(choices(tokenizer))


def _check_rooms(tokenizer: PreTrainedTokenizerBase, recipe: Recipe, benchmarks: Benchmarks) -> None:
    from ..backends.chat_template import render

    for name, (config, problems) in benchmarks.items():
        for problem in problems:
            length = len(render(tokenizer, student_messages(problem.question, recipe.prompts.texts)))
            check_room(name, problem, length, config.max_tokens, recipe.sampler.max_model_len)
