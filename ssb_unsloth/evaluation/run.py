"""One evaluation, from what is asked to what is written: for the stage of a recipe and for `ssb evaluate MODEL`.

contestants x benchmarks --carried.origins--> what each file of replies depends on
    --carry_over--> the replies that are there --evaluate--> all replies, graded --score--> scores.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..backends import load_sampler
from ..backends.sampler import Sampler
from ..io import disk
from ..recipe.schema import SamplerConfig
from ..records import EXAMPLES_BENCHMARK, Generation, write_jsonl
from ..run.rundir import Work
from ..verifier.verifiers import MATH, written
from .carried import carry_over, origins
from .evaluate import Benchmarks, Contestant, evaluate
from .scores import as_rows, score

Rows = dict[str, list[dict[str, object]]]  # "scores" and "differences", as scores.json has them


@dataclass(frozen=True)
class Evaluation:
    """Who answers what, and who is compared with whom."""

    contestants: Sequence[Contestant]
    benchmarks: Benchmarks  # EXAMPLES_BENCHMARK among them is answered and not scored
    sampler: SamplerConfig
    seed: int  # the bootstraps'
    against: Sequence[tuple[str, str]]  # (model, reference)

    @cached_property
    def origins(self) -> dict[str, str]:
        """What the replies are to depend on, by their file: the identity by which they are known again."""
        return origins(self.contestants, self.benchmarks, self.sampler)

    def run(
        self,
        work: Work,
        finished: Path,
        others: Mapping[str, str] | None = None,
        again: bool = False,
        make_sampler: Callable[..., Sampler] = load_sampler,
    ) -> Rows:
        """Evaluate and score into `work`: problems-*.jsonl, a file of generations for each decoding, scores.json.

        Args:
            finished: The stage's folder of before; replies in it whose origins are the same are not sampled again.
            others: The origins of replies in it that stay though they are not asked for.
            again: Sample also what is there.

        Raises:
            UserError: as `evaluate` and `score`.
        """
        wanted = {**(others or {}), **self.origins}
        carry_over(finished, work.folder, wanted, repeated=self.origins if again else ())
        scored = {name: config for name, (config, _) in self.benchmarks.items() if name != EXAMPLES_BENCHMARK}
        for name in scored:
            write_jsonl(work.folder / f"problems-{name}.jsonl", self.benchmarks[name][1])
        generations = evaluate(self.contestants, self.benchmarks, self.sampler, work.folder, make_sampler)
        count = 0

        def counted() -> Iterator[Generation]:
            nonlocal count
            for g in generations:
                count += 1
                work.tokens += g.n_tokens
                if g.benchmark in scored:
                    yield g

        scores, differences = score(counted(), scored, self.seed, self.against)
        rows = {"scores": as_rows(scores), "differences": as_rows(differences)}
        disk.write_text(work.folder / "scores.json", json.dumps(rows, indent=1) + "\n")
        judges = {name: written(config.verifier) for name, (config, _) in self.benchmarks.items()}
        verifiers = {name: judge for name, judge in judges.items() if judge != MATH}
        work.summary = {"generations": count, **({"verifiers": verifiers} if verifiers else {})}
        return rows
