"""`gatepass usage` beside the access lines of real processes, also after some of them were killed."""

import asyncio
import csv
import io
import json
import os
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gatepass.auth.api_keys import hash_key
from gatepass.cli import main
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, JSON, Ask
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.store.responder import Responder, responding
from tests.integration.workers.processes import Serving
from tests.integration.workers.test_supervisor import gone, started
from tests.waiting import until, until_async

KEYS = {name: f"gp-{name}-0123456789abcdef" for name in ("ana", "ben")}
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 7,
    "total_tokens": 37,
    "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
COLUMNS = ("requests", "errors", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
Sums = dict[tuple[str, str], list[int]]


def configuration(url: str, folder: Path, **blocks: Any) -> dict[str, Any]:
    return {
        "server": {"drain_timeout_s": 1, "control_socket": str(folder / "control")},
        "upstreams": {"chat": {"base_url": f"{url}/v1"}},
        "models": {"m": {"upstream": "chat"}, "n": {"upstream": "chat"}},
        "access": {"keys": [{"name": name, "hash": hash_key(key)} for name, key in KEYS.items()]},
        **blocks,
    }


async def ask(port: int) -> None:
    """Send good requests of two callers, one for an unknown model, and one without a key."""
    asked = [("ana", "m"), ("ana", "m"), ("ben", "n"), ("ben", "invented"), ("", "m")] * 3
    for name, model in asked:
        headers = {**JSON, **({"authorization": f"Bearer {KEYS[name]}"} if name else {})}
        await Ask(
            port, "POST", "/v1/chat/completions", headers, json.dumps({**HELLO, "model": model}).encode()
        ).answer()


async def command(folder: Path, *arguments: str) -> str:
    words = ["usage", *arguments, "--socket", str(folder / "control")]

    async def output() -> str | None:
        # in a thread: the store of the test answers on this loop
        result = await asyncio.to_thread(CliRunner().invoke, main, words)
        return None if result.exit_code else result.output  # 1: the store did not answer in time

    return str(await until_async(output, 60.0))


async def used(folder: Path) -> Sums:
    """The sums of `gatepass usage`, as `logged` has them."""
    rows = json.loads(await command(folder, "--json"))["rows"]
    found: Sums = {}
    for row in rows:  # of two days, if the test runs at midnight
        before = found.get((row["caller"], row["model"]), [0] * len(COLUMNS))
        counts = [row[name] for name in COLUMNS]
        found[row["caller"], row["model"]] = [one + other for one, other in zip(before, counts, strict=True)]
    return found


def logged(processes: Iterable[Serving]) -> Sums:
    """The sums of the access lines that have a caller."""
    lines = [json.loads(line) for one in processes for line in one.lines if '"event":"request"' in line]
    found: Sums = {}
    for line in lines:
        if caller := line.get("caller"):
            model = line["model"] if line["model"] in ("m", "n") else "other"
            counts = found.setdefault((caller, model), [0] * len(COLUMNS))
            tokens = [line.get("usage", {}).get(name, 0) for name in TOKENS]
            added = (1, line["outcome"] == "error", *tokens)
            counts[:] = [one + other for one, other in zip(counts, added, strict=True)]
    return found


async def written(folder: Path, processes: list[Serving], requests: int) -> Sums:
    """Wait until so many requests are logged and counted; what was counted."""

    def total(sums: Sums) -> int:
        return sum(counts[0] for counts in sums.values())

    await until(lambda: total(logged(processes)) == requests)
    found: Sums = {}

    async def is_counted() -> bool:
        nonlocal found
        found = await used(folder)
        return total(found) >= requests

    await until_async(is_counted, 60.0)
    return found


async def test_usage_is_the_sum_of_the_access_lines_of_all_workers_after_one_was_killed(tmp_path):
    async with (
        Scripted([Send(reply({**COMPLETION, "usage": USAGE}))]) as upstream,
        started(tmp_path, configuration(upstream.url, tmp_path)) as running,
    ):
        port = await running.port
        first, _ = await running.pids()
        await ask(port)
        found = await written(tmp_path, [running], 12)
        assert found == logged([running])
        assert found["ana", "m"] == [6, 0, 180, 120, 42, 18]
        assert found["ben", "other"] == [3, 3, 0, 0, 0, 0]
        os.kill(first, signal.SIGKILL)
        await gone([first])
        await running.pids(3)
        assert await used(tmp_path) == found
        await ask(port)
        assert await written(tmp_path, [running], 24) == logged([running])
        today, _, last = (await command(tmp_path)).partition("\n\n")
        assert last.startswith("Last 30 days, at most since the start: there is no `store`\nCALLER ")
        assert today.startswith("Today (20")
        assert last.splitlines()[2].split() == ["ana", "m", "12", "0", "360", "240", "84", "36"]
        rows = [*csv.DictReader(io.StringIO(await command(tmp_path, "--csv")))]
        assert Counter({(row["caller"], row["model"]): int(row["requests"]) for row in rows}).total() == 24
        assert [*rows[0]] == ["day", "caller", "model", *COLUMNS]


async def kill_two_replicas(tmp_path: Path, store: dict[str, Any]) -> None:
    """Each replica is killed after its requests, and the second one shows those of both."""
    processes: list[Serving] = []
    async with Scripted([Send(reply({**COMPLETION, "usage": USAGE}))]) as upstream:
        for number in (1, 2):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with started(folder, configuration(upstream.url, folder, store=store), 1) as running:
                processes.append(running)
                await ask(await running.port)
                assert await written(folder, processes, 12 * number) == logged(processes)
                running.process.kill()
                await running.ended()


async def test_a_store_keeps_the_usage_of_a_killed_replica(tmp_path):
    async with responding(Responder()) as responder:
        url = f"valkey://127.0.0.1:{responder.port}"
        await kill_two_replicas(tmp_path, {"url": url, "encryption_key": "k" * 32, "timeout_s": 5.0})
    assert b'"ana"' not in responder.dump()
