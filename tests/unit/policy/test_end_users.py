"""Subjects against a list of what each user was admitted by its own limits: forgetting a user renews nothing."""

from collections import defaultdict
from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatepass.policy.limits import (
    CONCURRENT,
    END_USER,
    JWT,
    MOST_READ,
    REQUESTS,
    TOKENS,
    Limit,
    Refused,
    Subjects,
    Taken,
)

PLACES, MOST = 2, 2
SHARED = (END_USER, "chat")
ONE = {REQUESTS: 1, TOKENS: 0, CONCURRENT: 1}


def shared_limits(most: int = MOST, caller: str = "chat") -> tuple[Limit, ...]:
    owner = (END_USER, caller)
    return (Limit(owner, REQUESTS, "minute", most), Limit(owner, TOKENS, "minute", 1_000))


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.users = 1_000.0, Subjects(PLACES)
        self.shared = tuple(map(self.users.attach, shared_limits()))
        self.admitted: defaultdict[str, list[float]] = defaultdict(list)
        """By the user, or "" for those without a place."""

    @rule(user=st.sampled_from("abcd"))
    def ask(self, user: str) -> None:
        limits = self.users.of(user, self.shared, self.now_s)
        bucket = self.admitted["" if limits is self.shared else user]
        if isinstance(self.users.take(limits, ONE, self.now_s), Taken):
            assert len([at_s for at_s in bucket if at_s > self.now_s - 60]) < MOST
            bucket.append(self.now_s)
        else:
            assert len([at_s for at_s in bucket if at_s > self.now_s - 65]) >= MOST

    @rule(user=st.sampled_from("abcd"))
    def ask_after_a_pause(self, user: str) -> None:
        self.now_s += 66
        assert self.users.of(user, self.shared, self.now_s) is not self.shared

    @rule(seconds=st.sampled_from((1, 20, 66)))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds

    @rule()
    def reload(self) -> None:
        self.shared = tuple(map(self.users.attach, shared_limits()))

    @invariant()
    def remembers_a_bounded_number(self) -> None:
        assert len(self.users._found) <= PLACES


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestEndUsers = Machine.TestCase


def test_ten_thousand_users_are_remembered_and_the_next_ones_share_one_budget():
    users, shared = Subjects(), shared_limits(1)
    results = [users.take(users.of(f"user-{number}", shared, 1_000.0), ONE, 1_000.0) for number in range(10_002)]
    assert [isinstance(one, Taken) for one in results[9_999:]] == [True, True, False]
    assert isinstance(users.take(users.of("user-5", shared, 1_000.0), ONE, 1_000.0), Refused)
    assert len(users._found) == 10_000
    assert users.of("user-10001", shared, 9_000.0) is not shared  # the count of an older one is over


def test_what_one_caller_invents_fills_only_its_own_share():
    callers, now_s = {name: shared_limits(1, name) for name in ("flood", "other/one", "third")}, 1_000.0
    users = Subjects(60)

    def are_own(caller: str, count: int) -> list[bool]:
        """Whether each of so many new users has a limit of its own, and counts once."""
        found = []
        for number in range(count):
            limits = users.of(f"user-{number}", callers[caller], now_s)
            found.append(isinstance(users.take(limits, ONE, now_s), Taken) and limits is not callers[caller])
        return found

    assert are_own("flood", 90) == [*[True] * 60, *[False] * 30]
    assert are_own("other/one", 31) == [*[True] * 30, False]  # the one above its share shares a count
    assert are_own("third", 21) == [*[True] * 20, False]
    assert users._users == {"flood": 20, "other/one": 20, "third": 20}
    for caller in callers:  # who was forgotten has no fresh budget, and nobody takes a place of a share
        assert users.of("new", callers[caller], now_s) is callers[caller]
    again = [users.of(f"user-{number}", callers["flood"], now_s) for number in range(60)]
    assert sum(one is callers["flood"] for one in again) == 40
    later_s = now_s + 70
    for number in range(60):  # the places of those whose counts are over are free for one caller again
        assert users.of(f"later-{number}", callers["third"], later_s) is not callers["third"]
        users.take(users.of(f"later-{number}", callers["third"], later_s), ONE, later_s)
    assert (users._users, len(users._found)) == ({"third": 60}, 60)


def test_a_caller_with_more_callers_than_places_has_what_is_free():
    users = Subjects(2)
    found = [users.of("ana", shared_limits(1, f"caller-{at}"), 0.0) for at in range(5)]
    assert len({one[0].owner for one in found}) == 5  # no use, so each place is free
    assert (len(users._found), len(users._users)) == (2, 2)


def test_the_place_of_the_least_recently_used_goes_to_a_new_user():
    users, shared = Subjects(2), shared_limits()
    first, second = users.of("a", shared, 0.0), users.of("b", shared, 0.0)
    assert users.of("a", shared, 0.0) is first
    users.of("c", shared, 0.0)
    assert users.of("a", shared, 0.0) is first
    assert users.of("b", shared, 0.0) is not second


def test_no_name_of_a_user_is_kept():
    users = Subjects()
    shared = (Limit(SHARED, REQUESTS, "minute", 5),)
    (limit,) = users.of("ana@corp.example", shared, 0.0)
    assert limit.subject == SHARED
    assert "ana" not in f"{limit.owner}{limit.name}{[*users._found]}"
    assert users.of("ana@corp.example", shared, 0.0)[0].key != users.of("ben@corp.example", shared, 0.0)[0].key


def test_a_caller_of_a_row_is_not_forgotten_before_the_span_of_its_limit_ends():
    """However many identities an issuer has, of whatever rows: no other one takes its place."""
    noon_s, start_s = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp(), 1_000.0
    of_rows, rows = Subjects(3, are_invented=False), []
    for name in ("people", "batch"):
        limit = Limit((JWT, name), REQUESTS, "month", 1)
        limit.ahead_s = noon_s - start_s
        rows.append((limit,))
    people, batch = rows

    def asks(identity: str, shared: tuple[Limit, ...], now_s: float) -> tuple[bool, bool]:
        """Whether it is admitted, and whether by a limit of its own."""
        limits = of_rows.of(identity, shared, now_s)
        return isinstance(of_rows.take(limits, ONE, now_s), Taken), limits is not shared

    assert [asks(f"jwt:{at}", people, start_s) for at in range(3)] == [(True, True)] * 3
    assert [asks(f"jwt:{at}", batch, start_s) for at in range(2)] == [(True, False), (False, False)]
    assert [asks(f"jwt:{at}", people, start_s) for at in range(4)] == [*[(False, True)] * 3, (True, False)]
    evening_s, midnight_s = start_s + 11 * 3600, start_s + 12 * 3600
    assert asks("jwt:0", batch, evening_s) == (False, False)
    assert [asks(f"jwt:{at}", batch, midnight_s) for at in range(3)] == [(True, True)] * 3
    assert len(of_rows._found) == 3
    assert of_rows.of("jwt:1", batch, midnight_s)[0].subject == (JWT, "batch")


def test_the_most_used_limit_of_a_row_is_that_of_its_recent_callers_in_this_span():
    of_rows, shared = Subjects(are_invented=False), (Limit((JWT, "people"), REQUESTS, "minute", 5),)
    for identity, times, now_s in (("jwt:a", 4, 1_000.0), ("jwt:b", 2, 1_070.0), ("jwt:c", 1, 1_071.0)):
        for _ in range(times):
            of_rows.take(of_rows.of(identity, shared, now_s), ONE, now_s)

    def most(now_s: float) -> list[int]:
        return [limit.used(now_s) for limit in of_rows.fullest(now_s).values()]

    assert (most(1_010.0), most(1_071.0)) == ([4], [2])
    for number in range(MOST_READ):
        of_rows.of(f"jwt:{number}", shared, 1_071.0)
    assert most(1_071.0) == [0]
