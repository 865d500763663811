"""Many sessions of the official Python SDK at once, each with its stream of notifications, for SECONDS.

    sessions.py URL[,URL...] KEY COUNT SECONDS

Each session calls a tool every few seconds. At the end the server notifies each one on the stream that it opened at
the start. Prints what was lost, as JSON. Requests of a session go to the URLs in turn, as a balancer sends them.
"""

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import httpx2
from mcp import types
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

OPENING_AT_ONCE = 20
PAUSE_S = (2.0, 6.0)
WAIT_S = 30.0


class InTurn(httpx2.AsyncBaseTransport):
    """Sends each request to the next of the addresses."""

    def __init__(self, urls: list[str]) -> None:
        self._inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=None))
        self._urls = itertools.cycle(httpx2.URL(url) for url in urls)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = next(self._urls)
        request.url = request.url.copy_with(host=url.host, port=url.port)
        request.headers["host"] = f"{url.host}:{url.port}"
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Sessions:
    def __init__(self, url: str, http: httpx2.AsyncClient, count: int, seconds: float) -> None:
        self._url, self._http, self._count, self._seconds = url, http, count, seconds
        self._opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self._open = 0
        self._all_open = asyncio.Event()
        self.tally: Counter[str] = Counter()
        self.lost: list[str] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._session(number) for number in range(self._count)))

    async def _session(self, number: int) -> None:
        try:
            async with asyncio.timeout(self._seconds + 4 * WAIT_S):
                await self._calls(number)
        except Exception as error:  # noqa: BLE001 - whatever ended the session is what this program reports
            self.lost.append(f"session {number}: {_shown(error)}")
            self._count_open()

    def _count_open(self) -> None:
        self._open += 1
        if self._open == self._count:
            self._all_open.set()

    async def _calls(self, number: int) -> None:
        heard = asyncio.Event()

        async def on_message(message: Any) -> None:
            if isinstance(message, types.ResourceUpdatedNotification):
                self.tally["notified"] += 1
                heard.set()

        transport = streamable_http_client(self._url, http_client=self._http)
        async with AsyncExitStack() as stack:
            async with self._opening, asyncio.timeout(WAIT_S):
                made = Client(transport, mode="legacy", message_handler=on_message)
                client = await stack.enter_async_context(made)
            self.tally["opened"] += 1
            self._count_open()
            await self._all_open.wait()
            until_s = time.monotonic() + self._seconds
            while time.monotonic() < until_s:
                await asyncio.sleep(random.uniform(*PAUSE_S))
                result = await client.call_tool("echo", {"text": f"word {number}"}, WAIT_S)
                assert result.content[0].text == f"word {number}"
                self.tally["calls"] += 1
            await client.call_tool("announce", {"word": str(number)}, WAIT_S)
            await asyncio.wait_for(heard.wait(), WAIT_S)


def _shown(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_shown(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


async def main(urls: str, key: str, count: int, seconds: float) -> None:
    first, *_ = addresses = urls.split(",")
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(
        headers=headers, timeout=httpx2.Timeout(WAIT_S, read=300), transport=InTurn(addresses)
    ) as http:
        sessions = Sessions(first, http, count, seconds)
        await sessions.run()
    print(json.dumps({**sessions.tally, "lost": sessions.lost}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
