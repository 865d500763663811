from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepass.server.supervisor import STORE, channel


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """No shared memory: the returned path does not exist, and tempfile picks another folder."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return str(tmp_path / "none")


def test_in_shared_memory_tokens_are_shared(listening, tmp_path):
    with channel(listening, str(tmp_path)) as made:
        assert (made.folder / STORE).stat().st_mode & 0o777 == 0o700


def test_on_a_disk_tokens_are_not_shared_and_that_is_logged(listening, disk, caplog):
    with caplog.at_level(logging.WARNING), channel(listening, disk) as made:
        assert not (made.folder / STORE).exists()
    (record,) = caplog.records
    assert record.message == "tokens_not_shared"
    assert "refresh tokens are not shared" in record.__dict__["fields"]["reason"]
    assert disk in record.__dict__["fields"]["reason"]
