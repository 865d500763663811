"""Counts against a list of everything that was taken: what is admitted, what is refused and for how long."""

import itertools
import weakref
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gatepass.config import use_limits
from gatepass.config.use_limits import DAY_S, SPANS
from gatepass.policy.limits import (
    CONCURRENT,
    KEPT,
    NOTHING,
    PART_S,
    REQUESTS,
    TOKENS,
    Amounts,
    Counts,
    Limit,
    Refused,
    Taken,
)


def limit_of(unit: str, most: int, owner: str = "ana", span: str = "minute") -> Limit:
    return Limit(("caller", owner), unit, span if unit != CONCURRENT else "", most)


def amounts(tokens: int = 0, requests: int = 1, concurrent: int = 1) -> Amounts:
    return {REQUESTS: requests, TOKENS: tokens, CONCURRENT: concurrent}


class Machine(RuleBasedStateMachine):
    """One caller with limits on requests, tokens and concurrent requests, whose group shares another limit."""

    ahead_s = 0.0

    def made(self) -> list[Limit]:
        return [
            limit_of(REQUESTS, 5),
            limit_of(TOKENS, 1_000),
            limit_of(CONCURRENT, 4),
            limit_of(REQUESTS, 8, owner="group"),
        ]

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.counts = 60_000.0, Counts()
        self.limits = [self.counts.attach(self.copied(limit, limit.most)) for limit in self.made()]
        self.seen = dict.fromkeys((limit.key for limit in self.limits), "")
        """Of each limit of the calendar, the newest day or month that it has counted in."""
        self.counted: dict[Limit, list[list[Any]]] = {limit: [] for limit in self.limits}
        """Of each limit, the moments and what counts since then."""
        self.open: list[tuple[Taken, list[list[Any]]]] = []

    def copied(self, limit: Limit, most: int) -> Limit:
        copy = Limit(limit.owner, limit.unit, limit.span, most)
        copy.ahead_s = self.ahead_s
        return copy

    def period(self, limit: Limit, now_s: float) -> str:
        """Return the day or month, which a clock that was set back does not leave."""
        now = datetime.fromtimestamp(now_s + self.ahead_s, UTC)
        return max(self.seen[limit.key], f"{now:%Y-%m-%d}" if limit.span == "day" else f"{now:%Y-%m}")

    def stamp(self, limit: Limit) -> Any:
        """Return what an event of this moment counts by."""
        if not limit.is_calendar:
            return self.now_s
        self.seen[limit.key] = self.period(limit, self.now_s)
        return self.seen[limit.key]

    def expected(self, limit: Limit, now_s: float) -> int:
        if limit.is_calendar:
            period = self.period(limit, now_s)
            return int(sum(count for at, count in self.counted[limit] if at == period))
        if not limit.span:
            return len(self.open)
        now = now_s // PART_S
        return int(sum(count for at_s, count in self.counted[limit] if now - at_s // PART_S < KEPT))

    @rule(tokens=st.sampled_from((0, 1, 250, 999, 1_000)))
    def take(self, tokens: int) -> None:
        taken = amounts(tokens)
        stamps = [self.stamp(limit) for limit in self.limits]
        room = {limit: limit.most - self.expected(limit, self.now_s) for limit in self.limits}
        full = [limit for limit, left in room.items() if taken[limit.unit] > left]
        result = self.counts.take(self.limits, taken, self.now_s)
        if isinstance(result, Refused):
            assert result.limit in full
            assert result.wait_s == max(limit.wait_s(taken[limit.unit], self.now_s) for limit in full)
            if result.limit.span:
                then_s, cost = self.now_s + result.wait_s, taken[result.limit.unit]
                assert self.expected(result.limit, then_s + 1e-3) + cost <= result.limit.most
                assert self.expected(result.limit, then_s - 1e-3) + cost > result.limit.most
            return
        assert not full
        events = [[stamp, taken[limit.unit]] for limit, stamp in zip(self.limits, stamps, strict=True)]
        for limit, event in zip(self.limits, events, strict=True):
            self.counted[limit].append(event)
            if limit.unit == REQUESTS and not limit.is_calendar:  # no 60 s have more than the limit
                assert sum(count for at_s, count in self.counted[limit] if at_s > self.now_s - 60) <= limit.most
        self.open.append((result, events))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), used=st.sampled_from((None, 0, 10, 250, 1_000, 3_000)))
    def settle(self, data: st.DataObject, used: int | None) -> None:
        taken, events = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        now = NOTHING if used is None else amounts(used, concurrent=0)
        for _ in range(2):  # the second time does nothing
            self.counts.settle(taken, now, self.now_s)
        for limit, event in zip(self.limits, events, strict=True):
            stamp = self.stamp(limit)
            if now[limit.unit] > event[1]:
                self.counted[limit].append([stamp, now[limit.unit] - event[1]])
            else:
                event[1] = now[limit.unit]

    @rule(parts=st.one_of(st.integers(0, 3), st.integers(11, 14)), fine=st.floats(0, 4.9))
    def wait(self, parts: int, fine: float) -> None:
        self.now_s += parts * PART_S + fine

    @rule(most=st.sampled_from((3, 5, 12)))
    def reload(self, most: int) -> None:
        """A reload keeps what was used, and a lowered limit holds at once."""
        self.counts.prune(self.now_s)
        before = self.limits[0]
        after = self.limits[0] = self.counts.attach(self.copied(before, most))
        self.counted[after] = self.counted.pop(before)
        if after.use is not before.use:  # what counts nothing is forgotten, and with it the latest day
            self.counted[after], self.seen[after.key] = [], ""

    @invariant()
    def counts_what_was_taken(self) -> None:
        for limit in self.limits:
            self.stamp(limit)
            assert limit.used(self.now_s) == self.expected(limit, self.now_s)
            assert len(limit.use.parts) <= KEPT


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCounts = Machine.TestCase


class CalendarMachine(Machine):
    """The same caller with limits by day and month, while days end and the clock is set back."""

    ahead_s = datetime(2026, 9, 5, 12, tzinfo=UTC).timestamp() - 60_000.0

    def made(self) -> list[Limit]:
        return [
            limit_of(REQUESTS, 5, span="day"),
            limit_of(TOKENS, 3_000, span="month"),
            limit_of(CONCURRENT, 4),
            limit_of(TOKENS, 2_000, owner="group", span="day"),
        ]

    @rule(hours=st.sampled_from((1, 11, 12, 24, 24 * 26)))
    def sleep(self, hours: int) -> None:
        self.now_s += hours * 3_600

    @rule(hours=st.sampled_from((-20, -1, 1)))
    def set_the_clock(self, hours: int) -> None:
        self.ahead_s += hours * 3_600
        for limit in self.limits:
            limit.ahead_s = self.ahead_s


CalendarMachine.TestCase.settings = Machine.TestCase.settings
TestCalendar = CalendarMachine.TestCase


def test_forced_takes_are_debt():
    counts, limit = Counts(), limit_of(REQUESTS, 1)
    taken = [counts.take([limit], amounts(), 1_000.0, is_forced=True) for _ in range(2)]
    assert all(isinstance(one, Taken) for one in taken)
    assert limit.used(1_000.0) == 2


def test_what_is_larger_than_the_limit_waits_for_the_whole_minute():
    limit = limit_of(TOKENS, 10)
    refused = Counts().take([limit], amounts(11), 1_000.0)
    assert isinstance(refused, Refused)
    assert refused.wait_s == KEPT * PART_S


def test_a_use_is_forgotten_at_a_reload_when_it_counts_nothing():
    counts = Counts()
    limits = [counts.attach(limit_of(REQUESTS, 5, owner)) for owner in ("ana", "ben")]
    counts.take(limits[:1], amounts(), 1_000.0)
    counts.prune(1_000.5)
    first, unused = limits[0].use, weakref.ref(limits[1].use)
    del limits
    assert unused() is None
    again = [counts.attach(limit_of(REQUESTS, 5, owner)) for owner in ("ana", "ben")]
    assert [one.used(1_000.5) for one in again] == [1, 0]
    assert again[0].use is first


@pytest.mark.parametrize("reloads", [1, 2])
def test_a_reload_keeps_the_use_to_which_a_request_in_progress_still_owes(reloads):
    counts = Counts()
    taken = counts.take([counts.attach(limit_of(TOKENS, 500))], amounts(tokens=5), 1_000.0)
    assert isinstance(taken, Taken)
    for _ in range(reloads):  # after the first one, no limit is configured
        counts.prune(1_070.0)
    limit = counts.attach(limit_of(TOKENS, 600))
    assert limit.used(1_070.0) == 0
    counts.settle(taken, amounts(tokens=400), 1_071.0)
    assert limit.used(1_071.0) == 395


@pytest.mark.parametrize(
    ("now", "span", "first", "end"),
    [
        ("2026-12-31T23:59:59+00:00", "month", "2026-12-01", "2027-01-01T00:00:00+00:00"),
        ("2028-02-01T00:00:00+00:00", "month", "2028-02-01", "2028-03-01T00:00:00+00:00"),
        ("2028-02-28T12:00:00+00:00", "day", "2028-02-28", "2028-02-29T00:00:00+00:00"),
    ],
)
def test_days_and_months_begin_and_end_at_midnight(now, span, first, end):
    limit = limit_of(TOKENS, 10, span=span)
    limit.ahead_s = 1_000_000_000.0
    now_s, end_s = (datetime.fromisoformat(one).timestamp() - limit.ahead_s for one in (now, end))
    assert limit.part(now_s) == datetime.fromisoformat(first).toordinal()
    assert limit.end_s(limit.part(now_s)) == end_s
    assert limit.part(end_s - 0.001) == limit.part(now_s) < limit.part(end_s)


DAYS = range(20_000, 21_500)


@pytest.mark.parametrize(("short", "long"), [*itertools.combinations(SPANS, 2)])
def test_no_limit_is_refused_that_is_reached_before_the_one_of_a_longer_time(short, long):
    inner, outer = (limit_of(REQUESTS, 10, span=one) for one in (short, long))
    ends_s = {outer.end_s(outer.part(day * DAY_S)) for day in DAYS}
    is_over_an_end = any(inner.part(end_s - 1) == inner.part(end_s) or not inner.is_calendar for end_s in ends_s)
    reached = 20 if is_over_an_end else 10
    use_limits.Amounts.model_validate({short: reached - 1, long: 10})
    with pytest.raises(ValueError, match=rf"{short}\n.*is never reached"):
        use_limits.Amounts.model_validate({short: 20, long: 10})


def test_a_clock_that_was_wrong_by_years_does_not_keep_the_count_for_years():
    counts, limit = Counts(), limit_of(TOKENS, 5, span="day")
    limit.ahead_s = right_s = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp() - 1_000.0
    limit.ahead_s += 10 * 365 * 86_400
    counts.take([limit], amounts(3), 1_000.0)
    limit.ahead_s = right_s
    counts.take([limit], amounts(1), 1_000.0)
    assert limit.used(1_000.0) == 1


def test_what_other_processes_used_of_a_day_is_over_with_the_day():
    limit = limit_of(REQUESTS, 5, span="day")
    limit.note_total(4, 1_000.0)
    assert [limit.all_used(at_s) for at_s in (1_000.0, 86_400.0)] == [4, 0]
