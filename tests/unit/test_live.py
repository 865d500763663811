"""Live: the requests under way, and what may still end them."""

from __future__ import annotations

import asyncio

import pytest

from gatepass.errors import ClientGone, Draining, Overloaded
from gatepass.live import Live
from tests.unit.clock import DrivenClock, settle


class Written:
    """A reply, out or not yet."""

    def __init__(self, *, is_out: bool = False) -> None:
        self.is_out = is_out


async def served(live: Live, reply: Written, go_on: asyncio.Event) -> str:
    try:
        with live.admit(reply):
            await go_on.wait()
    except (Draining, ClientGone) as reason:
        return type(reason).__name__
    return "served"


async def test_a_drain_ends_and_counts_only_those_whose_reply_is_not_out():
    live, clock, go_on = Live(9), DrivenClock(), asyncio.Event()
    answered, waiting = (asyncio.create_task(served(live, Written(is_out=out), go_on)) for out in (True, False))
    await settle()
    draining = asyncio.create_task(live.drain(clock, 5.0))
    await clock.advance(5.0)
    assert (await waiting, answered.done(), live.busy) == ("Draining", False, 1)
    go_on.set()
    assert (await answered, await draining) == ("served", 1)


async def test_a_reply_that_is_out_is_told_of_no_reason_to_end():
    live, reply = Live(9), Written()
    with live.admit(reply) as place:
        reply.is_out = True
        place.pull(ClientGone())
        await asyncio.sleep(0)
    assert place.reason is None


async def test_a_reply_that_is_not_out_ends_with_the_reason():
    live, go_on = Live(9), asyncio.Event()
    waiting = asyncio.create_task(served(live, Written(), go_on))
    await settle()
    (place,) = live._places
    place.pull(ClientGone())
    assert (await waiting, live.busy) == ("ClientGone", 0)


async def test_there_is_room_for_so_many_and_for_none_while_draining():
    live = Live(1)
    with live.admit(Written()), pytest.raises(Overloaded):
        live.admit(Written())
    assert await live.drain(DrivenClock(), 5.0) == 0
    with pytest.raises(Draining):
        live.admit(Written())
