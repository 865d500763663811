"""An upstream that answers some requests twice: the second reply arrives late, between or during later requests."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, JSON, gateway

CALLERS, CALLS = 12, 30


class Stuttering:
    """Replies to each request with its id as the content, and to one in four a second time, up to 30 ms later."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.seconds = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                await reader.readexactly(int(fields["content-length"]))
                name = fields["x-request-id"]
                await asyncio.sleep(self._random.choice((0, 0, 0.002, 0.01)))
                reply = _reply(name)
                writer.write(reply)
                if self._random.random() < 0.25:
                    self.seconds += 1
                    loop.call_later(self._random.random() * 0.03, _write, writer, reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _reply(name: str) -> bytes:
    completion = json.loads(json.dumps(COMPLETION))
    completion["choices"][0]["message"]["content"] = name
    body = json.dumps(completion).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nx-request-id: {name}"
    return head.encode() + b"\r\n\r\n" + body


def _write(writer: asyncio.StreamWriter, reply: bytes) -> None:
    if not writer.transport.is_closing():
        writer.write(reply)


@asynccontextmanager
async def stuttering(seed: int) -> AsyncIterator[tuple[Stuttering, str]]:
    upstream = Stuttering(seed)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    try:
        yield upstream, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_no_caller_receives_a_late_second_reply() -> None:
    outcomes: dict[str, int] = {}
    async with stuttering(seed=7) as (upstream, url), gateway(upstream=url) as served:

        async def call(caller: int) -> None:
            for number in range(CALLS):
                name = f"caller-{caller}-{number}"
                answer = await served.ask({**HELLO}, headers={**JSON, "x-request-id": name}).answer()
                if answer.status == 200:
                    is_own = answer.json()["choices"][0]["message"]["content"] == name
                    outcome = "own" if is_own else "stray"
                else:
                    outcome = str(answer.status)
                    assert "an earlier request" in answer.error["message"]
                outcomes[outcome] = outcomes.get(outcome, 0) + 1

        await asyncio.gather(*map(call, range(CALLERS)))
    assert upstream.seconds > CALLERS
    assert outcomes.get("stray", 0) == 0, outcomes
    assert outcomes["own"] > CALLERS * CALLS / 2, outcomes
