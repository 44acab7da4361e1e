"""Items made by another thread: in order, so many at a time, errors in their places."""

import threading
import time

import pytest

from ssb_unsloth.errors import UserError
from ssb_unsloth.method.prefetch import Prefetch


def test_what_is_prefetched_comes_in_order_and_no_further_than_the_depth():
    made, enough = [], threading.Event()

    def numbers():
        for number in range(10):
            made.append((number, threading.current_thread() is threading.main_thread()))
            if number == 3:
                enough.set()
            yield number

    prefetched = Prefetch(numbers(), depth=3)
    assert next(prefetched) == 0
    assert enough.wait(10)  # three more are made although nobody asks for them
    time.sleep(0.05)
    assert [number for number, _ in made] == [0, 1, 2, 3]
    assert list(prefetched) == list(range(1, 10))
    assert next(prefetched, "end") == next(prefetched, "end") == "end"
    assert not any(in_main_thread for _, in_main_thread in made)


def test_an_error_in_prefetching_is_raised_where_its_item_would_have_come():
    def numbers():
        yield 1
        raise UserError("no pair nobody")

    prefetched = Prefetch(numbers(), depth=5)
    assert next(prefetched) == 1
    for _ in range(2):
        with pytest.raises(UserError, match="nobody"):
            next(prefetched)
