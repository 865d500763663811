"""`gatepass serve` as a process with real signals: reload, drain, and stops under load."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gatepass.cli.control import request
from gatepass.server.listening import control_sockets
from tests.integration.gateway import Ask
from tests.integration.processes import HEADERS, Serving, ask, changed, started
from tests.integration.scripted import Dialogue, Scripted, Send, Wait, begin_stream, chunk, event
from tests.waiting import until

LAST = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


@asynccontextmanager
async def served(folder: Path, upstream: str, drain_timeout_s: float = 5) -> AsyncIterator[Serving]:
    server = {"drain_timeout_s": drain_timeout_s}
    configuration = {"server": server, "upstreams": {"chat": {"base_url": f"{upstream}/v1"}}}
    async with started(folder, configuration) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Streaming:
    """A gatepass with a stream under way, which ends well with `finish`."""

    running: Serving
    port: int
    asked: Ask
    go_on: asyncio.Event

    async def finish(self) -> None:
        self.go_on.set()
        assert b"error" not in await self.asked.until(b"[DONE]")


@asynccontextmanager
async def streaming(folder: Path) -> AsyncIterator[Streaming]:
    go_on = asyncio.Event()
    first = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
    rest: Dialogue = [Wait(go_on), Send(chunk(LAST) + chunk(event("[DONE]")) + b"0\r\n\r\n")]
    dialogue: Dialogue = [*begin_stream(), Send(chunk(first)), *rest]
    async with Scripted(dialogue) as upstream, served(folder, upstream.url, 600) as running:
        port, body = await running.port, b'{"model":"m","messages":[],"stream":true}'
        async with Ask(port, "POST", "/v1/chat/completions", dict(HEADERS), body) as asked:
            await asked.head()
            await asked.until(first)
            yield Streaming(running, port, asked, go_on)


async def test_sighup_to_a_single_process_ends_nothing_and_reloads(tmp_path):
    async with streaming(tmp_path) as stream:
        changed(
            tmp_path, server={"drain_timeout_s": 600, "port": 1}, limits={"connections": 10}, log={"format": "text"}
        )
        stream.running.process.send_signal(signal.SIGHUP)
        (line,) = await stream.running.logged('.*"restart_needed".*')
        await stream.finish()
        assert (await ask(stream.port, "/readyz", None)).status == 200
        stream.running.process.send_signal(signal.SIGTERM)
        assert await stream.running.ended() == 0
    reported = json.loads(line[0])
    assert (reported["level"], reported["settings"]) == ("warning", ["limits", "log"])
    assert any('"request"' in line for line in stream.running.lines)


async def test_a_stop_under_load_answers_each_connection_that_it_does_not_refuse(tmp_path):
    """Also those that wait in the queue of the socket when it closes."""
    statuses: list[int] = []
    stopped = asyncio.Event()

    async def keep_asking(port: int):
        while not stopped.is_set():
            try:
                async with Ask(port, "GET", "/healthz", {}, b"") as asked:
                    statuses.append((await asked.answer()).status)
            except ConnectionRefusedError:
                stopped.set()

    async with served(tmp_path, "http://127.0.0.1:9") as running:
        port = await running.port
        asking = [asyncio.create_task(keep_asking(port)) for _ in range(30)]
        await until(lambda: len(statuses) > 200)
        running.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*asking)
    assert set(statuses) <= {200, 503}


async def test_a_second_signal_ends_the_streams_and_a_third_the_process_without_a_traceback(tmp_path):
    async with streaming(tmp_path) as stream:
        stream.running.process.send_signal(signal.SIGTERM)
        await stream.running.logged('"draining".*"in_flight":1')
        (found,) = control_sockets(os.environ)
        status = json.loads(await asyncio.to_thread(request, "GET", "/status", str(found)))
        assert (status["ready"], status["draining"], status["in_flight"]) == (False, True, 1)
        stream.running.process.send_signal(signal.SIGTERM)
        await stream.running.logged('"drained".*"streams_ended":1')
        # the stream's client has not closed its connection, for which gatepass waits up to a second
        stream.running.process.send_signal(signal.SIGTERM)
        assert await stream.running.ended() == 0
    assert [json.loads(line)["event"] for line in stream.running.lines][-1] == "drained"
