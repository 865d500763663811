"""A candidate that is started and measured."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from bench.candidates import CLIENT_KEY, Candidate, Launcher
from bench.paths import BINARIES, BODIES, LOGS
from bench.processes import Child, cpu_s, free_port, proportional_bytes, tree
from bench.rig import Rig
from bench.sample import Sample
from bench.workloads import CHAT, Workload

READY_S = 90.0
POLL_S = 0.005
SETTLE_S = 0.5
WARMUP_REQUESTS = 20
LOAD_GRACE_S = 60.0


class NotReady(Exception):
    """A candidate did not start. The text contains its last output."""


class Instance:
    """`ready_s`: from the start of the process to its first answered chat. `idle_bytes`: its memory afterwards."""

    def __init__(self, candidate: Candidate, rig: Rig) -> None:
        """Start the candidate; raise SetupFailed or NotReady."""
        self.candidate = candidate
        self.ready_s, self.idle_bytes = 0.0, 0
        self._rig = rig
        self._child: Child | None = None
        self.port = rig.ports.mock
        self._fields: Mapping[str, str] = {}
        if candidate.launch is not None:
            self._start(candidate.launch)
        with self._stopped_on_failure():
            for _ in range(WARMUP_REQUESTS):
                self.ask("chat")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    @contextmanager
    def _stopped_on_failure(self) -> Iterator[None]:
        """Stop the process if the start fails: the `with` block has not begun then."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    @property
    def pids(self) -> list[int]:
        return tree(self._child.pid) if self._child is not None else []

    def _start(self, launcher: Launcher) -> None:
        self.port = free_port()
        launch = launcher(self._rig.ports, self.port)
        self._fields = launch.fields
        log = LOGS / f"{self.candidate.name}.log"
        began_s = time.monotonic()
        reader_core = self._rig.rig_core if self.candidate.has_reader else None
        self._child = Child(launch.command, self._rig.gateway_core, log, launch.env, reader_core)
        with self._stopped_on_failure():
            self._await_ready(self._child, began_s)
        self.ready_s = time.monotonic() - began_s
        time.sleep(SETTLE_S)
        self.idle_bytes = proportional_bytes(self.pids)

    def _await_ready(self, child: Child, began_s: float) -> None:
        while True:
            try:
                self.ask("chat")
            except OSError as error:
                if child.ended or time.monotonic() - began_s > READY_S:
                    raise NotReady(f"did not start: {child.tail() or error} (see {child.log.name})") from error
                time.sleep(POLL_S)
            else:
                return

    def ask(self, body: str) -> bytes:
        """Send one chat with the body of that name and return the reply; raise OSError."""
        return self._ask(CHAT, (BODIES / f"{body}.json").read_bytes())

    def served(self) -> list[str]:
        """Return gatepass's metrics of the requests that it served."""
        text = self._ask("/metrics", None).decode()
        return [line for line in text.splitlines() if line.startswith("gatepass_requests_total")]

    def log_lines(self) -> list[str]:
        return self._child.log.read_text(encoding="utf-8").splitlines() if self._child is not None else []

    def _ask(self, path: str, body: bytes | None) -> bytes:
        headers = {"content-type": "application/json", "authorization": f"Bearer {CLIENT_KEY}", **self._fields}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310 - loopback
            content: bytes = reply.read()
            return content

    def measure(self, workload: Workload, seconds: float) -> Sample:
        """Measure one window of `workload`; raise NotReady if the load generator could not measure."""
        gateway, rig = self.pids, self._rig.processes()
        before = after = (0.0, 0.0)
        memory_bytes, output = 0, None
        with self._load(workload, seconds) as load:
            for line in load.stdout or ():
                if line.startswith("MARK start"):
                    before = cpu_s(gateway), cpu_s(rig)
                elif line.startswith("MARK end"):
                    after, memory_bytes = (cpu_s(gateway), cpu_s(rig)), proportional_bytes(gateway)
                else:
                    output = json.loads(line)
            note = load.stderr.read().strip()[:300] if load.stderr else ""
        if output is None:
            raise NotReady(f"{workload.name}: no measurement: {note}")
        return Sample.read(output, after[0] - before[0], after[1] - before[1], memory_bytes, note)

    def _load(self, workload: Workload, seconds: float) -> subprocess.Popen[str]:
        window_s = workload.window_s or seconds
        bound_s = workload.warmup_s + window_s + LOAD_GRACE_S
        command = ["taskset", "-c", str(self._rig.rig_core), "timeout", str(bound_s), str(BINARIES / "load")]
        command += ["-p", str(self.port), "-u", workload.path, "-b", str(BODIES / f"{workload.body}.json")]
        command += ["-c", str(workload.connections), "-w", str(workload.warmup_s), "-d", str(window_s)]
        command += ["-r", str(workload.ramp_ms), "-k", CLIENT_KEY, *(["-1"] if workload.once else [])]
        command += [word for name, value in self._fields.items() for word in ("-f", f"{name}: {value}")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
