"""What stands before the real issuer: it takes its time, and knows which process asks."""

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
    """A token call that reached the issuer. `answered` is False where the process that made it was dead by then."""

    at_s: float
    pid: int | None
    answered: bool


class Front(ThreadingHTTPServer):
    """Sends each token call on at once, waits `delay_s`, and answers; `meanwhile` is told who waits.

    `alive` says whether a process still lives.
    """

    daemon_threads = True

    def __init__(self, token_url: str, delay_s: float, alive: Callable[[int], bool]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token_url, self.delay_s, self.alive = token_url, delay_s, alive
        self.meanwhile: Callable[[int | None, int], object] = lambda pid, number: None
        self.fetches: list[Fetch] = []
        self.begun = self.ended = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"

    @contextmanager
    def call(self) -> Iterator[int]:
        """One token call, from its coming to its end; its number."""
        with self.lock:
            self.begun += 1
            number = self.begun
        try:
            yield number
        finally:
            with self.lock:
                self.ended += 1

    def is_idle(self) -> bool:
        """Whether every token call that came has ended."""
        with self.lock:
            return self.begun == self.ended

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked was killed: that is what this is for."""


@contextmanager
def standing(front: Front) -> Iterator[Front]:
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        front.shutdown()
        front.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Front

    def do_POST(self) -> None:
        with self.server.call() as number:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        front, began_s = self.server, time.monotonic()
        pid = process_behind(self.client_address[1], front.server_address[1])
        body = self.rfile.read(int(self.headers["content-length"]))
        passed_on = {name: self.headers[name] for name in ("authorization", "content-type") if name in self.headers}
        request = urllib.request.Request(front.token_url, body, passed_on)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
                status, answer = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, answer = error.code, error.read()
        front.meanwhile(pid, number)
        time.sleep(front.delay_s)  # a slow issuer: long enough to be killed in the middle of its call
        front.fetches.append(Fetch(began_s, pid, pid is not None and front.alive(pid)))
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """The tests print what matters."""


def process_behind(port: int, our_port: int) -> int | None:
    """The process whose end of a loopback connection to `our_port` has `port`; None where it is gone."""
    inode = None
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (_port(fields[1]), _port(fields[2])) == (port, our_port):
            inode = fields[9]
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(place) == f"socket:[{inode}]":
                return int(place.parts[2])
        except OSError:
            continue  # it ended while we looked, or is not ours
    return None


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
