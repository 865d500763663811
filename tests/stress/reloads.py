"""Reloads under load, in one process and with two workers: `make reloads`, about four minutes.

The program prints a line for each run. It exits 1 if a request fails, if memory or descriptors grow, or if the issuer
of the unchanged credential receives more than one request. Each reload changes the models, a profile, an upstream and a
credential. The client is openai-python with pooled connections and without retries. Half of its requests are streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatepass.cli.control import request
from tests.stress.rolls import Load, Result, clients, gatepass, upstream
from tests.waiting import until_async

WARM_UP_PART = 5
"""Memory and descriptors are measured after this part of the reloads, and at the end."""
SETTLE_S = 3.0
"""gatepass checks each second whether it can close removed parts."""
GROWTH_MIB, GROWTH_DESCRIPTORS = 5.0, 6
"""Of each process; of all together."""
PAUSE_S = 0.01
"""Between two reloads, so that the client has a part of the processor."""


@dataclass(frozen=True, slots=True)
class Floor:
    """Memory and open files of all processes of a gatepass."""

    memory_mib: float
    descriptors: int


@dataclass(frozen=True, slots=True)
class Outcome:
    result: Result
    reloads: int
    workers: int
    issuer_calls: int
    before: Floor
    after: Floor

    @property
    def faults(self) -> list[str]:
        found = list(self.result.failures)
        if self.issuer_calls != 1:
            found.append(f"{self.issuer_calls} requests to the issuer of the credential that did not change")
        if self.after.memory_mib > self.before.memory_mib + GROWTH_MIB * self.workers:
            found.append(f"memory grew from {self.before.memory_mib:.1f} to {self.after.memory_mib:.1f} MiB")
        if self.after.descriptors > self.before.descriptors + GROWTH_DESCRIPTORS:
            found.append(f"descriptors grew from {self.before.descriptors} to {self.after.descriptors}")
        return found


class Issuer:
    """A token endpoint that counts the received requests."""

    def __init__(self) -> None:
        self.calls = 0

    async def answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(found[1]) if found else 0)
        self.calls += 1
        body = json.dumps({"access_token": "a-token-of-the-issuer", "expires_in": 36_000}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        writer.close()


def configuration(number: int, upstream_port: int, issuer_port: int, control: Path) -> dict[str, Any]:
    """The configuration of the reload `number`. The upstream `chat` and its credential are always the same.

    The upstream `more` and its credential are new each time. Each reload moves the clients to the other upstream.
    """
    url = f"http://127.0.0.1:{upstream_port}/v1"
    corp = {
        "type": "oauth2",
        "token_url": f"http://127.0.0.1:{issuer_port}/",
        "client_id": "a",
        "client_secret": "s" * 20,
    }
    more = {"base_url": f"http://127.0.0.1:{upstream_port}/v{number}", "credential": "more"}
    return {
        "server": {"control_socket": str(control)},
        "credentials": {"corp": corp, "more": {"type": "static", "token": f"token-{number:016}"}},
        "upstreams": {"chat": {"base_url": url, "credential": "corp"}, "more": more},
        "models": {"m": {"upstream": ("chat", "more")[number % 2]}, f"m-{number}": {"upstream": "chat"}},
        "profiles": {"own": {"extends": ("ragflow", "dify")[number % 2]}} if number % 3 else {},
    }


async def reloads(load: Load, count: int, workers: int) -> Outcome:
    """Reload `count` times, each time with another configuration, while the client sends requests."""
    issuer = Issuer()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_port = await stack.enter_async_context(upstream(Load()))
        server = await asyncio.start_server(issuer.answer, "127.0.0.1", 0)
        issuer_port = (await stack.enter_async_context(server)).sockets[0].getsockname()[1]
        file, control = folder / "gatepass.json", folder / "own" / "control.sock"

        def write(number: int) -> None:
            file.write_text(json.dumps(configuration(number, upstream_port, issuer_port, control)))
            file.chmod(0o600)

        write(0)
        running = await stack.enter_async_context(gatepass(load.python, file, "--port", "0", "--workers", str(workers)))
        pids = [running.process.pid]
        if workers > 1:
            pids += [int(one[1]) for one in await running.logged(r'"worker_started".*"pid":(\d+)', workers)]
        await until_up(control, workers)
        before = floor(pids)
        async with clients(await running.port, load) as results:
            for number in range(1, count + 1):
                write(number)
                answer = json.loads(await asyncio.to_thread(request, "POST", "/reload", str(control)))
                if (answer["outcome"], answer["processes"]) != ("reloaded", workers):
                    results[0].failures.append(f"reload {number}: {answer}")
                await asyncio.sleep(PAUSE_S)  # pause between two reloads
                if number == max(1, count // WARM_UP_PART):
                    await asyncio.sleep(SETTLE_S)  # gatepass does not report when the removed parts are closed
                    before = floor(pids)
            await asyncio.sleep(SETTLE_S)  # as above
            after = floor(pids)
    return Outcome(results[0], count, workers, issuer.calls, before, after)


async def until_up(control: Path, workers: int) -> None:
    """Wait until all workers answer on the control socket."""

    async def is_up() -> bool:
        page = json.loads(await asyncio.to_thread(request, "GET", "/status", str(control)))
        return [one["ready"] for one in page.get("workers", {"gatepass": page}).values()] == [True] * workers

    await until_async(is_up, 60)


def floor(pids: list[int]) -> Floor:
    sizes = (re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in pids)
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return Floor(sum(int(size[1]) for size in sizes if size) / 1024, descriptors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    failed = False
    for workers in (1, 2):
        outcome = asyncio.run(reloads(Load(None, options.concurrency, options.python), options.reloads, workers))
        before, after = outcome.before, outcome.after
        print(
            f"{workers} worker(s): {outcome.reloads} reloads, {outcome.result.requests} requests,"
            f" {len(outcome.result.failures)} failed, {outcome.issuer_calls} issuer call(s),"
            f" {before.memory_mib:.1f} -> {after.memory_mib:.1f} MiB, {before.descriptors} -> {after.descriptors} files"
        )
        for fault in outcome.faults[:10]:
            print(f"  {fault}")
        failed = failed or bool(outcome.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
