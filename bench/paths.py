"""Where things stand: the repository's own files, and what the rig makes."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
PEERS = BENCH / "peers"
REQUIREMENTS = BENCH / "requirements"
PAGE = ROOT / "docs" / "benchmarks.md"
PUBLISHED = BENCH / "results.json"
"""The figures of the last whole run, from which PAGE is written."""

MADE = ROOT / ".e2e" / "bench"
"""All that the rig makes; git ignores it and `make clean` removes it."""
BINARIES = MADE / "bin"
BODIES = MADE / "bodies"
ENVIRONMENTS = MADE / "env"
LOGS = MADE / "logs"
RESULTS = MADE / "results"
SCRATCH = MADE / "scratch"
TLS = MADE / "tls"
CA_FILE = TLS / "ca.pem"


def python_of(environment: str) -> Path:
    return ENVIRONMENTS / environment / "bin" / "python"
