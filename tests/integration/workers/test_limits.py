"""Far more requests than are allowed, at one and at two workers: the upstream's own log decides what was admitted."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gatepass.auth.api_keys import hash_key
from gatepass.cli import main
from tests.integration.answers import COMPLETION
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply
from tests.integration.workers.processes import serving

KEY = "gp-load-0123456789abcdef"
PER_SECOND, PER_MINUTE, TOKENS_PER_SECOND, TOKENS = 10, 20, 400, 40
OFFERED_S, CLIENTS = 3.5, 6
HEAD = ("OF", "LIMIT", "MOST", "USED", "LEFT", "MODE")
BODY = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "x" * 4}]}
"""Reserves about 30 tokens; the upstream reports TOKENS."""
USAGE = {"prompt_tokens": 30, "completion_tokens": TOKENS - 30, "total_tokens": TOKENS}


def configuration(url: str, folder: Path, limits: Any, workers: int) -> str:
    keys = [{"name": "load", "hash": hash_key(KEY), "group": "all"}]
    blocks = {
        "server": {"port": 0, "workers": workers, "drain_timeout_s": 1, "control_socket": str(folder / "control")},
        "upstreams": {"chat": {"base_url": f"{url}/v1"}},
        "access": {"keys": keys, "groups": {"all": {"limits": limits}}},
    }
    path = folder / "gatepass.json"
    path.write_text(json.dumps(blocks))
    return str(path)


async def offer(port: int, counts: dict[int, int]) -> None:
    """Send a request on its own connection, so that all workers get some."""
    body = json.dumps(BODY).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    status = int((await reader.read(-1)).split(b" ", 2)[1])
    counts[status] = counts.get(status, 0) + 1
    writer.close()


async def offer_until(until_s: float, port: int, counts: dict[int, int]) -> None:
    while time.monotonic() < until_s:
        await offer(port, counts)


def most_in(moments: list[float], window_s: float) -> int:
    """Return the most of `moments` in any span of the window's length, at each offset."""
    return max(sum(1 for at_s in moments if first_s <= at_s < first_s + window_s) for first_s in moments)


LIMITS = {
    "requests": ({"requests": {"second": PER_SECOND, "minute": PER_MINUTE}}, PER_SECOND),
    "tokens": (
        {"tokens": {"second": TOKENS_PER_SECOND}, "reserve_output_tokens": 10},
        TOKENS_PER_SECOND // TOKENS,
    ),
}


@pytest.mark.parametrize(("workers", "kind"), [(1, "tokens"), (2, "requests")])
async def test_the_upstream_never_sees_more_than_the_limit_in_any_window(workers, kind, tmp_path):
    limits, per_second = LIMITS[kind]
    moments: list[float] = []

    def answer(_: Received) -> Dialogue:
        moments.append(time.monotonic())
        return [Send(reply({**COMPLETION, "usage": USAGE}))]

    async with Scripted(answer=answer) as upstream:
        config = configuration(upstream.url, tmp_path, limits, workers)
        async with serving("--config", config) as gatepass:
            port, counts = await gatepass.port, dict[int, int]()
            until_s = time.monotonic() + OFFERED_S
            await asyncio.gather(*(offer_until(until_s, port, counts) for _ in range(CLIENTS)))
            listed = await asyncio.to_thread(
                CliRunner().invoke, main, ["limits", "--json", "--socket", str(tmp_path / "control")]
            )
    assert counts.keys() == {200, 429}
    assert counts[429] > counts[200]  # far more were offered
    assert len(moments) == counts[200]
    # what arrives in a window was admitted in it, apart from what was on its way when the window began
    assert most_in(moments, 1.0) <= per_second + CLIENTS
    assert len(moments) <= per_second * ((moments[-1] - moments[0]) * 128 / 129 + 2)
    assert len(moments) <= PER_MINUTE or kind == "tokens"
    # a window of 1 s takes 129/128 s, so that in OFFERED_S at least so many fit
    expected = min(PER_MINUTE if kind == "requests" else 10_000, int(OFFERED_S * 128 / 129) * per_second)
    assert len(moments) >= 0.95 * expected - per_second
    rows = json.loads(listed.output)
    assert rows[0] | {"used": 0, "left": 0} == {
        "of": "group/all",
        "limit": f"{kind}.second",
        "most": PER_SECOND if kind == "requests" else TOKENS_PER_SECOND,
        "used": 0,
        "left": 0,
        "mode": "enforce",
    }
    if kind == "requests":
        assert rows[1]["used"] == len(moments)


async def test_limits_are_listed_and_reset_for_all_workers(tmp_path):
    async with Scripted([Send(reply(COMPLETION))]) as upstream:
        config = configuration(upstream.url, tmp_path, {"requests": {"hour": 3}}, 2)
        async with serving("--config", config) as gatepass:
            port, counts = await gatepass.port, dict[int, int]()

            async def limits(*arguments: str) -> str:
                command = ["limits", *arguments, "--socket", str(tmp_path / "control")]
                return str((await asyncio.to_thread(CliRunner().invoke, main, command)).output)

            async def ask(times: int) -> None:
                for _ in range(times):
                    await offer(port, counts)

            await ask(8)
            assert counts == {200: 3, 429: 5}
            assert (await limits()).split() == [*HEAD, "group/all", "requests.hour", "3", "3", "0", "enforce"]
            assert "has no limits" in await limits("reset", "group/other")
            shown = (await limits("reset", "group/all")).split()
            assert shown == [*HEAD, "group/all", "requests.hour", "3", "0", "3", "enforce"]
            await ask(8)
            assert counts == {200: 6, 429: 10}
