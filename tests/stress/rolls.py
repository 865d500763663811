"""Rolling restarts under clients that keep connections: `make rolls`, about two minutes.

Four replicas over a store, behind a TCP balancer that polls `/readyz` every 0.1 s, are restarted one after the other,
as often as `--rounds` says. The program prints a line for each client. It exits 1 if a request fails or a stream is
incomplete.

The clients are openai-python and openai-node, each with pooled connections and without retries. Half of the requests
are streams. `--node FOLDER` names a folder with the npm package `openai` in `node_modules`; without it only
openai-python runs.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.store.server import StoreServer
from tests.integration.processes import serving
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Pause,
    Received,
    Scripted,
    Send,
    begin_stream,
    chunk,
    event,
    reply,
)

HERE = Path(__file__).parent
CONCURRENCY = 8
PAUSE_S = 0.02
"""Half of the longest pause between two requests of one task."""
EVENTS = 10
EVENT_S = 0.02
POLL_S = 0.1
POLL_TIMEOUT_S = 1.0
BOUND_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """The clients and their streams.

    `node`: the folder of the npm package; None runs only Python. `event_s`: between two of the `events` of a stream.
    """

    node: Path | None = None
    concurrency: int = CONCURRENCY
    events: int = EVENTS
    event_s: float = EVENT_S


@dataclass
class Result:
    """The requests and failures of one client."""

    client: str
    requests: int = 0
    failures: list[str] = field(default_factory=list)


# the upstream


def answer(load: Load, request: Received) -> Dialogue:
    """A plain reply after EVENT_S, or a stream of the events of `load`."""
    if not (request.body and request.json().get("stream")):
        message = {"role": "assistant", "content": "a"}
        return [Pause(EVENT_S), Send(reply(document("", message=message, finish_reason="stop")))]
    finishes = [None] * (load.events - 1) + ["stop"]
    events = [event(document(".chunk", delta={"content": "a"}, finish_reason=finish)) for finish in finishes]
    paused = [move for one in events for move in (Send(chunk(one)), Pause(load.event_s))]
    return [*begin_stream(), *paused, Send(chunk(event("[DONE]")) + LAST_CHUNK)]


def document(kind: str, **choice: Any) -> dict[str, Any]:
    return {"id": "1", "object": f"chat.completion{kind}", "choices": [{"index": 0, **choice}]}


def upstream(load: Load) -> Scripted:
    return Scripted(answer=partial(answer, load))


# the balancer


class Balancer:
    """Forwards each TCP connection to the next ready replica. It polls `/readyz` every POLL_S.

    If that one refuses the connection, it tries each other one once, as nginx, HAProxy and Envoy do. `ends` receives by
    the client's port how its connection ended, before the client sees it.
    """

    def __init__(self, ends: dict[int, str] | None = None) -> None:
        self.ready: dict[int, bool] = {}
        self._ends = {} if ends is None else ends
        self._count = 0
        self._served: set[asyncio.Task[None]] = set()
        """Held, because the event loop does not: the garbage collector would end a connection."""

    async def poll(self, port: int) -> None:
        while True:
            self.ready[port] = await is_ready(port)
            await asyncio.sleep(POLL_S)

    def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._served.add(task)
        task.add_done_callback(self._served.discard)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        ended = partial(self._ends.__setitem__, writer.get_extra_info("peername")[1])
        with contextlib.closing(writer), contextlib.suppress(asyncio.CancelledError):  # the program ends
            self._count += 1
            ready = sorted(port for port, is_ready in self.ready.items() if is_ready)
            first = self._count % max(1, len(ready))
            for port in (*ready[first:], *ready[:first], *(self.ready.keys() - set(ready))):
                try:
                    to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    ended("no replica accepts connections")
                    continue
                with contextlib.closing(to_writer):
                    await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer, ended))
                break


async def copy(reader: StreamReader, writer: StreamWriter, ended: Callable[[str], object] = str) -> None:
    """Copy until the end and relay the end. A reset closes both connections."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        ended("closed")
        writer.write_eof()
    except OSError as error:
        ended(str(error))
        writer.transport.abort()


async def is_ready(port: int, path: str = "/readyz", timeout_s: float = POLL_TIMEOUT_S) -> bool:
    """Return whether `path` is answered with 200 within `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            return b" 200 " in (await answer_of(port, path)).partition(b"\r\n")[0]
    except (OSError, TimeoutError):
        return False


async def answer_of(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
        return await reader.read()


@asynccontextmanager
async def balanced(ports: Sequence[int], ends: dict[int, str] | None = None) -> AsyncIterator[int]:
    balancer = Balancer(ends)
    polls = [asyncio.create_task(balancer.poll(port)) for port in ports]
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0, backlog=1024)
    try:
        while len(balancer.ready) < len(ports):
            await asyncio.sleep(POLL_S)
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for poll in polls:
            poll.cancel()
        await asyncio.wait(polls)


# the clients


@asynccontextmanager
async def clients(port: int, load: Load) -> AsyncIterator[list[Result]]:
    """Run both clients against `port` until the end of the block. Their results are complete afterwards."""
    results = [Result("openai-python")]
    commands: list[tuple[str, ...]] = [
        (
            sys.executable,
            str(HERE / "rolling_client.py"),
            str(port),
            str(load.concurrency),
            str(PAUSE_S),
            str(load.events),
        )
    ]
    processes = []
    async with AsyncExitStack() as stack:
        if load.node is not None:
            script = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=load.node))) / "rolling_client.mjs"
            script.write_text((HERE / "rolling_client.mjs").read_text())  # Node finds `openai` in this folder
            results.append(Result("openai-node"))
            commands.append(
                ("node", str(script), str(port), str(load.concurrency), str(PAUSE_S * 1000), str(load.events))
            )
        for command in commands:
            processes.append(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE))  # noqa: PERF401 - the list must contain the processes that started
        try:
            for result, process in zip(results, processes, strict=True):
                async with asyncio.timeout(BOUND_S):
                    assert process.stdout is not None
                    while not note(result, await process.stdout.readline()):
                        pass  # the failure of a first request
            yield results
        finally:
            for process in processes:
                assert process.stdin is not None
                process.stdin.close()  # the client ends when stdin is closed
            for result, process in zip(results, processes, strict=True):
                async with asyncio.timeout(BOUND_S):
                    out, _ = await process.communicate()
                for line in out.splitlines():
                    note(result, line)


def note(result: Result, line: bytes) -> bool:
    """Add what a client printed to `result`; return whether it says that each of its tasks has its connection."""
    entry = json.loads(line)
    result.requests += entry.get("requests", 0)
    if "failed" in entry:
        result.failures.append(f"{'stream' if entry['streams'] else 'plain'}: {entry['failed']}")
    return "began" in entry


# the restarts


async def rolling_restart(load: Load, replicas: int, rounds: int = 1, **server: float) -> list[Result]:
    """Restart each of `replicas` behind the balancer, one after the other, on its port, in each of `rounds`."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "store").mkdir()
        store = stack.enter_context(StoreServer(folder / "store")).settings()
        chat = {"base_url": f"{(await stack.enter_async_context(upstream(load))).url}/v1"}
        config = folder / "gatepass.json"
        config.write_text(json.dumps({"server": server, "upstreams": {"chat": chat}, "store": store}))
        config.chmod(0o600)

        async def start(replica: AsyncExitStack, port: int = 0) -> int:
            options = ("--config", str(config), "--port", str(port))
            return await (await replica.enter_async_context(serving(*options))).port

        running = [await stack.enter_async_context(AsyncExitStack()) for _ in range(replicas)]
        ports = [await start(replica) for replica in running]
        balancer_port = await stack.enter_async_context(balanced(ports))
        async with clients(balancer_port, load) as results:
            for replica, port in list(zip(running, ports, strict=True)) * rounds:
                await replica.aclose()
                await start(replica, port)
                await asyncio.sleep(3 * POLL_S)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--node", type=Path)
    for name, default in {"replicas": 4, "rounds": 3, "concurrency": CONCURRENCY}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--drain-delay-s", type=float, default=0.5)
    options = parser.parse_args()
    load, failed = Load(options.node, options.concurrency), 0
    running = rolling_restart(load, options.replicas, options.rounds, drain_delay_s=options.drain_delay_s)
    for result in asyncio.run(running):
        print(
            f"rolling restart of {options.replicas} replicas, {options.rounds} times: {result.client}:"
            f" {len(result.failures)} of {result.requests} requests failed",
            *result.failures[:5],
            sep="\n  ",
            flush=True,
        )
        failed += len(result.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
