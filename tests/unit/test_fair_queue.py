"""The queue of a full upstream against a model of its promises."""

from collections import Counter, defaultdict
from itertools import count

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gatepass.fair_queue import FairQueue

WEIGHTS = {"chat": 3, "bulk": 1, "other": 1, "night": 2}
MOST_WAITING = 6

Ticket = tuple[str, int]


class Machine(RuleBasedStateMachine):
    """Requests that come, wait, give up and end, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue[Ticket](2, MOST_WAITING)
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
