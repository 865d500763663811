"""Several gatepass processes, and clients that send each request to one of them, as a balancer does."""

import http.client
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.e2e.process import Process
from tests.e2e.servers import CLIENT_ID, CLIENT_SECRET, READY_S, RESOURCE, ROOT, SCOPE
from tests.serving import free_port
from tests.waiting import block_until

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
ANSWER_S = 20.0
PAUSE_S = 0.05
"""Pause between two requests of a client, and between two attempts."""
POLL_S = 0.05


class Fleet:
    """`count` processes on different ports, each with the packages in `source`. A killed one is started again."""

    def __init__(
        self,
        folder: Path,
        count: int,
        token_url: str,
        upstream: str,
        store: dict[str, Any],
        source: Path = ROOT / "src",
    ) -> None:
        corp = {
            "type": "oauth2",
            "token_url": token_url,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": SCOPE,
            "extra": {"resource": RESOURCE},
        }
        chat = {"base_url": f"{upstream}/v1", "credential": "corp"}
        blocks: dict[str, Any] = {"credentials": {"corp": corp}, "upstreams": {"chat": chat}, "store": store}
        self._folder, self.source, self._configuration = folder, source, blocks
        self.ports = [free_port() for _ in range(count)]
        for port in self.ports:
            self._configure(port, store)
        self._processes = [self._start(port) for port in self.ports]
        self.kills = 0
        self._stop = threading.Event()
        self._restarter = threading.Thread(target=self._restart_ended, daemon=True)

    def __enter__(self) -> Self:
        for process in self._processes:
            process.wait_for('"event":"listening"', READY_S)
        self._restarter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._restarter.join()
        for process in self._processes:
            process.stop()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def output(self) -> str:
        return "\n\n".join(process.output for process in self._processes)

    def output_of(self, index: int) -> str:
        return self._processes[index].output

    def restart(self, index: int, **store: Any) -> None:
        """Stop a process as a rolling restart does. The next one on its port gets `source` and the changed `store`."""
        self._configure(self.ports[index], {**self._configuration["store"], **store})
        before = self._processes[index]
        os.kill(before.pid, signal.SIGTERM)
        block_until(lambda: self._processes[index] is not before)
        self._processes[index].wait_for('"event":"listening"', READY_S)

    def page(self, index: int, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[index]}{path}", timeout=ANSWER_S) as reply:
            text: str = reply.read().decode()
        return text

    def alive(self, pid: int) -> bool:
        return pid in self.pids and _runs(pid)

    def kill(self, pid: int) -> None:
        """Send SIGKILL. A new process on the same port starts at once."""
        if self.alive(pid):
            self.kills += 1
            os.kill(pid, signal.SIGKILL)

    def _restart_ended(self) -> None:
        while not self._stop.wait(POLL_S):
            for index, process in enumerate(self._processes):
                if not _runs(process.pid):
                    process.stop()
                    self._processes[index] = self._start(self.ports[index])

    def _configure(self, port: int, store: dict[str, Any]) -> None:
        self._config(port).write_text(json.dumps({**self._configuration, "store": store}))

    def _config(self, port: int) -> Path:
        return self._folder / f"gatepass-{port}.json"

    def _start(self, port: int) -> Process:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
        return Process(
            [sys.executable, "-P", "-m", "gatepass", "serve", "--config", self._config(port), "--port", str(port)],
            environment=plain | {"PYTHONPATH": str(self.source)},
        )


def _runs(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass(slots=True)
class Report:
    """The results of the clients. `moved`: attempts that failed because of a kill and went to the next process."""

    served: int = 0
    moved: int = 0
    lost: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Clients:
    """Threads that send requests to the processes in rotation while the `with` block runs."""

    def __init__(self, ports: list[int], count: int) -> None:
        self.report = Report()
        self._ports = ports
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(index,), daemon=True) for index in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_S)

    def _run(self, number: int) -> None:
        while not self._stop.wait(PAUSE_S):
            number += 1
            began_s = time.monotonic()
            outcome, moved = self._request(number)
            with self._lock:
                self.report.moved += moved
                self.report.slowest_s = max(self.report.slowest_s, time.monotonic() - began_s)
                if outcome is None:
                    self.report.served += 1
                else:
                    self.report.lost.append(outcome)

    def _request(self, number: int) -> tuple[str | None, int]:
        """Send one request; return None or the failure, and how often it went to the next process."""
        until_s, moved = time.monotonic() + ANSWER_S, 0
        while time.monotonic() < until_s:
            try:
                status, body = _send(self._ports[(number + moved) % len(self._ports)])
            except (OSError, http.client.HTTPException):
                moved += 1
                time.sleep(PAUSE_S)
                continue
            if status == 503 and b'"draining"' in body:  # a balancer sends it to another process too
                moved += 1
                continue
            return (None if status == 200 else f"{status} {body[:300]!r}"), moved
        return "no process answered", moved


def _send(port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("POST", "/v1/chat/completions", BODY, {"content-type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()
