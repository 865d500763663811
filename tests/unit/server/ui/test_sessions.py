"""Sessions end by time and with a sign-out of their caller, in memory and in a folder of several workers."""

import base64
import json
import stat
from pathlib import Path

import jwt
import pytest

from gatepass.server.ui.sessions import ALGORITHM, LIFE_S, Session, Sessions

DIGEST = b"\0" * 31 + b"\xff"


@pytest.fixture(params=["memory", "folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "sessions"


def test_a_session_lasts_eight_hours(folder: Path | None):
    sessions = Sessions(folder)
    cookie = sessions.begin("alice", DIGEST, 1000.0)
    assert sessions.find(cookie, 1000.0 + LIFE_S - 1) == Session("alice", DIGEST)
    assert sessions.find(cookie, 1000.0 + LIFE_S) is None


def test_a_sign_out_ends_the_sessions_of_its_caller_alone(folder: Path | None):
    sessions = Sessions(folder)
    cookies = [sessions.begin(name, DIGEST, 0.0) for name in ("alice", "alice", "bob")]
    sessions.end("alice")
    sessions.end("alice")
    assert [sessions.find(cookie, 1.0) is not None for cookie in cookies] == [False, False, True]
    again = sessions.begin("alice", DIGEST, 0.0)
    assert sessions.find(again, 1.0) is not None
    assert sessions.find(cookies[0], 1.0) is None


def test_sign_ins_of_one_caller_end_no_session_of_another_and_take_no_more_memory(tmp_path: Path):
    sessions = Sessions(tmp_path / "sessions")
    cookie = sessions.begin("admin", DIGEST, 0.0)
    for _ in range(1000):
        sessions.begin("viewer", DIGEST, 1.0)
    assert sessions.find(cookie, 2.0) is not None
    assert len([*(tmp_path / "sessions").iterdir()]) == 2


def forged(cookie: str, **claims: object) -> str:
    """Return `cookie` with other claims below its signature."""
    head, body, signature = cookie.split(".")
    held = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**held, **claims}).encode()).rstrip(b"=").decode()
    return f"{head}.{changed}.{signature}"


def test_a_cookie_that_gatepass_did_not_sign_is_no_session(folder: Path | None):
    sessions = Sessions(folder)
    cookie = sessions.begin("viewer", DIGEST, 0.0)
    sessions.begin("admin", DIGEST, 0.0)
    claims = {"sub": "admin", "key": DIGEST.hex(), "exp": LIFE_S}
    tries = ["", "x", "../alive", "\0", "\ud800", "a" * 10_000, "..", cookie[:-1], forged(cookie, sub="admin")]
    tries += [forged(cookie, exp=10**12), jwt.encode(claims, "", "none"), jwt.encode(claims, b"\0" * 32, ALGORITHM)]
    tries += [jwt.encode({**claims, "sub": sub}, b"\0" * 32, ALGORITHM) for sub in ("", "../../alive", "nobody")]
    assert [sessions.find(one, 1.0) for one in tries] == [None] * len(tries)
    assert Sessions().find(cookie, 1.0) is None, "another gatepass has other keys"


def test_workers_share_a_folder(tmp_path: Path):
    folder = tmp_path / "sessions"
    one, other = Sessions(folder), Sessions(folder)
    cookies = [one.begin("alice", DIGEST, 0.0), other.begin("alice", DIGEST, 0.0)]
    assert all(found.find(cookie, 1.0) for cookie in cookies for found in (one, other))
    (file,) = folder.iterdir()
    assert "alice" not in file.name
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other.end("alice")
    assert not any(found.find(cookie, 1.0) for cookie in cookies for found in (one, other))
