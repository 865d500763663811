"""One client of the official Python SDK that does everything a caller of MCP does, and prints what it saw as JSON.

    tour.py ERA URL KEY SERVER_URL SECONDS

ERA is `legacy`, `auto` or a version, with mcp 2, and `mcp1` with mcp 1, which RAGFlow uses. URL is where the client
finds the MCP server. SERVER_URL is the server itself, which the tour asks what happened there.
"""

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp import types

WAIT_S = 15.0
PAUSE_S = 0.2
CALL = f"tour-{os.getpid()}"


def post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=WAIT_S):  # noqa: S310 - loopback
        pass


async def until_event(server: str, event: str) -> None:
    """Wait until the server has recorded `event`; raise TimeoutError."""

    def events() -> list[str]:
        with urllib.request.urlopen(f"{server}/events", timeout=WAIT_S) as reply:  # noqa: S310 - loopback
            return json.load(reply)  # type: ignore[no-any-return]

    async with asyncio.timeout(WAIT_S):
        while event not in await asyncio.to_thread(events):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def connected(era: str, url: str, key: str, seen: Callable[[str], None]) -> AsyncIterator[Any]:
    """Yield a client. `seen` gets the URI of each updated resource that the server announces beside a call."""
    headers = {"authorization": f"Bearer {key}"}

    async def on_message(message: Any) -> None:
        inner = getattr(message, "root", message)
        if isinstance(inner, types.ResourceUpdatedNotification):
            seen(str(inner.params.uri))

    if era == "mcp1":
        from mcp import ClientSession
        from mcp.client.streamable_http import streamablehttp_client

        async with (
            streamablehttp_client(url, headers=headers) as (read, write, _),
            ClientSession(read, write, message_handler=on_message) as session,
        ):
            await session.initialize()
            yield session
        return
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(30.0, read=300.0)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as http,
        Client(streamable_http_client(url, http_client=http), mode=era, message_handler=on_message) as client,
    ):
        if era != client.protocol_version:
            yield client
            return
        async with client.listen(resource_subscriptions=["words://amber"]) as subscription:

            async def follow() -> None:
                async for event in subscription:
                    seen(str(event.uri))

            following = asyncio.create_task(follow())
            try:
                yield client
            finally:
                following.cancel()


def text_of(result: Any) -> str:
    return str(result.content[0].text)


async def tour(era: str, url: str, key: str, server: str, seconds: float) -> dict[str, Any]:
    updated: asyncio.Queue[str] = asyncio.Queue()
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)
        await asyncio.to_thread(post, f"{server}/release?call={CALL}")

    async with connected(era, url, key, updated.put_nowait) as client:
        result: dict[str, Any] = {"tools": sorted(tool.name for tool in (await client.list_tools()).tools)}
        prompt = await client.get_prompt("greeting", {"name": "Ada"})
        result["prompt"] = prompt.messages[0].content.text
        uri: Any = "words://amber"
        result["resource"] = (await client.read_resource(uri)).contents[0].text
        called = await client.call_tool("progress", {"call": CALL, "steps": 3}, progress_callback=on_progress)
        result["progress"] = [*steps, text_of(called)]
        slow = asyncio.create_task(client.call_tool("slow", {"call": CALL}))
        await until_event(server, f"began {CALL}")
        await cancel(era, client, slow)
        await until_event(server, f"cancelled {CALL}")
        result["cancelled"] = True
        await client.call_tool("announce", {"word": "amber"})
        result["announced"] = await asyncio.wait_for(updated.get(), WAIT_S)
        if era != "2026-07-28":
            result["continued"] = text_of(await client.call_tool("interrupted", {"call": "it"}))
        until_s = time.monotonic() + seconds
        echoes = 0
        while time.monotonic() < until_s:
            assert text_of(await client.call_tool("echo", {"text": f"word {echoes}"})) == f"word {echoes}"
            echoes += 1
            await asyncio.sleep(PAUSE_S)
        result["echoed"] = echoes > seconds
        await client.call_tool("announce", {"word": "amber"})
        result["announced_at_the_end"] = await asyncio.wait_for(updated.get(), WAIT_S)
    return result


async def cancel(era: str, client: Any, call: asyncio.Task[Any]) -> None:
    """Cancel the call as the SDK does it: mcp 1 has a notification, which the caller sends."""
    if era == "mcp1":
        params = types.CancelledNotificationParams(requestId=client._request_id - 1, reason="the user left")
        notification = types.CancelledNotification(method="notifications/cancelled", params=params)
        await client.send_notification(types.ClientNotification(notification))
    call.cancel()
    await asyncio.wait([call])


if __name__ == "__main__":
    era, url, key, server, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(tour(era, url, key, server, float(seconds)))))
