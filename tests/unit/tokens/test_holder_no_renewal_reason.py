"""Why a rejected token was not renewed, in the words that the error of the client ends with."""

from __future__ import annotations

import pytest

from gatepass.tokens import TokenUser
from gatepass.tokens.holder import RENEWALS, UNPROVEN_RENEWALS, WINDOW_S
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import IssuerReply, Mint, RunningHolder, ScriptedIssuer

CHAT, FORBIDDEN = TokenUser("chat", "m"), TokenUser("chat", "forbidden")
AGAIN = "its issuer returned the same token again"
IN_VAIN = (
    "it was not renewed, because this upstream and model rejected a new token less than 60 s ago. After a repair,"
    " `gatepass token --retry` renews it at once"
)
RATE = (
    "it was not renewed, because it was renewed 40 times within 60 s. Processes that end each other's tokens need a"
    " common `store`"
)
RATE_OF_UNPROVEN = (
    "it was not renewed, because it was renewed 6 times within 60 s after rejections of tokens that had not worked"
)


def kept(*replies: IssuerReply) -> RunningHolder:
    clock = DrivenClock()
    return RunningHolder(clock, ScriptedIssuer(clock, *replies))


async def reason(it: RunningHolder, by: TokenUser) -> str | None:
    """Why the rejection of the held token by `by` renews nothing; None where it renews."""
    await settle()
    token = await it.holder.token()
    return None if it.holder.reject(token.text, by) else it.holder.denial_reason(by)


async def test_the_issuer_returned_the_same_token():
    async with kept(Mint(text="same"), Mint(text="same")) as it:
        assert await reason(it, CHAT) is None
        await it.clock.advance(1.0)
        assert await reason(it, CHAT) == AGAIN


async def test_the_upstream_and_model_refused_a_new_token_less_than_a_minute_ago():
    async with kept() as it:
        assert await reason(it, FORBIDDEN) is None
        await settle()
        it.holder.rejected_again(FORBIDDEN)
        assert await reason(it, FORBIDDEN) == IN_VAIN
        assert await reason(it, CHAT) is None
        await it.clock.advance(WINDOW_S)
        assert await reason(it, FORBIDDEN) is None


async def test_the_rate_of_renewals_is_used_up():
    async with kept() as it:
        for _ in range(UNPROVEN_RENEWALS):
            assert await reason(it, CHAT) is None
        assert await reason(it, CHAT) == RATE_OF_UNPROVEN


@pytest.mark.parametrize(
    ("is_known", "renewals", "text"), [(True, UNPROVEN_RENEWALS, RATE_OF_UNPROVEN), (False, RENEWALS, RATE)]
)
async def test_the_rate_of_renewals_is_used_up_for_a_model_that_accepted_each_token(is_known, renewals, text):
    async with kept() as it:
        if is_known:
            it.holder.rejected_again(CHAT)
        for _ in range(renewals):
            await it.clock.advance(1.0)
            it.holder.confirm(await it.holder.token(), CHAT)
            assert await reason(it, CHAT) is None
        await it.clock.advance(1.0)
        it.holder.confirm(await it.holder.token(), CHAT)
        assert await reason(it, CHAT) == text
