"""How long chats wait beside a bulk job at an upstream with few places: `python -m bench.fair_waiting`.

One caller keeps 500 embeddings in flight, another one sends ten chats a second. The upstream serves PLACES requests at
a time. Each way to limit them is measured for SECONDS. `--source DIR` measures another checkout's `src` instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from statistics import quantiles
from urllib.request import urlopen

from bench.processes import free_port

PLACES, EMBEDDINGS, CHATS_PER_S, SECONDS = 8, 500, 10, 15.0
EMBEDDING_S, CHAT_S = 0.1, 0.05
KEYS = {"import": "gp-" + "i" * 43, "people": "gp-" + "p" * 43}
WAYS = {
    "no limit": "",
    "max_connections": f"max_connections: {PLACES}, timeouts: {{connect_s: 60}}",
    "max_in_flight": f"max_in_flight: {PLACES}, queue: 1000, queue_s: 60",
}
"""The settings of the upstream. `max_connections` lets requests wait first come, first served."""
REPLIES = {
    "embeddings": {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]},
    "chat/completions": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
    },
}
BODIES = {
    "embeddings": {"model": "m", "input": "text"},
    "chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}


class Upstream:
    """Serves PLACES requests at a time, in the order in which they come."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(PLACES)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # the measurement is over
            while head := await head_of(reader):
                await reader.readexactly(length_of(head))
                name = head.split(b" ")[1].decode().removeprefix("/v1/")
                async with self._places:
                    await asyncio.sleep(EMBEDDING_S if name == "embeddings" else CHAT_S)
                body = json.dumps(REPLIES[name]).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def length_of(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)


class Client:
    """One connection of `caller`."""

    def __init__(self, port: int, caller: str, name: str) -> None:
        body = json.dumps(BODIES[name]).encode()
        self._port = port
        self._request = (
            f"POST /v1/{name} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {KEYS[caller]}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> tuple[bytes, float]:
        """Return the status of the answer, and the seconds until it was complete."""
        reader, writer = self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
        began_s = time.monotonic()
        writer.write(self._request)
        head = await head_of(reader)
        await reader.readexactly(length_of(head))
        return head[9:12], time.monotonic() - began_s

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


@contextmanager
def gatepass(upstream_port: int, way: str, source: str) -> Iterator[int]:
    """Start gatepass, and yield its port."""
    port, keys = free_port(), [f"    - {{name: {name}, hash: {hashed(key)}}}" for name, key in KEYS.items()]
    lines = [
        "upstreams:",
        f"  local: {{base_url: 'http://127.0.0.1:{upstream_port}/v1'{', ' if WAYS[way] else ''}{WAYS[way]}}}",
        "access:",
        "  keys:",
        *keys,
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "gatepass.yaml")
        file.write_text("\n".join(lines))
        command = [sys.executable, "-m", "gatepass", "serve", "--config", str(file), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": source} if source else None
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as child:
            try:
                wait_until_ready(port)
                yield port
            finally:
                child.terminate()


def hashed(key: str) -> str:
    return f'"sha256:{sha256(key.encode()).hexdigest()}"'


def wait_until_ready(port: int) -> None:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
                answer.read()
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("gatepass did not start")


async def measure(way: str, source: str) -> str:
    """Return the row of the table."""
    server = await asyncio.start_server(Upstream().serve, "127.0.0.1", 0, backlog=4096)
    upstream_port = server.sockets[0].getsockname()[1]
    with gatepass(upstream_port, way, source) as port:
        bulk = [Client(port, "import", "embeddings") for _ in range(EMBEDDINGS)]
        embedded = 0

        async def embed(client: Client) -> None:
            nonlocal embedded
            while True:
                status, _ = await client.ask()
                embedded += status == b"200"

        working = [asyncio.create_task(embed(client)) for client in bulk]
        await asyncio.sleep(2)  # until the queue is full
        embedded, chatting, clients = 0, list[asyncio.Task[tuple[bytes, float]]](), list[Client]()
        for _ in range(round(SECONDS * CHATS_PER_S)):
            clients.append(Client(port, "people", "chat/completions"))
            chatting.append(asyncio.create_task(clients[-1].ask()))
            await asyncio.sleep(1 / CHATS_PER_S)
        embedded_per_s = embedded / SECONDS
        answers = await asyncio.gather(*chatting)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        for client in (*bulk, *clients):
            client.close()
    server.close()
    took_s = quantiles([took_s for _, took_s in answers], n=100)
    good = sum(status == b"200" for status, _ in answers)
    return f"{way:<16} {took_s[49]:>8.3f} {took_s[98]:>8.3f} {good:>5}/{len(answers)} {embedded_per_s:>10.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="", help="the src folder of another checkout, which has no max_in_flight")
    source = parser.parse_args().source
    print(f"{EMBEDDINGS} embeddings in flight beside {CHATS_PER_S} chats a second, {PLACES} places at the upstream")
    print(f"{'upstream with':<16} {'p50 s':>8} {'p99 s':>8} {'chats':>9} {'vectors/s':>10}")
    for way in list(WAYS)[: 2 if source else 3]:
        print(asyncio.run(measure(way, source)), flush=True)


if __name__ == "__main__":
    main()
