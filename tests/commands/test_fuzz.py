"""Ten thousand bad inputs (fuzz.py): each is read or refused by a sentence, in time, and leaves no half of a file."""

import pytest
from fuzz import campaign, kinds

COUNT = 10_000
KINDS = kinds()


@pytest.mark.parametrize("name", KINDS)
def test_bad_input_is_read_or_refused_by_a_sentence(name):
    tally = campaign(KINDS[name], 20, number=0)
    assert tally.tried >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_ten_thousand_bad_inputs_are_read_or_refused_by_a_sentence(name, capsys):
    count = round(COUNT * KINDS[name].share)
    tally = campaign(KINDS[name], count, number=1)
    with capsys.disabled():
        print(f"\n{name:<12}{tally}")
    assert tally.tried >= 0.9 * count
    assert 0 < tally.read < tally.tried


def test_the_shares_are_all_of_it():
    assert sum(kind.share for kind in KINDS.values()) == pytest.approx(1)
