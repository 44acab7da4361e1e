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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from statistics import fmean, stdev

import numpy as np

from ..errors import UserError
from ..recipe.schema import BASE, BenchmarkConfig
from ..records import Generation
from ..verifier.protocol import Verdict, Verifier
from ..verifier.replies import answer_part
from ..verifier.verifiers import MATH, Spec, verifier_for
from .stats import bootstrap_mean, holm, majority, mcnemar_exact, paired_bootstrap, pass_at_k, wilson

ALPHA = 0.05
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

    Replies are added one at a time, and none of their texts is held: a reply takes some fifty bytes and its answer.
    """

    def __init__(self, first: Generation, verifier: Spec = MATH) -> None:
        """`first`: of its replies, which says how all of them were sampled; it is not added yet."""
        self.first, self.verifier = replace(first, text=""), verifier_for(verifier)
        self.places: dict[str, int] = {}  # question -> its place, in the order in which they come
        # By reply: its question's place, which sample it is, its tokens; whether it is right, by scoring.
        self._of, self._samples, self.tokens = array("q"), array("q"), array("q")
        self.right: dict[str, array[int]] = {scoring: array("b") for scoring in SCORINGS}
        self._answers: list[str | None] = []  # those that vote
        self.verdicts: Counter[str] = Counter()
        self.undecided = 0

    def add(self, g: Generation) -> None:
        self._of.append(self.places.setdefault(g.problem_id, len(self.places)))
        self._samples.append(g.sample)
        self.tokens.append(g.n_tokens)
        for scoring, rule in SCORINGS.items():
            self.right[scoring].append(rule(self.verifier, g))
        self._answers.append(g.answer or "" if g.verdict in (Verdict.RIGHT, Verdict.WRONG) else None)
        self.verdicts[g.verdict] += 1
        self.undecided += g.note is not None

    @cached_property
    def n_samples(self) -> int:
        """Replies to each question.

        Raises:
            UserError: not all have as many, or one stands there twice.
        """
        counts = np.bincount(self._of)
        order = np.lexsort((self._samples, self._of))
        twice = int(((np.diff(np.array(self._of)[order]) == 0) & (np.diff(np.array(self._samples)[order]) == 0)).sum())
        if counts.min() < counts.max() or twice:
            raise UserError(
                f"Generations of {self.first.model!r} on {self.first.benchmark!r} (T={self.first.temperature:g}, seed"
                f" {self.first.run_seed}): every question needs the same number of replies, each once; found"
                f" {counts.min()} to {counts.max()} replies, {twice} of them twice."
            )
        return int(counts[0])

    def __len__(self) -> int:
        return len(self._of)

    def shares(self, scoring: str) -> dict[str, float]:
        """Share of right replies, by question."""
        return {id_: count / self.n_samples for id_, count in self._counts(scoring)}

    def pass_at(self, k: int) -> dict[str, float]:
        return {id_: pass_at_k(self.n_samples, count, k) for id_, count in self._counts("equivalent")}

    def _counts(self, scoring: str) -> Iterator[tuple[str, int]]:
        """Each question with how many of its replies are right."""
        counts = np.bincount(self._of, weights=self.right[scoring], minlength=len(self.places))
        return zip(self.places, map(int, counts), strict=True)

    def majority(self) -> dict[str, float]:
        """A vote among the answers; replies without one, or cut off, do not vote. No vote at all is wrong."""
        votes: list[list[int]] = [[] for _ in self.places]  # the replies that vote, by question
        for reply, (place, answer) in enumerate(zip(self._of, self._answers, strict=True)):
            if answer is not None:
                votes[place].append(reply)
        return {id_: self._voted(replies) for id_, replies in zip(self.places, votes, strict=True)}

    def _voted(self, replies: Sequence[int]) -> float:
        classes = self.verifier.answer_classes([self._answers[reply] or "" for reply in replies])
        return majority(classes, [bool(self.right["equivalent"][reply]) for reply in replies]) if replies else 0.0


Runs = dict[tuple[str, str, float], dict[int, Run]]  # (model, benchmark, temperature) -> seed -> run


def runs_of(generations: Iterable[Generation], benchmarks: Mapping[str, BenchmarkConfig]) -> Runs:
    """The replies in their places, each with its benchmark's verifier.

    Raises:
        UserError: questions, or seeds of a model, without the same number of replies.
    """
    names = {name: config.verifier for name, config in benchmarks.items()}
    runs: Runs = {}
    for g in generations:
        by_seed = runs.setdefault((g.model, g.benchmark, g.temperature), {})
        if g.run_seed not in by_seed:
            by_seed[g.run_seed] = Run(g, names.get(g.benchmark, MATH))
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
    metrics: list[tuple[str, str, Callable[[Run], dict[str, float]]]] = [
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
            values = _mean_over_seeds([measure(run) for run in by_seed.values()])
            low, high, interval = _interval(values, False, seed)
            rows.append(
                replace(
                    own[0],
                    seed=None,
                    n_seeds=len(own),
                    value=fmean(values.values()),
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


def _row(
    run: Run, scoring: str, metric: str, values: Mapping[str, float], config: BenchmarkConfig | None, seed: int
) -> Score:
    first, n = run.first, len(values)
    low, high, interval = _interval(values, metric == "pass@1" and run.n_samples == 1, seed)
    verdicts = list(zip(run.tokens, run.right[scoring], strict=True))
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
        value=fmean(values.values()),
        low=low,
        high=high,
        interval=interval,
        sd=None,
        no_answer=run.verdicts[Verdict.NO_ANSWER] / len(run),
        truncated=run.verdicts[Verdict.TRUNCATED] / len(run),
        undecided=run.undecided,
        mean_tokens=fmean(run.tokens),
        tokens_right=_mean([tokens for tokens, right in verdicts if right]),
        tokens_wrong=_mean([tokens for tokens, right in verdicts if not right]),
    )


def _interval(values: Mapping[str, float], counted: bool, seed: int) -> tuple[float, float, str]:
    """The interval of the mean over questions, and its kind.

    Wilson's too where every question is right in all of its replies, or none in any: a bootstrap of that has no width,
    and would be as sure about 30 questions as about 30,000.
    """
    total, n = sum(values.values()), len(values)
    if counted or total in (0, n):
        return *wilson(total, n), "wilson"
    return *bootstrap_mean(list(values.values()), seed=seed), "bootstrap"


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
    sides = [{s: run.shares(scoring) for s, run in side.items()} for side in (ours, theirs)]
    a, b = (_mean_over_seeds(list(side.values())) for side in sides)
    if set(a) != set(b):
        raise UserError(
            f"Benchmark {first.benchmark!r}: {first.model!r} and {reference.model!r} answered different questions"
            f" ({len(set(a) - set(b)):,} only the first, {len(set(b) - set(a)):,} only the second)."
        )
    paired = paired_bootstrap(list(a.values()), [b[id_] for id_ in a], seed=seed)
    single = all(len(side) == 1 and run.n_samples == 1 for side in (ours, theirs) for run in side.values())
    gained = sum(a[id_] > b[id_] for id_ in a) if single else None
    lost = sum(a[id_] < b[id_] for id_ in a) if single else None
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
        by_seed=[fmean(v.values()) - fmean(sides[1].get(s, b).values()) for s, v in sides[0].items()],
        gained=gained,
        lost=lost,
        test="bootstrap" if gained is None else "mcnemar",
        p=paired.p if gained is None or lost is None else mcnemar_exact(gained, lost),
        p_holm=1.0,  # `compare` knows the other rows
        significant=False,
    )


def _mean_over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Question by question, the mean over the seeds.

    Raises:
        UserError: the seeds answered different questions.
    """
    if any(set(run) != set(runs[0]) for run in runs):
        raise UserError("The seeds of a model answered different questions, so there is no mean over them.")
    return {id_: fmean(run[id_] for run in runs) for id_ in runs[0]}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def as_rows(records: Sequence[Score] | Sequence[Difference]) -> list[dict[str, object]]:
    return [asdict(record) for record in records]
