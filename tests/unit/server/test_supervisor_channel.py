from __future__ import annotations

import importlib.util
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepass.server import supervisor as channel_module
from gatepass.server.supervisor import KEY_BYTES, STORE, channel


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """No shared memory: the returned path does not exist, and tempfile picks another folder."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return str(tmp_path / "none")


def test_in_shared_memory_tokens_are_shared_without_a_key(listening, tmp_path):
    with channel(listening, str(tmp_path)) as made:
        assert (made.folder / STORE).stat().st_mode & 0o777 == 0o700
        assert made.key == b""


def test_on_a_disk_tokens_are_shared_with_a_key_that_a_worker_reads_once(listening, disk):
    with channel(listening, disk) as made:
        assert (made.folder / STORE).is_dir()
        assert len(made.key) == KEY_BYTES
        with made.descriptors() as (_, _, key):
            assert os.read(key, 100) == made.key
        assert repr(made.key) not in repr(made)


def test_on_a_disk_without_the_library_tokens_are_not_shared_and_that_is_logged(listening, disk, monkeypatch, caplog):
    found = importlib.util.find_spec
    monkeypatch.setattr(channel_module, "find_spec", lambda name: None if name == "cryptography" else found(name))
    with caplog.at_level(logging.WARNING), channel(listening, disk) as made:
        assert not (made.folder / STORE).exists()
    (record,) = caplog.records
    assert record.message == "tokens_not_shared"
    assert "refresh tokens are not shared" in record.__dict__["fields"]["reason"]
    assert disk in record.__dict__["fields"]["reason"]
