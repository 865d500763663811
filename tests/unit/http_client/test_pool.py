"""The pool gives each request a connection and never loses a slot."""

import asyncio
import gc
import ssl
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.connection import Connection
from gatepass.http_client.message_head import Destination, ProxyServer, destination_of
from gatepass.http_client.pool import AGE_S, IDLE_S, SHORT_IDLE_S, URLS, ConnectionPool, Http1Transport, Tunnel
from gatepass.types import ConnectionTimes, OutboundRequest, Timeouts
from tests.memory import traced_memory
from tests.unit.http_client.loop import advance, rest
from tests.unit.http_client.wire import FakeTransport, feed

BOUNDS = Timeouts(connect_s=5, first_byte_s=1000, idle_s=1000)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Server:
    """Dials at once, or when `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.dialed: list[Connection] = []
        self.transports: dict[Connection, FakeTransport] = {}

    async def dial(self, connection: Connection, bound_s: float) -> None:
        self.dialed.append(connection)
        await self.go_on.wait()
        self.transports[connection] = FakeTransport(connection)
        connection.connection_made(self.transports[connection])
        await asyncio.sleep(0)

    @property
    def open(self) -> int:
        return sum(connection.is_open() for connection in self.dialed)


async def use(connection: Connection) -> None:
    asking = asyncio.ensure_future(connection.send_request(b"GET / HTTP/1.1\r\n\r\n", b"", BOUNDS, ConnectionTimes()))
    await rest()
    feed(connection, OK)
    await asking


async def one_taken() -> tuple[Server, ConnectionPool, Connection]:
    server = Server()
    pool = ConnectionPool(server.dial, 1)
    return server, pool, await pool.take(5)


def taken(pool: ConnectionPool) -> asyncio.Task[Connection]:
    return asyncio.ensure_future(pool.take(BOUNDS.connect_s))


async def proved_whole(pool: ConnectionPool, limit: int) -> None:
    """As many connections as there may be can be had, and not one more."""
    works = [taken(pool) for _ in range(limit + 1)]
    await rest()
    assert [work.done() for work in works] == [True] * limit + [False]
    works[-1].cancel()
    await rest()
    for work in works[:-1]:
        await use(work.result())


async def test_a_free_connection_is_used_before_a_new_one_the_last_first():
    server = Server()
    pool = ConnectionPool(server.dial, 2)
    first, second = await pool.take(5), await pool.take(5)
    await use(first)
    await use(second)
    assert await pool.take(5) is second
    assert pool.take_idle() is first
    assert pool.take_idle() is None
    assert len(server.dialed) == 2


async def test_a_fresh_connection_makes_room_where_the_limit_is_reached():
    server, pool, kept = await one_taken()
    await use(kept)
    assert await pool.take(5, fresh=True) is not kept
    busy = server.dialed[-1]
    waiting = asyncio.ensure_future(pool.take(5, fresh=True))
    await rest()
    assert not waiting.done()
    await use(busy)
    await rest()
    assert (await waiting) not in (kept, busy)


async def test_waiting_requests_are_served_in_the_order_of_arrival_and_no_other_wakes():
    _, pool, connection = await one_taken()
    works = [taken(pool) for _ in range(5)]
    await rest()
    for number, work in enumerate(works):
        await use(connection)
        await rest()
        assert [each.done() for each in works] == [True] * (number + 1) + [False] * (4 - number)
        assert work.result() is connection
    await use(connection)
    assert pool.take_idle() is connection


async def test_a_wait_is_bounded():
    pool = ConnectionPool(Server().dial, 1)
    waits: list[float] = []
    pool.on_wait = waits.append
    connection = await pool.take(5)
    waiter = taken(pool)
    await rest()
    await advance(BOUNDS.connect_s - 0.1)
    assert not waiter.done()
    assert (pool.counts, waits) == ((1, 0, 1), [])
    await advance(0.2)
    with pytest.raises(TransportFault) as caught:
        await waiter
    assert (caught.value.kind, caught.value.sent) == (Fault.TIMEOUT_POOL, False)
    assert waits == [pytest.approx(BOUNDS.connect_s + 0.1)]
    await use(connection)
    assert pool.counts == (0, 1, 0)
    await proved_whole(pool, 1)


async def test_a_connection_freed_in_the_moment_of_a_timeout_is_not_lost():
    _, pool, connection = await one_taken()
    asking = asyncio.ensure_future(connection.send_request(b"", b"", BOUNDS, ConnectionTimes()))
    waiter = taken(pool)
    await rest()
    feed(connection, OK)
    await advance(BOUNDS.connect_s)
    assert await waiter is connection
    await asking
    await use(connection)
    await proved_whole(pool, 1)


async def test_connection_lost_before_a_waiting_request_is_replaced():
    server, pool, connection = await one_taken()
    asking = asyncio.ensure_future(connection.send_request(b"", b"", BOUNDS, ConnectionTimes()))
    waiter = taken(pool)
    await rest()
    feed(connection, OK)
    connection.eof_received()
    assert (await waiter) is server.dialed[1]
    await asking
    await use(waiter.result())
    await proved_whole(pool, 1)


async def test_a_connection_that_died_idle_is_passed_over():
    server = Server()
    pool = ConnectionPool(server.dial, 2)
    first, second = await pool.take(5), await pool.take(5)
    await use(first)
    await use(second)
    server.transports[second].end(ConnectionResetError())
    assert pool.take_idle() is first
    await use(first)
    server.transports[first].end(None)
    await rest()
    assert pool.take_idle() is None
    await proved_whole(pool, 2)


@pytest.mark.parametrize("idle_s", [IDLE_S, SHORT_IDLE_S])
async def test_idle_connections_expire_each_in_its_time(idle_s):
    server = Server()
    pool = ConnectionPool(server.dial, 3, idle_s=idle_s)
    first, second = await pool.take(5), await pool.take(5)
    await use(first)
    await advance(idle_s / 2)
    await use(second)
    await advance(idle_s / 2)
    assert (first.is_open(), second.is_open()) == (False, True)
    await advance(idle_s / 2)
    assert not second.is_open()
    await proved_whole(pool, 3)
    await advance(idle_s)
    assert server.open == 0


async def test_an_old_connection_takes_no_further_request():
    server, pool, connection = await one_taken()
    await advance(AGE_S - 1)
    await use(connection)
    assert await pool.take(5) is connection
    waiter = taken(pool)
    await advance(2)
    await use(connection)
    await rest()
    assert not connection.is_open()
    assert waiter.result() is server.dialed[1]


async def test_closed_pool_ends_all_connections_and_returns_none():
    server = Server()
    pool = ConnectionPool(server.dial, 3)
    free, busy = await pool.take(5), await pool.take(5)
    await use(free)
    server.go_on.clear()
    assert pool.take_idle() is free
    dialing = taken(pool)
    waiting = taken(pool)
    await rest()
    pool.close()
    server.go_on.set()
    outcome = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(outcome[0], TransportFault)
    assert outcome[0].kind is Fault.CLOSED
    assert not (await dialing).is_open()
    await rest()
    assert (free.is_open(), busy.is_open(), server.open) == (False, False, 0)
    with pytest.raises(TransportFault, match="closed"):
        await pool.take(5)


async def test_closed_pool_is_kept_by_no_timer():
    pool = ConnectionPool(Server().dial, 1)
    await use(await pool.take(5))
    pool.close()
    await rest()
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


# cancellation

Moment = Callable[[ConnectionPool, Server, Connection], None]


def freed(pool: ConnectionPool, _: Server, connection: Connection) -> None:
    pool.on_idle(connection)


def lost(_: ConnectionPool, __: Server, connection: Connection) -> None:
    connection.abort()


@pytest.mark.parametrize("moment", [freed, lost])
@pytest.mark.parametrize("behind", [0, 1, 3])
async def test_a_waiter_cancelled_in_any_iteration_leaves_its_slot_to_others(moment: Moment, behind: int):
    for before in range(3):
        for after in range(6):
            server, pool, connection = await one_taken()
            leaver, *others = [taken(pool) for _ in range(1 + behind)]
            for _ in range(before):
                await asyncio.sleep(0)
            moment(pool, server, connection)
            for _ in range(after):
                await asyncio.sleep(0)
            leaver.cancel()
            await rest()
            if not leaver.cancelled():
                await use(leaver.result())
            for other in others:
                await rest()
                await use(await other)
            await rest()
            await proved_whole(pool, 1)


async def test_a_dial_cancelled_in_any_iteration_leaves_its_slot_to_others():
    for iterations in range(6):
        server = Server()
        pool = ConnectionPool(server.dial, 1)
        leaver, other = taken(pool), taken(pool)
        for _ in range(iterations):
            await asyncio.sleep(0)
        leaver.cancel()
        await rest()
        if not leaver.cancelled():
            await use(leaver.result())
        await use(await other)
        await rest()
        await proved_whole(pool, 1)
        assert server.open == 1


class AnsweringTransport(FakeTransport):
    def write(self, data: Any) -> None:
        assert isinstance(self.protocol, Connection)
        asyncio.get_running_loop().call_soon(feed, self.protocol, OK)


async def test_urls_of_one_server_share_one_pool_and_no_more_of_them_are_kept_than_a_bound():
    dialed: list[str] = []

    async def dial(destination: Destination, context: ssl.SSLContext, connection: Connection, bound_s: float) -> None:
        dialed.append(f"{destination.secure} {destination.host}:{destination.port}")
        connection.connection_made(AnsweringTransport(connection))

    transport = Http1Transport(4, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), dial)

    async def send(url: str) -> None:
        await (await transport.send(OutboundRequest("GET", url))).aclose()
        await rest()

    for number in range(URLS):
        await send(f"http://h.example/{number}")
    with traced_memory() as memory:
        for number in range(4 * URLS):
            await send(f"http://h.example/more/{number}")
    assert memory.kept_bytes < 1000 * URLS
    assert dialed == ["False h.example:80"]
    for url in ("https://h.example/", "http://h.example:81/", "http://i.example/"):
        await send(url)
    assert dialed[1:] == ["True h.example:443", "False h.example:81", "False i.example:80"]
    await transport.aclose()


async def test_a_tunnel_that_is_open_reads_nothing_that_belongs_to_tls():
    proxy = ProxyServer.of("http://proxy.example:3128", None)
    tunnel = Tunnel(destination_of("https://llm.example/v1", proxy), proxy)
    transport = FakeTransport(tunnel)
    tunnel.connection_made(transport)
    assert transport.written == [b"CONNECT llm.example:443 HTTP/1.1\r\nhost: llm.example:443\r\n\r\n"]
    tunnel.data_received(b"HTTP/1.1 200 OK\r\n\r")
    assert transport.reading
    tunnel.data_received(b"\n")
    await tunnel.opened()
    assert not transport.reading
