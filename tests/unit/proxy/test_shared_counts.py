"""The limits of a process whose store replies what no script of gatepass replies."""

from collections.abc import Sequence
from typing import Any, Self, cast

import pytest

from gatepass.config.use_limits import SPANS
from gatepass.policy.limits import CONCURRENT, REQUESTS, TOKENS, Limit, Refused, Subjects, Taken
from gatepass.proxy import shared_counts
from gatepass.proxy.shared_counts import SharedCounts
from gatepass.store.base import StoreUnavailable
from gatepass.store.guarded import GuardedStore
from tests.unit.clock import DrivenClock

LONG = "9" * 400


class Lying:
    """Replies `text` to each command."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked = 0

    def name_of(self, name: str) -> str:
        return name

    async def evaluate(self, script: str, commands: Sequence[Any]) -> list[bytes]:
        self.asked += 1
        return [self.text.encode() for _ in commands]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(
    "reply", ["", "1", f"1 0 {LONG}", f"1 {LONG} -1", f"{LONG} 0 -1", "x 0 -1", "1 inf -1", "1 0 nan", "1 0 1 2 3"]
)
async def test_a_number_that_no_server_counts_is_no_reply(reply: str, span: str, caplog) -> None:
    store = Lying(reply)
    counts = SharedCounts(cast(GuardedStore, store), DrivenClock())
    counts.start()
    limit = counts.attach(Limit(("caller", "ana"), REQUESTS, span, 2))
    limit.ahead_s = 1_800_000_000.0 - 1_000.0
    one = {REQUESTS: 1, TOKENS: 0, CONCURRENT: 1}
    taken = [await counts.admit([limit], one, 1_000.0) for _ in range(3)]
    assert [isinstance(one, Taken) for one in taken] == [True, True, False], "the process decides alone"
    assert (counts.fault is None, store.asked) == (False, 1)
    assert {record.getMessage() for record in caplog.records} == {"limits_without_store"}
    await counts._tasks.aclose()


async def test_a_limit_that_is_free_in_less_than_a_millisecond_refuses() -> None:
    counts = SharedCounts(cast(GuardedStore, Lying("1 2 0")), DrivenClock())
    counts.start()
    limit = counts.attach(Limit(("caller", "ana"), REQUESTS, "minute", 2))
    assert isinstance(await counts.admit([limit], {REQUESTS: 1}, 1_000.0), Refused)
    await counts._tasks.aclose()


async def test_the_names_of_callers_by_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_counts, "MOST_SUBJECTS", 3)
    counts = SharedCounts(cast(GuardedStore, Lying("1 1 -1")), DrivenClock())
    counts.start()
    for number in range(10):
        limit = Limit(("jwt", f"people/{number}"), REQUESTS, "minute", 2)
        assert isinstance(await counts.admit([limit], {REQUESTS: 1}, 1_000.0), Taken)
        assert len(counts._names) <= 3
    await counts._tasks.aclose()


class Shared:
    """A store with the use by another replica, or, if `is_down`, none that answers. It counts what it admits."""

    def __init__(self, used: int, wait_ms: int) -> None:
        self.used, self.wait_ms, self.is_down = used, wait_ms, False

    def name_of(self, name: str) -> str:
        return name

    async def evaluate(self, script: str, commands: Sequence[Any]) -> list[bytes]:
        if self.is_down:
            raise StoreUnavailable("The store did not answer.")
        return [self._counted([*values]) for _, values in commands]

    def _counted(self, values: list[Any]) -> bytes:
        entries = [values[at : at + 6] for at in range(0, len(values), 6)]
        fits = all(self.used + entry[3] <= entry[2] for entry in entries)
        replied = b"".join(
            b" %d %d" % (self.used, -1 if self.used + entry[3] <= entry[2] else self.wait_ms) for entry in entries
        )
        self.used += fits * sum(entry[3] for entry in entries)
        return b"7" + replied


class Replica:
    """A second replica: it has counted nothing itself."""

    def __init__(self, *, used: int = 10, wait_s: float = 30.0, unit: str = TOKENS, span: str = "minute") -> None:
        self.clock = DrivenClock()
        self.store = Shared(used, int(wait_s * 1000))
        self.counts = SharedCounts(cast(GuardedStore, self.store), self.clock)
        self.unit, self.span = unit, span
        self.limit = self.attached(10)

    def attached(self, most: int) -> Limit:
        limit = self.counts.attach(Limit(("caller", "ana"), self.unit, self.span, most))
        limit.ahead_s = 1_800_000_000.0
        return limit

    async def asked(self, amount: int) -> float | None:
        """Return the wait of a refusal, None if the request is admitted."""
        amounts = {REQUESTS: amount, TOKENS: amount, CONCURRENT: 1}
        answer = await self.counts.admit([self.limit], amounts, self.clock.now())
        return answer.wait_s if isinstance(answer, Refused) else None

    async def lose_store(self) -> None:
        self.store.is_down = True
        await self.counts.refresh([self.limit])
        assert self.counts.fault is not None

    async def __aenter__(self) -> Self:
        self.counts.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.counts._tasks.aclose()


async def test_the_last_refusal_holds_while_the_store_does_not_answer() -> None:
    async with Replica() as it:
        assert await it.asked(4) == 30.0
        await it.lose_store()
        await it.clock.advance(10.0)
        assert [await it.asked(amount) for amount in (4, 5)] == [20.0, 20.0]
        assert await it.asked(3) is None, "less than the store refused: the process decides alone"
        await it.clock.advance(19.9)
        assert await it.asked(4) == pytest.approx(0.1)
        await it.clock.advance(0.1)
        assert await it.asked(4) is None


async def test_a_request_that_asked_when_the_store_failed_is_refused_too() -> None:
    async with Replica() as it:
        assert await it.asked(1) == 30.0
        it.store.is_down = True
        assert await it.asked(1) == 30.0
        assert it.counts.fault is not None


@pytest.mark.parametrize(("unit", "span", "wait_s"), [(REQUESTS, "minute", 30.0), (CONCURRENT, "", 1.0)])
async def test_each_kind_of_limit_holds_as_long_as_it_told_the_client(unit: str, span: str, wait_s: float) -> None:
    async with Replica(unit=unit, span=span) as it:
        assert await it.asked(1) == wait_s
        await it.lose_store()
        assert await it.asked(1) == wait_s
        await it.clock.advance(wait_s)
        assert await it.asked(1) is None


async def test_a_limit_of_the_day_holds_until_its_end() -> None:
    async with Replica(unit=REQUESTS, span="day") as it:
        left_s = await it.asked(1)
        assert left_s is not None
        assert left_s > 60.0
        await it.lose_store()
        await it.clock.advance(60.0)
        assert await it.asked(1) == pytest.approx(left_s - 60.0)


async def test_the_next_answer_of_the_store_ends_the_refusal() -> None:
    async with Replica() as it:
        assert await it.asked(4) == 30.0
        it.store.used = 0
        assert await it.asked(1) is None
        await it.lose_store()
        assert await it.asked(4) is None


async def test_an_operators_question_is_no_answer_to_a_request() -> None:
    """The page asks every few seconds."""
    async with Replica() as it:
        assert await it.asked(4) == 30.0
        await it.counts.refresh([it.limit])
        await it.lose_store()
        assert await it.asked(4) == 30.0


async def test_a_reload_ends_the_refusal_only_if_it_changes_the_limit() -> None:
    async with Replica() as it:
        assert await it.asked(4) == 30.0
        await it.lose_store()
        for most, wait_s in ((10, 30.0), (20, None)):
            it.limit = it.attached(most)
            it.counts.prune(it.clock.now())  # of the replaced configuration
            it.limit = it.attached(most)
            assert await it.asked(4) == wait_s, most


async def test_only_the_refused_limit_of_a_request_holds() -> None:
    async with Replica(unit=REQUESTS) as it:
        free = it.counts.attach(Limit(("caller", "ana"), TOKENS, "minute", 1_000))
        amounts = {REQUESTS: 1, TOKENS: 9, CONCURRENT: 1}
        assert isinstance(await it.counts.admit([free, it.limit], amounts, it.clock.now()), Refused)
        await it.lose_store()
        assert isinstance(await it.counts.admit([free], amounts, it.clock.now()), Taken)
        refused = await it.counts.admit([free, it.limit], amounts, it.clock.now())
        assert isinstance(refused, Refused)
        assert (refused.limit, free.used(it.clock.now())) == (it.limit, 9), "a refusal takes nothing"


async def test_a_person_whom_the_store_refused_is_not_forgotten_for_another() -> None:
    async with Replica() as it:
        people, shared = Subjects(1, are_invented=False), [Limit(("jwt", "people"), REQUESTS, "minute", 2)]
        (ana,) = people.of("ana", shared, 0.0)
        it.limit = ana
        assert await it.asked(3) == 30.0
        assert people.of("bob", shared, it.clock.now()) is shared, "no place"
        await it.clock.advance(31.0)
        assert people.of("bob", shared, it.clock.now()) is not shared
