"""A program that stops reading the log of `gatepass serve` stops nothing, and learns later what it missed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.raw import send_raw
from tests.integration.workers.test_serve import BOUND_S, written

REQUESTS = 1_000
"""Of two connections to one worker, they have more lines than the pipe and QUEUE_CHARS hold: 1,600."""
BODY = b'{"model":"m","messages":[]}'
CHAT = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nuser-agent: %b\r\n"
    b"content-length: %d\r\n\r\n%b" % (b"a" * 200, len(BODY), BODY)
)


class Stalled:
    """`gatepass serve` with a pipe as its output, which this test reads only when it wants."""

    def __init__(self, *arguments: str) -> None:
        self.source, self._end = os.pipe()
        self.flags = fcntl.fcntl(self._end, fcntl.F_GETFL)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
        command = [sys.executable, "-m", "gatepass", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._end, stderr=self._end, env=environment
        )
        self.read = b""

    def port(self) -> int:
        """Read up to the event `listening`."""
        while (found := re.search(rb'"url":"http://127\.0\.0\.1:(\d+)"', self.read)) is None:
            self.read += os.read(self.source, 4096)
        return int(found[1])

    def rest(self) -> list[dict[str, Any]]:
        """Return all lines, after the process has ended or while it ends."""
        assert fcntl.fcntl(self._end, fcntl.F_GETFL) == self.flags
        os.close(self._end)
        while piece := os.read(self.source, 1 << 16):
            self.read += piece
        os.close(self.source)
        lines = self.read.splitlines()
        # the end of a process whose reader never came back may cut its last line
        return [json.loads(line) for line in lines if line.endswith(b"}")]


async def exchange(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(BOUND_S):
        for _ in range(REQUESTS):
            writer.write(CHAT)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
    writer.close()


@pytest.mark.parametrize(("workers", "resumes"), [(2, True), (1, False)])
async def test_requests_health_and_the_stop_do_not_wait_for_the_reader_of_the_log(
    tmp_path: Path, workers: int, resumes: bool
) -> None:
    stalled = Stalled("--config", written(tmp_path), "--workers", str(workers))
    try:
        port = await asyncio.to_thread(stalled.port)
        for _ in range(workers + 1):
            await exchange(port)
        began_s = time.monotonic()
        healthy = await send_raw(port, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        took_s = time.monotonic() - began_s
        stalled.process.send_signal(signal.SIGTERM)
        reading = asyncio.create_task(asyncio.to_thread(stalled.rest)) if resumes else None
        code = await asyncio.to_thread(stalled.process.wait, BOUND_S)
        lines = await reading if reading is not None else await asyncio.to_thread(stalled.rest)
    finally:
        stalled.process.kill()
    assert code == 0
    assert healthy.startswith(b"HTTP/1.1 200")
    assert took_s < 5
    served = (workers + 1) * REQUESTS
    requests = sum(line["event"] == "request" for line in lines)
    dropped = sum(line["count"] for line in lines if line["event"] == "log_lines_dropped")
    if resumes:
        assert dropped > 0
        assert requests + dropped == served
        assert {line["event"] for line in lines} >= {"starting", "draining", "drained"}
    else:
        assert requests < served / 2
