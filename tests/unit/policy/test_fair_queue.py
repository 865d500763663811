"""The queue of a full upstream against a model of its promises, and planted faults that the model finds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gatepass.policy.fair_queue import FairQueue

WEIGHTS = {"chat": 3, "bulk": 1, "other": 1, "night": 2}
MOST_WAITING = 6

Ticket = tuple[str, int]


class Machine(RuleBasedStateMachine):
    """Requests that come, wait, give up and end, in any order. `new_queue` makes the queue under test."""

    new_queue: Callable[[], FairQueue[Ticket]] = FairQueue

    def __init__(self) -> None:
        super().__init__()
        self.queue = self.new_queue()
        self.queue.limit, self.queue.most_waiting = 2, MOST_WAITING
        self.numbers = count()
        # the model
        self.holding: set[Ticket] = set()
        self.waiting: list[Ticket] = []
        """In the order in which they came."""
        self.since: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """For each waiting caller, the tickets of each other one that were served since its own last one."""

    def turns(self, caller: str, more: int = 0) -> int:
        return -(-(sum(one == caller for one, _ in self.waiting) + more) // WEIGHTS[caller])

    def forget(self, ticket: Ticket) -> None:
        self.waiting.remove(ticket)
        if not any(caller == ticket[0] for caller, _ in self.waiting):
            self.since.pop(ticket[0], None)

    def granted(self, ticket: Ticket) -> None:
        caller, limit = ticket[0], self.queue.limit
        assert [ticket] == [one for one in self.waiting if one[0] == caller][:1], "in order within a caller"
        assert limit is None or len(self.holding) < limit, "the limit holds at each admission"
        for other in {one for one, _ in self.waiting} - {caller}:
            self.since[other][caller] += 1
            assert self.since[other][caller] <= WEIGHTS[caller], f"{caller} starves {other}"
        self.since[caller].clear()
        self.forget(ticket)
        self.holding.add(ticket)

    @rule(caller=st.sampled_from([*WEIGHTS]))
    def enter(self, caller: str) -> None:
        ticket, limit = (caller, next(self.numbers)), self.queue.limit
        refused = self.queue.enter(ticket, caller, WEIGHTS[caller])
        if limit is None or len(self.holding) < limit:
            assert refused is None
            self.holding.add(ticket)
            return
        if len(self.waiting) < MOST_WAITING:
            assert refused is None
        else:
            most = max(map(self.turns, WEIGHTS))
            if self.turns(caller, 1) >= most:
                assert refused == ticket
                return
            assert refused is not None
            assert self.turns(refused[0]) == most
            assert refused == [one for one in self.waiting if one[0] == refused[0]][-1]
            self.forget(refused)
        self.waiting.append(ticket)

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.holding)))
        self.holding.remove(ticket)
        self.told(self.queue.leave(ticket))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.forget(ticket)
        assert self.queue.leave(ticket) is None

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def repeat_or_leave_twice(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([*sorted(self.holding), *self.waiting]))
        assert self.queue.enter(ticket, ticket[0], WEIGHTS[ticket[0]]) is None
        assert self.queue.leave(("gone", -1)) is None

    @rule(limit=st.sampled_from((1, 2, 3, None)))
    def reload(self, limit: int | None) -> None:
        self.queue.limit = limit
        while (ticket := self.queue.grant()) is not None:
            self.granted(ticket)

    def told(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            self.granted(ticket)

    @invariant()
    def it_knows_what_the_model_knows(self) -> None:
        assert self.queue.holding == self.holding
        assert set(self.queue.waiting) == set(self.waiting)
        limit = self.queue.limit
        assert not self.waiting or (limit is not None and len(self.holding) >= limit), "a free place while one waits"
        assert len(self.waiting) <= MOST_WAITING

    @invariant()
    def nothing_of_a_caller_stays(self) -> None:
        callers = {caller for caller, _ in self.waiting}
        assert set(self.queue._lines) == callers

    def teardown(self) -> None:
        while self.holding:
            ticket = self.holding.pop()
            self.told(self.queue.leave(ticket))
        assert self.waiting == []


TestFairQueue = Machine.TestCase


class Starving(FairQueue[Ticket]):
    """Serves the first line until it is empty."""

    def grant(self) -> Ticket | None:
        for line in self._lines.values():
            line.deficit = 0
        return super().grant()


class InOrder(FairQueue[Ticket]):
    """First come, first served, as a pool of connections: whoever sends most is served most."""

    def grant(self) -> Ticket | None:
        if self.waiting and not self.is_full:
            self._lines.move_to_end(next(iter(self.waiting.values())).caller, last=False)
        return super().grant()


class LosingPlace(FairQueue[Ticket]):
    """Forgets to give the place of a request that ended to the next one."""

    def leave(self, ticket: Ticket) -> Ticket | None:
        self.holding.discard(ticket)
        return None if ticket in self.waiting else self.grant() if len(self.waiting) % 2 else None


class PoppingTwice(FairQueue[Ticket]):
    """Keeps a ticket in its line after it got a place."""

    def _remove(self, ticket: Ticket) -> None:
        line = self.waiting[ticket]
        super()._remove(ticket)
        if line.tickets:
            line.tickets[ticket] = None
            self.waiting[ticket] = line


@pytest.mark.parametrize("fault", [Starving, InOrder, LosingPlace, PoppingTwice])
def test_the_model_finds_a_planted_fault(fault):
    class Faulty(Machine):
        new_queue = fault

    few = settings(
        max_examples=300,
        phases=(Phase.generate,),  # not to shrink what is expected
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Faulty, settings=few)


def served(queue: FairQueue[Any], most: int) -> list[Any]:
    """Return the next tickets, each of which ends before the next one begins."""
    found = [queue.leave("first")]
    while len(found) < most and found[-1] is not None:
        found.append(queue.leave(found[-1]))
    return found


def test_a_chat_waits_for_one_request_of_a_bulk_job():
    queue = FairQueue[str](1, 1_000)
    queue.enter("first", "bulk", 1)
    for number in range(500):
        queue.enter(f"bulk-{number}", "bulk", 1)
    for number in range(2):
        queue.enter(f"chat-{number}", "chat", 1)
    assert served(queue, 5) == ["bulk-0", "chat-0", "bulk-1", "chat-1", "bulk-2"]


def test_weights_share_the_places_and_idle_callers_keep_no_credit():
    queue = FairQueue[str](1, 1_000)
    queue.enter("first", "other", 1)
    for number in range(8):
        queue.enter(f"bulk-{number}", "bulk", 1)
    for number in range(6):
        queue.enter(f"chat-{number}", "chat", 3)
    order = [ticket.partition("-")[0] for ticket in served(queue, 14) if ticket]
    assert order == ["bulk", *["chat"] * 3, "bulk", *["chat"] * 3, *["bulk"] * 6]


def test_a_full_queue_has_room_for_a_caller_with_fewer_requests():
    queue = FairQueue[str](1, 3)
    queue.enter("first", "bulk", 1)
    assert [queue.enter(f"bulk-{number}", "bulk", 1) for number in range(4)] == [None, None, None, "bulk-3"]
    assert [queue.enter(f"chat-{number}", "chat", 1) for number in range(2)] == ["bulk-2", "chat-1"]
    assert served(queue, 4) == ["bulk-0", "chat-0", "bulk-1", None]


def test_a_queue_without_places_refuses_at_once():
    queue = FairQueue[str](1)
    assert [queue.enter(name, "caller", 1) for name in ("first", "second")] == [None, "second"]
