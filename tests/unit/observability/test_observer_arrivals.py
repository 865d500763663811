"""The reads of a stream: their number, the first and the last one, and the longest gap."""

import pytest

from gatepass.observability.observer import Arrivals


@pytest.mark.parametrize(
    ("moments", "gap_s", "gap_at_s"),
    [([7.0], 0.0, 0.0), ([0.0, 1.0, 4.0, 4.5, 6.5], 3.0, 1.0), ([1.0, 1.0, 2.0, 3.0], 1.0, 1.0)],
)
def test_reads_leave_their_number_and_the_longest_gap(moments: list[float], gap_s: float, gap_at_s: float) -> None:
    arrivals = Arrivals(moments[0])
    for moment in moments[1:]:
        arrivals.note(moment)
    assert (arrivals.reads, arrivals.first_s, arrivals.last_s) == (len(moments), moments[0], moments[-1])
    assert (arrivals.gap_s, arrivals.gap_at_s) == (gap_s, gap_at_s)
