"""The supervisor of `gatepass serve --workers N`: starts, restarts and stops the workers.

It serves no requests and imports no web framework. SIGTERM and SIGINT drain the workers. SIGHUP is passed on to them:
each reloads the configuration in place.

A worker that receives SIGTERM leaves the listening socket to the others. If all workers stop, they read it from the
lifeline, a socket pair. Then each accepts during its drain, and responds with 503.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gatepass.cancel import Tasks, first_of
from gatepass.server.listening import NEXT_STOP, SEATS, SHARED_MEMORY, ConnectionCounts

PREFIX = "gatepass-"
ALIVE = "alive"
"""A file that the supervisor keeps locked. The kernel releases the lock if the supervisor is killed."""


class NoFolder(Exception):
    """Shared memory is not available for the workers' sockets and for the tokens that one of them fetches for all."""


@contextmanager
def own_folder(shared_memory: str = SHARED_MEMORY) -> Iterator[Path]:
    """Create a folder with mode 0700, and remove it when the block ends. Also remove those of killed supervisors.

    Raises NoFolder if `shared_memory` is not writable: gatepass writes no token to a disk.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=PREFIX, dir=shared_memory)
    except OSError as error:
        raise NoFolder(
            f"several workers share a folder in {shared_memory}, and none can be created there ({error.strerror}):"
            " mount a tmpfs there, or set server.workers: 1"
        ) from error
    with made as name:
        folder = Path(name)
        alive = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(alive, fcntl.LOCK_EX)
            (folder / "new").rename(folder / ALIVE)  # under this name, the file is always locked
            for left in folder.parent.glob(f"{PREFIX}*"):
                _remove_if_left(left)
            yield folder
        finally:
            os.close(alive)


def _remove_if_left(folder: Path) -> None:
    """Remove `folder`, which contains tokens in clear, if this user owns it and no supervisor has its lock."""
    try:
        if folder.lstat().st_uid != os.geteuid():
            return
        alive = os.open(folder / ALIVE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # not a supervisor's folder, another user's, or just being created or removed
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

STOPPING = b"."
"""Sent on the lifeline before a stop. Workers peek at it and never consume it, because they share one end."""
STORE = "store"
"""The folder of shared tokens, inside the supervisor's folder."""
CONNECTIONS = "connections"
"""The file with the number of connections of each worker, in the supervisor's folder."""


CHECK_INTERVAL_S = 0.05
SHORT_LIFE_S = 10.0
"""A worker that exits earlier is started again after a pause. The pause doubles after each failure."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """The command that starts each worker, without the arguments that differ between workers."""

    arguments: Sequence[str]
    unusable: int
    """The exit code of a worker with an invalid configuration."""
    control: int | None = None
    """The descriptor of the control socket."""
    log_format: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the supervisor passes to a worker, as JSON in `--supervised`. The integers after `folder` are descriptors.

    `folder` is common to all workers. `control` is the control socket. `seat` is the worker's index in
    ConnectionCounts. `log_format` applies until the worker has loaded the configuration.
    """

    number: int
    seat: int
    log_format: str | None
    folder: str
    listening: int
    lifeline: int
    control: int | None


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process. It is ready when its socket exists."""

    number: int
    process: asyncio.subprocess.Process
    ready_at: Path
    began_s: float

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    def signal(self, number: int) -> None:
        # Process.send_signal polls first: it can reap the process before asyncio does, which then knows no exit code
        # (gh-127049 of CPython).
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    async def wait_or_kill(self, within_s: float) -> None:
        """Wait for a stopping worker to exit, and kill it after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                await self.process.wait()
        except TimeoutError:
            LOG.warning("worker_killed", extra={"fields": {"worker": self.number}})
            self.signal(signal.SIGKILL)
            await self.process.wait()

    def pause_s(self, before_s: float) -> float:
        """Return the pause before this worker is replaced; `before_s` is the pause before it was started."""
        lived_s = asyncio.get_running_loop().time() - self.began_s
        if lived_s >= SHORT_LIFE_S:
            return 0.0
        # a worker that drained after SIGTERM has not failed
        return FIRST_PAUSE_S if self.process.returncode == 0 else min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, before_s * 2))


def worker_name(number: int) -> str:
    return f"worker-{number}"


KILL_GRACE_S = 5.0
"""Time between the end of a drain and SIGKILL."""


class Supervisor:
    """Keeps `count` workers alive until it is stopped, or until the first ones exit with `command.unusable`."""

    def __init__(
        self, command: WorkerCommand, listening: socket.socket, count: int, drain_s: float, announce: Callable[[], None]
    ) -> None:
        self._command = command
        self._listening = listening
        self._count = count
        self._drain_s = drain_s
        self._announce = announce
        self._code = 0
        self._serial = 0
        self._workers: dict[int, Worker] = {}
        self._has_served = False
        self._stopping = asyncio.Event()
        self._tasks = Tasks()

    async def run(self) -> int:
        """Run until every worker has exited; return 0 or `command.unusable`. Raises NoFolder before the first start."""
        loop = asyncio.get_running_loop()
        # before the folder exists: without a handler SIGTERM ends the process and leaves the folder behind
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        # `serve` blocked it at the start, when it would have ended the process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        with own_folder() as self._folder:
            (self._folder / STORE).mkdir(mode=0o700)
            self._connection_counts = ConnectionCounts(self._folder / CONNECTIONS)
            # the workers see the end of the supervisor when its end of the pair closes
            self._lifeline, self._worker_lifeline = socket.socketpair()
            with self._lifeline, self._worker_lifeline:
                self._tasks.spawn(self._announce_when_ready(), "announce")
                try:
                    await asyncio.gather(*(self._run_slot(slot) for slot in range(self._count)))
                finally:
                    await self._tasks.aclose()
        return self._code

    async def _announce_when_ready(self) -> None:
        while not any(worker.ready_at.exists() for worker in self._workers.values()):
            await asyncio.sleep(CHECK_INTERVAL_S)
        self._has_served = True
        self._announce()

    def stop(self) -> None:
        """Drain at the first call. At the second one signal the workers, which then end their streams."""
        if self._stopping.is_set():
            for worker in self._running_workers():
                worker.signal(NEXT_STOP)
            return
        self._stopping.set()
        # all workers drain. systemd signals them too, and a second signal would end their streams
        self._lifeline.send(STOPPING)
        # else clients would wait in the socket's queue after the last worker closed it
        self._listening.close()

    def _running_workers(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.is_alive]

    async def _run_slot(self, slot: int) -> None:
        """Run one worker after another in this slot until the stop, and wait for the last one."""
        # with more workers than seats the last seat is shared, and the balance is less even
        seat, pause_s = min(slot, SEATS - 1), 0.0
        while not self._stopping.is_set():
            self._serial += 1
            self._connection_counts.clear(seat)
            worker = self._workers[slot] = await self._started(self._serial, seat)
            await first_of(worker.process.wait(), self._stopping.wait())
            if self._stopping.is_set():
                await worker.wait_or_kill(self._drain_s + KILL_GRACE_S)
                self._connection_counts.clear(seat)
                return
            if worker.process.returncode == self._command.unusable and not self._has_served:
                # every other worker would fail in the same way, and has logged why
                self._code = self._command.unusable
                self.stop()
                return
            pause_s = worker.pause_s(pause_s)
            fields = {"worker": worker.number, "code": worker.process.returncode, "again_in_s": pause_s}
            LOG.error("worker_exited", extra={"fields": fields})
            # a killed worker leaves its socket, and each page would log that it does not answer
            worker.ready_at.unlink(missing_ok=True)
            self._connection_counts.clear(seat)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    async def _started(self, number: int, seat: int) -> Worker:
        command, fds = self._command, (self._listening.fileno(), self._worker_lifeline.fileno())
        options = WorkerOptions(number, seat, command.log_format, str(self._folder), *fds, command.control)
        # the worker inherits it: a SIGHUP before its handler is delivered then, and does not end the worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                "--supervised",
                json.dumps(asdict(options)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=fds if command.control is None else (*fds, command.control),
                process_group=0,  # Ctrl-C in a terminal must reach only the supervisor, which stops the workers
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        LOG.info("worker_started", extra={"fields": {"worker": number, "pid": process.pid}})
        began_s = asyncio.get_running_loop().time()
        return Worker(number, process, self._folder / f"{worker_name(number)}.sock", began_s)

    def reload(self) -> None:
        LOG.info("workers_reloading", extra={"fields": {"workers": self._count}})
        for worker in self._running_workers():
            worker.signal(signal.SIGHUP)
