"""An issuer and an upstream for gatepass processes that share a real store."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.e2e.servers import ROOT
from tests.e2e.store.fleet import Fleet
from tests.e2e.store.server import StoreServer
from tests.e2e.store.token_proxy import TokenProxy, serving

LIFE_S = 5.0
DELAY_S = 0.3
"""The delay of each token call, in which a process can be killed."""
ANSWER = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
).encode()


class FakeServers(ThreadingHTTPServer):
    """An issuer at /token, and an upstream below /v1 that accepts each token until it expires."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.ends_s: dict[str, float] = {}
        self.used: set[str] = set()
        self.refused = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections of killed processes."""

    def mint(self) -> str:
        with self.lock:
            token = f"token-number-{len(self.ends_s) + 1}"
            self.ends_s[token] = time.monotonic() + LIFE_S
        return token

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
            minted = {"access_token": self.server.mint(), "token_type": "Bearer", "expires_in": LIFE_S}
            self._answer(200, json.dumps(minted).encode())
            return
        token = self.headers["authorization"].removeprefix("Bearer ")
        if self.server.accepts(token):
            self._answer(200, ANSWER)
        else:
            self._answer(401, b'{"error": {"message": "invalid token"}}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@dataclass(frozen=True)
class Setup:
    servers: FakeServers
    proxy: TokenProxy
    fleet: Fleet
    store: StoreServer

    @property
    def calls(self) -> int:
        return self.proxy.begun


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
        fleets: list[Fleet] = []
        proxy = stack.enter_context(
            serving(TokenProxy(f"{servers.url}/token", DELAY_S, lambda pid: fleets[0].alive(pid)))
        )
        fleets.append(Fleet(folder, count, proxy.url, servers.url, store.settings, source))
        yield Setup(servers, proxy, stack.enter_context(fleets[0]), store)
