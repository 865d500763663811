"""A reply of any shape is read at once."""

import json
from collections.abc import Callable

import pytest

from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import REPLY_BYTES
from gatepass.tokens.lifetime import Token
from gatepass.tokens.token_reply import TokenReplyFormat, parse_token_response
from tests.attacks.conftest import Attack
from tests.unit.tokens.scripted import signed, timed_response

TERMS = TokenReplyFormat("sso", 240.0, credential="corp", plain_text=True)
LONGEST_REASON = 700


def outcome(work: Callable[[], Token]) -> Token | FetchFailure:
    """Anything but a FetchFailure is a bug, and fails the test."""
    try:
        return work()
    except FetchFailure as failure:
        return failure


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
