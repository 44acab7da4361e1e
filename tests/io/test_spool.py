"""Values on the disk come back as they went in, and leave nothing behind."""

from hypothesis import given
from hypothesis import strategies as st

from ssb_unsloth.io.spool import Spool

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(VALUES, max_size=12), st.data())
def test_what_goes_in_comes_out_in_any_order_and_while_more_goes_in(tmp_path_factory, values, data):
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, values[:3])
    for number, value in enumerate(values[3:], start=3):
        assert spool.add(value) == number
        place = data.draw(st.integers(0, number))
        assert spool[place] == values[place]
    assert (len(spool), list(spool), spool[-1] if values else None) == (len(values), values, (values or [None])[-1])
    assert list(folder.iterdir()) == []
