"""Counts over a sliding window against the list of all events."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gatepass.policy.recent_counts import PARTS, RecentCounts

UNIT_S = 1 / 64
"""All times are multiples of it, and exact."""


class Machine(RuleBasedStateMachine):
    @initialize(window_s=st.sampled_from((10.0, 30.0, 2.5)))
    def make(self, window_s: float) -> None:
        self.now_s, self.window_s, self.counts = 1_000.0, window_s, RecentCounts()
        self.events: list[tuple[float, bool]] = []

    @rule(times=st.integers(1, 5), is_marked=st.booleans())
    def add(self, times: int, is_marked: bool) -> None:
        for _ in range(times):
            self.counts.add(self.now_s, self.window_s, is_marked=is_marked)
            self.events.append((self.now_s, is_marked))

    @rule(units=st.integers(0, 200))
    def wait(self, units: int) -> None:
        self.now_s += units * UNIT_S

    @rule(parts=st.integers(1, PARTS + 1), units=st.integers(-1, 1))
    def wait_for_a_border(self, parts: int, units: int) -> None:
        self.now_s += self.window_s / PARTS * parts + units * UNIT_S

    @rule()
    def clear(self) -> None:
        self.counts.clear()
        self.events.clear()

    @invariant()
    def is_exact_but_for_the_oldest_part(self) -> None:
        events, marked = self.counts.counts(self.now_s, self.window_s)
        ages = [(self.now_s - at_s, is_marked) for at_s, is_marked in self.events]
        possible = [is_marked for age_s, is_marked in ages if age_s < self.window_s]
        certain = [is_marked for age_s, is_marked in ages if age_s <= self.window_s * (1 - 1 / PARTS)]
        assert len(certain) <= events <= len(possible)
        assert sum(certain) <= marked <= sum(possible)
        assert len(self.counts._parts) <= PARTS


TestRecentCounts = Machine.TestCase


def test_another_window_applies_to_the_events_that_are_known():
    counts = RecentCounts()
    for at_s in (1_000.0, 1_015.0):
        counts.add(at_s, 30.0, is_marked=False)
    counts.add(1_016.0, 10.0, is_marked=False)
    assert counts.counts(1_016.0, 10.0) == (2, 0)
    assert counts.counts(1_028.0, 10.0) == (0, 0)
    counts.add(1_028.0, 30.0, is_marked=True)
    assert counts.counts(1_028.0, 30.0) == (1, 1)
