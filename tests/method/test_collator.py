"""The one-token shift and the masks, against positions counted by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssb_unsloth.method.collator import Example, PairCollator, make_view

PAD = 7


def test_rows_are_the_positions_that_predict_the_reply():
    seen = make_view([[1, 2, 3], [4]], [[5, 6], [8, 9, 7]], PAD)
    assert seen.input_ids.tolist() == [[1, 2, 3, 5, 6], [4, 8, 9, 7, PAD]]
    assert seen.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert list(zip(seen.rows_B.tolist(), seen.rows_S.tolist(), strict=True)) == [
        (0, 2),
        (0, 3),
        (1, 0),
        (1, 1),
        (1, 2),
    ]


ids = st.lists(st.integers(0, 9), min_size=1, max_size=6)


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=5))
def test_the_token_after_each_row_is_the_reply_token(pairs):
    prompts, replies = [p for p, _ in pairs], [r for _, r in pairs]
    seen = make_view(prompts, replies, PAD)
    after = seen.input_ids[seen.rows_B, seen.rows_S + 1]
    assert after.tolist() == [token for reply in replies for token in reply]
    assert seen.attention_mask.sum(1).tolist() == [len(p) + len(r) for p, r in pairs]


def test_a_pad_token_inside_the_reply_is_kept():
    """pad == eos is common: masks by token id would lose the end of turn."""
    seen = make_view([[1]], [[2, PAD]], PAD)
    assert seen.attention_mask.tolist() == [[1, 1, 1]]
    assert len(seen.rows_S) == 2


def test_student_and_teacher_rows_match_one_to_one():
    examples = [Example("a", [1], [1, 2, 3, 4], [5, 6]), Example("b", [1, 2], [3], [9])]
    batch = PairCollator(PAD, targets=None)(examples)
    for seen in (batch["student"], batch["teacher"].hinted):
        assert seen.input_ids[seen.rows_B, seen.rows_S + 1].tolist() == [5, 6, 9] == batch["labels"].tolist()
    assert batch["lengths"].tolist() == [2, 1]


def test_reply_rows_picks_states():
    seen = make_view([[1, 2], [3]], [[4], [5, 6]], PAD)
    hidden_BSH = torch.arange(2 * 3 * 1).reshape(2, 3, 1)
    assert seen.reply_rows(hidden_BSH)[:, 0].tolist() == [1, 3, 4]


@pytest.mark.parametrize("field", ["student_ids", "teacher_ids", "reply_ids"])
def test_an_empty_part_is_refused(field):
    parts = {"student_ids": [1], "teacher_ids": [1], "reply_ids": [1], field: []}
    with pytest.raises(ValueError, match="example x"):
        Example("x", **parts)
