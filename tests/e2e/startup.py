"""Measure the start of gatepass: `python -m tests.e2e.startup` prints three medians.

- Import time is the time of all imports of `gatepass serve` in a new interpreter.
- Time to ready is the time from the start of the process to the first reply of `/healthz`.
- Idle memory is the resident and proportional set of that process without load (Linux).

The measured interpreter is `.e2e/python-gatepass`, which has only the run-time dependencies, as users install them.
Without it, the interpreter of this script is measured. Its further packages add to the figures.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.e2e.servers import INSTALLED, ROOT, ask, listening, serve

RUNS = 5
READY_S = 30.0
KIB = 1024
RUNTIME_PYTHON = INSTALLED / "python-gatepass" / "bin" / "python"
PYTHON = RUNTIME_PYTHON if RUNTIME_PYTHON.exists() else Path(sys.executable)
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""Otherwise the modules are compiled at each start, in 0.2 s."""
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


def import_s() -> float:
    environment = os.environ | COMPILED | {"PYTHONPATH": str(ROOT / "src")}
    return float(subprocess.check_output([PYTHON, "-c", IMPORT], timeout=READY_S, env=environment))


def memory_bytes(pid: int) -> dict[str, int]:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return {name: int(size) * KIB for name, size in re.findall(r"^(Rss|Pss):\s+(\d+) kB", rollup, re.MULTILINE)}


def measure(config: Path) -> Startup:
    imported_s, began = import_s(), time.perf_counter()
    with serve(config, python=PYTHON, **COMPILED) as process:
        ask(f"{listening(process)}/healthz")
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
    print(f"gatepass serve by {os.path.relpath(PYTHON)}, median of {RUNS}: {measured()}")
