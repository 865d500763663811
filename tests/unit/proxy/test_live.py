"""Live: the requests under way, and what may still end them."""

from __future__ import annotations

import asyncio

import pytest

from gatepass.errors import ClientGone, ConcurrencyLimited, Draining, Overloaded
from gatepass.proxy.caller_limits import Concurrency
from gatepass.proxy.in_flight import InFlightRequests
from tests.unit.clock import DrivenClock, settle


class Written:
    """A reply, out or not yet."""

    connected_before_drain = False

    def __init__(self, *, is_out: bool = False) -> None:
        self.is_sent = is_out


async def served(live: InFlightRequests, reply: Written, go_on: asyncio.Event) -> str:
    try:
        with live.admit(reply):
            await go_on.wait()
    except (Draining, ClientGone) as reason:
        return type(reason).__name__
    return "served"


async def test_a_drain_ends_and_counts_only_those_whose_reply_is_not_out():
    live, clock, go_on = InFlightRequests(9), DrivenClock(), asyncio.Event()
    answered, waiting = (asyncio.create_task(served(live, Written(is_out=out), go_on)) for out in (True, False))
    await settle()
    draining = asyncio.create_task(live.drain(clock, 5.0))
    await clock.advance(5.0)
    assert (await waiting, answered.done(), live.busy) == ("Draining", False, 1)
    go_on.set()
    assert (await answered, await draining) == ("served", 1)


async def test_a_reply_that_is_out_is_told_of_no_reason_to_end():
    live, reply = InFlightRequests(9), Written()
    with live.admit(reply) as place:
        reply.is_sent = True
        place.cancel(ClientGone())
        await asyncio.sleep(0)
    assert place.reason is None


async def test_a_reply_that_is_not_out_ends_with_the_reason():
    live, go_on = InFlightRequests(9), asyncio.Event()
    waiting = asyncio.create_task(served(live, Written(), go_on))
    await settle()
    (place,) = live._places
    place.cancel(ClientGone())
    assert (await waiting, live.busy) == ("ClientGone", 0)


async def test_a_request_counts_for_its_caller_until_it_ends():
    live = InFlightRequests(1)
    with live.admit(Written()) as place:
        place.claim("app", None)
        with live.admit(Written()) as second, pytest.raises(Overloaded):
            second.claim("app", None)
    with live.admit(Written()) as place:
        place.claim("app", None)


async def test_nothing_is_admitted_while_draining():
    live = InFlightRequests(1)
    assert await live.drain(DrivenClock(), 5.0) == 0
    with pytest.raises(Draining):
        live.admit(Written())


def test_a_caller_with_nothing_under_way_is_admitted_above_the_limit():
    requests = Concurrency(limit=10, callers=2)
    for _ in range(9):
        requests.claim("hog", None)
    with pytest.raises(Overloaded, match="last tenth"):
        requests.claim("hog", None)
    requests.claim("app", None)
    with pytest.raises(Overloaded, match=r"limits\.connections"):
        requests.claim("app", None)
    requests.claim("third", None)


def test_a_single_caller_may_use_all():
    requests = Concurrency(limit=10, callers=1)
    for _ in range(10):
        requests.claim("only", None)
    with pytest.raises(Overloaded, match="10 requests are under way"):
        requests.claim("only", None)


def test_a_limit_of_its_own_is_429_with_retry_after():
    requests = Concurrency(limit=10, callers=1)
    for _ in range(2):
        requests.claim("app", 2)
    with pytest.raises(ConcurrencyLimited, match=r"max_concurrent") as refused:
        requests.claim("app", 2)
    error = refused.value
    assert (error.http_status, error.code, error.hop, error.retry_after_s) == (
        429,
        "concurrency_limited",
        "gatepass",
        1,
    )
    requests.release("app")
    requests.claim("app", 2)
