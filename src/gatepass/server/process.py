"""The process of `gatepass serve`: uvicorn with a drain, the control socket, signals and memory."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import logging
import math
import resource
import signal
import socket
import struct
from array import array
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn, cast

import uvicorn
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from gatepass.clock import SystemClock
from gatepass.config.model import Config
from gatepass.errors import GatepassError
from gatepass.observability.observer import Refusal
from gatepass.proxy.app_state import AppState
from gatepass.server.admin import BODY_BYTES, Doctor
from gatepass.server.app import ERRORS, Service, log_draining, log_unready
from gatepass.server.asgi import serve_page
from gatepass.server.connection import ClientConnection, ConnectionContext
from gatepass.server.connection_shares import RELIEVED, ConnectionShares, UnfinishedHeads
from gatepass.server.cycle import HttpRequestCycle, RequestIds
from gatepass.server.endpoint import ApiEndpoint
from gatepass.server.listener_tls import ListenerTls
from gatepass.server.listening import url_of
from gatepass.server.pages import PAGES, paths_of
from gatepass.server.reload import ConfigSource, Reloader
from gatepass.server.ui.routes import PATH
from gatepass.types import ClientRequest

LOG = logging.getLogger("gatepass.serve")

IDLE_TIMEOUT_S = 95
"""How long an idle connection of a client stays open for its next request.

Go's clients, such as RAGFlow 1.0, send on a connection that was idle for up to 90 s.
"""

HANDOVER_S = 0.1
"""Minimum time that a stopping process still serves, so that connections in the system's queue receive no 503."""

CHECK_INTERVAL_S = 0.02
"""How often a drain checks if a client can still send a request on an open connection."""

MOST_STOPS = 2
"""After this many signals to stop, the next one ends the process."""

FORCED_STOP_S = 3
"""How long uvicorn waits after the drain for connections that are closing."""

COLLECT_AFTER = 10_000
"""Threshold of the garbage collector: new container objects since the last collection.

64 requests in progress have 6,000. With Python's default of 700 the collector takes 2.6 % of all work and finds no
cycles: requests create none.
"""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""

HEAP_BODY_BYTES = 1024 * 1024
"""glibc maps a larger block separately, and returns it to the system at once."""
KEPT_BYTES = 16 * 1024 * 1024
"""Maximum free memory at the end of the heap."""


def keep_freed_pages() -> bool:
    """Make glibc keep the memory of bodies of up to 1 MiB for the next ones. Return False with another C library.

    By default glibc returns it to the system after each request. Each new page is then a page fault and must be zeroed:
    100 of 700 µs for an embeddings reply of 380 KB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_MMAP_THRESHOLD, HEAP_BODY_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


def connection_context(app: ASGIApp, endpoint: ApiEndpoint) -> ConnectionContext:
    """Return what the connections of a server share. They serve pages with `app`, every other path with the proxy."""
    state = endpoint.state
    config = state.config
    base_path, limit_bytes = config.server.base_path, config.limits.body_bytes
    pages = frozenset(path for page in PAGES for path in paths_of(page, base_path))
    ui = paths_of(PATH, base_path) if config.serves_ui else ()
    below_ui = tuple(f"{path}/" for path in ui)

    def refused(error: GatepassError, peer: str) -> None:
        state.observers.tell(state.observers.refused, Refusal(error, peer))

    ids = RequestIds()

    def serve(cycle: HttpRequestCycle) -> Coroutine[Any, Any, None]:
        if cycle.path in pages:
            return serve_page(app, cycle, limit_bytes)
        if ui and (cycle.path in ui or cycle.path.startswith(below_ui)):
            return serve_page(app, cycle, BODY_BYTES)
        headers, query = cycle.headers, cycle.target.partition(b"?")[2]
        named, now_s = dict(headers), endpoint.state.clock.now()  # three times as fast as two searches
        request_id, agent = ids.of(named.get(b"x-request-id")), named.get(b"user-agent", b"")
        is_coded = b"content-encoding" in named
        client_request = ClientRequest(
            request_id, cycle.method, cycle.path, headers, cycle.peer, now_s, query, "", agent, is_coded
        )
        return endpoint.serve(client_request, cycle)

    shares: ConnectionShares[ClientConnection] = ConnectionShares(
        config.limits.connections, config.limits.unauthenticated, config.access.callers
    )
    heads = UnfinishedHeads(config.limits.heads_bytes)
    return ConnectionContext(serve, refused, IDLE_TIMEOUT_S, shares, heads, state.in_flight)


SO_ATTACH_FILTER = 26
"""Linux, see socket(7). Python has no name for it."""
_DROP_SYN = struct.pack(
    "HBBIHBBIHBBIHBBIHBBI",
    *(0x30, 0, 0, 13),  # load the byte at 13 of the TCP header: its flags
    *(0x54, 0, 0, 0x12),  # keep SYN and ACK
    *(0x15, 0, 1, 0x02),  # a SYN without ACK?
    *(0x06, 0, 0, 0),  # then accept 0 bytes of the packet
    *(0x06, 0, 0, 0xFFFFFFFF),  # else all of them
)
"""A BPF program of five struct sock_filter. The filter of a TCP socket sees packets from the TCP header on."""
HANDSHAKE_S = 0.1
"""How long a stop waits for handshakes that have begun. A client with a longer round trip may be reset."""


def ignore_new_connections(listening: socket.socket) -> None:
    """Let the system drop each new attempt to connect; handshakes that have begun, and the queue, go on.

    Otherwise a connection that arrives between the last accept and the close is reset: one in 56 stops under load. A
    dropped client tries again after a second, and the port then belongs to nobody or to the next process. A filter
    that also dropped the last packet of a handshake still reset one in 110.
    """
    code = array("B", _DROP_SYN)
    program = struct.pack("HP", len(code) // 8, code.buffer_info()[0])
    with suppress(OSError):  # the socket is closed, or the system has no filters
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


BACKLOG = 2048
"""The same as in uvicorn. Linux lowers it to net.core.somaxconn."""
ACCEPTS = 6
"""Connections accepted in one iteration of the loop. More would delay the streams in progress."""
NO_DESCRIPTOR_S = 0.1


class Acceptor:
    """Accepts the connections of one listening socket, a few in each iteration of the loop."""

    # asyncio's own server accepts all waiting connections at each wake-up.

    def __init__(
        self,
        listening: socket.socket,
        connect: Callable[[socket.socket], Coroutine[Any, Any, object]],
        on_exhausted: Callable[[], object],
    ) -> None:
        """`connect` serves a new connection. `on_exhausted` is called while no file descriptor is free for one."""
        self._on_exhausted = on_exhausted
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._connect = connect
        self._making: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._resume()

    def stop(self) -> None:
        self._loop.remove_reader(self._listening)
        if self._later is not None:
            self._later.cancel()

    async def close(self) -> None:
        """Close the socket after `stop`. Return when every accepted connection has its protocol."""
        self._listening.close()
        await asyncio.gather(*self._making, return_exceptions=True)

    def _resume(self) -> None:
        self._later = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                accepted, _ = self._listening.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # the socket stays readable: without a pause the event loop would spin
                    self._loop.remove_reader(self._listening)
                    self._later = self._loop.call_later(NO_DESCRIPTOR_S, self._resume)
                    self._on_exhausted()
                return
            making = self._loop.create_task(self._connect(accepted))
            self._making.add(making)
            making.add_done_callback(self._making.discard)


CONTROL_CONNECTIONS = 64
"""Above this number the oldest connection of the control socket closes, even during a reload."""


class ControlServer:
    """Serves the admin routes to the owner of the control socket."""

    def __init__(self, listening: socket.socket, context: ConnectionContext, service: Service) -> None:
        self._listening = listening
        self._context = replace(
            context,
            serve=lambda cycle: serve_page(service.admin, cycle, BODY_BYTES),
            shares=ConnectionShares(0, CONTROL_CONNECTIONS, 0),  # a flood of clients must not close these connections
            tls=None,
        )
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        make = partial(ClientConnection, self._context, server_state=self._state)
        self._server = await asyncio.get_running_loop().create_unix_server(make, sock=self._listening)

    def close(self) -> None:
        """Accept no more connections, and close each one after its response."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._state.connections):
                connection.shutdown()


LOG_EVERY_S = 60.0
"""One log line in this time while no file descriptor is free."""


class DrainingServer(uvicorn.Server):
    """uvicorn with a drain: /readyz returns 503 at once, streams may finish, then the rest receive an error event."""

    def __init__(
        self,
        state: AppState,
        announce: Callable[[str], None],
        source: ConfigSource | None = None,
        control: socket.socket | None = None,
        doctor: Doctor | None = None,
    ) -> None:
        """`source` reads the configuration again. None: SIGHUP has no effect. `control` is the control socket.

        `doctor` tests each hop, for the page at /ui.
        """
        endpoint = ApiEndpoint(state)

        def on_change(config: Config) -> None:
            context.shares.set_callers(config.limits.connections, config.access.callers)

        tls = None if state.config.server.tls is None else ListenerTls(state.config.server.tls)
        reloader = None if source is None else Reloader(endpoint, source, on_change, tls)
        service = Service(lambda: endpoint, state.config)
        service.admin.doctor = doctor
        # only lifespan and pages: ClientConnection serves every other path
        app = Starlette(routes=service.routes, lifespan=service.lifespan, exception_handlers=ERRORS)
        context = replace(connection_context(app, endpoint), tls=tls)
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(ClientConnection, context),  # type: ignore[arg-type]  # uvicorn only calls it
                loop="uvloop",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=FORCED_STOP_S,
            )
        )
        self.endpoint = endpoint
        self.reloader = reloader
        self._admin = service.admin
        self._control = None
        if control is not None and reloader is not None:
            service.admin.reloader = reloader
            self._control = ControlServer(control, context, service)
        self._reload_wanted = asyncio.Event()
        self._context = context
        self._descriptors_logged_s = -math.inf
        self._announce = announce
        self._acceptors: list[Acceptor] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stops = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            signal.signal(signal.SIGHUP, self.handle_reload)
            # `serve` blocked it at the start, when it would have ended the process. One that waits is delivered now.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        scheme = self.endpoint.state.config.server.scheme
        # uvicorn gets no socket: the Acceptors count a connection over TLS before its handshake
        await super().startup(sockets=[])
        gc.enable()  # `gatepass serve` disables it at the start
        gc.freeze()  # collections skip the permanent objects of the start (saves 25 µs for each request)
        gc.set_threshold(COLLECT_AFTER)
        keep_freed_pages()
        if self.reloader is not None:
            state = self.endpoint.state
            state.in_flight.tasks.spawn(self._reload_on_signal(self.reloader), "reload")
            if state.config.server.watch:
                state.in_flight.tasks.spawn(self.reloader.watch(state.clock), "watch")
            # before the first connection: a client must not meet a configuration that was replaced
            if self._reload_wanted.is_set():
                self._reload_wanted.clear()
                await self.reloader.reload("signal")
        if self._control is not None:
            self._admin.url = next((url_of(listening, scheme) for listening in sockets or []), "")
            await self._control.open()
        self._acceptors = [Acceptor(listening, self._connect, self._make_room) for listening in sockets or []]
        for listening in sockets or []:
            self._announce(url_of(listening, scheme))

    def _make_room(self) -> None:
        """Close idle connections, because no file descriptor is free for a new one."""
        now_s = asyncio.get_running_loop().time()
        for connection in self._context.shares.make_room(RELIEVED):
            connection.evict()
        if now_s - self._descriptors_logged_s >= LOG_EVERY_S:
            self._descriptors_logged_s = now_s
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            LOG.warning("descriptors_exhausted", extra={"fields": {"limit": limit}})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Become unready, serve on for the delay, then close each connection after its response or once it is idle."""
        state, connections = self.endpoint.state, cast(set[ClientConnection], self.server_state.connections)
        in_flight, server = state.in_flight, state.config.server
        delay_s = max(server.drain_delay_s, min(HANDOVER_S, server.drain_timeout_s))
        in_flight.draining = True  # first: a connection that is made from now on closes after its response
        for connection in connections:
            connection.retire()
        log_unready(state)
        await in_flight.begin_drain(SystemClock(), delay_s)
        log_draining(state)
        for connection in connections:
            connection.close_when_idle()
        ended = await self._drained(connections)
        LOG.info("drained", extra={"fields": {"streams_ended": ended}})
        if self._control is not None:
            self._control.close()
        for acceptor in self._acceptors:
            acceptor.stop()
        for listening in sockets or []:
            ignore_new_connections(listening)
        await asyncio.sleep(HANDSHAKE_S)
        for listening in sockets or []:
            await self._accept_waiting(listening)
        for acceptor in self._acceptors:
            await acceptor.close()  # without a task, which would first let more connections arrive in the queue
        await super().shutdown(sockets=sockets)
        if self.force_exit:
            # uvicorn then skips the lifespan's end, and the cancelled lifespan would log a traceback
            for task in self.server_state.tasks:
                task.cancel()
            await self.lifespan.shutdown()

    async def _accept_waiting(self, listening: socket.socket) -> None:
        """Accept the connections that wait, because the close of `listening` would reset them."""
        for _ in range(BACKLOG):
            try:
                accepted, _ = listening.accept()
            except OSError:  # no connection waits
                return
            with suppress(OSError):  # the client has closed it
                await self._connect(accepted)

    async def _connect(self, accepted: socket.socket) -> None:
        """Return when `accepted` has its ClientConnection. A TLS handshake goes on in a task."""
        context = self._context
        make = partial(ClientConnection, context, server_state=self.server_state)
        if context.tls is None:
            await asyncio.get_running_loop().connect_accepted_socket(make, accepted)
        else:
            context.in_flight.tasks.spawn(make().begin_tls(accepted, context.tls.context), "handshake")
            await asyncio.sleep(0)  # the task counts the connection

    async def _drained(self, connections: Collection[ClientConnection]) -> int:
        """Wait until no request is in progress and no client can send another. Return the number of ended streams."""
        state, now = self.endpoint.state, asyncio.get_running_loop().time
        in_flight, clock, bound_s = state.in_flight, state.clock, state.config.server.drain_timeout_s
        until_s = now() + bound_s
        ended = await in_flight.drain(clock, bound_s)
        # an idle connection may receive a request at any moment, until its client or DRAIN_IDLE_S closes it
        while now() < until_s and not in_flight.end_now.is_set() and any(each.accepts_requests for each in connections):
            await asyncio.sleep(CHECK_INTERVAL_S)
            ended += await in_flight.drain(clock, until_s - now())
        return ended

    def handle_reload(self, _: int, __: FrameType | None) -> None:
        """Reload the configuration. Signals that arrive during a reload cause one more."""
        if self._loop is None:
            self._reload_wanted.set()
        else:
            self._loop.call_soon_threadsafe(self._reload_wanted.set)

    async def _reload_on_signal(self, reloader: Reloader) -> NoReturn:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            await reloader.reload("signal")

    def handle_exit(self, _: int, __: FrameType | None) -> None:
        """Drain at the first signal, end all streams with an error event at the second, exit at the third."""
        # uvicorn's own handler records the signal and raises it again after the stop: a clean stop must exit with 0
        self._stops += 1
        if self._stops > 1 and self._loop is not None:
            self._loop.call_soon_threadsafe(self.endpoint.state.in_flight.end_now.set)
        self.force_exit = self.force_exit or self._stops > MOST_STOPS
        self.should_exit = True
