"""Programs in the place of gatepass, which behave as it must not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

READY = "print('gatepass listening on http://127.0.0.1:5', file=sys.stderr, flush=True)"

Program = Callable[..., None]
"""Takes the lines of a Python script that will be started as gatepass would be."""


def program_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    def put(*lines: str) -> None:
        path = folder / "stand-in"
        path.write_text("\n".join([f"#!{sys.executable}", "import os, pathlib, signal, sys, time", *lines]))
        path.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(path))

    return put
