"""Who keeps the workers: one in each slot, renewed one by one, and all of them told of a stop.

`gatepass serve --workers N`: one listening socket, N processes that accept on it, and this one, which keeps them.

It imports no web framework and serves nothing. SIGTERM and SIGINT drain the workers; SIGHUP replaces
them one by one by new ones, which read the configuration anew; uvicorn's own supervisor would stop
and start them instead. A worker that is replaced is told by SIGTERM and leaves the socket to the others;
that all of them stop is told by the lifeline, and then each answers 503 while it drains.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence

from gatepass.cancel import Tasks
from gatepass.server.channel import channel
from gatepass.server.listening import SEATS
from gatepass.server.worker import LOOK_S, Worker

LOG = logging.getLogger("gatepass.server.supervisor")

KILL_GRACE_S = 5.0
"""Between the end of a drain and the kill."""


class Supervisor:
    """Keeps `count` workers of `command` on `listening` alive until it is told to stop.

    `unusable` is the code of a worker that cannot use its configuration: where the first ones end so, it stops too.
    """

    def __init__(
        self,
        command: Sequence[str],
        listening: socket.socket,
        count: int,
        drain_s: float,
        announce: Callable[[], None],
        unusable: int,
    ) -> None:
        self._command = tuple(command)
        self._listening = listening
        self._count = count
        self._drain_s = drain_s
        self._announce = announce
        self._unusable = unusable
        self._code = 0
        self._serial = 0
        self._workers: dict[int, Worker] = {}
        self._changing = tuple(asyncio.Lock() for _ in range(count))
        """Each held while its slot gets another worker: by what keeps it, or by a renewal."""
        self._seats_of_starting: set[int] = set()
        self._started: list[Worker] = []
        self._has_served = False
        self._stopping = asyncio.Event()
        self._tasks = Tasks()

    async def run(self) -> int:
        """The exit code, when every worker has ended, also those that others took the place of: 0 after a stop,
        `unusable` where no worker could begin. Raises NoFolder before the first is started."""
        loop = asyncio.get_running_loop()
        renewals: asyncio.Queue[None] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):  # first: until here SIGTERM ends the process, a folder or not
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: renewals.put_nowait(None))
        with channel(self._listening) as self._channel:
            self._renewing = self._tasks.spawn(self._renew(renewals), "renewals")
            self._tasks.spawn(self._say_when_ready(), "announce")
            try:
                await asyncio.gather(*(self._keep(slot) for slot in range(self._count)))
                await asyncio.gather(*map(self._reap, self._living()))
            finally:
                await self._tasks.aclose()
        return self._code

    async def _say_when_ready(self) -> None:
        """Tell where gatepass listens once the first worker accepts there."""
        while not any(worker.is_ready for worker in self._workers.values()):
            await asyncio.sleep(LOOK_S)
        self._has_served = True
        self._announce()

    def _stop(self) -> None:
        """The first call drains, a second one reaches the workers as a signal and ends their patience."""
        if self._stopping.is_set():
            for worker in self._living():
                worker.signal(signal.SIGTERM)
            return
        self._stopping.set()
        self._renewing.cancel()
        self._channel.tell_stop()
        self._listening.close()  # so that who comes after the last worker has left is refused, and does not hang

    def _living(self) -> list[Worker]:
        """All of its processes: those in the slots, those that left one, and one that has none yet."""
        return [worker for worker in self._started if worker.is_alive]

    async def _keep(self, slot: int) -> None:
        """One worker after another in this slot, until the stop."""
        pause_s = 0.0
        worker = await self._start(slot)
        while await worker.left(self._stopping):
            if not worker.retired.is_set():
                if worker.process.returncode == self._unusable and not self._has_served:
                    self._give_up(self._unusable)
                    return
                pause_s = worker.pause_s(pause_s)
                fields = {"worker": worker.number, "code": worker.process.returncode, "again_in_s": pause_s}
                LOG.error("worker_died", extra={"fields": fields})
                worker.ready_at.unlink(missing_ok=True)
                self._channel.seats.clear(worker.seat)
                if await self._stopped_within(pause_s):
                    return
            worker = self._workers[slot] if worker.retired.is_set() else await self._start(slot)

    def _give_up(self, code: int) -> None:
        """What the worker could not use, and has told, no other one could: a supervisor that goes on hides it."""
        if not self._stopping.is_set():
            self._code = code
            self._stop()

    async def _reap(self, worker: Worker) -> None:
        await worker.reaped(self._drain_s + KILL_GRACE_S)
        self._channel.seats.clear(worker.seat)

    async def _stopped_within(self, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                return await self._stopping.wait()
        except TimeoutError:
            return self._stopping.is_set()

    async def _start(self, slot: int) -> Worker:
        async with self._changing[slot]:
            self._workers[slot] = worker = await self._spawn()
        return worker

    async def _spawn(self) -> Worker:
        self._serial += 1
        taken = self._seats_of_starting.union(worker.seat for worker in self._living())
        seat = next((seat for seat in range(SEATS) if seat not in taken), SEATS - 1)
        self._channel.seats.clear(seat)
        self._seats_of_starting.add(seat)
        try:
            worker = await Worker.started(self._serial, seat, self._command, self._channel)
            self._started = [*self._living(), worker]
        finally:
            self._seats_of_starting.discard(seat)
        return worker

    async def _renew(self, renewals: asyncio.Queue[None]) -> None:
        while True:
            await renewals.get()
            LOG.info("renewing", extra={"fields": {"workers": self._count}})
            for slot in range(self._count):
                if not await self._replace(slot):
                    break

    async def _replace(self, slot: int) -> bool:
        """A new worker takes the slot once it is ready, and the old one drains; False leaves the old one.

        A stop cancels it: both hear the lifeline, and the new one need not come up for that.
        """
        newer = await self._spawn()
        try:
            is_ready = await newer.becomes_ready()
        except asyncio.CancelledError:
            newer.signal(signal.SIGTERM)
            raise
        if not is_ready:
            newer.signal(signal.SIGKILL)
            LOG.error("renewal_failed", extra={"fields": {"worker": newer.number, "code": newer.process.returncode}})
            return False
        async with self._changing[slot]:
            older, self._workers[slot] = self._workers[slot], newer
        older.retired.set()
        older.signal(signal.SIGTERM)
        self._tasks.spawn(self._reap(older), f"reap {older.number}")
        return True
