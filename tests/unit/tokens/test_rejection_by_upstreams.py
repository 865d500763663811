"""One credential of several upstreams and models, one of which refuses its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gatepass.tokens import Token, TokenHolder, User
from gatepass.tokens.holder import REFUSERS
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import Hang, Kept, Mint, ScriptedIssuer, Turn, outcomes, refused

CHAT, EMBED, FORBIDDEN = User("chat", "m"), User("embed", "e"), User("chat", "forbidden")


def kept(*turns: Turn, otherwise: Turn | None = None) -> Kept:
    clock = DrivenClock()
    return Kept(clock, ScriptedIssuer(clock, *turns, otherwise=otherwise))


def _task(work: Coroutine[Any, Any, Token]) -> asyncio.Task[Token]:
    return asyncio.create_task(work)


async def taken(holder: TokenHolder, by: User) -> str:
    token = await holder.token(by=by)
    holder.confirm(token, by)
    return token.text


async def test_an_upstream_that_always_refuses_costs_six_fetches_a_minute_whatever_another_takes():
    async with kept() as it:
        await settle()
        allowed = []
        for _ in range(50):
            allowed.append(it.holder.reject(await taken(it.holder, CHAT), EMBED))
            await settle()
        assert allowed == [True] * 6 + [False] * 44
        assert it.issuer.calls == 7


async def test_an_upstream_that_always_refuses_takes_no_renewal_from_another():
    async with kept() as it:
        await settle()
        for _ in range(50):
            it.holder.reject(await taken(it.holder, CHAT), EMBED)
            await settle()
        ended = await taken(it.holder, CHAT)
        assert it.holder.reject(ended, CHAT)
        assert (await it.holder.token(ended, CHAT)).text == "token-8"


async def test_a_model_that_is_always_refused_takes_no_renewal_from_one_that_is_served():
    async with kept() as it:
        await settle()
        for _ in range(50):
            it.holder.reject(await taken(it.holder, CHAT), FORBIDDEN)
            await settle()
        assert it.issuer.calls == 7
        ended = await taken(it.holder, CHAT)
        assert it.holder.reject(ended, CHAT)
        assert (await it.holder.token(ended, CHAT)).text == "token-8"


async def test_a_refused_operation_beside_one_that_works_costs_six_fetches_a_minute():
    async with kept() as it:
        await settle()
        allowed = []
        for _ in range(50):
            allowed.append(it.holder.reject(await taken(it.holder, CHAT), CHAT))
            await it.clock.advance(1.0)
            it.holder.rejected_again(CHAT)
        assert allowed == [True] * 6 + [False] * 44
        assert it.issuer.calls == 7
        await it.clock.advance(60.0)
        assert it.holder.reject(await taken(it.holder, CHAT), CHAT)


async def test_an_upstream_that_refuses_every_second_time_costs_one_fetch_a_second_and_twenty_a_minute():
    async with kept() as it:
        await settle()
        for _ in range(1200):
            it.holder.reject(await taken(it.holder, CHAT), CHAT)
            await it.clock.advance(0.04)
        assert it.issuer.calls == 1 + 20


async def test_a_token_that_one_upstream_refused_goes_on_for_the_others_while_the_issuer_hangs():
    async with kept(Mint(), otherwise=Hang()) as it:
        await settle()
        first = await taken(it.holder, CHAT)
        assert it.holder.reject(first, EMBED)
        waiting = _task(it.holder.token(first, EMBED))
        for _ in range(9):
            token = it.holder.fresh(CHAT)
            assert token is not None
            assert token.text == first
            assert it.holder.fresh(EMBED) is None
            assert it.holder.usable
            await it.clock.advance(1.0)
        await it.clock.advance(2.0)
        assert await outcomes([waiting]) == ["TokenUnavailable"]
        assert it.holder.fresh(EMBED) is None


async def test_who_refused_a_token_is_never_given_it_again():
    async with kept(Mint(), Mint(delay_s=3.0)) as it:
        await settle()
        await taken(it.holder, CHAT)
        assert it.holder.reject("token-1", EMBED)
        tasks = [_task(it.holder.token(by=EMBED)), _task(it.holder.token("token-1", EMBED))]
        await it.clock.advance(3.0)
        assert await outcomes(tasks) == ["token-2"] * 2
        assert (await it.holder.token(by=EMBED)).text == "token-2"


async def test_rejections_by_several_while_a_token_is_fetched_are_one_fetch():
    async with kept(Mint(), Mint(delay_s=1.0)) as it:
        await settle()
        users = [User("chat", f"m{number}") for number in range(10)]
        assert [it.holder.reject("token-1", user) for user in users] == [True] * 10
        tasks = [_task(it.holder.token("token-1", user)) for user in users]
        await it.clock.advance(1.0)
        assert await outcomes(tasks) == ["token-2"] * 10
        assert it.issuer.calls == 2


async def test_more_users_than_are_known_by_themselves_see_the_upstreams_own_answer():
    async with kept(Mint(), Hang()) as it:
        await settle()
        verdicts = [it.holder.reject("token-1", User("chat", f"made-up-{number}")) for number in range(REFUSERS + 3)]
        assert verdicts == [True] * REFUSERS + [False] * 3
        assert it.holder.fresh(CHAT) is not None


async def test_a_token_that_all_who_used_it_refused_is_not_usable_and_not_shown():
    async with kept(Mint(), refused()) as it:
        await settle()
        first = await taken(it.holder, CHAT)
        assert it.holder.reject(first, CHAT)
        await settle()
        status = it.holder.status()
        assert (it.holder.usable, status.state, status.left_s) == (False, "none", None)
        assert await outcomes([_task(it.holder.token(by=CHAT))]) == ["TokenUnavailable"]
        await it.clock.advance(31.0)
        assert (it.holder.usable, it.holder.status().state) == (True, "fresh")


async def test_a_token_is_not_given_past_its_end_to_those_who_did_not_refuse_it():
    async with kept(Mint(), otherwise=Hang()) as it:
        await settle()
        await taken(it.holder, CHAT)
        it.holder.reject("token-1", EMBED)
        await it.clock.advance(296.0)
        assert it.holder.fresh(CHAT) is None
        assert not it.holder.usable
