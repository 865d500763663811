"""CPU time of the HTTP client for upstreams, for a small request and for a relayed event.

    python -m bench.transport [--rounds 5] [--tls]

The upstream is a separate process. The figures are medians of this process's CPU time in µs, including the event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, cast

import trustme
import uvloop

from gatepass.http_client.pool import Http1Transport
from gatepass.http_client.response_body import read_whole
from gatepass.types import OutboundRequest

CONNECTIONS = 64
REQUESTS = 4_000
STREAMS, EVENTS, PACE_S = 100, 40, 0.02
BURST_EVENTS = 20_000
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":"word "}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
SMALL = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 512\r\nx-request-id: 1\r\n\r\n" + b"x" * 512
)
LARGE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 380000\r\n\r\n" + b"x" * 380_000
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEADERS = (
    (b"content-type", b"application/json"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"bench"),
    (b"authorization", b"Bearer " + b"t" * 64),
)
BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"h" * 900)

Work = Callable[[Http1Transport, str], Awaitable[int]]


class Upstream(asyncio.Protocol):
    """Answer by path as soon as the head and the body of a request have arrived. The body ends with a brace."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.received.endswith(b"}"):
            return
        path, self.received = self.received.split(b" ", 2)[1], b""
        if path == b"/small":
            self.transport.write(SMALL)
        elif path == b"/large":
            self.transport.write(LARGE)
        elif path == b"/burst":
            self.transport.write(STREAM + CHUNK * BURST_EVENTS + b"0\r\n\r\n")
        else:
            self.transport.write(STREAM)
            self.pace(EVENTS)

    def pace(self, left: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(CHUNK if left else b"0\r\n\r\n")
        if left:
            asyncio.get_running_loop().call_later(PACE_S, self.pace, left - 1)


async def serve(certificate: str | None) -> None:
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends when the parent closes stdin


async def ask(transport: Http1Transport, url: str) -> int:
    response = await transport.send(OutboundRequest("POST", url, HEADERS, BODY))
    try:
        return len(await read_whole(response, 1 << 30))
    finally:
        await response.aclose()


async def small(transport: Http1Transport, url: str) -> int:
    async def client() -> None:
        for _ in range(REQUESTS // CONNECTIONS):
            await ask(transport, f"{url}/small")

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return REQUESTS


async def one_at_a_time(transport: Http1Transport, url: str) -> int:
    for _ in range(REQUESTS // 4):
        await ask(transport, f"{url}/small")
    return REQUESTS // 4


async def large(transport: Http1Transport, url: str) -> int:
    for _ in range(200):
        await ask(transport, f"{url}/large")
    return 200


async def paced(transport: Http1Transport, url: str) -> int:
    await asyncio.gather(*(ask(transport, f"{url}/paced") for _ in range(STREAMS)))
    return STREAMS * EVENTS


async def burst(transport: Http1Transport, url: str) -> int:
    await ask(transport, f"{url}/burst")
    return BURST_EVENTS


WORKLOADS: dict[str, Work] = {
    f"small request, {CONNECTIONS} at a time": small,
    "small request, one at a time": one_at_a_time,
    "reply of 380 KB": large,
    f"event, {STREAMS} paced streams": paced,
    "event, in a burst": burst,
}


async def cost_us(work: Work, transport: Http1Transport, url: str) -> float:
    began_s = time.process_time()
    units = await work(transport, url)
    return (time.process_time() - began_s) / units * 1e6


async def measure(url: str, context: ssl.SSLContext, rounds: int) -> None:
    transport = Http1Transport(CONNECTIONS * 2, context)
    print("CPU µs per")
    for name, work in WORKLOADS.items():
        found = [await cost_us(work, transport, url) for _ in range(rounds)]
        print(f"{name:34}{statistics.median(found):9.1f}")
    await transport.aclose()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--serve", nargs="?", const="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        uvloop.run(serve(options.serve or None))
        return
    context = ssl.create_default_context()
    with tempfile.TemporaryDirectory() as folder:
        certificate = ""
        if options.tls:
            authority = trustme.CA()
            authority.configure_trust(context)
            certificate = str(Path(folder) / "upstream.pem")
            authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        command = [sys.executable, __file__, f"--serve={certificate}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as upstream:
            stdin, stdout = cast(IO[str], upstream.stdin), cast(IO[str], upstream.stdout)
            port = int(stdout.readline())
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[:1])
            os.sched_setaffinity(upstream.pid, cores[-1:])
            uvloop.run(measure(f"{'https' if options.tls else 'http'}://127.0.0.1:{port}", context, options.rounds))
            stdin.close()


if __name__ == "__main__":
    main()
