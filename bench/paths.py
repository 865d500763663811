"""Paths of the rig: files of the repository, and generated files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
PEERS = BENCH / "peers"
REQUIREMENTS = BENCH / "requirements"
PAGE = ROOT / "docs" / "benchmarks.md"
PUBLISHED = BENCH / "results.json"
"""The figures of the last complete run, from which PAGE is written."""

GENERATED = ROOT / ".e2e" / "bench"
"""Generated files. Git ignores them and `make clean` removes them."""
BINARIES = GENERATED / "bin"
BODIES = GENERATED / "bodies"
ENVIRONMENTS = GENERATED / "env"
LOGS = GENERATED / "logs"
RESULTS = GENERATED / "results"
SCRATCH = GENERATED / "scratch"
TLS = GENERATED / "tls"
CA_FILE = TLS / "ca.pem"


def python_of(environment: str) -> Path:
    return ENVIRONMENTS / environment / "bin" / "python"
