"""Generations to scores and differences, each with its interval; all of it can be computed again from the JSONL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .config import BenchmarkConfig
from .errors import UserError
from .grading import Verdict
from .records import Generation
from .stats import bootstrap_mean, paired_bootstrap, wilson

BASE = "base"


@dataclass(frozen=True)
class Score:
    """pass@1 (paper, Eq. 7) of one model on one benchmark under one decoding; shares between 0 and 1.

    `low`, `high`: 95 %, Wilson's for one reply a question, a bootstrap over questions for the mean of several.
    """

    model: str
    benchmark: str
    split: str
    scoring: str
    temperature: float
    seed: int
    n_questions: int
    n_samples: int
    value: float
    low: float
    high: float
    interval: str
    no_answer: float
    truncated: float
    mean_tokens: float


@dataclass(frozen=True)
class Difference:
    """A model minus the base on the same questions, with a paired bootstrap over them (95 %)."""

    model: str
    benchmark: str
    temperature: float
    seed: int
    value: float
    low: float
    high: float


def score(
    generations: Sequence[Generation], benchmarks: Mapping[str, BenchmarkConfig], seed: int
) -> tuple[list[Score], list[Difference]]:
    """Scores of every model, seed, benchmark and decoding, and each one's difference from the base of its seed.

    Args:
        seed: The bootstraps'.
    """
    groups: dict[tuple[str, int, str, float], dict[str, list[Generation]]] = {}
    for g in generations:
        key = (g.model, g.run_seed, g.benchmark, g.temperature)
        groups.setdefault(key, {}).setdefault(g.problem_id, []).append(g)
    scores, differences = [], []
    for (model, run_seed, benchmark, temperature), by_question in groups.items():
        replies = [g for group in by_question.values() for g in group]
        right = _right(by_question)
        samples = len(replies) // len(by_question)
        value = sum(right) / len(right)
        low, high = wilson(sum(right), len(right)) if samples == 1 else bootstrap_mean(right, seed=seed)
        scores.append(
            Score(
                model=model,
                benchmark=benchmark,
                split=benchmarks[benchmark].split,
                scoring="equivalent",
                temperature=temperature,
                seed=run_seed,
                n_questions=len(by_question),
                n_samples=samples,
                value=value,
                low=low,
                high=high,
                interval="wilson" if samples == 1 else "bootstrap",
                no_answer=_share(replies, Verdict.NO_ANSWER),
                truncated=_share(replies, Verdict.TRUNCATED),
                mean_tokens=sum(g.n_tokens for g in replies) / len(replies),
            )
        )
        base = groups.get((BASE, run_seed, benchmark, temperature))
        if model != BASE and base is not None:
            if list(base) != list(by_question):
                raise UserError(f"Benchmark {benchmark!r}: {model} and the base answered different questions.")
            differences.append(
                Difference(model, benchmark, temperature, run_seed, *paired_bootstrap(right, _right(base), seed=seed))
            )
    return scores, differences


def _right(by_question: Mapping[str, Sequence[Generation]]) -> list[float]:
    """Share of right replies, question by question."""
    return [sum(g.verdict == Verdict.RIGHT for g in group) / len(group) for group in by_question.values()]


def _share(replies: Sequence[Generation], verdict: Verdict) -> float:
    return sum(g.verdict == verdict for g in replies) / len(replies)


def as_rows(records: Sequence[Score] | Sequence[Difference]) -> list[dict[str, object]]:
    return [asdict(record) for record in records]
