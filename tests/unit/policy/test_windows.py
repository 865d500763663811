"""Windows against a list of everything that was taken: what is admitted, what is refused and for how long."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gatepass.policy.windows import CONCURRENT, MOST, PARTS, REQUESTS, TOKENS, Limit, Taken, Windows

MINUTE, DAY, MONTH = ("minute", 60), ("day", 86_400), ("month", 31 * 86_400)


def limit_of(unit: str, most: int, owner: str = "ana") -> Limit:
    return Limit(("caller", owner), unit, MINUTE if unit != CONCURRENT else ("", 0), most)


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
        self.now_s, self.windows = 60_000.0, Windows()
        self.limits = [self.windows.attach(self.copied(limit, limit.most)) for limit in self.made()]
        self.seen = dict.fromkeys((limit.key for limit in self.limits), "")
        """Of each limit of the calendar, the newest day or month that it has counted in."""
        self.counted: dict[Limit, list[list[Any]]] = {limit: [] for limit in self.limits}
        """Of each limit, the moments and what counts since then."""
        self.open: list[tuple[Taken, list[list[Any]]]] = []

    def copied(self, limit: Limit, most: int) -> Limit:
        copy = Limit(limit.owner, limit.unit, limit.window, most, is_calendar=limit.is_calendar)
        copy.ahead_s = self.ahead_s
        return copy

    def part(self, limit: Limit, at_s: float) -> int:
        return int(at_s * PARTS / limit.window[1])

    def period(self, limit: Limit, now_s: float) -> str:
        """Return the day or month, which a clock that was set back does not leave."""
        now = datetime.fromtimestamp(now_s + self.ahead_s, UTC)
        return max(self.seen[limit.key], f"{now:%Y-%m-%d}" if limit.window[0] == "day" else f"{now:%Y-%m}")

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
        if not limit.window[1]:
            return len(self.open)
        now = self.part(limit, now_s)
        return int(sum(count for at_s, count in self.counted[limit] if now - self.part(limit, at_s) <= PARTS))

    def cost(self, limit: Limit, tokens: int) -> int:
        return tokens if limit.unit == TOKENS else 1

    @rule(tokens=st.sampled_from((0, 1, 250, 999, 1_000)))
    def take(self, tokens: int) -> None:
        stamps = [self.stamp(limit) for limit in self.limits]
        room = {limit: limit.most - self.expected(limit, self.now_s) for limit in self.limits}
        fits = all(self.cost(limit, tokens) <= left for limit, left in room.items())
        result: Any = self.windows.take(self.limits, tokens, self.now_s)
        assert hasattr(result, "tokens") is fits
        if not fits:
            limit, cost = result.limit, self.cost(result.limit, tokens)
            assert cost > room[limit]
            if limit.window[1]:
                then_s = self.now_s + result.wait_s
                assert self.expected(limit, then_s + 1e-3) + cost <= limit.most
                assert self.expected(limit, then_s - 1e-3) + cost > limit.most
            return
        events = []
        for limit, stamp in zip(self.limits, stamps, strict=True):
            event = [stamp, self.cost(limit, tokens)]
            self.counted[limit].append(event)
            events.append(event)
        self.open.append((result, events))
        for limit in self.limits:  # no span of the length of the window has more than the limit, apart from debt
            if limit.unit == REQUESTS and not limit.is_calendar:
                span = [count for at_s, count in self.counted[limit] if at_s > self.now_s - limit.window[1]]
                assert sum(span) <= limit.most

    @precondition(lambda self: self.open)
    @rule(data=st.data(), used=st.sampled_from((None, 0, 10, 250, 1_000, 3_000)))
    def settle(self, data: st.DataObject, used: int | None) -> None:
        taken, events = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.windows.settle(taken, used, self.now_s)
        for limit, event in zip(self.limits, events, strict=True):
            stamp = self.stamp(limit)
            if used is None:
                event[1] = 0
            elif limit.unit == TOKENS and used <= event[1]:
                event[1] = used
            elif limit.unit == TOKENS:
                self.counted[limit].append([stamp, used - event[1]])

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle_twice(self, data: st.DataObject) -> None:
        taken, _ = data.draw(st.sampled_from(self.open))
        self.windows.settle(taken, taken.tokens, self.now_s)
        self.windows.settle(taken, None, self.now_s)
        for limit in self.limits:
            self.stamp(limit)
        self.open = [one for one in self.open if one[0] is not taken]

    @rule(parts=st.one_of(st.integers(0, 4), st.integers(120, 140)), of=st.sampled_from((1, 60)), fine=st.booleans())
    def wait(self, parts: int, of: int, fine: bool) -> None:
        self.now_s += (parts + (0.5 if fine else 0.0)) * of / PARTS

    @rule(most=st.sampled_from((3, 5, 12)))
    def reload(self, most: int) -> None:
        """A reload keeps what was used, and a lowered limit holds at once."""
        self.windows.prune(self.now_s)
        before = self.limits[0]
        after = self.limits[0] = self.windows.attach(self.copied(before, most))
        self.counted[after] = self.counted.pop(before)
        if after.words is not before.words:  # what counts nothing is forgotten, and with it the latest day
            self.counted[after], self.seen[after.key] = [], ""

    @invariant()
    def counts_what_was_taken(self) -> None:
        for limit in self.limits:
            assert limit.used(self.now_s) == self.expected(limit, self.now_s)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWindows = Machine.TestCase


class CalendarMachine(Machine):
    """The same caller with limits by day and month, while days end and the clock is set back."""

    ahead_s = datetime(2026, 9, 5, 12, tzinfo=UTC).timestamp() - 60_000.0

    def made(self) -> list[Limit]:
        return [
            Limit(("caller", "ana"), REQUESTS, DAY, 5, is_calendar=True),
            Limit(("caller", "ana"), TOKENS, MONTH, 3_000, is_calendar=True),
            limit_of(CONCURRENT, 4),
            Limit(("group", "all"), TOKENS, DAY, 2_000, is_calendar=True),
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
    windows = Windows()
    limit = windows.attach(limit_of(REQUESTS, 1))
    assert all(isinstance(windows.take([limit], 0, 1_000.0, is_forced=True), Taken) for _ in range(2))
    assert (limit.used(1_000.0), limit.left) == (2, 0)


def test_counts_stop_at_the_largest_that_a_record_holds():
    windows = Windows()
    tokens = windows.attach(limit_of(TOKENS, 100))
    taken = [windows.take([tokens], MOST - 5, 1_000.0, is_forced=True) for _ in range(3)]
    assert tokens.used(1_000.0) == MOST
    for one in taken:
        assert isinstance(one, Taken)
        windows.settle(one, 0, 1_000.0)
    assert tokens.used(1_000.0) == 0


def test_a_record_without_use_is_forgotten_at_a_reload():
    windows = Windows()
    limits = [windows.attach(limit_of(REQUESTS, 5, owner)) for owner in ("ana", "ben")]
    windows.take(limits[:1], 0, 1_000.0)
    windows.prune(1_000.5)
    again = [windows.attach(limit_of(REQUESTS, 5, owner)) for owner in ("ana", "ben")]
    assert [one.used(1_000.5) for one in again] == [1, 0]
    assert [one.words is before.words for one, before in zip(again, limits, strict=True)] == [True, False]


@pytest.mark.parametrize(
    ("now", "window", "text", "end"),
    [
        ("2026-12-31T23:59:59+00:00", MONTH, "2026-12", "2027-01-01T00:00:00+00:00"),
        ("2028-02-01T00:00:00+00:00", MONTH, "2028-02", "2028-03-01T00:00:00+00:00"),
        ("2028-02-28T12:00:00+00:00", DAY, "2028-02-28", "2028-02-29T00:00:00+00:00"),
    ],
)
def test_days_and_months_begin_and_end_at_midnight(now, window, text, end):
    limit = Limit(("caller", "ana"), TOKENS, window, 10, is_calendar=True)
    limit.ahead_s = 1_000_000_000.0
    now_s, end_s = (datetime.fromisoformat(one).timestamp() - limit.ahead_s for one in (now, end))
    assert limit.period(limit.part(now_s)) == (text, end_s)
    assert limit.part(end_s - 0.001) == limit.part(now_s) < limit.part(end_s)


def calendar(window: tuple[str, int] = DAY, most: int = 5) -> Limit:
    limit = Limit(("caller", "ana"), TOKENS, window, most, is_calendar=True)
    limit.ahead_s = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp() - 1_000.0
    return limit


def test_a_clock_that_was_wrong_by_years_does_not_keep_the_count_for_years():
    windows = Windows()
    limit = windows.attach(calendar())
    right_s, limit.ahead_s = limit.ahead_s, limit.ahead_s + 10 * 365 * 86_400
    windows.take([limit], 3, 1_000.0)
    limit.ahead_s = right_s
    windows.take([limit], 1, 1_000.0)
    assert limit.used(1_000.0) == 4
    assert isinstance(windows.take([limit], 5, 1_000.0 + 86_400), Taken)


def test_a_refund_after_its_part_has_left_lowers_nothing():
    windows = Windows()
    tokens = windows.attach(limit_of(TOKENS, 100))
    early, late = (windows.take([tokens], 50, 1_000.0 + at * (PARTS + 1) / PARTS) for at in range(2))
    assert isinstance(early, Taken)
    assert isinstance(late, Taken)
    windows.settle(early, 0, 1_001.1)
    assert tokens.used(1_001.1) == 50
