"""Real gatepass processes, a real Valkey or Redis server, and an issuer: `make token-chaos`, about three minutes.

The program prints one line for each scenario. It exits 1 if a promise is violated.

* Tokens of 10 seconds for a minute: at most 10 issuer calls, no lost request.
* The same while one process is killed every 3 seconds, during its fetch if possible: no lost request. A request whose
  process was killed goes to the next process, as behind a balancer.
* The same while the store is killed, paused and emptied.
* 8 processes that start together: one issuer call.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.e2e.servers import ROOT
from tests.e2e.store.fleet import Clients, Fleet
from tests.e2e.store.server import StoreServer
from tests.e2e.store.token_proxy import TokenProxy, serving
from tests.waiting import block_until

LIFE_S = 10.0
DELAY_S = 0.3
"""The delay of each token call, in which a process can be killed."""
MINUTE_S = 60.0
KILL_EVERY_S = 3.0
KILLS = int(MINUTE_S / KILL_EVERY_S)
MOST_CALLS = 10
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


def ask(port: int) -> int:
    """Send one request and return its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20.0)
    try:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def print_result(title: str, figures: str, *, is_kept: bool) -> bool:
    print(f"{title}: {figures}: {'ok' if is_kept else 'VIOLATED'}", flush=True)
    return is_kept


def one_minute(store: StoreServer, title: str, disturb: Callable[[Setup], str], most_calls: int) -> bool:
    with running_setup(store, 4) as it, Clients(it.fleet.ports, 6) as clients:
        began_s = time.monotonic()
        details = disturb(it)
        time.sleep(max(0.0, began_s + MINUTE_S - time.monotonic()))
        calls, report = it.calls, clients.report
        figures = (
            f"{report.served} requests served, {len(report.lost)} lost, {it.fleet.kills} processes killed{details}, "
            f"{report.moved} attempts moved to another process, {calls} issuer calls, "
            f"the slowest request took {report.slowest_s:.1f} s"
        )
        is_kept = not report.lost and report.served > MINUTE_S and calls <= most_calls
        if report.lost:
            print(report.lost[:3])
        return print_result(title, figures, is_kept=is_kept)


def kill_fetching_process(it: Setup) -> str:
    """Kill one process in each KILL_EVERY_S: the first that fetches a token, otherwise the last that fetched one."""
    is_due, killed_s, gaps_s = threading.Event(), list[float](), list[float]()
    latest = it.fleet.pids[0]

    def fetching(pid: int | None, _: int) -> None:
        nonlocal latest
        now = time.monotonic()
        gaps_s.extend(now - at_s for at_s in killed_s)
        killed_s.clear()
        if pid is None:
            return
        latest = pid
        if is_due.is_set():
            is_due.clear()
            it.fleet.kill(pid)
            killed_s.append(now)

    it.proxy.on_call = fetching
    began_s = time.monotonic()
    for number in range(KILLS):
        is_due.set()
        time.sleep(max(0.0, began_s + (number + 1) * KILL_EVERY_S - time.monotonic()))
        if is_due.is_set():
            is_due.clear()
            it.fleet.kill(latest if it.fleet.alive(latest) else it.fleet.pids[number % len(it.fleet.pids)])
    slowest = f", another process asked {min(gaps_s):.1f} to {max(gaps_s):.1f} s later" if gaps_s else ""
    return f" ({len(gaps_s)} of them in the middle of a fetch{slowest})"


def disturb_store(it: Setup) -> str:
    for _ in range(2):
        time.sleep(4.0)
        it.store.kill()
        time.sleep(LIFE_S / 2)
        it.store.start()
        time.sleep(4.0)
        it.store.pause()
        time.sleep(LIFE_S / 2)
        it.store.resume()
        time.sleep(4.0)
        it.store.empty()
        time.sleep(4.0)
    return ""


def cold_start(store: StoreServer) -> bool:
    with running_setup(store, 8) as it:
        statuses = [ask(port) for port in it.fleet.ports]
        block_until(it.proxy.is_idle)
        is_kept = statuses == [200] * 8 and it.calls == 1
        return print_result("8 processes that start together", f"{it.calls} issuer calls", is_kept=is_kept)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, StoreServer(Path(folder)) as store:
        results = [
            cold_start(store),
            one_minute(store, "a minute of 10-second tokens", lambda _: "", MOST_CALLS),
            one_minute(store, "fetching processes killed every 3 s", kill_fetching_process, 3 * MOST_CALLS),
            one_minute(store, "the store killed, paused and emptied", disturb_store, 6 * MOST_CALLS),
        ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
