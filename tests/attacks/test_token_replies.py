"""A reply whose token must not be sent is a FetchFailure, and a reply of any shape is read at once."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import REPLY_BYTES
from gatepass.tokens.lifetime import Token
from gatepass.tokens.token_reply import TokenReplyFormat, parse_token_response
from tests.attacks.conftest import Attack
from tests.unit.tokens.scripted import signed, timed_response

NOW = 1_800_000_000.0
AUDIENCE = "https://llm.corp.example/"
TERMS = TokenReplyFormat("sso", 240.0, credential="corp", audience=AUDIENCE, plain_text=True)
LONGEST_REASON = 700


def outcome(work: Callable[[], Token]) -> Token | FetchFailure:
    """Anything but a FetchFailure is a bug, and fails the test."""
    try:
        return work()
    except FetchFailure as failure:
        return failure


CORPUS = [
    {"access_token": "abc", "token_type": "mac"},
    {"access_token": "abc", "token_type": "DPoP"},
    {"access_token": "abc", "token_type": " PoP\n"},
    {"data": {"token": "abc"}, "token_type": "pop"},
    {"data": {"token": "abc", "tokenType": "MAC"}},
    {"access_token": signed(exp=NOW + 300, aud="account")},
    {"access_token": signed(exp=NOW + 300, aud=["account", 5])},
    {"access_token": "Bearer " + signed(exp=NOW + 300, aud=[AUDIENCE[:-1]])},
    {"access_token": signed(aud="account"), "expires_in": 300},
]
"""Replies whose token must not be sent."""


@pytest.mark.parametrize("document", CORPUS)
@pytest.mark.attack("token replies: type, audience, shape")
def test_reply_with_an_unusable_token_is_a_definite_failure(attack: Attack, document: Any) -> None:
    found = outcome(lambda: parse_token_response(timed_response(200, (), json.dumps(document).encode()), TERMS))
    attack.check(isinstance(found, FetchFailure) and found.is_refused, document)


BIG = {
    "nested arrays": b'{"access_token":' + b"[" * (REPLY_BYTES // 2),
    "nested objects": b'{"a":' * (REPLY_BYTES // 5),
    "many members": b'{"access_token":"a",' + b'"x":1,' * (REPLY_BYTES // 6) + b'"y":1}',
    "one long token": b'{"access_token":"' + b"a" * (REPLY_BYTES - 30) + b'"}',
    "dots of a JWT": b'{"access_token":"' + b"." * (REPLY_BYTES - 30) + b'"}',
    "a long type": b'{"access_token":"a","token_type":"' + b"x" * (REPLY_BYTES - 60) + b'"}',
    "a long number": b'{"access_token":"a","expires_in":' + b"9" * 4000 + b"}",
    "many audiences": json.dumps({"access_token": signed(aud=["x"] * 9000)}).encode()[:REPLY_BYTES],
}


@pytest.mark.parametrize("body", BIG.values(), ids=BIG.keys())
@pytest.mark.attack("token replies: size")
def test_a_reply_of_64_kib_in_any_shape_is_read_at_once(attack: Attack, body: bytes) -> None:
    """Sixteen times the reply: its text, the document, a token decoded, and 200 characters of it in a reason."""
    with attack.on_loop():
        outcome(lambda: parse_token_response(timed_response(200, (), body), TERMS))
    with attack.memory(allowed_bytes=16 * REPLY_BYTES):
        found = outcome(lambda: parse_token_response(timed_response(200, (), body), TERMS))
    attack.check(not isinstance(found, FetchFailure) or len(found.reason) <= LONGEST_REASON, body[:80])
