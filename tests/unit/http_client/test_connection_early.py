"""Bytes that a server sends before a request, and replies to an earlier request."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gatepass.errors import Fault
from gatepass.http_client.connection import JOINED_BYTES
from gatepass.http_client.response_body import UpstreamResponse
from gatepass.types import ConnectionTimes
from tests.unit.http_client.loop import rest
from tests.unit.http_client.test_connection import BOUNDS, OK, body_of, fault_of
from tests.unit.http_client.wire import Wire


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    own, server = socket.socketpair()
    with own, server:
        yield own, server


def asked(wire: Wire, number: int, body: bytes = b"") -> asyncio.Task[UpstreamResponse]:
    head = b"POST / HTTP/1.1\r\nhost: h\r\nx-request-id: id-%d\r\n\r\n" % number
    return asyncio.ensure_future(wire.connection.send_request(head, body, BOUNDS, ConnectionTimes()))


def answer(number: int) -> bytes:
    return OK.replace(b"\r\n\r\n", b"\r\nX-Request-Id: id-%d\r\n\r\n" % number)


@pytest.mark.parametrize("body", [b"{}", b"x" * (JOINED_BYTES + 1)])
@pytest.mark.parametrize("is_deferred", [False, True])
async def test_request_is_not_written_after_bytes_that_the_loop_has_not_read(ends, body, is_deferred):
    own, server = ends
    wire = Wire(own)
    wire.connection.kept = True
    wire.holding = is_deferred
    server.send(answer(1))
    asking = asked(wire, 2, body)
    await rest()
    wire.connection.flush()
    fault = await fault_of(asking)
    assert (fault.kind, fault.sent, fault.stale, wire.sent) == (Fault.INVALID, False, True, b"")
    await rest()
    assert wire.events == ["lost"]


async def test_request_is_not_written_to_a_connection_that_the_server_has_closed(ends):
    own, server = ends
    wire = Wire(own)
    wire.connection.kept = True
    server.close()
    fault = await fault_of(asked(wire, 1))
    assert (fault.sent, fault.stale, wire.sent) == (False, True, b"")


async def test_bytes_on_a_new_connection_are_the_reply_to_its_first_request(ends):
    # a server that rejects at once, and no reply to an earlier request can be late
    own, server = ends
    wire = Wire(own)
    server.send(b"x")
    asking = asked(wire, 1, b"x" * (JOINED_BYTES + 1))
    await rest()
    wire.feed(answer(1))
    assert await body_of(await asking) == b"fine"


async def exchange(wire: Wire, number: int, replied: int) -> asyncio.Task[UpstreamResponse]:
    """Send request `number`, whose reply has the id of `replied`."""
    asking = asked(wire, number)
    await rest()
    wire.feed(answer(replied))
    await rest()
    return asking


async def test_reply_with_the_id_of_an_earlier_request_ends_the_connection():
    wire = Wire()
    for number in range(32):
        assert await body_of(await (await exchange(wire, number, number))) == b"fine"
    fault = await fault_of(await exchange(wire, 32, 0))
    assert (fault.kind, fault.sent, fault.stale) == (Fault.INVALID, True, False)
    assert "an earlier request" in fault.detail
    assert wire.events[-1] == "lost"


async def test_ids_of_the_upstream_itself_mean_nothing():
    wire = Wire()
    for number in range(3):
        assert await body_of(await (await exchange(wire, number, 100))) == b"fine"


async def test_clients_may_use_one_id_for_all_requests():
    wire = Wire()
    for _ in range(3):
        assert await body_of(await (await exchange(wire, 7, 7))) == b"fine"
