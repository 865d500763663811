"""Who keeps the workers: one in each slot, renewed one by one, and all of them told of a stop.

`gatepass serve --workers N`: one listening socket, N processes that accept on it, and this one, which keeps them.

It imports no web framework and serves nothing. SIGTERM and SIGINT drain the workers; SIGHUP replaces
them one by one by new ones, which read the configuration anew; uvicorn's own supervisor would stop
and start them instead. A worker that is replaced is told by SIGTERM and leaves the socket to the others;
that all of them stop is told by the lifeline, and then each answers 503 while it drains.

The folder of one supervisor and its workers, and where it can be.

What the workers of one supervisor inherit: the listening socket, the lifeline, their folder, and its key.

One worker: a process, from its start to its end.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from gatepass.cancel import Tasks
from gatepass.server.listening import SEATS, ConnectionCounts

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is made by mkdtemp, mode 0700
"""A tmpfs: what lies in it never reaches a disk. Containers have one of their own, with a read-only root too."""
PREFIX = "gatepass-"
ALIVE = "alive"
"""A file that the supervisor holds locked; the kernel frees the lock of one that was killed."""


class NoFolder(Exception):
    """There is no place for what the workers share: their sockets, and the tokens that one fetches for all."""


@contextmanager
def own_folder(shared_memory: str = SHARED_MEMORY) -> Iterator[Path]:
    """Make a folder with mode 0700 that is removed when the block ends, and remove those of killed supervisors.

    It is in `shared_memory` if that is writable, else where TMPDIR says, or in /tmp and its like.
    Raises NoFolder, with what to do, if none of them is writable.
    """
    with _made(shared_memory) as name:
        folder = Path(name)
        alive = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(alive, fcntl.LOCK_EX)
            (folder / "new").rename(folder / ALIVE)  # nobody sees it unlocked
            for left in folder.parent.glob(f"{PREFIX}*"):
                _remove_if_left(left)
            yield folder
        finally:
            os.close(alive)


def _made(shared_memory: str) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=PREFIX, dir=shared_memory)
    except OSError:
        pass
    try:
        return tempfile.TemporaryDirectory(prefix=PREFIX)
    except OSError as error:  # tempfile raises FileNotFoundError if no folder is usable, a read-only root included
        raise NoFolder(
            f"several workers share a folder, and none can be made in {shared_memory} or the usual folders"
            f" ({error.strerror}): mount a tmpfs on /tmp, name a folder in TMPDIR, or set server.workers: 1"
        ) from error


def _remove_if_left(folder: Path) -> None:
    """Remove `folder` if it is this user's and no supervisor holds its lock: tokens lie in it in clear."""
    try:
        if folder.lstat().st_uid != os.geteuid():
            return
        alive = os.open(folder / ALIVE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # not a supervisor's, another user's, or just being made or removed
        return
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(alive)


LOG = logging.getLogger("gatepass.server.supervisor")

KEY_BYTES = 32

STOPPING = b"."
"""What the lifeline says before a stop. It is not read but looked at, for all workers have the same end of it."""
STORE = "store"
"""The folder of the tokens that the workers share, within the supervisor's own; absent if they share none."""
CONNECTIONS = "connections"
"""The file, in the same folder, of how many connections each worker holds."""
NOT_SHARED = (
    "the workers' folder is on a disk, and the library that encrypts tokens there is not installed: each worker"
    " fetches its own tokens, and refresh tokens are not shared. Make {} writable, or install the extra `crypto`"
)


@dataclass(frozen=True, slots=True)
class Channel:
    """`lifeline` is the supervisor's end: its close tells the workers that their supervisor is gone.

    `key` encrypts what lies in `folder`; it is empty where that is in memory, which needs none.
    """

    folder: Path
    listening: socket.socket
    lifeline: socket.socket
    lent: socket.socket
    connection_counts: ConnectionCounts
    key: bytes = field(repr=False)

    def tell_stop(self) -> None:
        """No signal: systemd sends its own to all, and a second one would hurry them."""
        self.lifeline.send(STOPPING)

    @contextmanager
    def descriptors(self) -> Iterator[tuple[int, int, int]]:
        """What a worker inherits, in the order of its `--fds`: listening socket, lifeline, the key to be read once."""
        with _readable(self.key) as key:
            yield self.listening.fileno(), self.lent.fileno(), key


@contextmanager
def channel(listening: socket.socket, shared_memory: str = SHARED_MEMORY) -> Iterator[Channel]:
    """A new one, whose folder goes with the block. Raises NoFolder."""
    with own_folder(shared_memory) as folder:
        is_on_disk = folder.parent != Path(shared_memory)
        if is_on_disk and find_spec("cryptography") is None:
            LOG.warning("tokens_not_shared", extra={"fields": {"reason": NOT_SHARED.format(shared_memory)}})
        else:
            (folder / STORE).mkdir(mode=0o700)
        lifeline, lent = socket.socketpair()
        with lifeline, lent:
            key = secrets.token_bytes(KEY_BYTES) if is_on_disk else b""
            yield Channel(folder, listening, lifeline, lent, ConnectionCounts(folder / CONNECTIONS), key)


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


READY_S = 20.0
LOOK_S = 0.05
SHORT_LIFE_S = 10.0
"""A worker that dies earlier is started again with a growing pause."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Worker:
    """It is ready when its socket is in the folder; `retired` is set when another takes its slot."""

    number: int
    index: int
    process: asyncio.subprocess.Process
    ready_at: Path
    began_s: float
    retired: asyncio.Event

    @classmethod
    async def started(cls, number: int, seat: int, command: Sequence[str], channel: Channel) -> Self:
        with channel.descriptors() as fds:
            process = await asyncio.create_subprocess_exec(
                *command,
                *("--worker", str(number), "--fds", *map(str, fds), "--peers", str(channel.folder)),
                *("--seat", str(seat)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=fds,
                process_group=0,  # Ctrl-C of a terminal is for the supervisor, which then tells the workers once
            )
        LOG.info("worker_started", extra={"fields": {"worker": number, "pid": process.pid}})
        began_s = asyncio.get_running_loop().time()
        return cls(number, seat, process, channel.folder / f"{name_of(number)}.sock", began_s, asyncio.Event())

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    @property
    def is_ready(self) -> bool:
        return self.ready_at.exists()

    def signal(self, number: int) -> None:
        if self.is_alive:
            self.process.send_signal(number)

    async def becomes_ready(self) -> bool:
        """Whether it does, before READY_S are over or it has ended."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + READY_S
        while loop.time() < until_s and self.is_alive:
            if self.is_ready:
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def wait_until_left(self, stopping: asyncio.Event) -> bool:
        """Returns when it has died or is retired, then True; or at a stop, then False."""
        waits = [asyncio.create_task(event) for event in (self._exit(), self.retired.wait(), stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return not stopping.is_set()

    async def reaped(self, within_s: float) -> None:
        """Let a worker that was told to end do so; one that takes longer is killed."""
        try:
            async with asyncio.timeout(within_s):
                await self.process.wait()
        except TimeoutError:
            LOG.warning("worker_killed", extra={"fields": {"worker": self.number}})
            self.signal(signal.SIGKILL)
            await self.process.wait()

    def pause_s(self, before_s: float) -> float:
        """How long to wait before another is started in its place, after a pause of `before_s` for this one."""
        lived_s = asyncio.get_running_loop().time() - self.began_s
        return min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, before_s * 2)) if lived_s < SHORT_LIFE_S else 0.0

    async def _exit(self) -> None:
        await self.process.wait()


def name_of(number: int) -> str:
    """What a worker is called where its socket lies, and on /status."""
    return f"worker-{number}"


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
        while await worker.wait_until_left(self._stopping):
            if not worker.retired.is_set():
                if worker.process.returncode == self._unusable and not self._has_served:
                    self._give_up(self._unusable)
                    return
                pause_s = worker.pause_s(pause_s)
                fields = {"worker": worker.number, "code": worker.process.returncode, "again_in_s": pause_s}
                LOG.error("worker_exited", extra={"fields": fields})
                worker.ready_at.unlink(missing_ok=True)
                self._channel.connection_counts.clear(worker.index)
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
        self._channel.connection_counts.clear(worker.index)

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
        taken = self._seats_of_starting.union(worker.index for worker in self._living())
        seat = next((seat for seat in range(SEATS) if seat not in taken), SEATS - 1)
        self._channel.connection_counts.clear(seat)
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
            LOG.info("workers_reloading", extra={"fields": {"workers": self._count}})
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
