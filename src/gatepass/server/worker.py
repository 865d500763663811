"""One worker: a process, from its start to its end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gatepass.server.channel import Channel

LOG = logging.getLogger("gatepass.server.supervisor")

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
    seat: int
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

    async def left(self, stopping: asyncio.Event) -> bool:
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
