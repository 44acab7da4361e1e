"""Base, students and given adapters on all benchmarks: every reply kept and graded, then scored."""

from __future__ import annotations

from typing import Any

from ...backends.sources import adapter_path
from ...errors import UserError
from ...prompts import student_prompt
from ...recipe.schema import BenchmarkConfig
from ...records import EXAMPLES_BENCHMARK, WORKED_EXAMPLES, Problem
from ...run import keys
from ...run.curated import read_pairs
from ...run.rundir import Work
from ..stage import Scope, Stage


class Evaluate(Stage):
    name = "evaluate"

    def determined_by(self, scope: Scope) -> dict[str, Any]:
        recipe = scope.recipe
        evaluation = recipe.evaluate
        return {
            "model": keys.of_model(recipe.model),
            "sampler": keys.of_sampler(recipe.sampler),
            "wording": recipe.prompts.wording,
            "default_prompt": evaluation.default_prompt,
            "adapters": {name: keys.of_path(source) for name, source in evaluation.adapters.items()},
            "references": evaluation.references,
            "benchmarks": {name: keys.of_problems(benchmark) for name, benchmark in evaluation.benchmarks.items()},
            "students": {s.label: (s.run.manifest("train") or {})["id"] for s in scope.trained()},
        }

    def make(self, scope: Scope, work: Work) -> None:
        recipe, run = scope.recipe, scope.run
        from ...data.problems import load_benchmark
        from ...evaluation.evaluate import Contestant, assert_adapters_fit, base_contestants
        from ...evaluation.run import Evaluation
        from ..preflight import check_references

        if not recipe.evaluate.benchmarks:
            raise UserError("evaluate.benchmarks: empty, so there is nothing to evaluate on; name one in the recipe.")
        benchmarks = {
            name: (config, load_benchmark(name, config)) for name, config in recipe.evaluate.benchmarks.items()
        }
        everyone = scope.trained()
        for student in everyone:
            student.run.check("train")
        if run.manifest("curate") is not None:
            run.check("curate", ["pairs.jsonl"])
            # The first pairs' own questions: no score, since the students were trained on them, but the report shows
            # the replies.
            first = [Problem(pair.problem_id, pair.question, pair.gold) for pair in read_pairs(run)[:WORKED_EXAMPLES]]
            limit, verifier = recipe.curate.rollout.max_tokens, recipe.problems.verifier
            shown = BenchmarkConfig(source="pairs", verifier=verifier, temperature=None, max_tokens=limit)
            benchmarks[EXAMPLES_BENCHMARK] = (shown, first)
        seeds = list(dict.fromkeys(student.recipe.seed for student in everyone))
        prompt = student_prompt(recipe.prompts.wording)  # one for all that take part
        contestants = [
            contestant
            for seed in seeds
            for contestant in base_contestants(recipe.model, seed, recipe.evaluate.default_prompt, prompt)
        ]
        contestants += [
            Contestant(s.name, s.recipe.model, s.run.stage("train") / "adapter", s.recipe.seed, prompt)
            for s in everyone
        ]
        for name, source in recipe.evaluate.adapters.items():
            path = adapter_path(source, f"evaluate.adapters.{name}", recipe.sampler.max_lora_rank)
            contestants += [Contestant(name, recipe.model, path, seed, prompt) for seed in seeds]
        assert_adapters_fit(contestants, recipe.sampler)
        names = list(dict.fromkeys(contestant.name for contestant in contestants))
        check_references(recipe, names)
        against = [(name, ref) for ref in recipe.evaluate.references for name in names if name not in (ref, "base")]
        evaluation = Evaluation(contestants, benchmarks, recipe.sampler, recipe.seed, against)
        evaluation.run(work, run.stage("evaluate"))


STAGE = Evaluate()
