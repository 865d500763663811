"""Processes of gatepass, seen from outside: the log and the end of one that serves, and what it answers."""

import asyncio
import json
import os
import re
import shlex
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integration.gateway import Answer, Ask
from tests.waiting import BOUND_S


async def python_process(*arguments: str, python: str = sys.executable) -> Process:
    """Start Python without the machine's settings of gatepass; stderr goes to stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
    return await asyncio.create_subprocess_exec(
        python, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment
    )


class Serving:
    """`gatepass serve`, running: its process, and its log as it grows."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._more = asyncio.Condition()

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            async with self._more:
                self.lines.append(line.decode())
                self._more.notify_all()

    async def logged(self, pattern: str, times: int = 1) -> list[re.Match[str]]:
        async with self._more:
            while len(found := [m for line in self.lines if (m := re.search(pattern, line))]) < times:
                await self._more.wait()
        return found

    @property
    async def port(self) -> int:
        return int((await self.logged(r'"event":"listening","url":"http://127\.0\.0\.1:(\d+)'))[0][1])

    async def ended(self) -> int:
        return await self.process.wait()

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


def patient_python(folder: Path) -> str:
    """Return a Python for `serving` whose gatepass waits for store and leader as long as a busy machine needs."""
    bounds = f"base.LEASE_S = guarded.BOUND_S = {BOUND_S / 2}"
    program = f"from gatepass.store import base, guarded; {bounds}; from gatepass.cli import main; main()"
    script = folder / "patient_python"
    script.write_text(f'#!/bin/sh\nshift 2\nexec {shlex.quote(sys.executable)} -c {shlex.quote(program)} "$@"\n')
    script.chmod(0o700)
    return str(script)


@asynccontextmanager
async def serving(*options: str, python: str = sys.executable) -> AsyncIterator[Serving]:
    """Run `gatepass serve` with these options, and end it with SIGTERM at the end of the block."""
    running = Serving(await python_process("-m", "gatepass", "serve", *options, python=python))
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        if running.process.returncode is None:
            running.process.terminate()
        await running.ended()
        await reading


HEADERS = {"content-type": "application/json"}
BODY = b'{"model":"m","messages":[]}'


@asynccontextmanager
async def started(folder: Path, configuration: object) -> AsyncIterator[Serving]:
    """Run `gatepass serve` with `configuration` on a free port. None: the file is already in `folder`."""
    config = folder / "gatepass.json"
    if configuration is not None:
        config.write_text(json.dumps(configuration))
    async with serving("--config", str(config), "--port", "0") as running:
        yield running


def changed(folder: Path, **blocks: object) -> None:
    file = folder / "gatepass.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **blocks}))


async def ask(port: int, path: str = "/v1/chat/completions", body: bytes | None = BODY) -> Answer:
    method = "GET" if body is None else "POST"
    return await Ask(port, method, path, dict(HEADERS), body or b"").answer()
