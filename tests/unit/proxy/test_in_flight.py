"""Requests in flight: admission, limits per caller, cancellation and drain."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from gatepass.auth.caller import Caller
from gatepass.errors import ClientGone, Draining, Overloaded
from gatepass.proxy.client_response import EVERY_S, WHOLE_BYTES, ClientResponse, KeepAlive, RequestCycle
from gatepass.proxy.context import RequestContext
from gatepass.proxy.in_flight import Concurrency, InFlightRequest, InFlightRequests
from tests.unit.clock import DrivenClock, settle
from tests.unit.proxy.test_context import a_context

APP = Caller("app", "app")


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


class Writes:
    """A client in whose writes a keep-alive becomes due, as while it reads slowly."""

    def __init__(self, context: RequestContext) -> None:
        self.client_response = ClientResponse(cast(RequestCycle, self), context, begun=True)
        self.keep_alive = KeepAlive(self.client_response)
        self.keep_alive.start(lambda _: b":", 3.0)
        self.written = b""

    async def write(self, data: bytes, *, last: bool = False) -> None:
        self.written += data
        self.keep_alive.send()

    def try_write(self, data: bytes) -> bool:
        self.written += data
        return True


async def test_keep_alives_come_when_they_are_due_and_no_timer_stays():
    context = a_context()
    clock = cast(DrivenClock, context.state.clock)
    one, other = (Writes(RequestContext.begin(context.client_request, context.state)) for _ in range(2))
    other.keep_alive.due_s = 13.5
    await clock.advance(12.5)
    assert (one.written, other.written) == (b":", b":")
    one.keep_alive.stop()
    other.keep_alive.stop()
    await clock.advance(1.0)
    assert not clock.has_timers


async def test_a_keep_alive_splits_no_event_and_the_next_attempt_hastens_none():
    client = Writes(a_context())
    await client.client_response.send_events(b"x" * (WHOLE_BYTES + 1))
    assert client.written == b"x" * (WHOLE_BYTES + 1)
    client.keep_alive.start(lambda _: b":", 3.0)
    assert client.keep_alive.due_s == 1.0 + EVERY_S


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


def test_callers_by_tokens_exceed_the_limit_by_no_more_than_the_configured_callers():
    """Each caller has a request beyond the limit, but there is no end of identities."""
    concurrency = Concurrency(10, 3)
    for number in range(13):
        concurrency.claim(f"jwt:{number}")
    for identity in ("jwt:new", "jwt:0"):
        with pytest.raises(Overloaded, match="of 10 requests in flight"):
            concurrency.claim(identity)
    concurrency.release("jwt:0")
    concurrency.claim("jwt:new")
    concurrency.set_callers(4)
    concurrency.claim("jwt:last")
    assert len(concurrency.by_caller) == 14
