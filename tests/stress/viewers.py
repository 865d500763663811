"""What ten open pages cost beside 2,000 relayed events a second: `make viewers`.

gatepass runs on one core, the upstream, the clients and the viewers on another. Phases without and with viewers take
turns. Printed: the CPU time of gatepass for each event in each phase, their ratio, and the resident memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gatepass.server.listening import bind
from tests.stress.fast_streams import Served, event

STREAMS, EVENTS_PER_S, STREAM_EVENTS = 20, 100, 300
"""Each stream has STREAM_EVENTS events, and the next one begins when it has ended."""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request of a connection with a stream at EVENTS_PER_S."""
    loop = asyncio.get_running_loop()
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(HEAD)
            began_s = loop.time()
            for number in range(STREAM_EVENTS):
                writer.write(chunk(event(number, "plain")))
                await asyncio.sleep(max(0.0, began_s + (number + 1) / EVENTS_PER_S - loop.time()))
            stop = event(0, "plain").replace(b'"finish_reason":null', b'"finish_reason":"stop"')
            writer.write(chunk(stop) + chunk(END) + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve_upstream(listening: socket.socket, core: int) -> None:
    os.sched_setaffinity(0, {core})

    async def serve() -> None:
        await (await asyncio.start_server(answer, sock=listening)).serve_forever()

    asyncio.run(serve())


class Counted:
    """The events that clients have received."""

    def __init__(self) -> None:
        self.events = 0


async def chat(port: int, counted: Counted) -> None:
    """Request one stream after another, and count the events."""
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        while b"[DONE]" not in (line := await reader.readuntil(b"\n\n")):
            counted.events += line.count(b"data:")


async def view(port: int, name: str) -> None:
    """Poll what a page shows every two seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        while True:
            target = f"GET /ui/api/{name} HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: same-origin\r\n\r\n"
            writer.write(target.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head, head
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            await asyncio.sleep(2.0)
    finally:
        writer.close()


@asynccontextmanager
async def running(*work: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
        for task in work:
            assert not task.done(), task
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


def resident_mib(served: Served) -> float:
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def measured(served: Served, options: argparse.Namespace) -> int:
    counted, costs, sizes = Counted(), dict[int, list[float]]({0: [], options.viewers: []}), dict[int, list[float]]()
    clients = [asyncio.create_task(chat(served.port, counted)) for _ in range(STREAMS)]
    async with running(*clients):
        await asyncio.sleep(options.seconds)
        for viewers in [0, options.viewers] * options.rounds:
            names = ["overview" if number % 2 else "requests?limit=200" for number in range(viewers)]
            async with running(*(asyncio.create_task(view(served.port, name)) for name in names)):
                await asyncio.sleep(1.0)
                events, cpu_s = counted.events, served.cpu_s()
                await asyncio.sleep(options.seconds)
                events, cpu_s = counted.events - events, served.cpu_s() - cpu_s
                costs[viewers].append(cpu_s / events * 1e6)
                sizes.setdefault(viewers, []).append(resident_mib(served))
                rate = events / options.seconds
                print(f"{viewers:3} viewers: {rate:5.0f} events/s, {costs[viewers][-1]:6.1f} µs of CPU for each event")
    without, beside = statistics.median(costs[0]), statistics.median(costs[options.viewers])
    more_mib = max(sizes[options.viewers]) - max(sizes[0])
    print(f"{options.viewers} viewers: {beside / without:.3f} times the CPU time for each event, {more_mib:+.1f} MiB")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each phase")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    listening = bind("127.0.0.1", 0)
    upstream = multiprocessing.Process(target=serve_upstream, args=(listening, cores[-1]), daemon=True)
    upstream.start()
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder), f"http://127.0.0.1:{listening.getsockname()[1]}/v1", cores[0])
        try:
            served.wait_started()
            return asyncio.run(measured(served, options))
        finally:
            served.stop()
            upstream.kill()


if __name__ == "__main__":
    sys.exit(main())
