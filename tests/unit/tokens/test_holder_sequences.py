"""No sequence of events gives away a dead or foreign token, or makes a request wait while one is good."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import TokenUnavailable
from gatepass.tokens import Token, TokenReissued
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import (
    Answer,
    Broken,
    Hang,
    IssuerReply,
    Mint,
    RunningHolder,
    ScriptedIssuer,
    answer,
    oauth2,
    refused,
)

REPLIES: list[IssuerReply] = [
    *(Mint(5), Mint(60), Mint(300), Mint(300, delay_s=7.0), Mint(300, text="same"), Mint(None), Mint("bad")),
    *(Broken(), Hang(), refused(), answer({}, 500), answer({}, 429, (b"retry-after", b"5"))),
    *(Answer(body=b"<html>"), answer({"access_token": "dead", "expires_in": -1})),
]
EVENTS = st.lists(
    st.tuples(st.just("advance"), st.floats(0.0, 120.0))
    | st.tuples(st.just("sleep"), st.floats(0.0, 600.0))
    | st.tuples(st.just("issuer"), st.integers(0, len(REPLIES) - 1))
    | st.tuples(st.just("ask"), st.integers(1, 3))
    | st.tuples(st.just("reject"), st.integers(0, 1))
    | st.tuples(st.just("leave"), st.integers(0, 5)),
    max_size=25,
)


class Requests:
    """Requests over one holder, and what must be true of every token they get."""

    def __init__(self, it: RunningHolder) -> None:
        self.it = it
        self.asked: list[asyncio.Task[None]] = []
        self.got: list[str] = []

    async def request(self, instead_of: str | None = None) -> None:
        held = self.it.holder.current()
        work = asyncio.ensure_future(self.it.holder.token(instead_of))
        if held is not None and held.text != instead_of:
            await asyncio.sleep(0)
            assert work.done(), "a request waited while a valid token was held"
        try:
            token = await work
        except TokenReissued:
            return
        assert token.text != instead_of
        self._check(token)

    def _check(self, token: Token) -> None:
        assert self.it.clock.now() < token.expires_s
        assert token.text in self.it.issuer.minted
        self.got.append(token.text)

    async def play(self, event: str, value: float) -> None:
        it = self.it
        if event == "advance":
            await it.clock.advance(value)
        elif event == "sleep":
            it.clock.suspend(value)
        elif event == "issuer":
            it.issuer.otherwise = REPLIES[int(value)]
        elif event == "ask":
            self.asked += [asyncio.create_task(self.request()) for _ in range(int(value))]
        elif event == "reject" and self.got:
            rejected = self.got[-1 if value else 0]
            if it.holder.reject(rejected):
                self.asked.append(asyncio.create_task(self.request(rejected)))
        elif event == "leave":
            for task in self.asked[-int(value) :] if value else []:
                task.cancel()
        await settle(5)

    async def end(self) -> None:
        self.it.issuer.otherwise = Mint()
        await self.it.clock.advance(330.0)
        assert self.it.holder.usable, "it never recovered"
        for task in self.asked:
            assert task.done()
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, TokenUnavailable), error


@given(EVENTS, st.floats(0.0, 1.0))
def test_no_sequence_of_events_returns_an_expired_token_or_delays_a_valid_one(events, jitter):
    async def play_events() -> None:
        clock = DrivenClock()
        async with RunningHolder(clock, ScriptedIssuer(clock), oauth2(), jitter=jitter) as it:
            requests = Requests(it)
            for event, value in events:
                await requests.play(event, value)
            await requests.end()

    asyncio.run(play_events())
