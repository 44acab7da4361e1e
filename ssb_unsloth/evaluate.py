"""The evaluate stage: every model on every benchmark through one sampler engine, every reply kept and graded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .backends import Adapter, Request, Sampler, derive_seed
from .config import BenchmarkConfig, SamplingConfig
from .errors import UserError
from .grading import Verdict, grade
from .prompts import student_messages
from .records import Generation, Problem, read_jsonl, write_jsonl
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
    value: float
    low: float
    high: float


def evaluate(
    sampler: Sampler,
    models: Mapping[str, Adapter | None],
    benchmarks: Mapping[str, tuple[BenchmarkConfig, Sequence[Problem]]],
    max_model_len: int,
    seed: int,
    folder: Path,
) -> list[Generation]:
    """All generations, model after model; those of each decoding are kept in `folder` as soon as they are there.

    Raises:
        UserError: a prompt leaves no room for the reply, or an adapter that changes no reply at all.
    """
    generations: list[Generation] = []
    for model, adapter in models.items():
        for name, (config, problems) in benchmarks.items():
            for temperature, samples in decodings(config):
                path = folder / f"{model}-{name}-{temperature:g}.jsonl"
                if not path.exists():
                    decoding = SamplingConfig(temperature=temperature, max_tokens=config.max_tokens)
                    write_jsonl(
                        path, _generate(sampler, model, adapter, name, problems, decoding, samples, max_model_len, seed)
                    )
                generations += read_jsonl(path, Generation)
    for model, adapter in models.items():
        if adapter is not None:
            assert_changes_something(model, generations)
    return generations


def decodings(config: BenchmarkConfig) -> list[tuple[float, int]]:
    """(temperature, replies a question); greedy is temperature 0."""
    greedy = [(0.0, 1)] if config.greedy else []
    return greedy + ([(config.temperature, config.samples)] if config.temperature is not None else [])


def _generate(
    sampler: Sampler,
    model: str,
    adapter: Adapter | None,
    benchmark: str,
    problems: Sequence[Problem],
    decoding: SamplingConfig,
    samples: int,
    max_model_len: int,
    seed: int,
) -> list[Generation]:
    wanted = [(problem, sample) for problem in problems for sample in range(samples)]
    requests = []
    for problem, sample in wanted:
        ids = sampler.render(student_messages(problem.question))
        if len(ids) + decoding.max_tokens > max_model_len:
            raise UserError(
                f"Benchmark {benchmark!r}: problem {problem.id} takes {len(ids)} tokens and its reply up to"
                f" {decoding.max_tokens}, more than sampler.max_model_len ({max_model_len}). Raise it, or lower the"
                " benchmark's max_tokens; a benchmark is never scored on a part of its problems."
            )
        # The same seed for every model: what differs between two replies is the model alone.
        requests.append(Request(ids, derive_seed(seed, "evaluate", benchmark, problem.id, sample)))
    kind = f"T={decoding.temperature:g}" if decoding.temperature else "greedy"
    completions = sampler.sample(requests, decoding, adapter, title=f"{model}: {benchmark}, {kind}")
    return [
        Generation(
            model=model,
            benchmark=benchmark,
            problem_id=problem.id,
            sample=sample,
            temperature=decoding.temperature,
            seed=request.seed,
            text=completion.text,
            n_tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            verdict=verdict.verdict,
            answer=verdict.answer,
            gold=problem.gold,
        )
        for (problem, sample), request, completion in zip(wanted, requests, completions, strict=True)
        for verdict in [grade(completion.text, problem.gold, completion.finish_reason)]
    ]


def assert_changes_something(model: str, generations: Sequence[Generation]) -> None:
    """An engine that ignores an adapter serves the base without a word: then every reply is the base's."""
    key = ("benchmark", "problem_id", "sample", "temperature")
    replies: dict[str, dict[tuple[object, ...], str]] = {BASE: {}, model: {}}
    for g in generations:
        if g.model in replies:
            replies[g.model][tuple(getattr(g, k) for k in key)] = g.text
    if replies[model] and replies[model] == replies[BASE]:
        raise UserError(
            f"The adapter {model!r} changes none of {len(replies[model]):,} replies: it was not applied, or it has"
            " learnt nothing. Look at the training curve (train/history.jsonl) and at the learning rate."
        )


def score(
    generations: Sequence[Generation], benchmarks: Mapping[str, BenchmarkConfig], seed: int
) -> tuple[list[Score], list[Difference]]:
    """Scores of every model, benchmark and decoding, and each model's difference from the base."""
    groups: dict[tuple[str, str, float], dict[str, list[Generation]]] = {}
    for g in generations:
        groups.setdefault((g.model, g.benchmark, g.temperature), {}).setdefault(g.problem_id, []).append(g)
    scores, differences = [], []
    for (model, benchmark, temperature), by_question in groups.items():
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
                seed=seed,
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
        base = groups.get((BASE, benchmark, temperature))
        if model != BASE and base is not None:
            if list(base) != list(by_question):
                raise UserError(f"Benchmark {benchmark!r}: {model} and the base answered different questions.")
            differences.append(
                Difference(model, benchmark, temperature, *paired_bootstrap(right, _right(base), seed=seed))
            )
    return scores, differences


def _right(by_question: Mapping[str, Sequence[Generation]]) -> list[float]:
    """Share of right replies, question by question."""
    return [sum(g.verdict == Verdict.RIGHT for g in group) / len(group) for group in by_question.values()]


def _share(replies: Sequence[Generation], verdict: Verdict) -> float:
    return sum(g.verdict == verdict for g in replies) / len(replies)


def as_rows(records: Sequence[Score] | Sequence[Difference]) -> list[dict[str, object]]:
    return [asdict(record) for record in records]
