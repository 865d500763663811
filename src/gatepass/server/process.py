"""The process of `gatepass serve`: uvicorn that drains, signals, the garbage collector and the allocator."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, cast

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from gatepass.clock import SystemClock
from gatepass.proxy.app_state import AppState
from gatepass.server.asgi import ApiEndpoint, show
from gatepass.server.connection import ClientConnection, ConnectionContext, Evictable, Serve
from gatepass.server.connection_shares import ConnectionShares, TrustedProxies
from gatepass.server.cycle import HttpRequestCycle
from gatepass.server.listening import (
    Acceptor,
    AcceptWatch,
    ConnectionCounts,
    descriptor_limit,
    has_free_descriptor,
    url_of,
)
from gatepass.server.pages import ops_routes, page_paths
from gatepass.server.peers import Peers
from gatepass.server.timeouts import RejectedRequests

if TYPE_CHECKING:
    pass

import ctypes

from gatepass.server.app import ERRORS, Service, log_draining, log_unready

LOG = logging.getLogger("gatepass.serve")

KEEP_ALIVE_S = 75

HANDOVER_S = 0.1
"""How long a process that stops serves on at least: connections that the system had accepted before get no 503."""

LOOK_S = 0.02
"""How often a drain looks whether a connection is left on which a client may send a request."""

RELOADS = "a single process reads its configuration at the start only: restart it, or serve with several workers"
"""What a SIGHUP is answered with, where it would renew workers."""

FORCED_STOP_S = 3
"""After the drain: how long uvicorn waits for connections that are still closing."""

COLLECT_AFTER = 10_000
"""Containers more than at the last collection; 64 requests under way hold 6,000. Python's own 700 has each ebb and
flow of requests walked through, 2.6 % of all work, for cycles that they do not make."""


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""

HEAP_BODY_BYTES = 1024 * 1024
"""A larger block is mapped for itself and given back to the system at once."""
KEPT_BYTES = 16 * 1024 * 1024
"""So much may lie free at the heap's end."""


def keep_freed_pages() -> bool:
    """Have glibc keep what bodies of up to 1 MiB took, for the next ones; False where there is another C library.

    It gives them back after each request by itself, and every page that comes anew is a fault and is zeroed first:
    100 µs of 700 for an embeddings reply of 380 KB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_MMAP_THRESHOLD, HEAP_BODY_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


def _pages(gate: AppState, peers: Peers | None) -> Starlette:
    """What `gatepass serve` hands to uvicorn: the lifespan and the pages. ClientConnection serves every other path."""
    service = Service(lambda: gate)
    routes = ops_routes(lambda: service.state, gate.config.server.base_path, peers)
    return Starlette(routes=routes, lifespan=service.lifespan, exception_handlers=ERRORS)


def served_by(app: ASGIApp, gate: AppState) -> Serve:
    """Pages by `app`, everything else by the pipeline."""
    operations, pages = ApiEndpoint(gate), page_paths(gate.config.server.base_path)
    limit_bytes = gate.config.limits.body_bytes

    def serve(cycle: HttpRequestCycle) -> Awaitable[None]:
        return show(app, cycle, limit_bytes) if cycle.path in pages else operations.serve(cycle)

    return serve


def reception_of(app: ASGIApp, gate: AppState) -> ConnectionContext:
    """What the server's connections share."""
    config, refused = gate.config, RejectedRequests(gate.metrics.error_sent).note
    shares: ConnectionShares[Evictable] = ConnectionShares(
        config.limits.connections, config.limits.unauthenticated, config.access.callers
    )
    proxies = TrustedProxies(config.server.trusted_proxies)
    return ConnectionContext(
        served_by(app, gate), refused, config.limits, KEEP_ALIVE_S, proxies, shares, gate.in_flight
    )


@dataclass(frozen=True, slots=True)
class Team:
    """What makes a server one of several workers. `lifeline` tells it that all stop, or that the supervisor is gone."""

    peers: Peers
    lifeline: socket.socket
    connection_counts: ConnectionCounts


class DrainingServer(uvicorn.Server):
    """uvicorn that drains: readiness turns red at once, streams may finish, the rest get an error event."""

    def __init__(
        self,
        gate: AppState,
        announce: Callable[[str], None],
        team: Team | None = None,
    ) -> None:
        app = _pages(gate, team.peers if team is not None else None)
        context = reception_of(app, gate)
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
        self._gate = gate
        self._reception = context
        self._accept_watch = AcceptWatch()
        self._announce = announce
        self._team = team
        self._acceptors: list[Acceptor] = []
        self._is_end_of_all = False
        """Whether no other worker takes the socket: it is then kept, to answer 503."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_hurried = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            signal.signal(signal.SIGHUP, self.handle_reload)
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        team = self._team
        await super().startup(sockets=sockets if team is None else [])
        gc.enable()  # `gatepass serve` starts without it
        gc.freeze()  # what stands now stands for good: a collection need not walk it again (25 µs a request)
        gc.set_threshold(COLLECT_AFTER)
        keep_freed_pages()
        for listening in sockets or []:
            self._announce(url_of(listening))
        if team is not None:
            self._acceptors = [self._acceptor(team, listening) for listening in sockets or []]
            await team.peers.open()
            self._loop.add_reader(team.lifeline, self._on_lifeline, self._loop, team.lifeline)

    def _acceptor(self, team: Team, listening: socket.socket) -> Acceptor:
        def make() -> asyncio.Protocol:
            state, config = self.server_state, self.config
            return ClientConnection(self._reception, config=config, server_state=state, app_state=self.lifespan.state)

        return Acceptor(listening, make, lambda: len(self.server_state.connections), team.connection_counts)

    async def on_tick(self, counter: int) -> bool:
        now_s = asyncio.get_running_loop().time()
        for acceptor in self._acceptors:
            acceptor.publish()
        if self._accept_watch.is_due(now_s) and not has_free_descriptor():
            for connection in self._reception.shares.relieve(now_s):
                connection.evict()
            if (count := self._accept_watch.failed(now_s)) is not None:
                limit, needed = descriptor_limit(), self._gate.config.descriptors
                LOG.warning(
                    "descriptors_exhausted", extra={"fields": {"count": count, "limit": limit, "needed": needed}}
                )
        return await super().on_tick(counter)

    def _on_lifeline(self, loop: asyncio.AbstractEventLoop, lifeline: socket.socket) -> None:
        """The supervisor stops all of its workers, or is gone without a word and nobody would ever end this process:
        the socket is then left at once, for the one that is started in its place."""
        loop.remove_reader(lifeline)
        self._is_end_of_all = bool(lifeline.recv(1, socket.MSG_PEEK))
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn unready, serve on for the delay, then close each connection behind its answer or when it is idle."""
        gate, connections = self._gate, cast(set[ClientConnection], self.server_state.connections)
        in_flight, team, server = gate.in_flight, self._team, gate.config.server
        delay_s = max(server.drain_delay_s, min(HANDOVER_S, server.drain_timeout_s))
        in_flight.draining = True
        for connection in connections:
            connection.retire()
        if team is not None and not self._is_end_of_all:
            delay_s = 0  # what comes now is for the other workers on this socket
            await asyncio.gather(team.peers.aclose(), *(acceptor.close() for acceptor in self._acceptors))
        else:
            log_unready(gate)
        await in_flight.delay(SystemClock(), delay_s)
        log_draining(gate)
        for connection in connections:
            connection.close_when_idle()
        ended = await self._drained(connections)
        LOG.info("drained", extra={"fields": {"streams_ended": ended}})
        if team is not None:
            await asyncio.gather(team.peers.aclose(), *(acceptor.close() for acceptor in self._acceptors))
        await super().shutdown(sockets=sockets)

    async def _drained(self, connections: Collection[ClientConnection]) -> int:
        """Wait until nothing is under way and no client can send more. Return how many streams had to be ended."""
        in_flight, clock, now = self._gate.in_flight, self._gate.clock, asyncio.get_running_loop().time
        bound_s = self._gate.config.server.drain_timeout_s
        until_s = now() + bound_s
        ended = await in_flight.drain(clock, bound_s)
        while now() < until_s and not in_flight.is_hurried and any(each.accepts_requests for each in connections):
            await asyncio.sleep(LOOK_S)
            ended += await in_flight.drain(clock, until_s - now())
        return ended

    def handle_reload(self, _: int, __: FrameType | None) -> None:
        """SIGHUP ends nothing. What it asks for is the supervisor's to do, where there is one."""
        if self._team is None and self._loop is not None:
            self._loop.call_soon_threadsafe(_refuse_reload)

    def handle_exit(self, _: int, __: FrameType | None) -> None:
        """SIGTERM and the first SIGINT drain; a second one ends what still runs, with its error event; a
        third waits for nobody. None is raised again after the stop, so that a clean stop exits with 0."""
        self.force_exit = self._is_hurried
        self._is_hurried = self.should_exit
        if self._is_hurried and self._loop is not None:
            self._loop.call_soon_threadsafe(self._gate.in_flight.end_now)
        self.should_exit = True


def _refuse_reload() -> None:
    LOG.warning("reload_needs_workers", extra={"fields": {"reason": RELOADS}})
