"""The hinted teacher over all pairs, and what is stored of its distributions."""

from __future__ import annotations

from typing import Any

from ...backends import TrainingBackend
from ...recipe.schema import Recipe
from ...run import keys
from ...run.curated import read_pairs, rollouts_of
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
            "teach": keys.of_teaching(recipe.teach),
            "temperature": _stored_temperature(recipe),
        }

    def make(self, scope: Scope, work: Work) -> None:
        recipe = scope.recipe
        backend = TrainingBackend(recipe.model)  # first: Unsloth has to be imported before transformers
        from ...backends.chat_template import pad_id
        from ...backends.transformers import load_tokenizer
        from ...backends.wrapped import embedded
        from ...method.examples import lessons_of, render_examples
        from ...method.selfchecks import check_teacher
        from ...method.targets import TargetWriter
        from ...method.teach import teach

        tokenizer = load_tokenizer(recipe.model)
        pairs = read_pairs(scope.run)
        paired = {pair.problem_id for pair in pairs}
        wanted = rollouts_of(scope.run) if recipe.teach.needs_rollouts else ()
        rollouts = [rollout for rollout in wanted if rollout.problem_id in paired]
        lessons = lessons_of(recipe, pairs, rollouts, tokenizer)
        taught = [one for one in lessons if recipe.teach.right == "teacher" or not one.right]
        writer, kept = TargetWriter(work.folder), {}
        if taught and recipe.teach.targets != "online":
            examples = render_examples(recipe, taught, tokenizer)
            temperature = recipe.train.teacher_temperature
            model = backend.load(recipe.sampler.max_model_len)
            pad = pad_id(tokenizer, embedded(model))
            check_teacher(recipe, model, examples)
            told = teach(model, examples, recipe.teach, temperature, pad, writer)
            work.tokens = told.tokens
            if told.mean_mass is not None:
                kept = {"mean_mass": told.mean_mass, "least_mass": told.least_mass, "mass_temperature": temperature}
        writer.close({"targets": recipe.teach.targets, "temperature": _stored_temperature(recipe)})
        replies = sum(len(lesson.pair.reply_ids) for lesson in taught)
        work.summary = {
            "targets": recipe.teach.targets,
            "pairs": len(taught),
            "reply_tokens": replies,
            "backend": backend.name,
            **kept,
        }


def _stored_temperature(recipe: Recipe) -> float | None:
    """The temperature that the targets belong to: the teacher's where a tail was made at it, else none."""
    return recipe.train.teacher_temperature if recipe.teach.targets == "top_k" else None


STAGE = Teach()
