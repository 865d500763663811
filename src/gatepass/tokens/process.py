"""One run of a program: started without a shell, bounded, and gone when its caller is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from subprocess import DEVNULL
from typing import Any

from gatepass.runtime import Clock

STDERR_BYTES = 4096
"""The end of what a program complains is kept."""
LINGER_S = 0.5
"""How long the output is read on after the program has ended: what it left in the background may hold it open."""
REAP_S = 2.0
"""How long a killed program is waited for. One that hangs in the kernel is reaped by the loop when it can."""


@dataclass(frozen=True, slots=True)
class Finished:
    """`code` is negative where a signal ended the program. `cut`: it printed more than was wanted, and was killed."""

    code: int
    stdout: bytes = field(default=b"", repr=False)
    cut: bool = False


async def run(
    arguments: Sequence[str], environment: Mapping[str, str], limit_bytes: int, complaints: bytearray, clock: Clock
) -> Finished:
    """Run a program to its end; raises OSError where it cannot be started, ValueError for a NUL in its arguments.

    The last STDERR_BYTES of its stderr stand in `complaints` as they come. It has no input, and a session
    and process group of its own, which is killed as a whole where this is cancelled or more than
    `limit_bytes` come out, and in the end, with what is left of it: a program that means to leave
    something behind gives it a session of its own (setsid(1)), and nobody ends that. It is reaped and
    its pipes are closed in every case.
    """
    if any("\0" in text for text in (*arguments, *environment.values())):  # uvloop would cut them there
        raise ValueError("a NUL in an argument or variable")
    start = asyncio.ensure_future(_start(arguments, environment, _Output(limit_bytes, complaints)))
    try:
        await _done(start)
        transport, output = start.result()
        await output.ended.wait()
        await _until(output.closed, LINGER_S, clock)
    finally:
        if start.done() and not start.cancelled() and start.exception() is None:
            await _end(*start.result(), clock)
    code = transport.get_returncode()
    return Finished(-signal.SIGKILL if code is None else code, bytes(output.stdout), output.cut)


async def _start(
    arguments: Sequence[str], environment: Mapping[str, str], output: _Output
) -> tuple[asyncio.SubprocessTransport, _Output]:
    return await asyncio.get_running_loop().subprocess_exec(
        lambda: output, *arguments, stdin=DEVNULL, env=dict(environment), start_new_session=True
    )


async def _done(start: asyncio.Future[Any]) -> None:
    """Wait until `start` is done, a matter of milliseconds, and only then be cancelled.

    A start that is cancelled itself kills the program alone, and asyncio then waits for whatever else
    holds its pipes open (CPython, `asyncio/unix_events.py`, `_make_subprocess_transport`).
    """
    cancelled = None
    while not start.done():
        try:
            await asyncio.wait({start})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _end(transport: asyncio.SubprocessTransport, output: _Output, clock: Clock) -> None:
    try:
        if output.exited.is_set():
            _kill_rest(transport.get_pid())
        else:
            _kill_group(transport.get_pid())
            await _until(output.exited, REAP_S, clock)
    finally:
        transport.close()


class _Output(asyncio.SubprocessProtocol):
    """Gathers what comes out, within bounds. `ended`: there is nothing more to wait for."""

    def __init__(self, limit_bytes: int, complaints: bytearray) -> None:
        self._limit_bytes = limit_bytes
        self._complaints = complaints
        self._open = {1, 2}
        self.stdout = bytearray()
        self.cut = False
        self.exited, self.ended, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._complaints += data
            del self._complaints[:-STDERR_BYTES]
        elif not self.cut:
            self.stdout += data
            if len(self.stdout) > self._limit_bytes:
                self.cut = True
                self.ended.set()
                self.closed.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._open.discard(fd)
        if not self._open:
            self.closed.set()

    def process_exited(self) -> None:
        self.exited.set()
        self.ended.set()


async def _until(event: asyncio.Event, limit_s: float, clock: Clock) -> None:
    timer = clock.call_later(limit_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


def _kill_rest(pid: int) -> None:
    """Kill what a program left in its group when it ended.

    It has been reaped, but no new process gets the number of a group that has members (Linux, `kernel/pid.c`:
    a number is free when nothing refers to it). So a process of that number means that the group is over.
    """
    try:
        os.getpgid(pid)
    except ProcessLookupError:
        _kill_group(pid)


def _kill_group(pid: int) -> None:
    """Kill a group: the program, where it is not reaped yet, and what it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
