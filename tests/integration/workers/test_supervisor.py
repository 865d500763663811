"""`gatepass serve --workers 2`, and without workers where signals differ, as a process with real signals."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.integration.gateway import Ask
from tests.integration.scripted import Dialogue, Scripted, Send, Wait, begin_stream, chunk, event, reply
from tests.integration.workers.processes import Serving, alive, serving
from tests.waiting import at_rest, until, until_async

HEADERS = {"content-type": "application/json"}
BODY = b'{"model":"m","messages":[]}'
COMPLETION = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
LAST = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


@asynccontextmanager
async def supervised(folder: Path, upstream: str, workers: int = 2, **server: object) -> AsyncIterator[Serving]:
    settings = {"drain_timeout_s": 5, **server}
    configuration = {"server": settings, "upstreams": {"chat": {"base_url": f"{upstream}/v1"}}}
    async with started(folder, configuration, workers) as running:
        yield running


@asynccontextmanager
async def started(folder: Path, configuration: object, workers: int = 2) -> AsyncIterator[Serving]:
    """`configuration` None: the file is already in `folder`."""
    config = folder / "gatepass.json"
    if configuration is not None:
        config.write_text(json.dumps(configuration))
    async with serving("--config", str(config), "--port", "0", "--workers", str(workers)) as running:
        yield running


async def ask(port: int, path: str = "/v1/chat/completions", body: bytes | None = BODY):
    method = "GET" if body is None else "POST"
    return await Ask(port, method, path, dict(HEADERS), body or b"").answer()


async def gone(pids: list[int]) -> None:
    await until(lambda: not any(map(alive, pids)))


async def test_two_workers_serve_one_socket_and_show_one_set_of_metrics_and_each_line_shows_its_worker(tmp_path):
    async with Scripted([Send(reply(COMPLETION))]) as upstream, supervised(tmp_path, upstream.url) as running:
        port = await running.port
        await running.pids()
        answers = [await ask(port) for _ in range(12)]
        metrics = (await ask(port, "/metrics", None)).body.decode()
        status = await both_answered(port)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    store = {"through": "the folder of the workers", "state": "up", "reason": None, "emptied": 0}
    one = {"ready": True, "draining": False, "in_flight": 0, "credentials": {}, "keys": [], "store": store}
    one |= {"reload_problems": []}
    chats = [worker.pop("upstreams")["chat"] for worker in status["workers"].values()]
    assert (sum(chat["requests"] for chat in chats), [chat["last_failed"] for chat in chats]) == (12, [None, None])
    assert all(worker["store"].pop("for_s") >= 0 for worker in status["workers"].values())
    assert {(worker.pop("replica"), len(worker.pop("ids_begin"))) for worker in status["workers"].values()} == {
        (os.uname().nodename, 4)
    }
    assert "gatepass_store_up 1.0" in metrics
    assert status == {"workers": {"worker-1": one, "worker-2": one}}
    assert [answer.status for answer in answers] == [200] * 12
    labels = 'caller="local",code="none",model="other",operation="chat",outcome="ok",status="200",upstream="chat"'
    assert f"gatepass_requests_total{{{labels}}} 12.0" in metrics
    reported = [json.loads(line) for line in running.lines]
    assert {line["event"] for line in reported if "worker" in line} == {
        "worker_started",
        "request",
        "draining",
        "drained",
    }
    assert {line["worker"] for line in reported if line["event"] == "request"} <= {1, 2}
    assert sorted(line["worker"] for line in reported if line["event"] == "drained") == [1, 2]


async def both_answered(port: int):

    async def reported():
        status = (await ask(port, "/status", None)).json()
        return status if len(status["workers"]) == 2 else None

    return await until_async(reported)


async def test_a_worker_that_dies_is_replaced_and_sighup_reloads_all_in_place_and_fails_no_request(tmp_path):
    async with Scripted([Send(reply(COMPLETION))]) as upstream, supervised(tmp_path, upstream.url) as running:
        port = await running.port
        first, _ = await running.pids()
        os.kill(first, signal.SIGKILL)
        await running.logged('"worker_exited".*"code":-9')
        pids = await running.pids(3)
        assert (await ask(port)).status == 200
        await both_answered(port)
        statuses = []
        stop = asyncio.Event()

        async def keep_asking():
            while not stop.is_set():
                statuses.append((await ask(port)).status)

        asking = asyncio.create_task(keep_asking())
        for times in range(1, 6):
            changed(tmp_path, models={"m": {"upstream": "chat", "name": f"renamed-{times}"}})
            running.process.send_signal(signal.SIGHUP)
            await running.logged('"reloaded".*"changed":\\["models.m"\\]', 2 * times)
            await until(partial(has_answered, statuses, 2 * times))  # the requests need their part of the processor
        stop.set()
        await asking
        assert sum(map(alive, pids)) == 2
        assert len(await running.pids(3)) == 3
    assert set(statuses) == {200}
    assert len(statuses) > 10


def has_answered(statuses: list[int], more_than: int) -> bool:
    return len(statuses) > more_than


def changed(folder: Path, **blocks: object) -> None:
    file = folder / "gatepass.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **blocks}))


async def test_sighup_to_a_single_process_ends_nothing_and_reloads_and_no_line_shows_a_worker(tmp_path):
    async with streaming(tmp_path, workers=1) as stream:
        changed(tmp_path, server={"drain_timeout_s": 20, "port": 1}, limits={"connections": 10}, log={"format": "text"})
        stream.running.process.send_signal(signal.SIGHUP)
        (line,) = await stream.running.logged('.*"restart_needed".*')
        await stream.finish()
        assert (await ask(stream.port, "/readyz", None)).status == 200
        stream.running.process.send_signal(signal.SIGTERM)
        assert await stream.running.ended() == 0
    reported = json.loads(line[0])
    assert (reported["level"], reported["settings"]) == ("warning", ["limits.connections", "log.format"])
    assert any('"request"' in line for line in stream.running.lines)
    assert not any('"worker"' in line for line in stream.running.lines)


@dataclass(frozen=True, slots=True)
class Streaming:
    """A supervisor with a stream under way, which ends well with `finish`."""

    running: Serving
    port: int
    asked: Ask
    go_on: asyncio.Event

    async def finish(self) -> None:
        self.go_on.set()
        assert b"error" not in await self.asked.until(b"[DONE]")


@asynccontextmanager
async def streaming(folder: Path, workers: int = 2) -> AsyncIterator[Streaming]:
    go_on = asyncio.Event()
    first = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
    rest: Dialogue = [Wait(go_on), Send(chunk(LAST) + chunk(event("[DONE]")) + b"0\r\n\r\n")]
    dialogue: Dialogue = [*begin_stream(), Send(chunk(first)), *rest]
    server = {"drain_timeout_s": 20}
    async with Scripted(dialogue) as upstream, supervised(folder, upstream.url, workers, **server) as running:
        port, body = await running.port, b'{"model":"m","messages":[],"stream":true}'
        async with Ask(port, "POST", "/v1/chat/completions", dict(HEADERS), body) as asked:
            await asked.head()
            await asked.until(first)
            yield Streaming(running, port, asked, go_on)


async def test_stream_finishes_after_sigterm_and_new_requests_get_503(tmp_path):
    async with streaming(tmp_path) as stream:
        stream.running.process.send_signal(signal.SIGTERM)
        await stream.running.logged('"draining"', 2)  # each notices it by itself, some milliseconds apart
        answers = [await ask(stream.port, "/readyz", None), await ask(stream.port)]
        await (
            stream.finish()
        )  # a request that waited for the drain would get its answer after the stream ended with an error
        assert await stream.running.ended() == 0
    red, refused = answers
    assert (red.status, red.json()) == (503, {"ready": False})
    assert (refused.status, refused.error["code"]) == (503, "draining")


async def test_stop_refuses_new_connections_if_no_worker_accepts(tmp_path):
    """As workers have that were stopped one by one: one stream goes on, and no worker accepts."""
    async with streaming(tmp_path) as stream:
        pids = await stream.running.pids()
        await both_answered(stream.port)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        await stream.running.logged('"draining"', 2)
        stream.running.process.send_signal(signal.SIGTERM)
        await until_async(partial(is_refused, stream.port))
        assert any(map(alive, pids))
        await at_rest(lambda: len(stream.running.lines))
        assert stream.running.process.returncode is None  # in a container its end would be that of the stream
        await stream.finish()
        assert await stream.running.ended() == 0


async def is_refused(port: int) -> bool:
    try:
        async with asyncio.timeout(0.3):  # the kernel accepts a connection that no process accepts, so it hangs
            await ask(port, "/readyz", None)
    except ConnectionRefusedError:
        return True
    except OSError:  # TimeoutError too
        return False
    return False


@pytest.mark.parametrize("first", ["workers", "supervisor"])
async def test_stop_received_by_workers_too_is_not_a_second_signal(tmp_path, first: str):
    """systemd sends its SIGTERM to all processes of a service, in any order."""
    async with streaming(tmp_path) as stream:
        pids, supervisor = await stream.running.pids(), [stream.running.process.pid]
        for number, receivers in enumerate((pids, supervisor) if first == "workers" else (supervisor, pids)):
            if number:
                await stream.running.logged('"draining".*"in_flight":1')
            for pid in receivers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        await at_rest(lambda: len(stream.running.lines))
        await stream.finish()
        assert await stream.running.ended() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stop_under_load_answers_each_connection_that_it_does_not_refuse(tmp_path, workers):
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

    async with supervised(tmp_path, "http://127.0.0.1:9", workers) as running:
        port = await running.port
        asking = [asyncio.create_task(keep_asking(port)) for _ in range(30)]
        await until(lambda: len(statuses) > 200)
        running.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*asking)
    assert set(statuses) <= {200, 503}


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_ends_the_streams_and_a_third_the_process_without_a_traceback(tmp_path, workers):
    async with streaming(tmp_path, workers) as stream:
        stream.running.process.send_signal(signal.SIGTERM)
        await stream.running.logged('"draining".*"in_flight":1')
        stream.running.process.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        await stream.running.logged('"drained".*"streams_ended":1')
        assert time.monotonic() - began_s < 15, "before drain_timeout_s"
        # the stream's client has not closed its connection, for which gatepass waits up to a second
        stream.running.process.send_signal(signal.SIGTERM)
        assert await stream.running.ended() == 0
    assert [json.loads(line)["event"] for line in stream.running.lines][-1] == "drained"


async def test_killed_supervisor_frees_its_port_and_its_workers_end_after_their_streams(tmp_path):
    async with streaming(tmp_path) as stream:
        pids = await stream.running.pids()
        stream.running.process.kill()
        await until_async(partial(is_refused, stream.port))
        await until(lambda: sum(map(alive, pids)) == 1)
        await stream.finish()
        await gone(pids)
