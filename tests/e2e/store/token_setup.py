"""A slow issuer and an upstream for gatepass processes that share a real store."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.e2e.servers import ROOT
from tests.e2e.store.fleet import Fleet
from tests.e2e.store.server import StoreServer

LIFE_S = 5.0
DELAY_S = 0.3
"""The delay of each token call, in which a process can be killed."""
ANSWER = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
).encode()


@dataclass(frozen=True, slots=True)
class Fetch:
    """A token call that reached the issuer. `answered`: whether the calling process still ran at its end."""

    at_s: float
    answered: bool


class FakeServers(ThreadingHTTPServer):
    """An issuer at /token, and an upstream below /v1 that accepts each token until it expires.

    - `on_call`: called with the process id and the number of each token call during its delay
    - `alive`: returns whether a process still runs
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.ends_s: dict[str, float] = {}
        self.used: set[str] = set()
        self.refused = self.calls = self.ended = 0
        self.fetches: list[Fetch] = []
        self.alive: Callable[[int], bool] = lambda pid: False
        self.on_call: Callable[[int | None, int], object] = lambda pid, number: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections of killed processes."""

    def mint(self) -> tuple[str, int]:
        """Return a token, and the number of its call."""
        with self.lock:
            self.calls += 1
            token = f"token-number-{self.calls}"
            self.ends_s[token] = time.monotonic() + LIFE_S
            return token, self.calls

    def is_idle(self) -> bool:
        """Return whether all token calls have ended."""
        with self.lock:
            return self.calls == self.ended

    def accepts(self, token: str) -> bool:
        with self.lock:
            is_good = time.monotonic() < self.ends_s.get(token, 0.0)
            self.refused += not is_good
            self.used |= {token} if is_good else set()
        return is_good


class _Handler(BaseHTTPRequestHandler):
    server: FakeServers
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/token":
            self._issue()
        elif self.server.accepts(self.headers["authorization"].removeprefix("Bearer ")):
            self._answer(200, ANSWER)
        else:
            self._answer(401, b'{"error": {"message": "invalid token"}}')

    def _issue(self) -> None:
        servers, began_s = self.server, time.monotonic()
        pid = process_behind(self.client_address[1], servers.server_port)
        token, number = servers.mint()
        try:
            servers.on_call(pid, number)
            time.sleep(DELAY_S)
            servers.fetches.append(Fetch(began_s, pid is not None and servers.alive(pid)))
            minted = {"access_token": token, "token_type": "Bearer", "expires_in": LIFE_S}
            self._answer(200, json.dumps(minted).encode())
        finally:
            with servers.lock:
                servers.ended += 1

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def process_behind(port: int, our_port: int) -> int | None:
    """Return the process at `port` of a loopback connection to `our_port`, or None if it has ended."""
    inode = None
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(address.rpartition(":")[2], 16) for address in fields[1:3]] == [port, our_port]:
            inode = fields[9]
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(path) == f"socket:[{inode}]":
                return int(path.parts[2])
        except OSError:
            continue  # it has ended, or access is denied
    return None


@dataclass(frozen=True)
class Setup:
    servers: FakeServers
    fleet: Fleet


@contextmanager
def running_setup(store: StoreServer, count: int, source: Path = ROOT / "src") -> Iterator[Setup]:
    """Start `count` gatepass processes of `source` that share an empty `store`."""
    store.empty()
    servers = FakeServers()
    with ExitStack() as stack:
        threading.Thread(target=servers.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        stack.callback(servers.server_close)
        stack.callback(servers.shutdown)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fleet = Fleet(folder, count, f"{servers.url}/token", servers.url, store.settings(), source)
        servers.alive = fleet.alive
        yield Setup(servers, stack.enter_context(fleet))
