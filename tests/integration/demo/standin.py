"""Programs in the place of gatepass, which behave as it must not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LINE = '{"ts":"2026-01-01T00:00:00.000Z","level":"info","event":"listening","url":"http://127.0.0.1:5"}'
READY = f"print({LINE!r}, file=sys.stderr, flush=True)"

Program = Callable[..., None]
"""Takes the lines of a Python script that will be started as gatepass would be."""


def program_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    def put(*lines: str) -> None:
        path = folder / "stand-in"
        path.write_text("\n".join([f"#!{sys.executable}", "import os, pathlib, signal, sys, time", *lines]))
        path.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(path))

    return put
