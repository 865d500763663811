"""Requests in flight: admission, limits per caller, cancellation and drain."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pytest

from gatepass.config.access import AccessKey
from gatepass.errors import ClientGone, Draining, Overloaded
from gatepass.proxy.client_response import ClientResponse, KeepAlive, RequestCycle
from gatepass.proxy.context import RequestContext
from gatepass.proxy.in_flight import Concurrency, InFlightRequest, InFlightRequests
from tests.unit.clock import DrivenClock, settle
from tests.unit.proxy.test_context import a_context

APP = AccessKey(name="app", hash="sha256:" + "0" * 64)


class Client:
    connected_before_drain = False
    caller = ""

    def set_caller(self, caller: str) -> None:
        self.caller = caller

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Never disconnect."""


def response(client: Client | None = None, *, is_sent: bool = False) -> ClientResponse:
    cycle, context = cast(RequestCycle, client or Client()), cast(RequestContext, None)
    return ClientResponse(cycle, context, is_sent=is_sent)


async def served(in_flight: InFlightRequests, reply: ClientResponse, go_on: asyncio.Event) -> str:
    try:
        with InFlightRequest(in_flight, reply):
            await go_on.wait()
    except (Draining, ClientGone) as reason:
        return type(reason).__name__
    return "served"


async def test_a_drain_cancels_and_counts_only_requests_without_a_sent_response():
    in_flight, clock, go_on = InFlightRequests(9), DrivenClock(), asyncio.Event()
    answered, waiting = (asyncio.create_task(served(in_flight, response(is_sent=out), go_on)) for out in (True, False))
    await settle()
    draining = asyncio.create_task(in_flight.drain(clock, 5.0))
    await clock.advance(5.0)
    assert (await waiting, answered.done(), in_flight.busy) == ("Draining", False, 1)
    go_on.set()
    assert (await answered, await draining) == ("served", 1)


async def test_a_request_with_a_sent_response_is_not_cancelled():
    in_flight, reply = InFlightRequests(9), response()
    with InFlightRequest(in_flight, reply) as request:
        reply.is_sent = True
        request.cancel(ClientGone())
        await asyncio.sleep(0)
    assert request.reason is None


@dataclass(eq=False)
class Due:
    due_s: float
    sent: int = 0

    def send(self) -> None:
        self.sent += 1
        self.due_s += 12.0


async def test_one_timer_checks_all_keep_alives_and_ends_with_them():
    in_flight, clock = InFlightRequests(9), DrivenClock()
    ones = [Due(clock.now() + 3.0), Due(clock.now() + 12.5)]
    for one in ones:
        in_flight.add_keep_alive(cast(KeepAlive, one), clock)
    await clock.advance(15.0)
    assert [one.sent for one in ones] == [2, 1]
    in_flight.keep_alives.clear()
    await clock.advance(1.0)
    assert not clock.has_timers
    in_flight.add_keep_alive(cast(KeepAlive, ones[0]), clock)
    await clock.advance(12.0)
    assert ones[0].sent == 3


def test_the_next_attempt_hastens_no_keep_alive_and_none_is_sent_after_the_last():
    client_response = ClientResponse(cast(RequestCycle, None), a_context())
    keep_alive = KeepAlive(client_response)
    keep_alive.start(lambda _: b":\n\n", 3.0)
    keep_alive.due_s = 27.0  # one was sent
    keep_alive.start(lambda _: b":\n\n", 3.0)
    keep_alive.stop()
    keep_alive.send()
    assert (keep_alive.due_s, client_response.begun) == (27.0, False)


async def test_a_request_counts_for_its_caller_until_it_ends():
    in_flight = InFlightRequests(1)
    admitted, refused = Client(), Client()
    with InFlightRequest(in_flight, response(admitted)) as request:
        request.begin(APP)
        with InFlightRequest(in_flight, response(refused)) as second, pytest.raises(Overloaded):
            second.begin(APP)
        assert (admitted.caller, refused.caller) == ("app", "")
    with InFlightRequest(in_flight, response()) as request:
        request.begin(APP)


def test_a_caller_without_a_request_in_flight_takes_no_memory():
    concurrency = Concurrency(10, 2)
    for number in range(1_000):
        concurrency.claim(f"caller-{number}")
        concurrency.claim(f"caller-{number}")
        concurrency.release(f"caller-{number}")
        assert concurrency.by_caller == {f"caller-{number}": 1}
        concurrency.release(f"caller-{number}")
    assert concurrency.by_caller == {}
