"""A collector that is not part of gatepass receives the spans of `gatepass serve`."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai

from tests.e2e.process import Process
from tests.e2e.servers import listening, serve
from tests.e2e.tracing.collector import Collector, Span
from tests.integration.answers import COMPLETION, DETAILED_USAGE, DONE, delta
from tests.integration.gateway import CHAT, HELLO
from tests.integration.scripted import Dialogue, Pause, Received, Scripted, Send, event, reply, stream
from tests.serving import free_port
from tests.waiting import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
EVENTS = 200
SOON: Mapping[str, str] = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
"""Export each tenth of a second instead of each five seconds."""


class Upstream:
    """Is busy as the first target. As the second one it rejects the first token, and streams EVENTS events."""

    def __call__(self, request: Received) -> Dialogue:
        if request.method == "GET":  # the list of models, which gatepass reads at its start
            return [Send(reply({"object": "list", "data": []}))]
        if request.target.startswith("/busy"):
            return [Pause(0.03), Send(reply({"error": {"message": "busy"}}, 503, retry_after="30"))]
        if request.header("authorization") == "Bearer token-1":
            return [Pause(0.02), Send(reply({"error": {"message": "expired"}}, 401))]
        if not request.json().get("stream"):
            return [Send(reply(COMPLETION))]
        usage = event({"id": "x", "choices": [], "usage": DETAILED_USAGE})
        content = [delta(content="word ") for _ in range(EVENTS)]
        return [Pause(0.12), Send(stream(*content, delta("stop"), usage, DONE), 4096, 0.02)]


def minted() -> Callable[[Received], Dialogue]:
    """Answer with `token-1`, `token-2` and so on."""
    tokens = iter(range(1, 1_000))
    return lambda _: [Pause(0.03), Send(reply({"access_token": f"token-{next(tokens)}", "expires_in": 300}))]


def configuration(upstream: str, issuer: str, tracing: Mapping[str, Any]) -> dict[str, Any]:
    login = {"type": "oauth2", "token_url": issuer, "client_id": "i", "client_secret": "portal-secret-4711"}
    return {
        "credentials": {"sso": login},
        "upstreams": {
            "east": {"base_url": f"{upstream}/busy/v1"},
            "west": {"base_url": f"{upstream}/v1", "credential": "sso"},
            "plain": {"base_url": f"{upstream}/v1"},
        },
        "models": {
            "agent": {
                "targets": [{"upstream": "east", "name": "gpt-east"}, {"upstream": "west", "name": "gpt-west"}],
                "retry": {"on": ["refused"]},
            },
            "*": {"upstream": "plain"},
        },
        "tracing": tracing,
    }


@contextmanager
def gatepass(folder: Path, settings: Mapping[str, Any], **environment: str) -> Iterator[tuple[str, Process]]:
    file = folder / "gatepass.yaml"
    file.write_text(json.dumps(settings))
    with serve(file, python=sys.executable, **{**SOON, **environment}) as process:
        yield listening(process), process


@asynccontextmanager
async def servers() -> AsyncIterator[tuple[Scripted, Scripted]]:
    async with Scripted(answer=Upstream()) as upstream, Scripted(answer=minted()) as issuer:
        yield upstream, issuer


async def test_trace_of_a_failover_with_a_token_renewal(tmp_path: Path):
    async with servers() as (upstream, issuer):
        with Collector() as collector:
            settings = configuration(upstream.url, issuer.url, {"endpoint": collector.url})
            with gatepass(tmp_path, settings) as (url, process):
                await until(lambda: issuer.received)
                client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
                chunks = await client.chat.completions.create(
                    model="agent",
                    messages=[{"role": "user", "content": "Edit the file."}],
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "baggage": "user=secret-of-the-baggage"},
                )
                count = len([chunk async for chunk in chunks])
                assert count == EVENTS + 2
                spans = await asyncio.to_thread(collector.trace, TRACE, 6)
                await asyncio.to_thread(process.wait_for, TRACE, 5)  # in the log
        await client.close()
    _check_tree(spans)
    sent = [request.header("traceparent") for request in upstream.received if request.method == "POST"]
    assert sent == [f"00-{TRACE}-{one.id}-01" for one in spans if one.name == "POST"]
    assert "secret-of-the-baggage" not in str(collector.spans)
    assert not any(secret in str(collector.spans) for secret in ("token-1", "token-2", "portal-secret-4711"))


def _check_tree(spans: list[Span]) -> None:
    """SERVER, the first target with its attempt, and the second one with both of its attempts."""
    server, east, _, west, *_ = spans
    assert [(one.name, one.kind, one.parent, one.status) for one in spans] == [
        ("POST /v1/chat/completions", "SERVER", PARENT, "UNSET"),
        ("chat gpt-east", "CLIENT", server.id, "ERROR"),
        ("POST", "CLIENT", east.id, "ERROR"),
        ("chat gpt-west", "CLIENT", server.id, "UNSET"),
        ("POST", "CLIENT", west.id, "ERROR"),
        ("POST", "CLIENT", west.id, "UNSET"),
    ]
    assert {"service.name", "service.version", "service.instance.id"} <= {*server.resource}


async def test_a_reload_keeps_exporting(tmp_path: Path):
    async with servers() as (upstream, issuer):
        with Collector() as collector:
            settings = configuration(upstream.url, issuer.url, {"endpoint": collector.url})
            with gatepass(tmp_path, settings) as (url, process):

                def seen() -> set[object]:
                    return {one.resource["service.instance.id"] for one in collector.servers()}

                await _ask_until(url, lambda: len(seen()) == 1)
                settings["upstreams"]["plain"]["timeouts"] = {"connect_s": 4}
                (tmp_path / "gatepass.yaml").write_text(json.dumps(settings))
                os.kill(process.pid, signal.SIGHUP)
                await asyncio.to_thread(process.wait_for, '"event":"(config_)?reloaded"', 20)
                collector.spans.clear()
                await _ask_until(url, lambda: len(seen()) == 1)


async def _ask_until(url: str, holds: Callable[[], bool]) -> None:
    """Send a request on a connection of its own each 20 ms."""
    async with asyncio.timeout(30):
        while not holds():
            async with httpx2.AsyncClient() as client:
                await client.post(url + CHAT, json=HELLO)
            await asyncio.sleep(0.02)


async def test_a_stop_exports_what_is_queued(tmp_path: Path):
    async with servers() as (upstream, issuer):
        with Collector() as collector:
            settings = configuration(upstream.url, issuer.url, {"endpoint": collector.grpc, "protocol": "grpc"})
            with gatepass(tmp_path, settings, OTEL_BSP_SCHEDULE_DELAY="60000") as (url, process):
                async with httpx2.AsyncClient(base_url=url) as client:
                    for _ in range(400):
                        await client.post(CHAT, json=HELLO)
                assert await asyncio.to_thread(process.stop) == 0
            await asyncio.to_thread(collector.until, lambda: len(collector.servers()) == 400, 5)


async def test_a_collector_that_comes_back_receives_spans(tmp_path: Path):
    port = free_port()
    tracing = {"endpoint": f"http://127.0.0.1:{port}"}
    async with servers() as (upstream, issuer):
        with gatepass(tmp_path, configuration(upstream.url, issuer.url, tracing)) as (url, _):
            async with httpx2.AsyncClient(base_url=url) as client:
                for _ in range(20):
                    assert (await client.post(CHAT, json=HELLO)).status_code == 200
            with Collector(port) as collector:
                await _ask_until(url, lambda: bool(collector.servers()))
