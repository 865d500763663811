"""Arbitrary interleavings of connections, requests and their ends: no client takes the last slot of another."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.errors import GatepassError
from gatepass.proxy.in_flight import Concurrency
from gatepass.server.connection_shares import ConnectionShares
from tests.attacks import generated
from tests.attacks.conftest import Attack

CONNECTIONS, UNAUTHENTICATED = 10, 4
CALLERS = ("hog", "app", "slow")
STRANGER = None

Step = tuple[Any, ...]
"""("flood", count), ("come", caller), ("ask", nth connection, caller or STRANGER),
("answer", nth), ("leave", nth), ("probe", number of connections before its head is read)."""


@dataclass(eq=False)
class Client:
    """One open connection: for whom a request on it is under way, if one is."""

    caller: str | None = None
    serving: Literal["no", "stranger", "admitted"] = "no"
    by: str = ""


@dataclass
class Simulation:
    """The clients of one gatepass, played against the shares; `check` receives whether each invariant holds."""

    callers: int
    check: Callable[[bool, object], None]
    shares: ConnectionShares[Client]
    requests: Concurrency
    open: list[Client] = field(default_factory=list)
    history: list[object] = field(default_factory=list)

    def holds(self, holds: bool, what: str) -> None:
        self.check(holds, (what, self.callers, self.history))

    def play(self, steps: list[Step]) -> None:
        for name, *arguments in steps:
            self.history.append((name, *arguments))
            getattr(self, name)(*arguments)
            self.invariants()
        while self.open:
            self.leave(0)
        counted = (len(self.shares), self.shares.make_room(1))
        self.holds(counted == (0, []), "connections are counted when all have left")
        self.holds(not any(self.requests.by_caller.values()), "requests are counted after their end")

    def connect(self) -> Client:
        client = Client()
        self.open.append(client)
        closing = self.shares.connect(client)
        self.holds(client not in closing, "a new connection is accepted")
        self.holds(not any(other.caller for other in closing), "only strangers make room for a stranger")
        self.close(closing)
        return client

    def close(self, closing: list[Client]) -> None:
        for client in closing:
            self.holds(client in self.open, "a connection is closed once")
            self.holds(client.serving != "admitted", "no connection is closed while its caller is served")
            self.open.remove(client)
            self.shares.disconnect(client)  # the transport reports the end later

    def nth(self, index: int, *serving: str) -> Client | None:
        usable = [client for client in self.open if client.serving in serving]
        return usable[index % len(usable)] if usable else None

    # the steps

    def flood(self, count: int) -> None:
        for _ in range(count):
            self.connect()

    def come(self, caller: str | None) -> None:
        self.begin(self.connect(), caller)

    def ask(self, index: int, caller: str | None) -> None:
        client = self.nth(index, "no")
        if client is not None:
            self.begin(client, caller)

    def begin(self, client: Client, caller: str | None) -> None:
        self.shares.begin(client)
        if caller is STRANGER:
            client.serving = "stranger"
            return
        caller = CALLERS[CALLERS.index(caller) % self.callers]
        before = self.requests.by_caller.get(caller, 0)
        try:
            self.requests.claim(caller)
        except GatepassError as error:
            self.holds(before > 0, "a caller with nothing under way is admitted")
            self.holds(error.hop == "gatepass" and error.retry_after_s == 1, "a refusal says when to come again")
            client.serving = "stranger"  # the server knows the client and counts it as before
            return
        client.serving, client.by, client.caller = "admitted", caller, caller
        self.close(self.shares.authenticate(client))

    def answer(self, index: int) -> None:
        client = self.nth(index, "stranger", "admitted")
        if client is not None:
            self.finish(client)
            self.shares.end(client)

    def finish(self, client: Client) -> None:
        if client.serving == "admitted":
            self.requests.release(client.by)
        client.serving = "no"

    def leave(self, index: int) -> None:
        if self.open:
            client = self.open.pop(index % len(self.open))
            self.finish(client)
            self.shares.disconnect(client)

    def probe(self, between: int) -> None:
        """Send a health check, while fewer others than its share has places connect before its head is read."""
        client = self.connect()
        self.flood(min(between, UNAUTHENTICATED - 1))
        self.holds(client in self.open, "a health check is answered")
        self.shares.begin(client)
        self.flood(min(between, UNAUTHENTICATED - 1))
        self.holds(client in self.open, "a health check is answered")
        self.shares.end(client)
        self.leave(self.open.index(client))

    def invariants(self) -> None:
        most = CONNECTIONS + self.callers + UNAUTHENTICATED
        self.holds(len(self.open) == len(self.shares) <= most, "connections are bounded in total")
        known_callers = sum(client.caller is not None for client in self.open)
        self.holds(known_callers <= CONNECTIONS + self.callers, "authenticated connections are bounded")
        known = {
            name: sum(client.by == name for client in self.open if client.serving == "admitted") for name in CALLERS
        }
        self.holds(all(self.requests.by_caller.get(name, 0) == known[name] for name in CALLERS), "requests are counted")
        self.holds(sum(known.values()) <= CONNECTIONS + self.callers, "requests are bounded in total")
        per_caller = CONNECTIONS if self.callers == 1 else CONNECTIONS - 1
        self.holds(max(known.values()) <= per_caller, "no caller takes the last tenth while there are several")


CALLER = st.sampled_from([*CALLERS, STRANGER])
INDEX = st.integers(0, 30)
STEP: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("flood"), st.integers(1, 20)),
    st.tuples(st.just("come"), CALLER),
    st.tuples(st.just("come"), st.just("hog")),
    st.tuples(st.just("ask"), INDEX, CALLER),
    st.tuples(st.just("answer"), INDEX),
    st.tuples(st.just("leave"), INDEX),
    st.tuples(st.just("probe"), st.integers(0, 30)),
)
STEPS = st.lists(STEP, max_size=60)

FLOOD: list[Step] = [("flood", 50), ("come", "app"), ("probe", 30), ("answer", 0)]
HOG: list[Step] = [*[("come", "hog")] * 15, ("come", "app"), ("probe", 30)]
TWO_HOGS: list[Step] = [*HOG, *[("come", "app")] * 5, ("come", "slow"), ("probe", 30)]
IDLE_HOG: list[Step] = [
    *[("come", "hog"), ("answer", 0)] * 20,
    ("come", "app"),
    ("probe", 30),
]
LATER: list[Step] = [("flood", 40), ("come", "app"), ("come", "slow"), ("probe", 30)]


@pytest.mark.attack("floods and hogs: connections, requests")
@generated
@given(st.integers(1, 3), STEPS)
@example(2, FLOOD)
@example(2, HOG)
@example(1, HOG)
@example(3, TWO_HOGS)
@example(2, IDLE_HOG)
@example(2, LATER)
def test_no_caller_takes_the_last_slot_of_another(attack: Attack, callers: int, steps: list[Step]) -> None:
    with attack.on_loop():
        shares: ConnectionShares[Client] = ConnectionShares(CONNECTIONS, UNAUTHENTICATED, callers)
        Simulation(callers, attack.check, shares, Concurrency(CONNECTIONS, callers)).play(steps)
