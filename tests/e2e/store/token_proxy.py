"""A proxy in front of the issuer: it delays each token call, and records the process that made it."""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPLY_S = 10.0


@dataclass(frozen=True, slots=True)
class Fetch:
    """A token call that reached the issuer. `answered`: whether the calling process still ran at its end."""

    at_s: float
    pid: int | None
    answered: bool


class TokenProxy(ThreadingHTTPServer):
    """Forwards each token call at once, waits `delay_s`, and relays the reply.

    - `on_call`: called with the process id and the number of each call during the delay
    - `alive`: returns whether a process still runs
    """

    daemon_threads = True

    def __init__(self, token_url: str, delay_s: float, alive: Callable[[int], bool]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token_url, self.delay_s, self.alive = token_url, delay_s, alive
        self.on_call: Callable[[int | None, int], object] = lambda pid, number: None
        self.fetches: list[Fetch] = []
        self.begun = self.ended = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"

    @contextmanager
    def call(self) -> Iterator[int]:
        """Count one token call, and yield its number."""
        with self.lock:
            self.begun += 1
            number = self.begun
        try:
            yield number
        finally:
            with self.lock:
                self.ended += 1

    def is_idle(self) -> bool:
        """Return whether all token calls have ended."""
        with self.lock:
            return self.begun == self.ended

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections of killed processes."""


@contextmanager
def serving(proxy: TokenProxy) -> Iterator[TokenProxy]:
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: TokenProxy

    def do_POST(self) -> None:
        with self.server.call() as number:
            self._forward(number)

    def _forward(self, number: int) -> None:
        proxy, began_s = self.server, time.monotonic()
        pid = process_behind(self.client_address[1], proxy.server_address[1])
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name: self.headers[name] for name in ("authorization", "content-type") if name in self.headers}
        request = urllib.request.Request(proxy.token_url, body, headers)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
                status, answer = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, answer = error.code, error.read()
        proxy.on_call(pid, number)
        time.sleep(proxy.delay_s)  # a slow issuer: a process can be killed during its call
        proxy.fetches.append(Fetch(began_s, pid, pid is not None and proxy.alive(pid)))
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def process_behind(port: int, our_port: int) -> int | None:
    """Return the process at `port` of a loopback connection to `our_port`, or None if it has ended."""
    inode = None
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (_port(fields[1]), _port(fields[2])) == (port, our_port):
            inode = fields[9]
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(path) == f"socket:[{inode}]":
                return int(path.parts[2])
        except OSError:
            continue  # it has ended, or access is denied
    return None


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
