"""Statistics against SciPy, against published values, and against definitions written as loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ssb_unsloth.evaluation import stats

# Table 1 of the paper with the intervals that accompany it: right answers, questions, interval in per cent.
PUBLISHED = [
    (188, 500, 33.5, 41.9),
    (224, 500, 40.5, 49.2),
    (277, 500, 51.0, 59.7),
    (0, 30, 0.0, 11.4),
    (1, 30, 0.6, 16.7),
    (4, 30, 5.3, 29.7),
]


@pytest.mark.parametrize(("right", "n", "low", "high"), PUBLISHED)
def test_wilson_matches_published_intervals(right, n, low, high):
    assert [round(100 * bound, 1) for bound in stats.wilson(right, n)] == [low, high]


@given(st.integers(1, 2000), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_matches_scipy(n, data, confidence):
    successes = data.draw(st.integers(0, n))
    expected = scipy_stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert stats.wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_at_the_ends():
    assert stats.wilson(0, 30)[0] == 0.0
    assert stats.wilson(30, 30)[1] == 1.0
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.wilson(7.5, 10)[0] < 0.75 < stats.wilson(7.5, 10)[1]  # a mean over samples need not be whole
    for successes, n, confidence in [(-1, 10, 0.95), (11, 10, 0.95), (5, 10, 1.0)]:
        with pytest.raises(ValueError, match=r"Wilson|confidence"):
            stats.wilson(successes, n, confidence)


def test_bootstrap_mean_matches_scipy():
    values = np.random.default_rng(0).beta(0.5, 0.7, size=300)
    expected = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = stats.bootstrap_mean(values, seed=2, resamples=20_000)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_bootstrap_mean_covers_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(400):
        low, high = stats.bootstrap_mean(rng.random(80), seed=seed, confidence=0.9, resamples=500)
        covered += low <= 0.5 <= high
    assert 0.85 <= covered / 400 <= 0.95


@pytest.mark.parametrize("n", [stats.MANY, 300_000])
def test_of_many_questions_the_interval_is_that_of_the_mean_and_the_p_that_of_the_t_test(n):
    rng = np.random.default_rng(1)
    base = rng.binomial(4, 0.3, size=n) / 4
    other = np.where(rng.random(n) < 0.03, 1.0, base)
    low, high = stats.bootstrap_mean(base, seed=2)
    error = scipy_stats.sem(base)
    assert (low + high) / 2 == pytest.approx(base.mean(), abs=0.1 * error)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert stats.paired_bootstrap(base, base, seed=2).p == 1
    assert stats.paired_bootstrap(other, base, seed=2).p < 1e-50
    shuffled = rng.permutation(base)
    found, expected = stats.paired_bootstrap(shuffled, base, seed=2), scipy_stats.ttest_rel(shuffled, base)
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)
    interval = expected.confidence_interval()
    width = interval.high - interval.low
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.05 * width)


def test_many_questions_that_are_all_different_are_drawn_one_by_one():
    values = np.random.default_rng(1).random(stats.MANY)
    low, high = stats.bootstrap_mean(values, seed=2, resamples=500)
    assert (high - low) / 2 == pytest.approx(1.96 * scipy_stats.sem(values), rel=0.15)


def test_bootstrap_is_seeded_and_does_not_depend_on_chunks(monkeypatch):
    values = np.random.default_rng(4).random(50)
    whole = stats.bootstrap_mean(values, seed=5)
    assert stats.bootstrap_mean(values, seed=5) == whole
    assert stats.bootstrap_mean(values, seed=6) != whole
    monkeypatch.setattr(stats, "_CHUNK", 1000)
    assert stats.bootstrap_mean(values, seed=5) == pytest.approx(whole, abs=1e-12)


def test_paired_bootstrap_is_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(7)
    base = rng.random(200)
    better = np.clip(base + rng.normal(0.05, 0.02, size=200), 0, 1)
    difference, low, high, p = stats.paired_bootstrap(better, base, seed=8)
    assert difference == pytest.approx(better.mean() - base.mean())
    assert 0 < low < difference < high
    assert p < 1e-50  # far below what 10,000 resamples can tell
    assert stats.bootstrap_mean(better - base, seed=8) == pytest.approx((low, high))
    # Much narrower than for unrelated questions, which is why the pairing is kept
    _, loose_low, loose_high, _ = stats.paired_bootstrap(better, rng.permutation(base), seed=8)
    assert high - low < 0.2 * (loose_high - loose_low)


@pytest.mark.parametrize("effect", [0.0, 0.01, -0.02, 0.05])
def test_paired_bootstrap_p_is_that_of_the_t_test_for_many_questions(effect):
    rng = np.random.default_rng(9)
    base = rng.random(1500)
    other = base + rng.normal(effect, 0.3, size=1500)
    result = stats.paired_bootstrap(other, base, seed=10)
    assert result.p == pytest.approx(scipy_stats.ttest_rel(other, base).pvalue, abs=0.02)
    assert (result.p < 0.05) == (not result.low <= 0 <= result.high)


@pytest.mark.parametrize("effect", [0.035, 0.045, 0.06])
def test_a_p_below_what_the_resamples_can_tell_is_that_of_the_t_test(effect):
    """So that a table of any number of rows can hold something that is significant."""
    rng = np.random.default_rng(11)
    base = rng.random(1500)
    other = base + rng.normal(effect, 0.3, size=1500)
    expected = scipy_stats.ttest_rel(other, base).pvalue
    assert expected < 2 / 10_001
    p = stats.paired_bootstrap(other, base, seed=10).p
    assert math.log(p) == pytest.approx(math.log(expected), rel=0.05)
    assert stats.holm([p, *[1.0] * 499])[0] < 0.05


@pytest.mark.parametrize("differing", [1, 2, 3, 4])
def test_the_p_of_few_questions_is_never_below_what_an_exact_test_could_give(differing):
    better = [1.0] * differing + [0.0] * 200
    assert stats.paired_bootstrap(better, [0.0] * len(better), seed=0).p == 2 / 2**differing


def test_paired_bootstrap_without_any_difference_has_p_1():
    thirds = [1 / 3, 2 / 3, 0.1 + 0.2] * 5
    assert stats.paired_bootstrap(thirds, thirds, seed=0) == (0, 0, 0, 1)
    assert stats.paired_bootstrap([1, 0] * 9, [0, 1] * 9, seed=0).p > 0.9


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [[0.1, 0.2], [0.3, 0.4]]])
def test_bootstrap_refuses_what_is_no_list_of_numbers(values):
    with pytest.raises(ValueError, match="one finite number a question"):
        stats.bootstrap_mean(values, seed=0)


def test_paired_bootstrap_refuses_different_questions():
    with pytest.raises(ValueError, match="same questions: 3 are not 2"):
        stats.paired_bootstrap([1, 0, 1], [1, 0], seed=0)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_matches_scipy(b, c):
    expected = scipy_stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert stats.mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("b", "c"), [(10_400, 10_050), (9_000, 11_500), (60_000, 60_300), (0, 25_000)])
def test_mcnemar_of_many_questions_matches_scipy(b, c):
    assert stats.mcnemar_exact(b, c) == pytest.approx(scipy_stats.binomtest(b, b + c).pvalue, rel=1e-7)


def test_mcnemar_examples():
    assert stats.mcnemar_exact(59, 6) == pytest.approx(scipy_stats.binomtest(6, 65).pvalue)
    assert stats.mcnemar_exact(0, 5) == 2 / 32
    assert 0 <= stats.mcnemar_exact(0, 5000) < 1e-300  # exact integers neither overflow nor lose the tail
    with pytest.raises(ValueError, match="counts"):
        stats.mcnemar_exact(-1, 3)


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closure_of_bonferroni(pvalues):
    """By definition: a test's adjusted p is the largest Bonferroni p of all the sets of tests that contain it."""
    n = len(pvalues)
    expected = []
    for test in range(n):
        largest = 0.0
        for size in range(1, n + 1):
            for chosen in itertools.combinations(range(n), size):
                if test in chosen:
                    largest = max(largest, min(1.0, size * min(pvalues[i] for i in chosen)))
        expected.append(largest)
    assert stats.holm(pvalues) == pytest.approx(expected)


def test_holm_example():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.holm([0.5, 1.5])


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_counts_subsets(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert stats.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_refuses_more_draws_than_samples():
    assert stats.pass_at_k(2000, 1, 1000) == 0.5
    for n, c, k in [(4, 5, 1), (4, 2, 5), (4, 2, 0)]:
        with pytest.raises(ValueError, match="pass@k"):
            stats.pass_at_k(n, c, k)


def test_majority_splits_ties():
    assert stats.majority([0, 0, 1], [True, True, False]) == 1.0
    assert stats.majority([0, 1, 1], [True, False, False]) == 0.0
    assert stats.majority([0, 1, 2, 1, 0], [True, False, False, False, True]) == 0.5
    with pytest.raises(ValueError, match="one verdict a sample"):
        stats.majority([], [])
