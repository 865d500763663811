"""Streams of a fast upstream that nobody reads, beside requests on new connections: `make fast-streams`.

gatepass runs on one core, the clients and the upstream on another. Each probe requests /healthz on a new connection.
Its time is printed in seconds, and in seconds of CPU that gatepass used meanwhile, which other load does not change.
The control is a second gatepass without streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, cast

import uvloop

from gatepass.server.listening import bind

EVENTS_IN_PIECE = 400
MOST_S = 0.25
"""Longest time of a probe beside the streams, in seconds of gatepass's CPU."""
STARTED_WITHIN_S = 60.0


def event(number: int, kind: str) -> bytes:
    """Return an event. With `ids` each has an id of its own, so that gatepass must parse it."""
    chunk = {
        "id": f"chatcmpl-{number if kind == 'ids' else 7}",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": f"word {number}"}, "logprobs": None, "finish_reason": None}],
    }
    return b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode()


class FastUpstream(asyncio.Protocol):
    """Answers a request with a stream without end, as fast as the other side reads."""

    def __init__(self, piece: bytes) -> None:
        self._piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        self._is_paused = self._has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class has another base

    def data_received(self, data: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self._transport.write(head)
            self._write()

    def _write(self) -> None:
        if not self._is_paused and not self._transport.is_closing():
            self._transport.write(self._piece)
            asyncio.get_running_loop().call_soon(self._write)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._write()


def serve_upstream(listening: socket.socket, kind: str, core: int) -> None:
    os.sched_setaffinity(0, {core})
    piece = b"".join(event(number, kind) for number in range(EVENTS_IN_PIECE))

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: FastUpstream(piece), sock=listening, backlog=1000
        )
        await server.serve_forever()

    uvloop.run(serve())


class Served:
    """One `gatepass serve` on a core of its own."""

    def __init__(self, folder: Path, upstream_url: str, core: int) -> None:
        listening = bind("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        listening.close()
        config = {
            "server": {"port": self.port, "control_socket": "off"},
            "upstreams": {"fast": {"base_url": upstream_url}},
            "models": {"*": {"upstream": "fast"}},
        }
        path = folder / f"{self.port}.json"
        path.write_text(json.dumps(config))
        command = ["taskset", "-c", str(core), sys.executable, "-m", "gatepass", "serve", "--config", str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._clock = (~self.process.pid << 3) | 2  # clock_getcpuclockid(3)

    def cpu_s(self) -> float:
        return time.clock_gettime(self._clock)

    def probe(self) -> tuple[float, float]:
        """Request /healthz on a new connection. Return the seconds, and gatepass's seconds of CPU."""
        began_s, began_cpu_s = time.perf_counter(), self.cpu_s()
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            answer = b""
            while more := client.recv(4096):
                answer += more
        assert b" 200 OK" in answer, answer
        return time.perf_counter() - began_s, self.cpu_s() - began_cpu_s

    def wait_started(self) -> None:
        ends_s = time.monotonic() + STARTED_WITHIN_S
        while True:
            try:
                self.probe()
            except OSError:
                assert time.monotonic() < ends_s, "gatepass did not start"
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def begin_chat(port: int, *, stream: bool) -> socket.socket:
    """Request a stream, or a whole reply that gatepass makes from one, and read nothing of it."""
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).encode()
    client = socket.create_connection(("127.0.0.1", port))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    client.sendall(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
    return client


def figures_of(values: list[float]) -> str:
    ordered = sorted(values)
    return " ".join(f"{ordered[min(int(len(ordered) * part), len(ordered) - 1)]:8.3f}" for part in (0.5, 0.99, 1))


def measure(streams: int, kind: str, probes: int) -> bool:
    """Print the times of the probes. Return whether the longest is within MOST_S of CPU."""
    cores = sorted(os.sched_getaffinity(0))
    listening = bind("127.0.0.1", 0)
    upstream = multiprocessing.Process(target=serve_upstream, args=(listening, kind, cores[-1]), daemon=True)
    upstream.start()
    taken: dict[str, list[tuple[float, float]]] = {"streams": [], "control": []}
    with tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        servers = {name: Served(Path(folder), url, cores[0]) for name in taken}
        try:
            os.sched_setaffinity(0, {cores[-1]})
            for served in servers.values():
                served.wait_started()

            def probe(name: str) -> None:
                for _ in range(probes):
                    taken[name].append(servers[name].probe())
                    time.sleep(0.01)

            threads = [threading.Thread(target=probe, args=(name,)) for name in taken]
            for thread in threads:
                thread.start()
            clients = [begin_chat(servers["streams"].port, stream=kind != "whole") for _ in range(streams)]
            for thread in threads:
                thread.join()
            for client in clients:
                client.close()
            used_s = servers["streams"].cpu_s()
        finally:
            for served in servers.values():
                served.stop()
            upstream.kill()
            os.sched_setaffinity(0, cores)
    print(f"{streams} streams ({kind}), {probes} probes, {used_s:.1f} s of CPU")
    for name, figures in taken.items():
        wall, cpu = (figures_of([one[part] for one in figures]) for part in (0, 1))
        print(f"  {name:8} seconds {wall}   CPU {cpu}")
    return max(cpu_s for _, cpu_s in taken["streams"]) < MOST_S


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time of /healthz on new connections beside fast streams that nobody reads."
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--probes", type=int, default=200)
    arguments: Any = parser.parse_args()
    print("p50, p99 and longest time of GET /healthz on a new connection")
    is_within = [
        measure(streams, kind, arguments.probes) for kind in ("same", "ids", "whole") for streams in arguments.streams
    ]
    sys.exit(0 if all(is_within) else 1)


if __name__ == "__main__":
    main()
