"""One timer checks all requests that wait."""

from gatepass.proxy.in_flight import PeriodicChecks
from tests.unit.clock import DrivenClock


class Member:
    def __init__(self):
        self.calls = 0

    def check(self):
        self.calls += 1


class Timers(DrivenClock):
    """A clock that records the number of its timers."""

    count = 0

    def call_later(self, delay_s, callback):
        self.count += 1
        return super().call_later(delay_s, callback)


async def test_one_timer_checks_a_thousand_members():
    clock, members = Timers(), [Member() for _ in range(1000)]
    checks = PeriodicChecks(clock, 2)
    for member in members:
        checks.add(member.check)
        checks.add(member.check)
    assert (clock.count, len(checks.members)) == (1, 1000)
    await clock.advance(7)
    assert {member.calls for member in members} == {3}
    assert clock.count == 4


async def test_a_removed_member_is_not_checked_and_without_members_there_is_no_timer():
    clock, member = Timers(), Member()
    checks = PeriodicChecks(clock, 2)
    for times in (1, 2):
        checks.add(member.check)
        await clock.advance(2)
        checks.remove(member.check)
        await clock.advance(100)
        assert (member.calls, clock.count, len(checks.members)) == (times, 2 * times, 0)


async def test_members_can_be_added_and_removed_during_a_check():
    clock, late = DrivenClock(), Member()
    checks = PeriodicChecks(clock, 2)

    class Leaving(Member):
        def check(self):
            super().check()
            checks.remove(self.check)
            checks.add(late.check)

    first, second = Leaving(), Leaving()
    checks.add(first.check)
    checks.add(second.check)
    await clock.advance(2)
    assert (first.calls, second.calls, late.calls) == (1, 1, 0)
    await clock.advance(2)
    assert (first.calls, second.calls, late.calls) == (1, 1, 1)
