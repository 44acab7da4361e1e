"""Base, students and given adapters on all benchmarks: every reply kept and graded, then scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...backends.sources import adapter_path
from ...errors import UserError
from ...published import FEW, STEPS
from ...recipe.schema import BASE, BenchmarkConfig, Recipe
from ...records import EXAMPLES_BENCHMARK, Problem
from ...run import keys
from ...run.curated import first_pairs
from ...run.rundir import RunDir, Work
from ...run.student import Student
from ..stage import Scope, Stage

if TYPE_CHECKING:
    from ...evaluation.evaluate import Contestant


class Evaluate(Stage):
    name = "evaluate"
    by_file = True

    def determined_by(self, scope: Scope) -> dict[str, Any]:
        recipe = scope.recipe
        evaluation = recipe.evaluate
        return {
            "model": keys.of_model(recipe.model),
            "sampler": keys.of_sampler(recipe.sampler),
            **keys.of_student_prompt(recipe.prompts),
            "default_prompt": evaluation.default_prompt,
            "adapters": {name: keys.of_path(source) for name, source in evaluation.adapters.items()},
            "references": evaluation.references,
            "benchmarks": {
                name: keys.of_problems(_by_form(benchmark, recipe)) for name, benchmark in evaluation.benchmarks.items()
            },
            "students": {s.label: (s.run.manifest("train") or {})["id"] for s in scope.trained()},
        }

    def make(self, scope: Scope, work: Work) -> None:
        from ...backends.template_choice import choices, told
        from ...backends.transformers import load_tokenizer
        from ...data.problems import load_benchmark
        from ...evaluation.evaluate import assert_adapters_fit
        from ...evaluation.run import Evaluation
        from ..preflight import check_references

        recipe, run, asked = scope.recipe, scope.run, scope.recipe.evaluate
        if not asked.benchmarks:
            raise UserError("evaluate.benchmarks: empty, so there is nothing to evaluate on; name one in the recipe.")
        benchmarks = {
            name: (_by_form(config, recipe), load_benchmark(name, config)) for name, config in asked.benchmarks.items()
        }
        everyone = scope.trained()
        for student in everyone:
            student.run.check("train")
        if run.manifest("curate") is not None:
            run.check("curate", ["pairs.jsonl"])
            benchmarks[EXAMPLES_BENCHMARK] = _worked_examples(recipe, run)
        contestants = _contestants(recipe, everyone)
        assert_adapters_fit(contestants, recipe.sampler)
        names = list(dict.fromkeys(contestant.name for contestant in contestants))
        check_references(recipe, names)
        against = [(name, ref) for ref in asked.references for name in names if name not in (ref, BASE)]
        evaluation = Evaluation(contestants, benchmarks, recipe.sampler, recipe.seed, against)
        evaluation.run(work, run.stage("evaluate"))
        if said := told(choices(load_tokenizer(recipe.model))):
            work.summary["template"] = said


def _worked_examples(recipe: Recipe, run: RunDir) -> tuple[BenchmarkConfig, list[Problem]]:
    """The first pairs' own questions: no score, since the students were trained on them, but the report shows the
    replies.
    """
    first = [Problem(pair.problem_id, pair.question, pair.gold) for pair in first_pairs(run)]
    limit, verifier = recipe.curate.rollout.max_tokens, recipe.problems.verifier
    config = BenchmarkConfig(source="pairs", verifier=verifier, temperature=None, max_tokens=limit)
    return _by_form(config, recipe), first


def _by_form(config: BenchmarkConfig, recipe: Recipe) -> BenchmarkConfig:
    """The benchmark, graded by the answer form that the recipe asks its replies for."""
    return replace(config, verifier=recipe.judge(config))


def _contestants(recipe: Recipe, everyone: Sequence[Student]) -> list[Contestant]:
    """The base under each seed, the students, and the adapters that the recipe gives; one prompt for all."""
    from ...evaluation.evaluate import Contestant, base_contestants

    seeds = list(dict.fromkeys(student.recipe.seed for student in everyone))
    texts = recipe.prompts.texts
    found = []
    for seed in seeds:
        found += base_contestants(recipe.model, seed, recipe.evaluate.default_prompt, texts)
    for student in everyone:
        few = (student.run.manifest("train") or {})["summary"]["steps"] < FEW * STEPS
        found.append(Contestant(student.name, student.model, student.adapter, student.recipe.seed, texts, few))
    for name, source in recipe.evaluate.adapters.items():
        path = adapter_path(source, f"evaluate.adapters.{name}", recipe.sampler.max_lora_rank)
        found += [Contestant(name, recipe.model, path, seed, texts) for seed in seeds]
    return found


STAGE = Evaluate()
