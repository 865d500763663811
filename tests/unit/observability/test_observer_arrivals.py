"""The timeline of a stream: bounded, and true at any length."""

import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gatepass.observability.observer import BATCH, FIRST_WIDTH_S, GAPS, SLICES, Arrivals


def noted(*moments: float) -> Arrivals:
    arrivals = Arrivals(moments[0])
    for moment in moments[1:]:
        arrivals.note(moment)
    return arrivals


def size_bytes(arrivals: Arrivals) -> int:
    held = [getattr(arrivals, name) for name in Arrivals.__struct_fields__]
    inner = [one for gap in arrivals._gaps for one in (gap, *gap)]
    return sys.getsizeof(arrivals) + sum(map(sys.getsizeof, (*held, *inner)))


def test_reads_are_counted_in_slices():
    timeline = noted(100.0, 100.0, 100.0 + FIRST_WIDTH_S, 100.0 + 4.5 * FIRST_WIDTH_S).timeline()
    assert (timeline.counts, timeline.width_s) == ([2, 1, 0, 0, 1], FIRST_WIDTH_S)
    assert (timeline.first_s, timeline.last_s) == (100.0, 100.0 + 4.5 * FIRST_WIDTH_S)


def test_the_width_doubles_when_all_slices_are_used():
    moments = [index * FIRST_WIDTH_S for index in range(SLICES + 1)]
    arrivals = noted(*moments)
    timeline = arrivals.timeline()
    assert (timeline.width_s, timeline.counts) == (2 * FIRST_WIDTH_S, [2] * (SLICES // 2) + [1])
    arrivals.note(1_000.0)
    timeline = arrivals.timeline()
    assert (timeline.width_s, sum(timeline.counts)) == (16.0, SLICES + 2)
    assert timeline.counts[int(1_000 / 16)] == 1


def test_the_three_longest_gaps_and_where_they_began():
    moments = [0.0, 1.0, 4.0, 4.5, 6.5, 6.6, 11.6]
    assert noted(*moments).timeline().gaps == [(5.0, 6.6), (3.0, 1.0), (2.0, 4.5)]


def test_a_gap_between_two_batches_counts():
    moments = [*(index / 1000 for index in range(BATCH)), 5.0]
    assert noted(*moments).timeline().gaps[0] == (5.0 - moments[-2], moments[-2])


@given(st.lists(st.floats(0.0, 90.0), min_size=1, max_size=3 * BATCH).map(sorted))
def test_a_closed_stream_has_the_same_timeline(moments: list[float]):
    closed = noted(*moments)
    closed.close()
    assert closed.timeline() == noted(*moments).timeline()


def test_one_read_is_a_timeline():
    timeline = Arrivals(7.0).timeline()
    assert (timeline.first_s, timeline.last_s, timeline.counts, timeline.gaps) == (7.0, 7.0, [1], [])


def test_many_reads_take_less_than_two_kibibytes():
    arrivals = Arrivals(0.0)
    largest = 0
    for number in range(1, 100_000):
        arrivals.note(number * 0.0125)
        if number % 10_007 == 0:
            largest = max(largest, size_bytes(arrivals))
    timeline = arrivals.timeline()
    assert (sum(timeline.counts), len(timeline.gaps)) == (100_000, GAPS)
    assert largest < 2048


# in steps that a float holds exactly, because a moment next to the border of a slice may be rounded into its neighbour
TICKS = st.integers(0, 1_000_000_000).map(lambda ticks: ticks / 1024)


@given(st.lists(TICKS, min_size=1, max_size=300), TICKS, st.integers(1, 50))
def test_every_read_is_in_its_slice_whenever_somebody_looks(offsets: list[float], began_s: float, look_every: int):
    moments = sorted(began_s + offset for offset in offsets)
    arrivals = Arrivals(moments[0])
    for number, moment in enumerate(moments[1:]):
        arrivals.note(moment)
        if number % look_every == 0:
            arrivals.timeline()
    timeline = arrivals.timeline()
    counts = [0] * len(timeline.counts)
    for moment in moments:
        counts[int((moment - timeline.first_s) / timeline.width_s)] += 1
    assert timeline.counts == counts
    assert len(counts) <= SLICES
    gaps = sorted((after - before for before, after in pairwise(moments)), reverse=True)
    assert [length for length, _ in timeline.gaps] == [gap for gap in gaps if gap > 0][:GAPS]
