from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.proxy.context import rounded

halves = st.integers(0, 10**9).map(lambda number: (number + 0.5) / 10_000)


@given(st.one_of(st.floats(0, 1e6), halves, halves.map(lambda half: half * (1 - 2**-53)), st.floats(0, 0.001)))
@example(0.00005)
@example(0.00015)
@example(0.00025)
@example(2.00005)
@example(0.49999999999999994e-4)
def test_seconds_are_rounded_as_round_does_it(seconds):
    assert repr(rounded(seconds)) == repr(round(seconds, 4))
