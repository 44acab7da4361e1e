"""Intervals and tests for accuracies. Pure Python and NumPy; checked against SciPy in the tests.

Which one when: one greedy run is a count of right answers among n questions, so `wilson`. Several samples a question
give each question a mean; questions are what was drawn, so `bootstrap_mean` over them. Two models are compared on the
same questions: `mcnemar_exact` for greedy runs, `paired_bootstrap` for means; `holm` over all tests of one table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
_CHUNK = 4_000_000  # drawn questions held at a time: bounds the memory of a bootstrap at 100 MB
MANY = 20_000  # questions from which on a bootstrap draws how often each value comes


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (E. B. Wilson, JASA 22, 1927), without continuity correction.

    Unlike the normal approximation it stays within [0, 1] and is not empty at 0 of n. Without data (n = 0) nothing is
    known: (0, 1).

    Raises:
        ValueError: `successes` is not between 0 and n, or `confidence` not between 0 and 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"A Wilson interval needs 0 <= successes <= n, not {successes} of {n}.")
    z = NormalDist().inv_cdf(0.5 + _inside(confidence) / 2)
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    # At the two ends the bounds are 0 and 1; rounding would leave 1e-17 there
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


def bootstrap_mean(
    values: ArrayLike, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over questions (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: One number a question, such as the share of its samples that are right.

    Values that are all equal give an interval of no width; prefer `wilson` for counts of few questions.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    means = _resampled_means(_questions(values), seed, resamples)
    low, high = np.quantile(means, _tails(confidence))
    return float(low), float(high)


class Paired(NamedTuple):
    """A mean difference with its interval, and the two-sided p-value that belongs to it."""

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Paired:
    """The mean of a minus the mean of b, with its percentile bootstrap interval over questions.

    p is twice the smaller share of resampled differences on either side of 0, those at 0 on both (Efron and Tibshirani
    1993, chapter 15), with one added to counts and resamples: it is below 0.05 where the 95 %
    interval leaves 0 out. Where not one resample lies on the other side the resamples cannot say how small p is, and in
    a table of many rows nothing that stops at 2 / 10,001 outlives `holm`: p is then the normal distribution's, with the
    standard error of the mean difference, and at most that. A bootstrap of few questions is too sure of itself, so p is
    never below 2 / 2^m, the least that an exact test could give for the m questions on which a and b differ.

    Args:
        a, b: One number a question; position i is the same question in both. Drawing questions, and not answers, keeps
            what the two share on a question, which is what makes the interval narrow.

    Raises:
        ValueError: different numbers of questions, none, or a value that is not finite.
    """
    first, second = _questions(a), _questions(b)
    if len(first) != len(second):
        raise ValueError(f"A paired comparison needs the same questions: {len(first)} are not {len(second)}.")
    difference = first - second
    means = _resampled_means(difference, seed, resamples)
    low, high = np.quantile(means, _tails(confidence))
    means = np.where(np.abs(means) < 1e-12, 0.0, means)  # thirds do not add up to 0 exactly
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    least = 2.0 ** (1 - int((np.abs(difference) > 1e-12).sum()))
    value, p = float(difference.mean()), 2 * (tail + 1) / (resamples + 1)
    if tail == 0:
        p = min(p, _normal_p(value, difference))
    return Paired(value, float(low), float(high), min(1.0, max(least, p)))


def _normal_p(mean: float, values: NDArray[np.float64]) -> float:
    """Two-sided, that the mean of such values is 0."""
    error = float(values.std()) / math.sqrt(len(values))
    return math.erfc(abs(mean) / error / math.sqrt(2)) if error else 0.0


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p-value of McNemar's test (Psychometrika 12, 1947), by the binomial distribution.

    Args:
        b, c: Questions that only the one and only the other model got right. Those on which both agree say nothing.

    Raises:
        ValueError: a negative count.
    """
    if b < 0 or c < 0:
        raise ValueError(f"McNemar's test needs counts, not {b} and {c}.")
    n, term, tail = b + c, 1, 0
    if n >= MANY:  # exact integers would have as many bits
        ks = np.arange(1, min(b, c) + 1)
        logs = np.concatenate(([0.0], np.cumsum(np.log((n + 1 - ks) / ks)))) - n * math.log(2)  # each term's
        return min(1.0, 2 * float(np.exp(logs).sum()))
    for k in range(min(b, c) + 1):
        tail += term
        term = term * (n - k) // (k + 1)  # the next binomial coefficient, exactly
    return min(1.0, 2 * tail / 2**n)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Scandinavian Journal of Statistics 6, 1979), in the order given.

    Comparing them with alpha keeps the chance of any false finding among all the tests below alpha, whatever their
    dependence.

    Raises:
        ValueError: a value outside of [0, 1].
    """
    if not all(0 <= p <= 1 for p in pvalues):
        raise ValueError(f"p-values lie between 0 and 1: {list(pvalues)}.")
    adjusted, largest = [0.0] * len(pvalues), 0.0
    for rank, index in enumerate(sorted(range(len(pvalues)), key=pvalues.__getitem__)):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = largest
    return adjusted


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k samples is right, unbiased from c right ones of n (Chen et al. 2021, Eq. 1).

    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n = {n}, c = {c}, k = {k}.")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(classes: Sequence[int], right: Sequence[bool]) -> float:
    """The chance that a majority vote is right, where ties are broken at random (so no seed is needed).

    Args:
        classes: The class of each sample's answer (`Verifier.answer_classes`).
        right: Whether each sample is right.

    Raises:
        ValueError: no samples, or not one verdict a sample.
    """
    if not classes or len(classes) != len(right):
        raise ValueError(f"A vote needs one verdict a sample: {len(classes)} answers, {len(right)} verdicts.")
    counts = Counter(classes)
    most = max(counts.values())
    tied = [number for number, count in counts.items() if count == most]
    return sum(right[classes.index(number)] for number in tied) / len(tied)


def _questions(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"A bootstrap needs one finite number a question, not an array of shape {array.shape}.")
    return array


def _resampled_means(values: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """Of as many values, drawn with replacement.

    Of many questions it is drawn how often each distinct value comes: the same distribution, in a time that does not
    grow with their number, since shares of a few replies take a few values.
    """
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True) if len(values) >= MANY else (values, None)
    if counts is not None and len(distinct) * 20 <= len(values):
        rows = max(1, _CHUNK // len(distinct))
        chunks = [
            rng.multinomial(len(values), counts / len(values), size=min(rows, resamples - start))
            @ distinct
            / len(values)
            for start in range(0, resamples, rows)
        ]
        return np.concatenate(chunks)
    rows = max(1, _CHUNK // len(values))
    chunks = [
        values[rng.integers(len(values), size=(min(rows, resamples - start), len(values)))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(chunks)


def _tails(confidence: float) -> list[float]:
    return [0.5 - _inside(confidence) / 2, 0.5 + confidence / 2]


def _inside(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"A confidence lies between 0 and 1, and is not {confidence}.")
    return confidence
