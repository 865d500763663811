"""Times of a token at exactly their boundary: the mutants `>` for `>=`, and the other way round, fail here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gatepass.types import Secret
from tests.unit.tokens.scripted import Hang, Mint, answer, kept

TICK_S = 2.0**-10
"""Exact as a sum with the clock's 1,000 s."""
MARGIN_S = 5.0
LIFE_S = 300.0


async def test_a_token_is_not_used_from_the_very_moment_on_at_which_its_margin_begins():
    async with kept(Mint(life=LIFE_S), otherwise=Hang()) as it:
        await it.clock.advance(LIFE_S - MARGIN_S - TICK_S)
        assert it.holder.current() is not None
        assert it.holder.usable
        await it.clock.advance(TICK_S)
        assert it.holder.current() is None
        assert not it.holder.usable


@pytest.mark.parametrize(("early_s", "usable"), [(TICK_S, True), (0.0, False)])
async def test_a_token_that_comes_at_the_moment_at_which_its_margin_begins_is_dead_on_arrival(early_s, usable):
    """5 s to live, 5 % of them its margin."""
    async with kept(Mint(life=5, delay_s=4.75 - early_s), otherwise=Hang()) as it:
        await it.clock.advance(4.75 - early_s)
        assert it.holder.usable is usable
        assert it.holder.status().failing is not usable
        assert ("expired on arrival" in (it.holder.status().last_error or "")) is not usable
        assert it.issuer.minted == ["token-1"]


@pytest.mark.parametrize(("early_s", "is_over"), [(TICK_S, False), (0.0, True)])
async def test_fetch_ends_if_its_next_attempt_would_begin_too_late(early_s, is_over):
    """2 s for the fetch: a second for the first try, and a second that the issuer asks to be left alone for."""
    busy = answer({"error": "temporarily_unavailable"}, 503, (b"retry-after", b"1"), delay_s=1.0 - early_s)
    async with kept(busy, otherwise=Hang(), timeout_s=2.0) as it:
        await it.clock.advance(1.0)
        assert (it.issuer.calls, it.holder.status().failing) == (1, is_over)


async def test_only_a_valid_and_newer_token_of_another_process_is_taken_until_the_holder_closes():
    async with kept(Mint(life=LIFE_S), otherwise=Hang()) as it:
        await it.clock.advance(200.0)
        held = it.holder.current()
        assert held is not None
        other, later_s = replace(held, value=Secret("from-elsewhere")), held.requested_s + TICK_S
        dead = replace(other, requested_s=later_s, lifetime_s=200.0 + MARGIN_S - TICK_S)
        older = replace(other, requested_s=held.requested_s - TICK_S)
        for left in (other, older, dead, replace(held, requested_s=later_s)):
            assert not it.holder.adopt_shared(left)
            assert it.holder.current() is held
        newer = replace(dead, lifetime_s=200.0 + MARGIN_S)
        assert it.holder.adopt_shared(newer)
        assert it.holder.current() is newer
        await it.holder.aclose()
        assert not it.holder.adopt_shared(replace(held, requested_s=later_s + TICK_S))
