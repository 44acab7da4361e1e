"""Generations to scores and differences, each with its interval; all of it can be computed again from the JSONL.

Three scorings stand side by side. Each one forgives more than the one before it, so their values never fall. With the
mathematical verifier they are, and another one may have others in their places:
  string       the paper's way: the last box is the gold answer, character for character
  equivalent   the last box is mathematically equal to it: what "accuracy" means without another word
  format_free  the last box, number or formula is, box or not, cut off or not: `\\boxed{}` and stopping are format
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..recipe.schema import BASE, BenchmarkConfig
from ..records import Generation
from ..verifier.protocol import Verdict, Verifier
from ..verifier.replies import answer_part
from ..verifier.verifiers import MATH, Spec, verifier_for
from .stats import bootstrap_mean, holm, majority, mcnemar_exact, paired_bootstrap, pass_at_k, wilson

ALPHA = 0.05
Values = NDArray[np.float64]  # one number a question
SCORINGS: dict[str, Callable[[Verifier, Generation], bool]] = {
    "string": lambda verifier, g: g.finish_reason != "length" and verifier.string_equal(answer_part(g.text), g.gold),
    "equivalent": lambda _, g: g.verdict == Verdict.RIGHT,
    "format_free": lambda verifier, g: g.verdict == Verdict.RIGHT or verifier.format_free(answer_part(g.text), g.gold),
}


@dataclass(frozen=True)
class Score:
    """One number about one model on one benchmark under one decoding; shares lie between 0 and 1.

    `low`, `high`: 95 %, Wilson's for one reply a question, a bootstrap over questions for the mean of several; Wilson's
    again where all replies are right, or none. A model that was run with several seeds has a row for each, and one with
    `seed` None: the mean over the seeds.
    """

    model: str
    benchmark: str
    split: str
    scoring: str  # of SCORINGS
    metric: str  # "pass@1": the mean over the samples (paper, Eq. 7); "pass@k"; "majority@n"
    seed: int | None
    n_seeds: int
    prompt: str
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_tokens: int
    n_questions: int
    n_samples: int
    value: float
    low: float
    high: float
    interval: str  # "wilson" or "bootstrap"
    sd: float | None  # standard deviation of the seeds' values; None for a single seed
    no_answer: float
    truncated: float
    undecided: int  # replies whose answer could not be compared to the end: they count as wrong
    mean_tokens: float
    tokens_right: float | None  # mean over the right replies; None without any
    tokens_wrong: float | None


@dataclass(frozen=True)
class Difference:
    """A model minus a reference on the same questions; with several seeds, the mean over each one's seeds.

    The interval is a paired bootstrap over questions (95 %): it speaks of other questions, not of other training runs;
    `by_seed` shows those. `p` is two-sided, and `p_holm` corrected for all rows of the same table: one call of
    `compare`, one scoring.
    """

    model: str
    reference: str
    benchmark: str
    scoring: str
    temperature: float
    n_questions: int
    value: float
    low: float
    high: float
    by_seed: list[float]  # seed by seed; where the reference has other seeds, against its mean
    gained: int | None  # questions that only the model, or only the reference, got right; None for several replies
    lost: int | None
    test: str  # "mcnemar" (exact, one reply a question) or "bootstrap"
    p: float
    p_holm: float
    significant: bool  # p_holm < 0.05


class Run:
    """One model and seed on one benchmark under one decoding: what its replies come to, in numbers and short answers.

    Replies are added one at a time, and none of their texts is held: a reply takes some twenty bytes and its answer.
    When all are there, what is asked for has one number for each of `questions`, in their order.
    """

    def __init__(self, first: Generation, verifier: Spec, places: dict[str, int]) -> None:
        """`first`: of its replies, which says how all of them were sampled; it is not added yet. `places`: the place of
        each question of the benchmark, in the order in which they come; shared by all runs on it.
        """
        self.first, self.verifier = replace(first, text=""), verifier_for(verifier)
        self._places = places
        # By reply: its question's place, which sample it is, its tokens; whether it is right, by scoring.
        self._of, self._samples, self._tokens = array("i"), array("i"), array("i")
        self._right: dict[str, array[int]] = {scoring: array("b") for scoring in SCORINGS}
        # The answers that vote, end to end, and the bytes of each reply's; -1 for one that does not vote.
        self._answers, self._lengths = bytearray(), array("i")
        self.verdicts: Counter[str] = Counter()
        self.undecided = 0

    def add(self, g: Generation) -> None:
        self._of.append(self._places.setdefault(g.problem_id, len(self._places)))
        self._samples.append(g.sample)
        self._tokens.append(g.n_tokens)
        for scoring, rule in SCORINGS.items():
            self._right[scoring].append(rule(self.verifier, g))
        votes = g.verdict in (Verdict.RIGHT, Verdict.WRONG)
        answer = (g.answer or "").encode("utf-8", "surrogatepass") if votes else b""
        self._answers += answer
        self._lengths.append(len(answer) if votes else -1)
        self.verdicts[g.verdict] += 1
        self.undecided += g.note is not None

    @cached_property
    def questions(self) -> NDArray[np.int64]:
        """Their places, from the smallest on."""
        return np.unique(np.asarray(self._of)).astype(np.int64)

    @cached_property
    def n_samples(self) -> int:
        """Replies to each question.

        Raises:
            UserError: not all have as many, or one stands there twice.
        """
        of, samples = np.asarray(self._of), np.asarray(self._samples)
        counts = np.bincount(of)[self.questions]
        order = np.lexsort((samples, of))
        twice = int(((np.diff(of[order]) == 0) & (np.diff(samples[order]) == 0)).sum())
        if counts.min() < counts.max() or twice:
            raise UserError(
                f"Generations of {self.first.model!r} on {self.first.benchmark!r} (T={self.first.temperature:g}, seed"
                f" {self.first.run_seed}): every question needs the same number of replies, each once; found"
                f" {counts.min()} to {counts.max()} replies, {twice} of them twice."
            )
        return int(counts[0])

    def __len__(self) -> int:
        return len(self._of)

    def shares(self, scoring: str) -> Values:
        """Share of right replies."""
        return self._counts(scoring) / self.n_samples

    def pass_at(self, k: int) -> Values:
        by_count = np.array([pass_at_k(self.n_samples, count, k) for count in range(self.n_samples + 1)])
        return by_count[self._counts("equivalent").astype(np.int64)]

    def _counts(self, scoring: str) -> Values:
        """How many replies are right."""
        counts = np.bincount(np.asarray(self._of), weights=np.asarray(self._right[scoring])).astype(np.float64)
        return counts[self.questions]

    def majority(self) -> Values:
        """A vote among the answers; replies without one, or cut off, do not vote. No vote at all is wrong."""
        of, lengths, right = map(np.asarray, (self._of, self._lengths, self._right["equivalent"]))
        ends = np.cumsum(np.maximum(lengths, 0), dtype=np.int64)
        votes = np.flatnonzero(lengths >= 0)
        votes = votes[np.argsort(of[votes], kind="stable")]
        bounds = np.searchsorted(of[votes], [*self.questions, np.iinfo(np.int64).max])
        values = np.zeros(len(self.questions))
        for number, (begin, end) in enumerate(pairwise(bounds)):
            if replies := votes[begin:end].tolist():
                answers = [self._answers[ends[reply] - lengths[reply] : ends[reply]] for reply in replies]
                classes = self.verifier.answer_classes([answer.decode("utf-8", "surrogatepass") for answer in answers])
                values[number] = majority(classes, [bool(right[reply]) for reply in replies])
        return values

    def mean_tokens(self, scoring: str | None = None, right: bool = True) -> float | None:
        """Of all replies, or of those that are right, or are not; None without any."""
        tokens = np.asarray(self._tokens, dtype=np.int64)
        if scoring is not None:
            tokens = tokens[np.asarray(self._right[scoring]).astype(bool) == right]
        return int(tokens.sum()) / len(tokens) if len(tokens) else None


Runs = dict[tuple[str, str, float], dict[int, Run]]  # (model, benchmark, temperature) -> seed -> run


def runs_of(generations: Iterable[Generation], benchmarks: Mapping[str, BenchmarkConfig]) -> Runs:
    """The replies in their places, each with its benchmark's verifier.

    Raises:
        UserError: questions, or seeds of a model, without the same number of replies.
    """
    names = {name: config.verifier for name, config in benchmarks.items()}
    places: dict[str, dict[str, int]] = {}
    runs: Runs = {}
    for g in generations:
        by_seed = runs.setdefault((g.model, g.benchmark, g.temperature), {})
        if g.run_seed not in by_seed:
            by_seed[g.run_seed] = Run(g, names.get(g.benchmark, MATH), places.setdefault(g.benchmark, {}))
        by_seed[g.run_seed].add(g)
    for (model, benchmark, temperature), seeds in runs.items():
        if len(counts := sorted({run.n_samples for run in seeds.values()})) > 1:
            raise UserError(
                f"The seeds of {model!r} on {benchmark!r} (T={temperature:g}) have different numbers of replies a"
                f" question, {counts}, so there is no mean over them."
            )
    return runs


def score(
    generations: Iterable[Generation],
    benchmarks: Mapping[str, BenchmarkConfig],
    seed: int,
    against: Sequence[tuple[str, str]] | None = None,
) -> tuple[list[Score], list[Difference]]:
    """Scores of every model, seed, benchmark and decoding, and differences on the same questions.

    Args:
        seed: The bootstraps'.
        against: (model, reference) for each difference that is wanted; every model against the base if None.

    Raises:
        UserError: questions without the same number of replies, or two models that answered different questions.
    """
    runs = runs_of(generations, benchmarks)
    scores = [row for by_seed in runs.values() for row in _scores(by_seed, benchmarks, seed)]
    if against is None:
        against = [(model, BASE) for model in dict.fromkeys(key[0] for key in runs) if model != BASE]
    return scores, [row for scoring in SCORINGS for row in compare(runs, against, scoring, seed)]


def _scores(by_seed: Mapping[int, Run], benchmarks: Mapping[str, BenchmarkConfig], seed: int) -> list[Score]:
    rows = []
    any_run = next(iter(by_seed.values()))
    config = benchmarks.get(any_run.first.benchmark)
    metrics: list[tuple[str, str, Callable[[Run], Values]]] = [
        (scoring, "pass@1", lambda run, scoring=scoring: run.shares(scoring))  # type: ignore[misc]
        for scoring in SCORINGS
    ]
    if any_run.n_samples > 1:
        metrics += [
            ("equivalent", f"pass@{k}", lambda run, k=k: run.pass_at(k))  # type: ignore[misc]
            for k in (config.k if config else [])
            if 1 < k <= any_run.n_samples
        ]
        metrics.append(("equivalent", f"majority@{any_run.n_samples}", Run.majority))
    for scoring, metric, measure in metrics:
        own = [_row(run, scoring, metric, measure(run), config, seed) for run in by_seed.values()]
        rows += own
        if len(own) > 1:
            values = _mean_over_seeds(by_seed, measure)
            low, high, interval = _interval(values, False, seed)
            rows.append(
                replace(
                    own[0],
                    seed=None,
                    n_seeds=len(own),
                    value=fmean(values),
                    low=low,
                    high=high,
                    interval=interval,
                    sd=stdev(row.value for row in own),
                    no_answer=fmean(row.no_answer for row in own),
                    truncated=fmean(row.truncated for row in own),
                    undecided=sum(row.undecided for row in own),
                    mean_tokens=fmean(row.mean_tokens for row in own),
                    tokens_right=_mean([row.tokens_right for row in own if row.tokens_right is not None]),
                    tokens_wrong=_mean([row.tokens_wrong for row in own if row.tokens_wrong is not None]),
                )
            )
    return rows


def _row(run: Run, scoring: str, metric: str, values: Values, config: BenchmarkConfig | None, seed: int) -> Score:
    first, n = run.first, len(values)
    low, high, interval = _interval(values, metric == "pass@1" and run.n_samples == 1, seed)
    return Score(
        model=first.model,
        benchmark=first.benchmark,
        split=config.split if config else "",
        scoring=scoring,
        metric=metric,
        seed=first.run_seed,
        n_seeds=1,
        prompt=first.prompt,
        temperature=first.temperature,
        top_p=first.top_p,
        top_k=first.top_k,
        repetition_penalty=first.repetition_penalty,
        max_tokens=first.max_tokens,
        n_questions=n,
        n_samples=run.n_samples,
        value=fmean(values),
        low=low,
        high=high,
        interval=interval,
        sd=None,
        no_answer=run.verdicts[Verdict.NO_ANSWER] / len(run),
        truncated=run.verdicts[Verdict.TRUNCATED] / len(run),
        undecided=run.undecided,
        mean_tokens=run.mean_tokens() or 0.0,
        tokens_right=run.mean_tokens(scoring, True),
        tokens_wrong=run.mean_tokens(scoring, False),
    )


def _interval(values: Values, counted: bool, seed: int) -> tuple[float, float, str]:
    """The interval of the mean over questions, and its kind.

    Wilson's too where every question is right in all of its replies, or none in any: a bootstrap of that has no width,
    and would be as sure about 30 questions as about 30,000.
    """
    total, n = sum(values.tolist()), len(values)
    if counted or total in (0, n):
        return *wilson(total, n), "wilson"
    return *bootstrap_mean(values, seed=seed), "bootstrap"


def compare(runs: Runs, against: Sequence[tuple[str, str]], scoring: str, seed: int) -> list[Difference]:
    """One table of differences, with Holm's correction over all its rows.

    A pair in which a side is missing on some benchmark has no row there.

    Raises:
        UserError: the two sides answered different questions.
    """
    rows = []
    for model, reference in dict.fromkeys(against):  # asked for twice, it is still one test
        for (name, benchmark, temperature), ours in runs.items():
            theirs = runs.get((reference, benchmark, temperature))
            if name == model and theirs is not None and model != reference:
                rows.append(_difference(ours, theirs, scoring, seed))
    corrected = holm([row.p for row in rows])
    return [replace(row, p_holm=p, significant=p < ALPHA) for row, p in zip(rows, corrected, strict=True)]


def _difference(ours: Mapping[int, Run], theirs: Mapping[int, Run], scoring: str, seed: int) -> Difference:
    first, reference = next(iter(ours.values())).first, next(iter(theirs.values())).first
    a, b = (_mean_over_seeds(side, lambda run: run.shares(scoring)) for side in (ours, theirs))
    questions, others = (next(iter(side.values())).questions for side in (ours, theirs))
    if not np.array_equal(questions, others):
        raise UserError(
            f"Benchmark {first.benchmark!r}: {first.model!r} and {reference.model!r} answered different questions"
            f" ({len(np.setdiff1d(questions, others)):,} only the first,"
            f" {len(np.setdiff1d(others, questions)):,} only the second)."
        )
    paired = paired_bootstrap(a, b, seed=seed)
    single = all(len(side) == 1 and run.n_samples == 1 for side in (ours, theirs) for run in side.values())
    gained = int((a > b).sum()) if single else None
    lost = int((a < b).sum()) if single else None
    by_seed = [
        fmean(run.shares(scoring)) - fmean(theirs[s].shares(scoring) if s in theirs else b) for s, run in ours.items()
    ]
    return Difference(
        model=first.model,
        reference=reference.model,
        benchmark=first.benchmark,
        scoring=scoring,
        temperature=first.temperature,
        n_questions=len(a),
        value=paired.value,
        low=paired.low,
        high=paired.high,
        by_seed=by_seed,
        gained=gained,
        lost=lost,
        test="bootstrap" if gained is None else "mcnemar",
        p=paired.p if gained is None or lost is None else mcnemar_exact(gained, lost),
        p_holm=1.0,  # `compare` knows the other rows
        significant=False,
    )


def _mean_over_seeds(by_seed: Mapping[int, Run], measure: Callable[[Run], Values]) -> Values:
    """Question by question, the mean over the seeds.

    Raises:
        UserError: the seeds answered different questions.
    """
    runs = list(by_seed.values())
    if any(not np.array_equal(run.questions, runs[0].questions) for run in runs):
        raise UserError("The seeds of a model answered different questions, so there is no mean over them.")
    if len(runs) == 1:
        return measure(runs[0])
    return np.fromiter(map(fmean, zip(*map(measure, runs), strict=True)), np.float64, len(runs[0].questions))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def as_rows(records: Sequence[Score] | Sequence[Difference]) -> list[dict[str, object]]:
    return [asdict(record) for record in records]
