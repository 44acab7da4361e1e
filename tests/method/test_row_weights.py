"""The rows' weights against plain loops: examples' factors, windows, and both denominators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.method.losses import counted, row_weights


def by_loops(lengths, denominator, examples=None, starts=None, window=None, total=None):
    """[N] floats: row by row, what an example's rows have to weigh."""
    examples = [1.0] * len(lengths) if examples is None else examples
    starts = [0] * len(lengths) if starts is None else starts
    counting = []
    for length, start in zip(lengths, starts, strict=True):
        rows = []
        for row in range(length):
            behind = window is not None and row > start + window - 1
            rows.append(row >= start and not behind)
        counting.append(rows)
    if total is None:
        total = len(lengths) if denominator == "example" else max(sum(map(sum, counting)), 1)
    weights = []
    for factor, rows in zip(examples, counting, strict=True):
        of_row = factor / total / (sum(rows) if denominator == "example" and any(rows) else 1)
        weights += [of_row if counts else 0.0 for counts in rows]
    return weights


@settings(max_examples=200, deadline=None)
@given(
    shape=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 8), st.sampled_from([0.0, 0.5, 1.0, 3.0])), min_size=1),
    denominator=st.sampled_from(["example", "token"]),
    window=st.none() | st.integers(1, 8),
    with_starts=st.booleans(),
    with_examples=st.booleans(),
    total=st.none() | st.integers(1, 9),
)
def test_oracle(shape, denominator, window, with_starts, with_examples, total):
    lengths, starts, examples = (list(column) for column in zip(*shape, strict=True))
    starts, examples = starts if with_starts else None, examples if with_examples else None
    found = row_weights(
        torch.tensor(lengths),
        total,
        denominator,
        None if examples is None else torch.tensor(examples),
        None if starts is None else torch.tensor(starts),
        window,
    )
    expected = torch.tensor(by_loops(lengths, denominator, examples, starts, window, total))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert torch.equal(found == 0, expected == 0)


def test_a_window_by_hand():
    """Five rows, of which the second to the fourth count; two, of which none does; one, that counts."""
    lengths, starts = torch.tensor([5, 2, 1]), torch.tensor([1, 2, 0])
    ninth = 1 / 9
    expected = torch.tensor([0, ninth, ninth, ninth, 0, 0, 0, 1 / 3])
    torch.testing.assert_close(row_weights(lengths, starts=starts, window=3), expected)
    assert counted(lengths, starts, 3).tolist() == [3, 0, 1]
    assert counted(lengths, starts).tolist() == [4, 0, 1]
    assert counted(lengths, None, 3).tolist() == [3, 2, 1]
    assert counted(lengths).tolist() == [5, 2, 1]
    tokens = row_weights(lengths, denominator="token", starts=starts, window=3)
    torch.testing.assert_close(tokens, torch.tensor([0, 1, 1, 1, 0, 0, 0, 1]) / 4)


def test_an_end_is_an_end():
    """A window of all rows is none, and one row less shows; so does a start."""
    lengths = torch.tensor([3, 4])
    plain = row_weights(lengths)
    assert torch.equal(row_weights(lengths, starts=torch.zeros(2, dtype=torch.long), window=4), plain)
    assert row_weights(lengths, window=3).tolist() != plain.tolist()
    assert row_weights(lengths, window=3)[-1] == 0
    late = row_weights(lengths, starts=torch.tensor([0, 1]))
    assert late[3] == 0
    assert late[:3].tolist() == plain[:3].tolist()
    torch.testing.assert_close(late[4:], torch.full((3,), 1 / 6))


@pytest.mark.parametrize("denominator", ["example", "token"])
def test_where_no_row_counts_all_weights_are_0(denominator):
    found = row_weights(torch.tensor([2, 3]), denominator=denominator, starts=torch.tensor([2, 9]), window=4)
    assert found.tolist() == [0.0] * 5


@pytest.mark.parametrize("denominator", ["example", "token"])
def test_micro_batches_with_windows_add_up(denominator):
    """By the total of the step, as the trainer takes it: examples, or the rows that count."""
    lengths, starts = torch.tensor([3, 1, 6, 2]), torch.tensor([1, 1, 0, 0])
    factors = torch.tensor([0.5, 2.0, 1.0, 0.0])
    whole = row_weights(lengths, None, denominator, factors, starts, 4)
    total = len(lengths) if denominator == "example" else counted(lengths, starts, 4).sum()
    for cut in (1, 2, 3):
        cuts = (slice(None, cut), slice(cut, None))
        parts = [row_weights(lengths[c], total, denominator, factors[c], starts[c], 4) for c in cuts]
        torch.testing.assert_close(torch.cat(parts), whole)
    if denominator == "example":  # factors of mean 1 leave a constant loss of 1 as it is, but for the example without
        sums = [part.sum().item() for part in whole.split(lengths.tolist())]
        assert sums == pytest.approx([0.125, 0.0, 0.25, 0.0])
