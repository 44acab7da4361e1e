"""The rows' weights against plain loops: examples' factors, rows that do not count, and both denominators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssb_unsloth.method.losses import row_weights


def by_loops(counted, denominator, examples=None, total=None):
    """[N] floats: row by row, what an example's rows have to weigh; `counted`: a list of booleans an example."""
    examples = [1.0] * len(counted) if examples is None else examples
    if total is None:
        total = len(counted) if denominator == "example" else sum(map(sum, counted))
    weights = []
    for factor, rows in zip(examples, counted, strict=True):
        of_row = factor / (total or 1) / (sum(rows) if denominator == "example" and any(rows) else 1)
        weights += [of_row if counts else 0.0 for counts in rows]
    return weights


ROWS = st.lists(st.booleans(), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    shape=st.lists(st.tuples(ROWS, st.sampled_from([0.0, 0.5, 1.0, 3.0])), min_size=1),
    denominator=st.sampled_from(["example", "token"]),
    all_count=st.booleans(),
    with_examples=st.booleans(),
    total=st.none() | st.integers(1, 9),
)
def test_oracle(shape, denominator, all_count, with_examples, total):
    counted, examples = (list(column) for column in zip(*shape, strict=True))
    counted = [[True] * len(rows) for rows in counted] if all_count else counted
    mask = torch.tensor([row for rows in counted for row in rows])
    if denominator == "token" and total is None and not mask.any():
        return
    found = row_weights(
        torch.tensor(list(map(len, counted))),
        total,
        denominator,
        None if all_count else mask,
        torch.tensor(examples) if with_examples else None,
    )
    expected = torch.tensor(by_loops(counted, denominator, examples if with_examples else None, total))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert torch.equal(found == 0, expected == 0)


def test_by_hand():
    """Five rows, of which the second to the fourth count; two, of which none does; one, that counts."""
    lengths, counted = torch.tensor([5, 2, 1]), torch.tensor([0, 1, 1, 1, 0, 0, 0, 1]).bool()
    ninth = 1 / 9
    expected = torch.tensor([0, ninth, ninth, ninth, 0, 0, 0, 1 / 3])
    torch.testing.assert_close(row_weights(lengths, counted=counted), expected)
    tokens = row_weights(lengths, denominator="token", counted=counted)
    torch.testing.assert_close(tokens, torch.tensor([0, 1, 1, 1, 0, 0, 0, 1]) / 4)


def test_where_all_count_nothing_is_another():
    lengths = torch.tensor([3, 4])
    for denominator in ("example", "token"):
        plain = row_weights(lengths, denominator=denominator)
        assert torch.equal(row_weights(lengths, None, denominator, torch.ones(7, dtype=torch.bool)), plain)


def test_micro_batches_add_up():
    """By the total of the step, as the trainer takes it: examples, or the rows that count."""
    lengths = torch.tensor([3, 1, 6, 2])
    counted = torch.tensor([0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1]).bool()
    factors = torch.tensor([0.5, 2.0, 1.0, 0.0])
    for denominator, total in (("example", 4), ("token", int(counted.sum()))):
        whole = row_weights(lengths, None, denominator, counted, factors)
        for cut in (1, 2, 3):
            rows = int(lengths[:cut].sum())
            parts = [
                row_weights(lengths[:cut], total, denominator, counted[:rows], factors[:cut]),
                row_weights(lengths[cut:], total, denominator, counted[rows:], factors[cut:]),
            ]
            torch.testing.assert_close(torch.cat(parts), whole)


def test_an_unknown_denominator_is_refused():
    with pytest.raises(ValueError, match="denominator"):
        row_weights(torch.tensor([1]), denominator="row")
