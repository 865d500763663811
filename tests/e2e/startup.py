"""Measure the start of gatepass: `python tests/e2e/startup.py` prints three medians.

- Import time is the time of all imports of `gatepass serve` in a new interpreter.
- Time to ready is the time from the start of the process to the first reply of `/healthz`.
- Idle memory is the resident and proportional set of that process without load (Linux).

The measured interpreter is `.e2e/python-gatepass`, which has only the run-time dependencies, as users install them.
Without it, the interpreter of this script is measured. Its further packages add to the figures.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

RUNS = 5
READY_S = 30.0
STOP_S = 20.0
KIB = 1024
ROOT = Path(__file__).parent.parent.parent
RUNTIME_PYTHON = ROOT / ".e2e" / "python-gatepass" / "bin" / "python"
CONFIG = """
credentials: {fixed: {type: static, token: a-key}}
upstreams: {chat: {base_url: "http://127.0.0.1:9/v1", credential: fixed}}
models: {"*": {upstream: chat}}
"""
IMPORT = (
    "import time; s = time.perf_counter(); import gatepass.server.app, gatepass.cli; print(time.perf_counter() - s)"
)


@dataclass(frozen=True, slots=True)
class Startup:
    import_s: float
    ready_s: float
    resident_bytes: int
    proportional_bytes: int

    def __str__(self) -> str:
        mb = 1_000_000
        return (
            f"import {self.import_s:.3f} s, ready {self.ready_s:.3f} s, idle "
            f"{self.resident_bytes / mb:.1f} MB resident ({self.proportional_bytes / mb:.1f} MB proportional)"
        )


def interpreter() -> str:
    return str(RUNTIME_PYTHON) if RUNTIME_PYTHON.exists() else sys.executable


def environment() -> dict[str, str]:
    """Return the environment without PYTHON variables: PYTHONDONTWRITEBYTECODE would add 0.2 s to each start."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("GATEPASS_", "PYTHON"))}
    return plain | {"PYTHONPATH": str(ROOT / "src")}


def import_s() -> float:
    command = [interpreter(), "-c", IMPORT]
    return float(subprocess.check_output(command, timeout=READY_S, env=environment()))


@contextmanager
def serving(config: Path) -> Iterator[subprocess.Popen[str]]:
    """Start gatepass, and kill it after READY_S at the latest."""
    command = [interpreter(), "-m", "gatepass", "serve", "--config", str(config), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())
    guard = threading.Timer(READY_S, process.kill)
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        process.terminate()
        process.communicate(timeout=STOP_S)


def address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    output = []
    for line in process.stderr:
        output.append(line)
        if found := re.search(r'"event":"listening","url":"(http://[^"]+)"', line):
            return found[1]
    raise RuntimeError("gatepass did not start:\n" + "".join(output))


def memory_bytes(pid: int) -> dict[str, int]:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return {name: int(size) * KIB for name, size in re.findall(r"^(Rss|Pss):\s+(\d+) kB", rollup, re.MULTILINE)}


def measure(config: Path) -> Startup:
    imported_s, began = import_s(), time.perf_counter()
    with serving(config) as process:
        with urllib.request.urlopen(f"{address(process)}/healthz", timeout=READY_S) as reply:  # noqa: S310 - loopback
            reply.read()
        ready_s = time.perf_counter() - began
        memory = memory_bytes(process.pid)
    return Startup(imported_s, ready_s, memory["Rss"], memory["Pss"])


def measured(runs: int = RUNS) -> Startup:
    """Return the median of each figure."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "gatepass.yaml"
        config.write_text(CONFIG, encoding="utf-8")
        startups = [measure(config) for _ in range(runs)]
    return Startup(
        median(startup.import_s for startup in startups),
        median(startup.ready_s for startup in startups),
        int(median(startup.resident_bytes for startup in startups)),
        int(median(startup.proportional_bytes for startup in startups)),
    )


if __name__ == "__main__":
    print(f"gatepass serve by {os.path.relpath(interpreter())}, median of {RUNS}: {measured()}")
