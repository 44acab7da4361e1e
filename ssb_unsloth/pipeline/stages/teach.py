"""The hinted teacher over all pairs, and what is stored of its distributions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backends import TrainingBackend
from ...io import disk
from ...io.progress import say
from ...recipe.schema import Recipe
from ...run import keys
from ...run.rundir import Work
from ..stage import Scope, Stage
from ..teaching import LoadedTeacher, taught_by_replicas

if TYPE_CHECKING:
    from ...method.brought_targets import Published


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
        # A stopped attempt may have written shards that this one does not write again, as of targets made elsewhere.
        for left in work.folder.glob("*.safetensors*"):
            disk.remove(left)
        if recipe.teach.targets_from is not None:
            work.summary = _brought(scope, recipe.teach.targets_from, work.folder)
            return
        spread = recipe.sampler.engine == "ray"
        backend = None if spread else TrainingBackend(recipe.model)  # first: Unsloth comes before transformers
        from ...backends.transformers import load_tokenizer
        from ...method.examples import render_examples, taught_lessons
        from ...method.targets import TargetWriter

        tokenizer = load_tokenizer(recipe.model)
        taught = taught_lessons(recipe, scope.run, tokenizer)
        writer, kept, name = TargetWriter(work.folder), {}, backend.name if backend is not None else "none"
        if taught and recipe.teach.targets != "online":
            examples = render_examples(recipe, taught, tokenizer)
            temperature = recipe.train.teacher_temperature
            if backend is None:
                told, name = taught_by_replicas(recipe, examples, writer)
            else:
                loaded = LoadedTeacher(recipe, backend)
                loaded.check(examples)
                told, name = loaded.teach(examples, writer), backend.name
            work.tokens = told.tokens
            if told.mean_mass is not None:
                kept = {"mean_mass": told.mean_mass, "least_mass": told.least_mass, "mass_temperature": temperature}
        writer.close({"targets": recipe.teach.targets, "temperature": _stored_temperature(recipe)})
        replies = sum(len(lesson.pair.reply_ids) for lesson in taught)
        work.summary = {
            "targets": recipe.teach.targets,
            "pairs": len(taught),
            "reply_tokens": replies,
            "backend": name,
            **kept,
        }


def _brought(scope: Scope, source: str, folder: Path) -> dict[str, Any]:
    """Lay down the targets that were made elsewhere, if they are those that the teacher would make here. No model is
    loaded. Returns the stage's summary.
    """
    from ...backends.transformers import load_tokenizer
    from ...method.brought_targets import Examples
    from ...method.examples import taught_examples

    recipe, published = scope.recipe, published_targets(source)
    published.check_settings(recipe)
    tokenizer = load_tokenizer(recipe.model)
    published.check_model(recipe, tokenizer)
    examples = Examples.of(taught_examples(recipe, scope.run, tokenizer), recipe.teach)
    published.check_examples(examples)
    published.check_files(examples, recipe)
    told = published.copy(folder)
    count, replies = len(examples.lengths), sum(examples.lengths.values())
    say(f"{count:,} targets, {replies:,} reply tokens, taken from {source}; the teacher is not run")
    return {"targets": recipe.teach.targets, "pairs": count, "reply_tokens": replies, **told}


def published_targets(source: str, tensors: bool = True) -> Published:
    """The targets that `teach.targets_from` names, fetched where they are on the hub; without `tensors` only what says
    what they belong to.

    Raises:
        UserError: there are none.
    """
    from ...data.shared import found
    from ...method.brought_targets import KEY, ORIGIN, PATTERNS, Published

    return Published(found(source, KEY, PATTERNS if tensors else [ORIGIN]), source)


def _stored_temperature(recipe: Recipe) -> float | None:
    """The temperature that the targets belong to: the teacher's where a tail was made at it, else none."""
    return recipe.train.teacher_temperature if recipe.teach.targets == "top_k" else None


STAGE = Teach()
