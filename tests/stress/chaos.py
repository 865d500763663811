"""Faults of clients, upstream and issuer around two replicas over a store: `make chaos`, ten minutes.

`CHAOS="--seconds 60 --seed 7"` sets the duration and the seed. The seed and a number decide what each client, each
reply of the upstream and each reply of the issuer does. A seed repeats these decisions, but not their times. The ledger
(`tests/stress/ledger.py`) compares what the three received. The program prints a report and exits 1 after a violation.

A long duration alone does not count as a violation. An operation hangs if it exceeds BOUND_S, ten times the sum
of the configured limits.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.e2e.store.server import StoreServer
from tests.serving import free_port
from tests.stress.chaos_clients import Clients
from tests.stress.chaos_servers import BOUND_S, MARK, FakeServers, Issuer, Upstream
from tests.stress.ledger import Ledger
from tests.stress.rolls import balanced, is_ready
from tests.waiting import until

CLIENTS = 24
REPLICAS = 2
HEALTH_BOUND_S = 60.0
QUIET_BOUND_S = 120.0
STORM = 150
DISTURBED_SHARE = 0.65
"""The share of the time with kills and reloads. In the last part the replicas must return to their idle memory."""
SPARE_DESCRIPTORS = 15
SPARE_MIB = 64
CONFIG_TIMEOUTS = {"connect_s": 5, "first_byte_s": 3, "idle_s": 3, "total_s": 15}


class Gatepass:
    """The files and the processes of REPLICAS times `gatepass serve`. A replica that ended is started again."""

    def __init__(self, folder: Path, servers: FakeServers, store: StoreServer, seed: int) -> None:
        self._servers, self._store = servers, store
        self._folder = folder
        self._generation = 0
        self._secrets = 0
        self.key = f"sk-{MARK}-{seed}"
        self.ports = [free_port() for _ in range(REPLICAS)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        self.log = folder / "log"
        self.rotate()
        self.configure()

    def rotate(self) -> None:
        self._secrets += 1
        secret = f"{MARK}-secret-{self._secrets}"
        self._write("secret", secret)
        self._servers.issuer.secret = secret

    def configure(self) -> None:
        """Write the configuration with a new token URL."""
        self._generation += 1
        issuer, upstream = (self._servers.by_name[name].url for name in ("issuer", "upstream"))
        credentials = {
            name: {
                "type": "oauth2",
                "token_url": f"{issuer}/{name}/{self._generation}",
                "client_id": "chaos",
                "client_auth": "form",
                "client_secret": f"${{file:{self._folder / 'secret'}}}",
                "timeout_s": 3,
            }
            for name in ("chat", "embed")
        }
        upstreams: dict[str, dict[str, Any]] = {
            name: {"base_url": f"{upstream}/{name}/v1", "credential": name, "timeouts": CONFIG_TIMEOUTS}
            for name in ("chat", "embed")
        }
        upstreams["once"] = {**upstreams["chat"], "base_url": f"{upstream}/once/v1", "repeat_stale": False}
        dead = f"http://127.0.0.1:{self._closed.getsockname()[1]}/v1"
        upstreams["dead"] = {"base_url": dead, "timeouts": CONFIG_TIMEOUTS}  # `total_s` of the first target bounds all
        configuration = {
            "server": {"host": "127.0.0.1", "control_socket": "off", "drain_timeout_s": 3},
            "store": self._store.settings(),
            "limits": {"reply_bytes": 6 << 20, "event_bytes": 1 << 20, "body_bytes": 6 << 20},
            "credentials": credentials,
            "upstreams": upstreams,
            "operations": {"embeddings": {"upstream": "embed"}},
            "models": {
                "m-3": {"upstream": "once"},
                "emulated": {"upstream": "chat", "stream": "emulate"},
                "failover": {"targets": [{"upstream": "dead"}, {"upstream": "chat"}]},
                "*": {"upstream": "chat"},
            },
            "access": {"keys": [{"name": "chaos", "key": "${CHAOS_KEY}", "role": "admin"}]},
        }
        self._write("gatepass.json", json.dumps(configuration))

    def _write(self, name: str, text: str) -> None:
        new = self._folder / f"{name}.new"
        new.touch(0o600)
        new.write_text(text)
        new.replace(self._folder / name)

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        # clients send half a request, and must not wait for 20 s
        program = "import gatepass.server.connection as c; c.RECEIVE_S = 4.0; from gatepass.cli import main; main()"
        command = [sys.executable, "-c", program, "serve", "--config", str(self._folder / "gatepass.json")]
        environment = {**os.environ, "CHAOS_KEY": self.key}
        with self.log.open("ab") as log:
            return subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log, env=environment)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._processes = [self._start(port) for port in self.ports]
        try:
            yield
        finally:
            for process in self._processes:
                process.terminate()
            for process in self._processes:
                try:
                    if code := process.wait(BOUND_S):
                        self._servers.ledger.add_violation(f"gatepass ended with {code} after SIGTERM")
                except subprocess.TimeoutExpired:
                    self._servers.ledger.add_violation("gatepass hangs after SIGTERM")
                    process.kill()
                    process.wait()
            self._closed.close()

    def revive(self) -> None:
        """Start each replica again that was killed."""
        for at, process in enumerate(self._processes):
            if process.poll() is not None:
                self._processes[at] = self._start(self.ports[at])

    def reload(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGHUP)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.poll() is None]

    def floors(self) -> list[tuple[int, int, int]]:
        """Return process id, descriptors and memory in MiB of each replica."""
        found = []
        for pid in self.pids:
            with contextlib.suppress(OSError, TypeError):
                size = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                found.append((pid, len(os.listdir(f"/proc/{pid}/fd")), int(size[1]) // 1024 if size else 0))
        return found


class Chaos:
    def __init__(self, seed: int, seconds: float, folder: Path) -> None:
        self._seed, self._seconds = seed, seconds
        self.ledger = Ledger(MARK)
        self._servers = FakeServers(seed, self.ledger, Issuer(seed, self.ledger), Upstream(seed, self.ledger))
        self._folder = folder
        self._before: list[tuple[int, int, int]] = []
        self._after: list[tuple[int, int, int]] = []

    def run(self) -> bool:
        (self._folder / "store").mkdir()
        with self._servers.serving(), StoreServer(self._folder / "store") as store:
            self._gatepass = Gatepass(self._folder, self._servers, store, self._seed)
            with self._gatepass.running():
                asyncio.run(self._phases())
        log = self._gatepass.log.read_bytes()
        for line in log.splitlines():
            self.ledger.scan(line, "the log")
            if b"Traceback" in line or b"internal_error" in line:
                self.ledger.add_violation(f"in the log: {line[:2000]!r}")
        violations = self.ledger.finish()
        self._report(violations)
        return not violations

    async def _phases(self) -> None:
        self._calm(True)
        await until(lambda: self._gatepass.log.read_bytes().count(b'"event":"listening"') == REPLICAS, BOUND_S)
        async with balanced(self._gatepass.ports, self.ledger.ends) as port:
            await self._disturbed(port)

    async def _disturbed(self, port: int) -> None:
        self._clients = Clients(port, self._gatepass.key, self.ledger, self._seed)
        await self._await_good_replies("warm", 100)
        self._before = self._gatepass.floors()
        self._calm(False)
        watching = asyncio.create_task(self._watch())
        until_s = time.monotonic() + self._seconds
        clients = [self._clients.run(number, until_s) for number in range(CLIENTS)]
        await asyncio.gather(self._disturb(until_s), *clients)
        self._calm(True)
        await self._await_good_replies("heal", 100)
        await self._settle()
        watching.cancel()
        for path in ("/metrics", "/status", "/learned", "/healthz"):
            await self._clients.page(path)

    def _calm(self, is_calm: bool) -> None:
        self._servers.issuer.is_calm = self._servers.upstream.is_calm = is_calm

    async def _await_good_replies(self, name: str, count: int) -> None:
        """Wait up to QUIET_BOUND_S for `count` consecutive replies without an error."""
        until_s, number, answers = time.monotonic() + QUIET_BOUND_S, 0, 0
        while answers < count:
            number += 1
            before = self.ledger.outcomes["answer"]
            await self._clients.one(f"{name}-{number}", "read")
            answers = answers + 1 if self.ledger.outcomes["answer"] > before else 0
            if not answers:
                await asyncio.sleep(0.2)
            if time.monotonic() > until_s and answers < count:
                self.ledger.add_violation(f"{name}: no {count} answers in a row without faults")
                return

    async def _watch(self) -> None:
        """Start killed replicas again, and poll `/healthz`. Repeat a request whose replica was killed."""
        asked_s = time.monotonic()
        while True:
            self._gatepass.revive()
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(HEALTH_BOUND_S):
                    response = await self._clients.page("/healthz")
                if response.is_complete and response.status != 200:
                    self.ledger.add_violation(f"/healthz: {response.raw[:300]!r}")
                if response.is_complete:
                    asked_s = time.monotonic()
            except (OSError, TimeoutError):
                pass
            now_s = time.monotonic()
            if now_s - asked_s > HEALTH_BOUND_S:
                self.ledger.add_violation(f"/healthz did not answer for {now_s - asked_s:.0f} s")
                asked_s = now_s
            self.ledger.add_delay(now_s, now_s - began_s)
            await asyncio.sleep(0.3)

    async def _disturb(self, until_s: float) -> None:
        r, number = Random(f"{self._seed}:disturb"), 0
        process_faults_until_s = until_s - self._seconds * (1 - DISTURBED_SHARE)
        while (now_s := time.monotonic()) < until_s - 2:
            number += 1
            server_faults = ["outage", "revoke", "storm", "rotate"]
            process_faults = ["kill", "kill", "reload", "move", "pause"]
            kind = r.choice(server_faults + process_faults)
            gap_s = 2 + 6 * r.random()
            if now_s < process_faults_until_s or kind in server_faults:
                self.ledger.events[kind] += 1
                await self._do(kind, r, number)
            await asyncio.sleep(min(gap_s, max(0.0, until_s - time.monotonic())))

    async def _do(self, kind: str, r: Random, number: int) -> None:
        pids = self._gatepass.pids
        victim = r.choice(pids) if pids else 0
        if kind == "outage":
            self._servers.issuer.outage_until_s = time.monotonic() + r.choice((2, 8, 30))
        elif kind == "revoke":
            self._servers.upstream.revoke()
        elif kind == "rotate":
            self._gatepass.rotate()
        elif kind == "reload":
            self._gatepass.reload()
        elif kind == "move":
            self._gatepass.configure()
            self._gatepass.reload()
        elif kind == "storm":
            await asyncio.gather(*(self._clients.one(f"storm-{number}-{one}", "burst") for one in range(STORM)))
        elif victim and kind == "kill":
            if not all([await is_ready(port) for port in self._gatepass.ports]):
                return  # one still starts after its kill: nothing would answer
            killed_s = time.monotonic()
            self.ledger.kills_s.append((killed_s, math.inf))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            await until(lambda: victim not in self._gatepass.pids, BOUND_S)
            self.ledger.kills_s[-1] = killed_s, time.monotonic()
        elif victim:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGSTOP)
            await asyncio.sleep(2.0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)

    async def _settle(self) -> None:
        """Wait until requests, descriptors and connections are at their idle values, at most QUIET_BOUND_S."""
        until_s, unsettled = time.monotonic() + QUIET_BOUND_S, ["unknown"]
        while unsettled and time.monotonic() < until_s:
            await asyncio.sleep(2.0)
            unsettled = await self._unsettled()
        for what in unsettled:
            self.ledger.add_violation(f"after quiet: {what}")

    async def _unsettled(self) -> list[str]:
        self._after = self._gatepass.floors()
        found = []
        most, largest = (max(one[at] for one in self._before) for at in (1, 2))
        for pid, descriptors, memory in self._after:
            if descriptors > most + SPARE_DESCRIPTORS:
                found.append(f"replica {pid} has {descriptors} descriptors, {most} before")
            if memory > largest + SPARE_MIB:
                found.append(f"replica {pid} has {memory} MiB, {largest} before")
        if len(self._after) != REPLICAS:
            found.append(f"{len(self._after)} replicas")
        if (count := self._servers.by_name["upstream"].open) > 2 * SPARE_DESCRIPTORS:
            found.append(f"{count} connections to the upstream")
        for port in self._gatepass.ports:
            response = await Clients(port, self._gatepass.key, self.ledger, self._seed).page("/metrics")
            values = re.findall(rb"^gatepass_requests_in_flight(?:{[^}]*})? (\S+)", response.body, re.MULTILINE)
            if not values or any(float(value) for value in values):
                found.append(f"requests in flight: {values}")
        return found

    def _report(self, violations: Sequence[str]) -> None:
        ledger, faults = self.ledger, self.ledger.faults
        print(f"chaos: seed {self._seed}, {self._seconds:g} s, {self._clients.operations} client operations")
        for title, counts in (("clients and disturbances", ledger.events), ("outcomes", ledger.outcomes)):
            print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        for side in ("issuer", "token", "upstream"):
            found = {name: count for name, count in faults.items() if name.startswith(f"{side} ")}
            shown = ", ".join(f"{name.partition(' ')[2]} {count}" for name, count in sorted(found.items()))
            print(f"{side} ({sum(found.values())}): {shown}")
        print(f"tokens that arrived after their end, those within the tolerance too: {ledger.late}")
        for title, floors in (("before", self._before), ("after quiet", self._after)):
            shown = "; ".join(f"{fds} descriptors, {memory} MiB" for _, fds, memory in floors)
            print(f"replicas {title}: {shown}")
        for what in violations[:20]:
            print(f"VIOLATION {what}")
        print(f"violations: {len(violations)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress.chaos", description="Inject faults everywhere at once."
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep", type=Path, help="a folder for the log of gatepass")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(options.seed, options.seconds, Path(folder))
        is_ok = chaos.run()
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / "gatepass.log").write_bytes((Path(folder) / "log").read_bytes())
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
