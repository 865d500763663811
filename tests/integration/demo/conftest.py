from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.demo.standin import Program, program_in


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return program_in(tmp_path, monkeypatch)
