"""`gatepass serve --workers N`: one listening socket, N processes that accept on it, and this one, which keeps them.

It imports no web framework and serves nothing. SIGTERM and SIGINT drain the workers; SIGHUP replaces
them one by one by new ones, which read the configuration anew; uvicorn's own supervisor would stop
and start them instead. A worker that is replaced is told by SIGTERM and leaves the socket to the others;
that all of them stop is told by the lifeline, and then each answers 503 while it drains.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gatepass.runtime import Tasks
from gatepass.store.seal import KEY_BYTES

LOG = logging.getLogger("gatepass.supervisor")

STOPPING = b"."
"""What the lifeline says before a stop. It is not read but looked at, for all workers have the same end of it."""
STORE = "store"
"""The folder of what the workers share, within the supervisor's own; encrypted with a key that only they have."""
READY_S = 20.0
LOOK_S = 0.05
KILL_GRACE_S = 5.0
"""Between the end of a drain and the kill."""
SHORT_LIFE_S = 10.0
"""A worker that dies earlier is started again with a growing pause."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is made by mkdtemp, mode 0700
"""Where a container with a read-only root can still write: a tmpfs of its own."""


class NoFolder(Exception):
    """There is no place for what the workers share: their sockets, and the tokens that one fetches for all."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One process. It is ready when its socket is in the folder; `retired` is set when another takes its slot."""

    name: str
    process: asyncio.subprocess.Process
    ready_at: Path
    began_s: float
    retired: asyncio.Event

    def signal(self, number: int) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)


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
        self._started: list[Worker] = []
        self._has_served = False
        self._stopping = asyncio.Event()
        self._tasks = Tasks()
        self._key = secrets.token_bytes(KEY_BYTES)

    async def run(self) -> int:
        """The exit code, when every worker has ended, also those that others took the place of: 0 after a stop,
        `unusable` where no worker could begin. Raises NoFolder before the first is started."""
        loop = asyncio.get_running_loop()
        renewals: asyncio.Queue[None] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):  # first: until here SIGTERM ends the process, a folder or not
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: renewals.put_nowait(None))
        with own_folder() as folder:
            self._folder = Path(folder)
            (self._folder / STORE).mkdir(mode=0o700)
            self._lifeline, self._lent = socket.socketpair()  # its end tells the workers that their supervisor is gone
            self._renewing = self._tasks.spawn(self._renew(renewals), "renewals")
            self._tasks.spawn(self._say_when_ready(), "announce")
            try:
                await asyncio.gather(*(self._keep(slot) for slot in range(self._count)))
                await asyncio.gather(*map(self._reap, self._living()))
            finally:
                await self._tasks.aclose()
                self._lifeline.close()
                self._lent.close()
        return self._code

    async def _say_when_ready(self) -> None:
        """Tell where gatepass listens once the first worker accepts there."""
        while not any(worker.ready_at.exists() for worker in self._workers.values()):
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
        self._lifeline.send(STOPPING)  # no signal: systemd sends its own to all, and a second one would hurry them
        self._listening.close()  # so that who comes after the last worker has left is refused, and does not hang

    def _living(self) -> list[Worker]:
        """All of its processes: those in the slots, those that left one, and one that has none yet."""
        return [worker for worker in self._started if worker.process.returncode is None]

    async def _keep(self, slot: int) -> None:
        """One worker after another in this slot, until the stop."""
        pause_s = 0.0
        worker = await self._start(slot)
        while await self._left(worker):
            if not worker.retired.is_set():
                if worker.process.returncode == self._unusable and not self._has_served:
                    self._give_up(self._unusable)
                    return
                pause_s = self._pause_s(worker, pause_s)
                fields = {"worker": worker.name, "code": worker.process.returncode, "again_in_s": pause_s}
                LOG.error("worker_died", extra={"fields": fields})
                worker.ready_at.unlink(missing_ok=True)
                if await self._stopped_within(pause_s):
                    return
            worker = self._workers[slot] if worker.retired.is_set() else await self._start(slot)

    def _pause_s(self, worker: Worker, before_s: float) -> float:
        """How long to wait before another is started in the place of `worker`, after a pause of `before_s`."""
        lived_s = asyncio.get_running_loop().time() - worker.began_s
        return min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, before_s * 2)) if lived_s < SHORT_LIFE_S else 0.0

    def _give_up(self, code: int) -> None:
        """What the worker could not use, and has told, no other one could: a supervisor that goes on hides it."""
        if not self._stopping.is_set():
            self._code = code
            self._stop()

    async def _left(self, worker: Worker) -> bool:
        """Returns when `worker` has died or is retired, then True; or at a stop, then False."""
        waits = [asyncio.create_task(event) for event in (_exit(worker), worker.retired.wait(), self._stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not self._stopping.is_set()

    async def _reap(self, worker: Worker) -> None:
        """Let a worker that was told to end do so; one that outlives its drain is killed."""
        try:
            async with asyncio.timeout(self._drain_s + KILL_GRACE_S):
                await worker.process.wait()
        except TimeoutError:
            LOG.warning("worker_killed", extra={"fields": {"worker": worker.name}})
            worker.signal(signal.SIGKILL)
            await worker.process.wait()

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
        name = f"worker-{self._serial}"
        with _readable(self._key) as key:
            fds = (self._listening.fileno(), self._lent.fileno(), key)
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--worker", name, "--fds", *map(str, fds), "--peers", str(self._folder)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=fds,
                process_group=0,  # Ctrl-C of a terminal is for the supervisor, which then tells the workers once
            )
        LOG.info("worker_started", extra={"fields": {"worker": name, "pid": process.pid}})
        began_s = asyncio.get_running_loop().time()
        worker = Worker(name, process, self._folder / f"{name}.sock", began_s, asyncio.Event())
        self._started = [*self._living(), worker]
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
            is_ready = await self._is_ready(newer)
        except asyncio.CancelledError:
            newer.signal(signal.SIGTERM)
            raise
        if not is_ready:
            newer.signal(signal.SIGKILL)
            LOG.error("renewal_failed", extra={"fields": {"worker": newer.name, "code": newer.process.returncode}})
            return False
        async with self._changing[slot]:
            older, self._workers[slot] = self._workers[slot], newer
        older.retired.set()
        older.signal(signal.SIGTERM)
        self._tasks.spawn(self._reap(older), f"reap {older.name}")
        return True

    async def _is_ready(self, worker: Worker) -> bool:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + READY_S
        while loop.time() < until_s and worker.process.returncode is None:
            if worker.ready_at.exists():
                return True
            await asyncio.sleep(LOOK_S)
        return False


def own_folder(shared_memory: str = SHARED_MEMORY) -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with its block, mode 0700: where TMPDIR says, or /tmp and its like, or in `shared_memory`.

    Raises NoFolder, with what to do, where none of them can be written to.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="gatepass-")
    except FileNotFoundError:  # what tempfile raises where no folder is usable, a read-only root included
        pass
    except OSError as error:
        raise NoFolder(_no_folder(tempfile.gettempdir(), error)) from error
    try:
        return tempfile.TemporaryDirectory(prefix="gatepass-", dir=shared_memory)
    except OSError as error:
        raise NoFolder(_no_folder(f"the usual folders and {shared_memory}", error)) from error


def _no_folder(places: str, error: OSError) -> str:
    return (
        f"several workers share a folder, and none can be made in {places} ({error.strerror}):"
        " mount a tmpfs on /tmp, name a folder in TMPDIR, or set server.workers: 1"
    )


@contextmanager
def _readable(key: bytes) -> Iterator[int]:
    """A descriptor from which `key` can be read once: arguments and environment of a process are for others to see."""
    reading, writing = os.pipe()
    try:
        os.write(writing, key)
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


async def _exit(worker: Worker) -> None:
    await worker.process.wait()
