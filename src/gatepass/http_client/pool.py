"""The connections to one server: how many there may be, which one is next, and who waits for one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.connection import Connection
from gatepass.http_client.write_batcher import Outbox

Dial = Callable[[Connection, float], Awaitable[None]]
"""Connects a new Connection within so many seconds, or raises TransportFault, unsent."""

IDLE_S = 30.0
"""An idle connection is dropped after this; the server would do so too, and might while we write."""

AGE_S = 120.0
"""A connection older than this takes no further request: the server's name may mean another address now."""

AHEAD_S, SPARE_S = 10.0, 3.0
"""How long a connection may take that is made ahead of its request, and how long it then waits for one."""

BUFFER_BYTES = 128 * 1024
"""What is read at once, at most."""


class Pool:
    """A Connection is a slot. It counts from before it is dialed until it is lost, which happens once.

    Whoever waits gets one in the order of coming: one that was freed, or a new one to dial in place of
    one that was lost. So each slot has somebody at every moment who frees or kills it, however and
    wherever a task is cancelled (encode/httpcore#1093 is the story of slots that had nobody).
    """

    def __init__(self, dial: Dial, limit: int, *, dials_ahead: bool = True) -> None:
        self._dial = dial
        self._limit = limit
        self._dials_ahead = dials_ahead
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._outbox = Outbox()
        self._slots: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        self._waiting: OrderedDict[asyncio.Future[Connection], None] = OrderedDict()
        self._sweep: asyncio.TimerHandle | None = None
        self._spare: Connection | None = None
        self._is_kept_by_server = False
        self._ahead: asyncio.Handle | asyncio.Task[None] | None = None
        self._closed = False

    def idle(self) -> Connection | None:
        """The connection that was freed last, so that those of a busier hour may expire."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.open:
                if connection is self._spare:
                    self._spare = None
                    if not self._idle:
                        self._dial_ahead()
                return connection
        return None

    async def take(self, bound_s: float, *, fresh: bool = False) -> Connection:
        """An open connection, never used before where it is to be `fresh`.

        Waiting for it and dialing it are bounded by `bound_s` each. Raises TransportFault, unsent.
        """
        while (connection := self.idle()) is None or fresh:
            if connection is not None:  # a server that closed one of its kept connections has closed others
                connection.kill()
                continue
            connection = self._slot() if len(self._slots) < self._limit else await self._turn(bound_s)
            if connection.new:
                if not fresh and any(other.open for other in self._slots):
                    self._dial_ahead()
                return await self._dialed(connection, bound_s)
            if connection.open and not fresh:  # what was freed for us may be lost by the time we wake up
                return connection
            connection.kill()
        return connection

    def freed(self, connection: Connection) -> None:
        self._is_kept_by_server = True
        self._have(connection)

    def _have(self, connection: Connection) -> None:
        """It goes to who waits, or lies idle."""
        now_s = self._loop.time()
        if now_s > (connection.made_s or 0.0) + AGE_S:
            connection.kill()
        elif self._waiting and (waiter := self._next_waiter()) is not None:
            waiter.set_result(connection)
        else:
            self._idle[connection] = now_s
            if self._sweep is None:
                self._sweep = self._loop.call_at(now_s + IDLE_S, self._drop_expired)

    def lost(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if connection in self._slots:
            self._slots.remove(connection)
            if (waiter := self._next_waiter()) is not None:
                waiter.set_result(self._slot())

    def holds(self, connection: Connection) -> bool:
        """Those that are dialed ahead count as under way: there are more than a few then."""
        return self._outbox.take(connection, len(self._slots) - len(self._idle), self._loop)

    def close(self) -> None:
        """Kill every connection, busy ones too."""
        self._closed = True
        if self._ahead is not None:
            self._ahead.cancel()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(_closed())
        for connection in list(self._slots):
            connection.kill()

    def _dial_ahead(self) -> None:
        """Have one made while nobody waits for it: where every connection is busy and one more had to be dialed, the
        next request is likely to find none as well, and a handshake is most of the time to its first token.

        Not before the server has kept a connection: some serve one at a time and sit on one that says nothing, but
        those close each (gunicorn's sync worker, http.server). Not before the request that wants none of it is out."""
        if self._dials_ahead and self._is_kept_by_server and self._ahead is None and not self._closed:
            self._ahead = self._loop.call_soon(self._make_ahead)

    def _make_ahead(self) -> None:
        self._ahead = None
        if len(self._slots) < self._limit:
            self._spare = self._slot()
            self._ahead = self._loop.create_task(self._made(self._spare), name="connection ahead")

    async def _made(self, connection: Connection) -> None:
        try:
            await self._dialed(connection, AHEAD_S)
        except TransportFault:
            return  # who needs one dials for itself, and is told why
        finally:
            self._ahead = None
        connection.kept = True
        self._have(connection)
        if connection in self._idle:
            self._loop.call_later(SPARE_S, self._drop_spare, connection)
        else:
            self._spare = None  # somebody had waited for it

    def _drop_spare(self, connection: Connection) -> None:
        if connection is self._spare and self._idle.pop(connection, None) is not None:
            self._spare = None
            connection.kill()

    def _slot(self) -> Connection:
        if self._closed:
            raise _closed()
        connection = Connection(self._loop, self, self._buffer)
        self._slots.add(connection)
        return connection

    async def _dialed(self, connection: Connection, bound_s: float) -> Connection:
        try:
            await self._dial(connection, bound_s)
        except BaseException:
            self._drop(connection)
            raise
        return connection

    async def _turn(self, bound_s: float) -> Connection:
        waiter: asyncio.Future[Connection] = self._loop.create_future()
        self._waiting[waiter] = None

        def refuse() -> None:
            if not waiter.done():
                detail = f"every connection of the pool was in use for {bound_s:g} s"
                waiter.set_exception(TransportFault(Fault.TIMEOUT_POOL, detail, sent=False))

        bound = self._loop.call_later(bound_s, refuse)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(waiter.result())  # cancelled in the moment between its turn and waking up
            raise
        finally:
            bound.cancel()
            self._waiting.pop(waiter, None)

    def _next_waiter(self) -> asyncio.Future[Connection] | None:
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def give_back(self, connection: Connection) -> None:
        """What was taken and is not used after all."""
        if connection.new:
            self._drop(connection)
        elif connection.open:
            self.freed(connection)

    def _drop(self, connection: Connection) -> None:
        connection.kill()
        self.lost(connection)

    def _drop_expired(self) -> None:
        self._sweep = None
        now_s = self._loop.time()
        for connection, since_s in list(self._idle.items()):
            if now_s < since_s + IDLE_S:
                self._sweep = self._loop.call_at(since_s + IDLE_S, self._drop_expired)
                break
            del self._idle[connection]
            connection.kill()


def _closed() -> TransportFault:
    return TransportFault(Fault.CLOSED, "gatepass closed the transport", sent=False)
