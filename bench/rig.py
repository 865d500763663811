"""The servers of a run, on the rig's core: the mock upstream, its TLS end and the issuer."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bench import environments
from bench.candidates import CLIENT_SECRET, Ports, tls_end
from bench.environments import SetupFailed
from bench.paths import BINARIES, LOGS, ROOT, SCRATCH
from bench.processes import Child, cores, free_port, tree
from bench.workloads import write_bodies

START_S = 10.0


@dataclass(frozen=True, slots=True)
class Rig:
    """The running servers. They share their core with the driver and the load generator."""

    ports: Ports
    pids: tuple[int, ...]
    gateway_core: int
    rig_core: int
    no_tls: str | None

    def processes(self) -> list[int]:
        """Return the processes of the servers with their children."""
        return [one for pid in self.pids for one in tree(pid)]

    def mock(self) -> dict[str, Any]:
        """Return the mock's counts and the details of its last request."""
        return read_json(f"http://127.0.0.1:{self.ports.mock}/__stats")

    def issuer(self) -> dict[str, Any]:
        return read_json(f"http://127.0.0.1:{self.ports.issuer}/minted")


def read_json(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=START_S) as reply:  # noqa: S310 - loopback
        document: dict[str, Any] = json.load(reply)
        return document


@contextmanager
def running() -> Iterator[Rig]:
    """Build what is missing and start the servers; raise SetupFailed or NotEnoughCores."""
    signal.signal(signal.SIGTERM, _stop)
    environments.programs()
    environments.certificate()
    write_bodies()
    for folder in (LOGS, SCRATCH):
        folder.mkdir(parents=True, exist_ok=True)
    gateway_core, rig_core = cores()
    os.sched_setaffinity(0, {rig_core})
    ports = Ports(free_port(), free_port(), free_port())
    no_tls = None
    with ExitStack() as stack:
        mock = stack.enter_context(Child((BINARIES / "mock", str(ports.mock)), rig_core, LOGS / "mock.log"))
        issuer = stack.enter_context(Child(*_issuer(ports.issuer, rig_core)))
        parts = [mock, issuer]
        try:
            launch = tls_end(ports.mock, ports.tls)
            parts.append(stack.enter_context(Child(launch.command, rig_core, LOGS / "tls-end.log")))
        except SetupFailed as reason:
            no_tls = str(reason)
        rig = Rig(ports, tuple(part.pid for part in parts), gateway_core, rig_core, no_tls)
        _await(rig)
        yield rig


def _stop(_: int, __: FrameType | None) -> NoReturn:
    """Raise SystemExit, so that the `with` blocks end the children."""
    sys.exit(1)


def _issuer(port: int, core: int) -> tuple[tuple[str | Path, ...], int, Path, dict[str, str]]:
    command = (sys.executable, "-m", "bench.issuer", str(port))
    return command, core, LOGS / "issuer.log", {"PYTHONPATH": str(ROOT), "BENCH_CLIENT_SECRET": CLIENT_SECRET}


def _await(rig: Rig) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            rig.mock(), rig.issuer()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
