"""The balancer of `make rolls`."""

import asyncio
import contextlib
import gc
from asyncio import StreamReader, StreamWriter

import pytest

from tests.stress import rolls


async def test_a_poll_that_takes_too_long_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolls, "POLL_TIMEOUT_S", 0.05)

    async def wait(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            await reader.read()

    async with await asyncio.start_server(wait, "127.0.0.1", 0) as server:
        assert not await rolls.is_ready(server.sockets[0].getsockname()[1])
        gc.collect()  # a connection that is only collected is a ResourceWarning, which is an error
