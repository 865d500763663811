"""Restarts and replaced workers under clients that keep connections; `make rolls` is the long run of this."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

from tests.integration.gateway import Ask
from tests.integration.scripted import Hold, Scripted, Send, begin_stream, chunk, event
from tests.integration.workers.test_supervisor import HEADERS, ask, supervised
from tests.stress.rolls import Load, Result, replaced_workers, rolling_restart
from tests.waiting import until_async

WORKERS = 4
STREAMS = 100
MOST = 1.3 * STREAMS / WORKERS
FIRST = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
STREAMED = b'{"model":"m","messages":[],"stream":true}'
LOAD = Load(concurrency=4)


def none_failed(results: list[Result]) -> bool:
    (result,) = results
    assert result.failures == []
    return result.requests > 20


async def test_a_rolling_restart_fails_no_request():
    assert none_failed(await rolling_restart(LOAD, replicas=2, drain_delay_s=0.5))


async def test_replaced_workers_fail_no_request():
    assert none_failed(await replaced_workers(LOAD, count=2))


async def test_streams_spread_evenly_over_workers_also_after_one_was_killed(tmp_path):
    holding = [*begin_stream(), Send(chunk(FIRST)), Hold()]
    async with (
        Scripted(holding) as upstream,
        supervised(tmp_path, upstream.url, WORKERS, drain_timeout_s=0) as running,
        AsyncExitStack() as asked,
    ):
        port = await running.port
        pids = await running.pids(WORKERS)
        await until_async(lambda: all_up(port, 0))
        await asyncio.gather(*[stream(asked, port) for _ in range(STREAMS)])
        held = await until_async(lambda: all_up(port, STREAMS))
        assert held is not None
        os.kill(pids[0], signal.SIGKILL)
        await running.pids(WORKERS + 1)
        left = STREAMS - held["worker-1"]
        await until_async(lambda: all_up(port, left))
        await asyncio.gather(*[stream(asked, port) for _ in range(STREAMS - left)])
        again = await until_async(lambda: all_up(port, STREAMS))
        assert again is not None
    assert max(held.values()) <= MOST, held
    assert max(again.values()) <= MOST, again


async def stream(asked: AsyncExitStack, port: int) -> None:
    """One that goes on until `asked` closes."""
    under_way = await asked.enter_async_context(Ask(port, "POST", "/v1/chat/completions", dict(HEADERS), STREAMED))
    await under_way.head()
    await under_way.until(FIRST)


async def all_up(port: int, streams: int) -> dict[str, int] | None:
    """Return the number of streams of each worker, if all workers are up and have `streams` in total."""
    workers = (await ask(port, "/status", None)).json()["workers"]
    held = {name: worker["in_flight"] for name, worker in workers.items()}
    return held if len(held) == WORKERS and sum(held.values()) == streams else None
