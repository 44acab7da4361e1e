"""The hinted teacher over all pairs, and what is stored of its distributions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ...backends import TrainingBackend
from ...recipe.schema import Recipe
from ...run import keys
from ...run.curated import read_pairs
from ...run.rundir import Work
from ..stage import Scope, Stage


class Teach(Stage):
    name = "teach"

    def reads(self, recipe: Recipe) -> tuple[str, ...]:
        return ("curate",)

    def determined_by(self, scope: Scope) -> dict[str, Any]:
        recipe = scope.recipe
        return {
            "model": keys.of_model(recipe.model, trained=True),
            "prompts": keys.of_prompts(recipe.prompts),
            "teach": asdict(recipe.teach),
            "temperature": _stored_temperature(recipe),
        }

    def make(self, scope: Scope, work: Work) -> None:
        recipe = scope.recipe
        backend = TrainingBackend(recipe.model)  # first: Unsloth has to be imported before transformers
        from ...backends.chat_template import pad_id
        from ...backends.transformers import load_tokenizer
        from ...backends.wrapped import embedded
        from ...method.examples import render_examples
        from ...method.selfchecks import check_teacher
        from ...method.targets import TargetWriter
        from ...method.teach import teach

        pairs = read_pairs(scope.run)
        writer, kept = TargetWriter(work.folder), {}
        if recipe.teach.targets != "online":
            tokenizer = load_tokenizer(recipe.model)
            examples = render_examples(recipe, pairs, tokenizer)
            temperature = recipe.train.teacher_temperature
            model = backend.load(recipe.sampler.max_model_len)
            pad = pad_id(tokenizer, embedded(model))
            check_teacher(recipe, model, examples)
            taught = teach(model, examples, recipe.teach, temperature, pad, writer)
            work.tokens = taught.tokens
            if taught.mean_mass is not None:
                kept = {"mean_mass": taught.mean_mass, "least_mass": taught.least_mass, "mass_temperature": temperature}
        writer.close({"targets": recipe.teach.targets, "temperature": _stored_temperature(recipe)})
        replies = sum(len(pair.reply_ids) for pair in pairs)
        work.summary = {
            "targets": recipe.teach.targets,
            "pairs": len(pairs),
            "reply_tokens": replies,
            "backend": backend.name,
            **kept,
        }


def _stored_temperature(recipe: Recipe) -> float | None:
    """The temperature that the targets belong to: the teacher's where a tail was made at it, else none."""
    return recipe.train.teacher_temperature if recipe.teach.targets == "top_k" else None


STAGE = Teach()
