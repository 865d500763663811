"""Sessions end by time and with a sign-out of their caller."""

import base64
import json

import jwt

from gatepass.server.ui.sessions import ALGORITHM, LIFE_S, Session, Sessions

DIGEST = b"\0" * 31 + b"\xff"


def test_a_session_lasts_eight_hours():
    sessions = Sessions()
    cookie = sessions.begin("alice", DIGEST, 1000.0)
    assert sessions.find(cookie, 1000.0 + LIFE_S - 1) == Session("alice", DIGEST)
    assert sessions.find(cookie, 1000.0 + LIFE_S) is None


def test_a_sign_out_ends_the_sessions_of_its_caller_alone():
    sessions = Sessions()
    cookies = [sessions.begin(name, DIGEST, 0.0) for name in ("alice", "alice", "bob")]
    sessions.end("alice")
    sessions.end("alice")
    assert [sessions.find(cookie, 1.0) is not None for cookie in cookies] == [False, False, True]
    again = sessions.begin("alice", DIGEST, 0.0)
    assert sessions.find(again, 1.0) is not None
    assert sessions.find(cookies[0], 1.0) is None


def test_sign_ins_of_one_caller_end_no_session_of_another_and_take_no_more_memory():
    sessions = Sessions()
    cookie = sessions.begin("admin", DIGEST, 0.0)
    for _ in range(1000):
        sessions.begin("viewer", DIGEST, 1.0)
    assert sessions.find(cookie, 2.0) is not None
    assert len(sessions._keys) == 2


def forged(cookie: str, **claims: object) -> str:
    """Return `cookie` with other claims below its signature."""
    head, body, signature = cookie.split(".")
    held = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**held, **claims}).encode()).rstrip(b"=").decode()
    return f"{head}.{changed}.{signature}"


def test_a_cookie_that_gatepass_did_not_sign_is_no_session():
    sessions = Sessions()
    cookie = sessions.begin("viewer", DIGEST, 0.0)
    sessions.begin("admin", DIGEST, 0.0)
    claims = {"sub": "admin", "key": DIGEST.hex(), "exp": LIFE_S}
    tries = ["", "x", "../alive", "\0", "\ud800", "a" * 10_000, "..", cookie[:-1], forged(cookie, sub="admin")]
    tries += [forged(cookie, exp=10**12), jwt.encode(claims, "", "none"), jwt.encode(claims, b"\0" * 32, ALGORITHM)]
    tries += [jwt.encode({**claims, "sub": sub}, b"\0" * 32, ALGORITHM) for sub in ("", "../../alive", "nobody")]
    assert [sessions.find(one, 1.0) for one in tries] == [None] * len(tries)
    assert Sessions().find(cookie, 1.0) is None, "another gatepass has other keys"
