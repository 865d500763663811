"""One credential of several upstreams, one of which refuses its tokens."""

from __future__ import annotations

from gatepass.tokens import TokenHolder
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import Kept, ScriptedIssuer


def kept() -> Kept:
    clock = DrivenClock()
    return Kept(clock, ScriptedIssuer(clock))


async def taken(holder: TokenHolder, by: str) -> str:
    token = await holder.token()
    holder.confirm(token, by)
    return token.text


async def test_an_upstream_that_always_refuses_costs_six_fetches_a_minute_whatever_another_takes():
    async with kept() as it:
        await settle()
        allowed = []
        for _ in range(50):
            allowed.append(it.holder.reject(await taken(it.holder, "chat"), "embed"))
            await settle()
        assert allowed == [True] * 6 + [False] * 44
        assert it.issuer.calls == 7


async def test_an_upstream_that_always_refuses_takes_no_renewal_from_another():
    async with kept() as it:
        await settle()
        for _ in range(50):
            it.holder.reject(await taken(it.holder, "chat"), "embed")
            await settle()
        ended = await taken(it.holder, "chat")
        assert it.holder.reject(ended, "chat")
        assert (await it.holder.token(instead_of=ended)).text == "token-8"


async def test_a_refused_operation_beside_one_that_works_costs_six_fetches_a_minute():
    async with kept() as it:
        await settle()
        allowed = []
        for _ in range(50):
            allowed.append(it.holder.reject(await taken(it.holder, "chat"), "chat"))
            await settle()
            it.holder.rejected_again("chat")
        assert allowed == [True] * 6 + [False] * 44
        assert it.issuer.calls == 7
        await it.clock.advance(60.0)
        assert it.holder.reject(await taken(it.holder, "chat"), "chat")
