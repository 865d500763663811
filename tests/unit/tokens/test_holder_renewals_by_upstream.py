"""One credential of several upstreams and models, one of which refuses its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gatepass.tokens import Token, TokenHolder, TokenReissued, TokenUser
from gatepass.tokens.holder import RENEWALS
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import Hang, IssuerReply, Mint, RunningHolder, ScriptedIssuer, outcomes, refused

CHAT, EMBED, FORBIDDEN = TokenUser("chat", "m"), TokenUser("embed", "e"), TokenUser("chat", "forbidden")


def kept(*replies: IssuerReply, otherwise: IssuerReply | None = None) -> RunningHolder:
    clock = DrivenClock()
    return RunningHolder(clock, ScriptedIssuer(clock, *replies, otherwise=otherwise))


def _task(work: Coroutine[Any, Any, Token]) -> asyncio.Task[Token]:
    return asyncio.create_task(work)


async def taken(holder: TokenHolder, by: TokenUser) -> str:
    token = await holder.token()
    holder.confirm(token, by)
    return token.text


async def refusing(it: RunningHolder, by: TokenUser) -> bool:
    """One request of a model that is always refused; whether it waited for another token."""
    token = await it.holder.token()
    if not it.holder.reject(token.text, by):
        return False
    try:
        await it.holder.token(token.text)
    except TokenReissued:
        return True
    it.holder.rejected_again(by)
    return True


async def test_a_forbidden_model_costs_one_fetch_a_minute_and_delays_no_other_model():
    async with kept(Mint(), otherwise=Mint(delay_s=0.2)) as it:
        await settle()
        waited: list[asyncio.Task[bool]] = []
        for _ in range(590):
            waited.append(asyncio.create_task(refusing(it, FORBIDDEN)))
            await settle()
            request = _task(it.holder.token())
            await asyncio.sleep(0)
            assert request.done(), "a request of another model waited"
            it.holder.confirm(request.result(), CHAT)
            await it.clock.advance(0.1)
        results = [task.result() for task in waited]
        assert it.issuer.calls == 2
        assert results == [True, True] + [False] * 588
        await it.clock.advance(2.0)
        again = asyncio.create_task(refusing(it, FORBIDDEN))
        await it.clock.advance(1.0)
        assert again.result()
        assert it.issuer.calls == 3


async def test_a_forbidden_model_does_not_keep_one_that_is_served_from_a_renewal():
    async with kept() as it:
        await settle()
        for number in range(50):
            await refusing(it, TokenUser("chat", f"made-up-{number}"))
        assert it.issuer.calls == 1 + 6
        ended = await taken(it.holder, CHAT)
        assert it.holder.reject(ended, CHAT)
        assert (await it.holder.token(ended)).text == "token-8"


async def test_an_upstream_that_refuses_every_second_time_costs_one_fetch_a_second_and_forty_a_minute():
    async with kept() as it:
        await settle()
        for _ in range(1200):
            it.holder.reject(await taken(it.holder, CHAT), CHAT)
            await it.clock.advance(0.04)
        assert it.issuer.calls == 1 + RENEWALS


async def test_a_token_that_ends_twice_within_a_second_is_renewed_once_for_all_requests():
    async with kept(otherwise=Mint(delay_s=0.1)) as it:
        await it.clock.advance(0.1)
        assert it.holder.reject(await taken(it.holder, CHAT), CHAT)
        await it.clock.advance(0.2)
        second = await taken(it.holder, CHAT)
        tasks = []
        for _ in range(10):
            assert it.holder.reject(second, CHAT)
            tasks += [_task(it.holder.token(second)) for _ in range(20)]
            await it.clock.advance(0.09)
        assert (it.issuer.calls, any(task.done() for task in tasks)) == (2, False)
        await it.clock.advance(0.2)
        assert await outcomes(tasks) == ["token-3"] * 200
        assert it.issuer.calls == 3


async def test_a_request_that_waits_for_a_renewal_ends_with_its_holder():
    async with kept() as it:
        await settle()
        for _ in range(2):
            assert it.holder.reject(await taken(it.holder, CHAT), CHAT)
            await settle()
        waiting = _task(it.holder.token("token-2"))
        await settle()
        await it.holder.aclose()
        assert await outcomes([waiting]) == ["TokenUnavailable"]


async def test_only_the_rejecting_request_waits_and_all_others_keep_the_token_while_the_issuer_hangs():
    async with kept(Mint(), otherwise=Hang()) as it:
        await settle()
        first = await taken(it.holder, CHAT)
        assert it.holder.reject(first, EMBED)
        waiting = _task(it.holder.token(first))
        for _ in range(9):
            token = it.holder.current()
            assert token is not None
            assert token.text == first
            assert it.holder.usable
            await it.clock.advance(1.0)
        assert not waiting.done()
        await it.clock.advance(2.0)
        assert await outcomes([waiting]) == ["TokenUnavailable"]
        assert it.holder.current() is not None


async def test_rejections_by_several_while_a_token_is_fetched_are_one_fetch():
    async with kept(Mint(), Mint(delay_s=1.0)) as it:
        await settle()
        users = [TokenUser("chat", f"m{number}") for number in range(10)]
        assert [it.holder.reject("token-1", user) for user in users] == [True] * 10
        tasks = [_task(it.holder.token("token-1")) for _ in users]
        await it.clock.advance(1.0)
        assert await outcomes(tasks) == ["token-2"] * 10
        assert it.issuer.calls == 2


async def test_a_token_that_all_its_users_refused_is_not_usable_and_not_shown():
    async with kept(Mint(), refused()) as it:
        await settle()
        first = await taken(it.holder, CHAT)
        assert it.holder.reject(first, CHAT)
        await settle()
        status = it.holder.status()
        assert (it.holder.usable, status.state, status.expires_in_s) == (False, "none", None)
        assert await outcomes([_task(it.holder.token(first))]) == ["TokenUnavailable"]
        await it.clock.advance(31.0)
        assert (it.holder.usable, it.holder.status().state) == (True, "fresh")


async def test_a_token_is_not_used_after_its_end_by_users_that_did_not_refuse_it():
    async with kept(Mint(), otherwise=Hang()) as it:
        await settle()
        await taken(it.holder, CHAT)
        it.holder.reject("token-1", EMBED)
        await it.clock.advance(296.0)
        assert it.holder.current() is None
        assert not it.holder.usable


async def test_a_rejection_by_one_upstream_is_known_until_it_accepts_a_token():
    """Another upstream, and another model of the same one, may accept the token meanwhile."""
    async with kept(Mint(), otherwise=refused()) as it:
        await taken(it.holder, EMBED)
        waiting = _task(it.holder.token())
        token = await waiting
        assert it.holder.reject(token.text, CHAT)
        await it.clock.advance(3.0)
        assert it.holder.usable
        assert (it.holder.rejection_age_s("chat", ""), it.holder.rejection_age_s("embed", "")) == (3.0, None)
        await taken(it.holder, CHAT)
        assert it.holder.rejection_age_s("chat", "") is None
        it.holder.reject(token.text, FORBIDDEN)
        assert it.holder.rejection_age_s("chat", "") is None, "only one model of it"
