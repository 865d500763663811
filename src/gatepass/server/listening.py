"""Listening socket, free file descriptors, and the balance of connections between workers."""

from __future__ import annotations

import asyncio
import errno
import math
import mmap
import os
import resource
import select
import socket
from collections.abc import Callable
from pathlib import Path


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket. Raises OSError if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # a restart must not wait until the last connections have left TIME_WAIT
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.set_inheritable(False)
    except OSError:
        listening.close()
        raise
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def descriptor_limit() -> float:
    """Return the soft limit of file descriptors of this process (`ulimit -n`)."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if soft == resource.RLIM_INFINITY else soft


def has_free_descriptor() -> bool:
    """Return whether a connection can be accepted now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


BACKLOG = 2048
"""As in uvicorn. Linux lowers it to net.core.somaxconn."""
SEATS = 256
MARGIN = 1
MARGIN_PART = 16
"""A worker accepts while it has at most `fewest + MARGIN + fewest / MARGIN_PART` connections.

`fewest` is the number of connections of the worker with the fewest.
"""
PAUSE_S = 0.25
"""Any worker accepts a connection that has waited this long: the worker with the fewest connections may hang."""
RECHECK_S = 0.002
FREELY_S = 5.0
"""After that, how long the worker accepts regardless of its number of connections."""
NO_DESCRIPTOR_S = 0.1


class ConnectionCounts:
    """The number of connections of each worker, in a file that all workers of a supervisor map into memory.

    A worker's seat is a 32-bit number: its connections plus 1, or 0 if it does not accept. `own` is this worker's seat.
    """

    def __init__(self, file: Path, own: int | None = None) -> None:
        self.own = own
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, 4 * SEATS)
            self._held = memoryview(mmap.mmap(descriptor, 4 * SEATS)).cast("I")
        finally:
            os.close(descriptor)

    def publish(self, held: int) -> None:
        """Record that this worker accepts, and has `held` connections."""
        assert self.own is not None  # noqa: S101 - the supervisor has no seat
        self._held[self.own] = held + 1

    def clear(self, seat: int) -> None:
        """Record that the worker of `seat` no longer accepts: it retires, or has ended."""
        self._held[seat] = 0

    def fewest(self) -> int:
        """Return the number of connections of the worker with the fewest, 0 if none accepts."""
        return min(filter(None, self._held.tolist()), default=1) - 1


class Acceptor:
    """Accepts on a socket that several workers share, so that their connections are distributed evenly.

    At each wake-up it accepts one connection, and it pauses while it has more connections than another worker.
    """

    # asyncio's own server accepts all waiting connections at each wake-up: 100 connections became 11 and 89.
    # One socket for each worker (SO_REUSEPORT) distributes by a hash. In one run of six a worker had more than 1.3
    # times its share, and a socket that closes resets the connections in its queue.

    def __init__(
        self,
        listening: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        count_connections: Callable[[], int],
        counts: ConnectionCounts,
    ) -> None:
        """`make_protocol` returns the protocol of a new connection, `count_connections` the number of open ones."""
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._make_protocol = make_protocol
        self._count_connections = count_connections
        self._counts = counts
        self._making: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._paused_s = 0.0
        self._free_until_s = -math.inf
        self._poll = select.poll()
        self._poll.register(listening, select.POLLIN)
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self.publish()
        self._resume()

    def publish(self) -> int:
        """Publish the number of connections of this worker, and return it."""
        held = self._count_connections() + len(self._making)
        self._counts.publish(held)
        return held

    async def close(self) -> None:
        """Stop accepting. Return when every accepted connection has its protocol."""
        if self._listening.fileno() < 0:
            return  # already closed
        self._loop.remove_reader(self._listening)
        if self._later is not None:
            self._later.cancel()
        if self._counts.own is not None:
            self._counts.clear(self._counts.own)
        # if the supervisor is gone, an open socket would still queue connections that no process accepts
        self._listening.close()
        await asyncio.gather(*self._making, return_exceptions=True)

    def _resume(self) -> None:
        self._later = None
        self._loop.add_reader(self._listening, self._accept)

    def _pause(self, delay_s: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listening)
        self._later = self._loop.call_later(delay_s, then)

    def _accept(self) -> None:
        """Accept one connection, unless another worker was faster."""
        if self._is_above_share():
            self._paused_s = self._loop.time()
            self._pause(RECHECK_S, self._recheck)
            return
        try:
            accepted, _ = self._listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # the socket stays readable: without a pause the event loop would spin
                self._pause(NO_DESCRIPTOR_S, self._resume)
            return
        making = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, accepted))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        self.publish()

    def _is_above_share(self) -> bool:
        held = self.publish()
        if self._loop.time() < self._free_until_s:
            return False
        fewest = self._counts.fewest()
        return held > fewest + MARGIN + fewest // MARGIN_PART

    def _recheck(self) -> None:
        """Accept again as soon as this worker's share allows it, or if no other worker accepts within PAUSE_S."""
        if self._poll.poll(0) and self._is_above_share():
            if self._loop.time() - self._paused_s < PAUSE_S:
                self._later = self._loop.call_later(RECHECK_S, self._recheck)
                return
            self._free_until_s = self._loop.time() + FREELY_S
        self._resume()
