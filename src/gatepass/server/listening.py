"""The socket that gatepass serves on, and the file descriptors that its connections need."""

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

LOOK_EVERY_S = 1.0
TELL_EVERY_S = 60.0
"""One log line in this time while no connection can be accepted."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises OSError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
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
    """The soft limit of file descriptors of this process (`ulimit -n`)."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if soft == resource.RLIM_INFINITY else soft


def has_free_descriptor() -> bool:
    """Whether a connection could be accepted now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


class AcceptWatch:
    """Decides when to look for a free file descriptor, and when to log that there is none.

    It has to be looked for: without one, uvloop closes each new connection and reports nothing (libuv's
    uv__emfile_trick).
    """

    def __init__(self) -> None:
        self._looked_s = self._told_s = -math.inf
        self._failed = 0

    def is_due(self, now_s: float) -> bool:
        """Whether to look now; True at most once in LOOK_EVERY_S."""
        if now_s - self._looked_s < LOOK_EVERY_S:
            return False
        self._looked_s = now_s
        return True

    def failed(self, now_s: float) -> int | None:
        """There was no free descriptor. Return for how many looks since the last line, if a line is due."""
        self._failed += 1
        if now_s - self._told_s < TELL_EVERY_S:
            return None
        count, self._failed, self._told_s = self._failed, 0, now_s
        return count


BACKLOG = 2048
SEATS = 256
MARGIN = 1
MARGIN_PART = 16
"""A worker accepts while it holds at most MARGIN more than the one with the fewest, and a MARGIN_PART of these."""
PAUSE_S = 0.25
"""A connection that waited this long is accepted by any worker: the one with the fewest may hang."""
LOOK_AGAIN_S = 0.002
FREELY_S = 5.0
"""How long a worker then accepts whatever it holds."""
NO_DESCRIPTOR_S = 0.1


class ConnectionCounts:
    """How many connections each worker holds, in a file that all workers of a supervisor map into memory.

    A seat is a 32-bit number: 0 for no worker that accepts, else one more than its connections. `own` is this worker's.
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
        """This worker accepts, and has `held` connections."""
        assert self.own is not None  # noqa: S101 - the supervisor has no seat
        self._held[self.own] = held + 1

    def clear(self, seat: int) -> None:
        """The worker of `seat` accepts nothing more: it retires, or has ended."""
        self._held[seat] = 0

    def fewest(self) -> int:
        """How many connections the worker with the fewest has; 0 if none accepts."""
        return min(filter(None, self._held.tolist()), default=1) - 1


class Acceptor:
    """Accepts on a socket that several workers share, so that their connections spread evenly.

    asyncio's own server accepts all that wait at each wake-up: 100 connections landed as 11 and 89. This one accepts
    one, and pauses while it holds more than another worker. A socket for each worker (SO_REUSEPORT) spreads by a hash,
    exceeds 1.3 times the share in one run of six, and resets the connections in its queue when it closes.
    """

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[], asyncio.Protocol],
        count: Callable[[], int],
        seats: ConnectionCounts,
    ) -> None:
        """`make` returns the protocol of a connection, and `count` how many of them are open."""
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._make = make
        self._count = count
        self._seats = seats
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
        """Share how many connections this worker has, and return it."""
        held = self._count() + len(self._making)
        self._seats.publish(held)
        return held

    async def close(self) -> None:
        """Leave the socket to the other workers. Return when all that was accepted has its protocol."""
        if self._listening.fileno() < 0:
            return  # it was closed before
        self._loop.remove_reader(self._listening)
        if self._later is not None:
            self._later.cancel()
        if self._seats.own is not None:
            self._seats.clear(self._seats.own)
        self._listening.close()  # else the port stays open where the supervisor is gone, and nobody accepts there
        await asyncio.gather(*self._making, return_exceptions=True)

    def _resume(self) -> None:
        self._later = None
        self._loop.add_reader(self._listening, self._accept)

    def _pause(self, delay_s: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listening)
        self._later = self._loop.call_later(delay_s, then)

    def _accept(self) -> None:
        """Accept one connection; another worker may have been faster."""
        if self._is_above_share():
            self._paused_s = self._loop.time()
            self._pause(LOOK_AGAIN_S, self._look)
            return
        try:
            accepted, _ = self._listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._pause(NO_DESCRIPTOR_S, self._resume)
            return
        making = self._loop.create_task(self._loop.connect_accepted_socket(self._make, accepted))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        self.publish()

    def _is_above_share(self) -> bool:
        held = self.publish()
        if self._loop.time() < self._free_until_s:
            return False
        fewest = self._seats.fewest()
        return held > fewest + MARGIN + fewest // MARGIN_PART

    def _look(self) -> None:
        """Accept again as soon as this worker's share allows it, or where no other worker takes what waits."""
        if self._poll.poll(0) and self._is_above_share():
            if self._loop.time() - self._paused_s < PAUSE_S:
                self._later = self._loop.call_later(LOOK_AGAIN_S, self._look)
                return
            self._free_until_s = self._loop.time() + FREELY_S
        self._resume()
