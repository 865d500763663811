"""Any order of events in processes, store and issuer: no process has an expired or foreign token."""

import asyncio
from contextvars import ContextVar
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import TokenUnavailable
from gatepass.tokens import Token
from gatepass.types import OutboundRequest
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.fleet import Fleet
from tests.unit.tokens.scripted import Answer, Broken, Hang, Mint, Reply, ScriptedIssuer, oauth2, refused

LIFE_S = 20.0
OTHERS = oauth2(client_id="another")
STATES = ("up", "up", "down", "hung")
REPLIES = st.sampled_from([Mint(LIFE_S), Mint(LIFE_S, delay_s=3.0), Broken(), Broken(delay_s=1.0), Hang(), refused()])
EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from([0.01, 0.3, 1.0, 4.0, 15.0])),
    st.tuples(st.just("issuer"), REPLIES),
    st.tuples(st.just("store"), st.sampled_from([0, 1, 2]), st.sampled_from(STATES)),
    st.tuples(st.just("kill"), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("reject"), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("ask"), st.sampled_from([0, 1, 2])),
)


class Ledger(ScriptedIssuer):
    """Knows to whom it gave each token, and when that token really ends."""

    def __init__(self, clock: DrivenClock) -> None:
        super().__init__(clock, otherwise=Mint(LIFE_S))
        self.given: dict[str, tuple[str, float]] = {}
        self._owner: ContextVar[str] = ContextVar("owner")

    async def play(self, request: OutboundRequest) -> Reply:
        self._owner.set("another" if b"client_id=another" in request.body else "me")
        return await super().play(request)

    def _mint(self, reply: Mint) -> Answer:
        minted = super()._mint(reply)
        self.given[self.minted[-1]] = (self._owner.get(), self.clock.now() + LIFE_S)
        return minted


def check(fleet: Fleet, issuer: Ledger) -> None:
    for number, replica in enumerate(fleet.replicas):
        if (text := replica.text) is not None:
            owner, end_s = issuer.given[text]
            assert owner == ("another" if number == 2 else "me")
            assert fleet.clock.now() < end_s


async def happens(fleet: Fleet, issuer: Ledger, asked: list[asyncio.Task[Token]], what: str, *how) -> None:
    replica = fleet.replicas[how[0]] if isinstance(how[0], int) else fleet.replicas[0]
    if what == "pass":
        for _ in range(4):
            await fleet.clock.advance(how[0] / 4)
            check(fleet, issuer)
    elif what == "issuer":
        issuer.otherwise = how[0]
    elif what == "store":
        replica.wire.state = how[1]
    elif what == "kill":
        await replica.kill()
        fleet.replicas[how[0]] = fleet.new_replica(settings=OTHERS if how[0] == 2 else None)
        fleet.replicas[how[0]].start()
    elif what == "reject" and replica.text is not None:
        replica.holder.reject(replica.text)
    elif what == "ask":
        has_one = replica.holder.usable
        asked.append(asyncio.create_task(replica.holder.token()))
        await settle(2)
        assert asked[-1].done() or not has_one, "it waits though there is a token"


async def play(events: list[tuple[Any, ...]]) -> None:
    issuer = Ledger(DrivenClock())
    asked: list[asyncio.Task[Token]] = []
    async with Fleet(issuer, ahead_s=(0.0, 100.0)) as fleet:
        await fleet.join(OTHERS, ahead_s=-100.0)
        for event in events:
            await happens(fleet, issuer, asked, *event)
            await settle()
            check(fleet, issuer)
        issuer.otherwise = Mint(LIFE_S)
        for replica in fleet.replicas:
            replica.wire.state = "up"
        was_refused = any(event == ("issuer", refused()) for event in events)
        await fleet.clock.advance(330.0 if was_refused else 15.0)  # the longest rest after refusals is 300 s
        check(fleet, issuer)
        assert None not in fleet.texts
        before = issuer.calls
        await fleet.clock.advance(10 * LIFE_S * 0.8)
        assert issuer.calls - before <= 2 * 11, "two fingerprints, one call for each lifetime"
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(outcome, TokenUnavailable) or not isinstance(outcome, BaseException)


@given(st.lists(EVENTS, max_size=15))
def test_no_sequence_of_events_leaves_a_process_with_a_wrong_token_or_none(events):
    asyncio.run(play(events))
