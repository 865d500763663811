"""gatepass itself, as a user starts it: a process of its own with a configuration file."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_LISTENING = re.compile(rb"gatepass listening on (http://\S+)")
_LINE_BYTES = 1024 * 1024
_TAIL_LINES = 20
READY_S = 20.0
STOP_S = 15.0


class GatewayFailed(Exception):
    """gatepass did not start, or did not end as it should; `log` is the last of what it printed."""

    def __init__(self, message: str, log: list[str]) -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gatepass: its root URL, its process id, and the file that holds all it printed."""

    url: str
    pid: int
    log: Path

    def tail(self) -> list[str]:
        return _tail(self.log)


class _Unwell(Exception):
    """What GatewayFailed says, before its log has been read to the end."""


@asynccontextmanager
async def gateway(config: Path, log: Path) -> AsyncIterator[Gateway]:
    """Run `gatepass serve` with the file `config` on a free port, from its readiness to the end of the block.

    Raises GatewayFailed where it is not ready within READY_S seconds, or at the end does not leave
    by itself, with exit code 0, within STOP_S seconds of SIGTERM.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "gatepass", "serve", "--config", str(config), "--port", "0"),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        limit=_LINE_BYTES,
        env=_environment(),
        process_group=0,  # Ctrl-C is for whoever runs this, who then stops gatepass in good order
    )
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(_read(process, log, url), name="gatepass log")
    try:
        running = Gateway(await _ready(url), process.pid, log)
        try:
            yield running
        finally:
            await _stop(process)
    except _Unwell as error:
        await _end(process, reading)
        raise GatewayFailed(str(error), _tail(log)) from None
    finally:
        await _end(process, reading)


def _environment() -> dict[str, str]:
    """This process's own, without the settings that would compete with the file."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}


async def _ready(url: asyncio.Future[str]) -> str:
    try:
        return await asyncio.wait_for(url, READY_S)
    except TimeoutError:
        raise _Unwell(f"gatepass was not ready within {READY_S:.0f} s") from None


async def _read(process: Process, log: Path, url: asyncio.Future[str]) -> None:
    """Copy what gatepass prints into `log`; the line that names its URL makes it ready."""
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    with log.open("wb", buffering=0) as out:
        while line := await process.stdout.readline():
            out.write(line)
            found = _LISTENING.search(line)
            if found and not url.done():
                url.set_result(found[1].decode().rstrip("/"))
    if not url.done():
        url.set_exception(_Unwell(f"gatepass ended with exit code {await process.wait()}, never ready"))


async def _stop(process: Process) -> None:
    """Raises _Unwell unless it ends with exit code 0 in time."""
    if process.returncode is None:
        process.terminate()
    try:
        code = await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        raise _Unwell(f"gatepass did not stop within {STOP_S:.0f} s of SIGTERM") from None
    if code != 0:
        raise _Unwell(f"gatepass ended with exit code {code}")


async def _end(process: Process, reading: asyncio.Task[None]) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
    await reading


def _tail(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
