"""One connection of a client: HTTP/1.1 on asyncio and httptools, under uvicorn's server.

uvicorn's own protocol would do the same for 35 µs more a request, and bounds neither the time for receiving one
(see `patience`) nor its head (see `parser`).

asyncio calls the protocol's methods; none of them ever waits. Who waits is the task of a Turn.

What all connections of a server share.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from gatepass.clock import Deadline
from gatepass.config.model import Limits
from gatepass.errors import GatepassError
from gatepass.http_client.write_batcher import WriteBatcher
from gatepass.proxy.in_flight import InFlightRequests
from gatepass.server.connection_shares import ConnectionShares, TrustedProxies
from gatepass.server.cycle import HttpRequestCycle, header_lines
from gatepass.server.parser import RequestParser
from gatepass.server.timeouts import (
    BODY_GRACE_S,
    LINGER_S,
    AwaitedInput,
    ReceiveTimeouts,
    evicted,
    given_up,
    response,
    slow_body,
    slow_head,
    slow_upload,
)

Serve = Callable[[HttpRequestCycle], Awaitable[None]]

Refused = Callable[[GatepassError, str], None]
"""Is told of an error that a client gets without a request having been served, and of the client's address."""


class Evictable(Protocol):
    """A connection, as far as the shares know it."""

    def evict(self) -> None:
        """Close at once: others need the room."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """Who serves a request, and with which bounds."""

    serve: Serve
    rejected: Refused
    limits: Limits
    keep_alive_s: float
    """How long a connection may wait for its next request."""
    proxies: TrustedProxies
    shares: ConnectionShares[Evictable]
    in_flight: InFlightRequests
    write_batcher: WriteBatcher = field(default_factory=WriteBatcher)


LOG = logging.getLogger("gatepass.serve")


class ClientConnection(asyncio.Protocol):
    """Has requests served in order; at most one is served at a time, and few more are read ahead."""

    __slots__ = (
        *(
            "connected_before_drain",
            "is_write_paused",
            "_caller",
            "_date",
            "_dated",
            "_held",
            "_is_deaf",
            "_is_ending",
            "_limits",
            "_lingers_till_s",
        ),
        *("_loop", "_patience", "_queue", "_reader", "_reading_paused", "_reception", "_room", "_serve", "_serving"),
        *("_shares", "_stall", "_state", "_transport", "_until_s"),
    )

    def __init__(
        self,
        context: ConnectionContext,
        *,
        config: Config,  # noqa: ARG002 - uvicorn's signature
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002 - uvicorn's signature
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._reception, self._serve, self._limits = context, context.serve, context.limits
        self._shares = context.shares
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, None)
        self._reader = RequestParser(self)
        deadline = Deadline(self._loop, self._late)
        self._patience = ReceiveTimeouts(
            deadline, self._limits.receive_s, context.keep_alive_s, self._limits.upload_bytes_per_s
        )
        self._until_s = self._loop.time() + context.keep_alive_s
        """How long the connection is kept for a client that never authenticates: each request would renew it."""
        self._serving: HttpRequestCycle | None = None
        self._queue: deque[HttpRequestCycle] = deque()
        self._is_deaf = self._reading_paused = False
        self._lingers_till_s = 0.0
        self._stall: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._dated: list[tuple[bytes, bytes]] | None = None
        self._caller = ""
        self._date = self._held = b""
        self.is_write_paused = self._is_ending = False
        self.connected_before_drain = True

    # asyncio and uvicorn call these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own classes
        live = self._reception.in_flight
        self._is_ending, self.connected_before_drain = live.draining, not live.refusing
        peer = transport.get_extra_info("peername")
        self._reader.peer = str(peer[0]) if isinstance(peer, tuple | list) else ""
        self._patience.update(self._reader, self._serving)
        address = self._reception.proxies.of_peer(self._reader.peer)
        for connection in self._shares.connect(self, address, self._loop.time()):
            connection.evict()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._state.connections.discard(self)
        self._shares.disconnect(self)
        self._patience.close()
        self.resume_writing()
        turns = (self._serving, self._reader.cycle, *self._queue)
        self._is_deaf = True
        self._reader.close()
        self._queue.clear()
        for cycle in turns:
            if cycle is not None:
                cycle.disconnect()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            if self._loop.time() < self._lingers_till_s:
                self._patience.linger()
            return
        parser = self._reader
        try:
            parser.feed(data)
        except GatepassError as error:
            self._refuse(error)
        else:
            self._patience.update(parser, self._serving)

    def eof_received(self) -> None:
        """uvloop closes the transport next, and may come to this before it runs what waits (see Outbox)."""
        self.flush()

    def pause_writing(self) -> None:
        """The client takes nothing: a bounded patience, at no cost for those that do take."""
        self.is_write_paused = True
        self._stall = self._loop.call_later(self._limits.send_stall_s, self._transport.abort)

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._serving is None:
            self._shares.end(self, delivered=True)
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def evict(self) -> None:
        """Others need the room, and this connection waits for its client."""
        self._reception.rejected(evicted(), self._reader.peer)
        self._close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(LINGER_S, self._transport.abort)

    def retire(self) -> None:
        """Close behind the next response. It says so, unless its head is out."""
        self._is_ending = True

    def leave(self) -> None:
        """Close as soon as the client has nothing under way, or with its next answer."""
        self._is_ending = True
        if not (self._is_deaf or self._transport.is_closing()):
            self._patience.shorten(is_idle=self._is_idle())

    @property
    def may_ask(self) -> bool:
        """Whether a request on it would be served."""
        return self.connected_before_drain and not (self._is_deaf or self._transport.is_closing())

    def shutdown(self) -> None:
        """The server ends: what is served may end, and then this closes."""
        self._is_ending = True
        if self._serving is not None:
            self.last_cycle().persists = False
        elif not self._is_deaf:
            self._linger()

    # the reader calls this

    def begin_cycle(self, cycle: HttpRequestCycle) -> None:
        """Have `cycle` served, behind those that came before it."""
        if self._serving is None:
            self._serving = cycle
            if not self._shares.begin(self):
                self._begin_unauthenticated(cycle)
            cycle.task = self._loop.create_task(self._attend(cycle))
            self._state.tasks.add(cycle.task)
        else:
            self._queue.append(cycle)
            self._pause_reading()

    def _begin_unauthenticated(self, cycle: HttpRequestCycle) -> None:
        now_s = self._loop.time()
        self._shares.begin_unauthenticated(self, now_s)
        if now_s > self._until_s:
            cycle.persists = False

    def last_cycle(self) -> HttpRequestCycle:
        return self._queue[-1] if self._queue else cast(HttpRequestCycle, self._serving)

    # a Turn calls these

    @property
    def closes_after_response(self) -> bool:
        return self._is_ending and not self._queue

    def common_fields(self) -> bytes:
        fields = self._state.default_headers  # uvicorn makes a new list with the date each second
        if fields is not self._dated:
            self._dated, self._date = fields, header_lines(fields)
        return self._date

    def send_continue(self) -> None:
        self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def pause_reading(self) -> None:
        self._pause_reading()
        self._patience.suspend()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._resume_reading()
            self._patience.clear()
            self._patience.update(self._reader, self._serving)

    def send(self, data: bytes) -> None:
        transport = self._transport
        if not transport.is_closing():
            if self._held:
                self.flush()
            transport.write(data)

    def send_all(self, pieces: list[bytes]) -> None:
        if not self._transport.is_closing():
            self.flush()
            self._transport.writelines(pieces)

    def send_batched(self, response: bytes) -> None:
        if self._held:
            self.flush()
        if self._reception.write_batcher.defer(self, len(self._state.tasks), self._loop):
            self._held = response
        else:
            self.send(response)

    def flush(self) -> None:
        """Write the response that waited (see Outbox)."""
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    async def wait_writable(self) -> None:
        while self.is_write_paused:
            self._room = self._loop.create_future()
            await self._room

    def set_caller(self, caller: str) -> None:
        if caller == self._caller:  # as with all requests but the first
            return
        self._caller = caller
        self._patience.keep_alive_s = self._reception.keep_alive_s
        for connection in self._shares.authenticate(self, caller):
            connection.evict()

    def response_complete(self) -> None:
        cycle, self._serving = self._serving, None
        if self._transport.is_closing():
            return
        if cycle is not None and not self._shares.end(self, delivered=not self.is_write_paused):
            self._count_unauthenticated(cycle)
        if cycle is None or not cycle.persists:
            self._end()
            return
        if self._queue:
            self.begin_cycle(self._queue.popleft())
            self._patience.clear()  # time begins anew for a body that could not come before
        if self._reading_paused:
            self._resume_reading()
        self._patience.update(self._reader, self._serving)

    def _count_unauthenticated(self, cycle: HttpRequestCycle) -> None:
        address = self._reception.proxies.of_request(cycle.peer, cycle.headers)
        now_s = self._loop.time()
        for connection in self._shares.end_unauthenticated(self, address, now_s):
            connection.evict()
        if not self._is_ending:
            self._patience.keep_alive_s = max(LINGER_S, self._until_s - now_s)

    # one turn after the other

    async def _attend(self, cycle: HttpRequestCycle) -> None:
        """Have `cycle` served; whatever becomes of that, its client is not left to wait."""
        try:
            await self._serve(cycle)
        except Exception:  # any fault: the street and Starlette raise what they answered, and nobody awaits this task
            LOG.exception("request_failed")
        finally:
            self._state.tasks.discard(cycle.task)
            if not (cycle.has_ended or cycle.is_disconnected):
                self._break_off(cycle)

    def _break_off(self, cycle: HttpRequestCycle) -> None:
        cycle.persists = False
        if cycle.has_begun or self._transport.is_closing():
            self._close()
        else:
            self.send(response(given_up()))
            self.response_complete()

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._queue:
            self._reading_paused = False
            self._transport.resume_reading()

    # what ends a connection

    def _late(self) -> None:
        awaited, receiving = self._patience.expired(), self._reader.cycle
        if self._is_ending and not self._is_deaf and self._is_idle():
            self._linger()
        elif awaited is AwaitedInput.HEAD:
            self._refuse(slow_head())
        elif awaited is AwaitedInput.BODY and receiving is not None:
            if receiving is not self._serving and self._serving is not None:
                self._patience.update(self._reader, self._serving)  # it waits behind another one, unread
                return
            is_form = receiving.is_streamed
            receiving.fail(slow_upload(self._limits) if is_form else slow_body(self._limits.receive_s))
            self._patience.start(AwaitedInput.REST, BODY_GRACE_S)
        elif awaited is AwaitedInput.NEXT:
            self._close()
        elif awaited is AwaitedInput.CLOSE and self._transport.get_write_buffer_size():
            self._patience.start(AwaitedInput.CLOSE, LINGER_S)  # the client still takes what was written; see `_stall`
        else:
            self._transport.abort()

    def _refuse(self, error: GatepassError) -> None:
        """Answer what never became a whole request, behind what is served, and read no other."""
        self._is_deaf = True
        self._patience.clear()
        if self._transport.is_closing():
            return
        receiving = self._reader.cycle
        if receiving in self._queue:
            self._queue.pop()
        if self._is_next_to_answer():
            if receiving is not None:
                receiving.disconnect()  # the street waits for the rest of its body: it has nobody to answer
            self._reception.rejected(error, self._reader.peer)
            self.send(response(error))
            self._linger()
        elif self._serving is None:
            self._close()
        else:
            (self._queue[-1] if self._queue else self._serving).persists = False

    def _is_next_to_answer(self) -> bool:
        """Whether what is broken has no response yet and stands behind no other's."""
        receiving = self._reader.cycle
        if receiving is not None:
            return receiving is self._serving and not receiving.has_begun
        return self._serving is None and self._reader.in_head

    def _end(self) -> None:
        """Close behind the last response, where nothing unread can reset it."""
        if self._is_ending or self._reader.cycle is not None:
            self._linger()
        else:
            self._close()

    def _is_idle(self) -> bool:
        return self._serving is None and self._reader.is_idle

    def _close(self) -> None:
        self.flush()
        self._transport.close()

    def _linger(self) -> None:
        """Say that this is the end, and take what still comes: of a body for as long as one may take, where it goes on
        coming. Most clients read no response before they have sent all of it."""
        self._is_deaf = True
        self.flush()
        if self._transport.is_closing():
            return
        self._transport.write_eof()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        if self._reader.cycle is not None:
            self._lingers_till_s = self._loop.time() + self._limits.receive_s
        self._patience.start(AwaitedInput.CLOSE, LINGER_S)
