"""Sessions end by time, by logout and with their number, in memory and in a folder of several workers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gatepass.server.ui.sessions import LIFE_S, MOST_SESSIONS, FolderSessions, MemorySessions, Sessions, SessionStore

DIGEST = b"\0" * 31 + b"\xff"


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    return MemorySessions() if request.param == "memory" else FolderSessions(tmp_path / "sessions")


def test_a_session_lasts_eight_hours(store: SessionStore):
    sessions = Sessions(store)
    session_id = sessions.begin("alice", DIGEST, 1000.0)
    found = sessions.find(session_id, 1000.0 + LIFE_S - 1)
    assert found is not None
    assert (found.caller, found.key_digest) == ("alice", DIGEST)
    assert sessions.find(session_id, 1000.0 + LIFE_S) is None
    assert len(session_id) >= 43


def test_a_logout_ends_one_session(store: SessionStore):
    sessions = Sessions(store)
    first, second = (sessions.begin("alice", DIGEST, 0.0) for _ in range(2))
    sessions.end(first)
    sessions.end(first)
    assert sessions.find(first, 1.0) is None
    assert sessions.find(second, 1.0) is not None


@pytest.mark.parametrize("session_id", ["", "x", "../alive", "\0", "\ud800", "a" * 10_000])
def test_an_unknown_id_is_no_session(store: SessionStore, session_id: str):
    sessions = Sessions(store)
    sessions.begin("alice", DIGEST, 0.0)
    assert sessions.find(session_id, 1.0) is None
    sessions.end(session_id)


def test_the_number_of_sessions_is_bounded_and_ended_ones_make_room(store: SessionStore):
    sessions = Sessions(store)
    first = sessions.begin("alice", DIGEST, 0.0)
    ids = [sessions.begin("alice", DIGEST, 1.0) for _ in range(MOST_SESSIONS)]
    assert sessions.find(first, 2.0) is None
    assert all(sessions.find(one, 2.0) for one in ids)
    sessions.begin("alice", DIGEST, 2.0 + LIFE_S)
    assert len(store.names()) == 1


def test_workers_share_a_folder_that_holds_no_id(tmp_path: Path):
    folder = tmp_path / "sessions"
    one, other = Sessions(FolderSessions(folder)), Sessions(FolderSessions(folder))
    session_id = one.begin("alice", DIGEST, 0.0)
    assert other.find(session_id, 1.0) is not None
    (file,) = folder.iterdir()
    assert session_id not in file.name
    assert session_id.encode() not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("{")
    assert other.find(session_id, 1.0) is None
    one.begin("bob", DIGEST, 1.0)
    assert not file.exists()
    other.end(session_id)
