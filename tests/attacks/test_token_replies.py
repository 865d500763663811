"""A fetch returns a bearer token for the configured audience, or fails with FetchFailure."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import REPLY_BYTES
from gatepass.tokens.lifetime import Token, claims_of
from gatepass.tokens.token_reply import TokenReplyFormat, parse_token_response
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.unit.tokens.scripted import signed, timed_response

NOW = 1_800_000_000.0
AUDIENCE = "https://llm.corp.example/"
TERMS = TokenReplyFormat("sso", 240.0, 3600.0, credential="corp", audience=AUDIENCE, plain_text=True)
LONGEST_REASON = 700
SENDABLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/=")


TOKEN_NAMES = {"access_token", "token", "jwt"}


def cased(words: list[str]) -> st.SearchStrategy[str]:
    """Words in any case, with white space around them."""
    flips = st.lists(st.booleans(), min_size=12, max_size=12)
    pads = st.sampled_from(["", " ", "\t", "\n "])
    return st.builds(
        lambda word, ups, before, after: (
            before + "".join(c.upper() if up else c for c, up in zip(word, ups, strict=False)) + after
        ),
        st.sampled_from(words),
        flips,
        pads,
        pads,
    )


scraps = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=12))
types = st.one_of(cased(["mac", "dpop", "pop", "bearer", "bearertoken", "n_a", "none"]), scraps)
audiences = st.one_of(
    st.sampled_from([AUDIENCE, AUDIENCE[:-1], AUDIENCE.upper(), "account"]),
    st.lists(st.one_of(st.sampled_from([AUDIENCE, "account"]), scraps), max_size=3),
    scraps,
    st.dictionaries(st.text(max_size=3), scraps, max_size=1),
)
claims = st.fixed_dictionaries(
    {"exp": st.one_of(st.just(NOW + 300), scraps)},
    optional={"iat": st.one_of(st.just(NOW), scraps), "nbf": scraps, "aud": audiences},
)
tokens = st.one_of(
    claims.map(lambda reported: signed_or_not(reported)),
    st.sampled_from(["abc", "Bearer abc", "a\r\nx-evil: 1", "", "null", "a b"]),
    scraps,
)


def signed_or_not(reported: dict[str, Any]) -> str:
    try:
        return signed(**reported)
    except (TypeError, ValueError, OverflowError):  # PyJWT writes no such claims
        return "eyJhbGciOiJub25lIn0.e30.x"


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """A token reply: the token and its type, at the root or in an envelope, each in its own place."""
    document: dict[str, Any] = {}
    places = [document]
    if draw(st.booleans()):
        places.append(document.setdefault(draw(st.sampled_from(["data", "result", "token"])), {}))
    at = st.sampled_from(places)
    draw(at)[draw(st.sampled_from(sorted(TOKEN_NAMES)))] = draw(tokens)
    for names, values in (
        (["token_type", "tokenType"], types),
        (["expires_in", "expires_at", "expires"], scraps),
        (["code", "error", "status", "success"], scraps),
    ):
        if draw(st.booleans()):
            draw(at)[draw(st.sampled_from(names))] = draw(values)
    return document


def types_reported(document: Any) -> list[str]:
    """Return the types next to the token, or at the root if there are none."""
    boxes = [
        document,
        *(value for value in document.values() if isinstance(value, dict) and TOKEN_NAMES & value.keys()),
    ]
    return [
        box[name].strip().lower() for box in boxes for name in ("token_type", "tokenType") if is_reported(box, name)
    ]


def is_reported(box: dict[str, Any], name: str) -> bool:
    return isinstance(box.get(name), str) and bool(box[name].strip())


def is_kept(document: Any, minted: Token) -> bool:
    """Return whether a token out of `document` may be sent as a bearer token."""
    reported = types_reported(document)
    if reported and all(kind in ("mac", "dpop", "pop") for kind in reported):
        return False
    named = (claims_of(minted.text) or {}).get("aud")
    named = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    named = [name for name in named if isinstance(name, str)]
    if named and AUDIENCE not in named:
        return False
    return set(minted.text) <= SENDABLE and (minted.lifetime_s is None or minted.lifetime_s > 0)


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


@pytest.mark.attack("token replies: type, audience, shape")
@generated
@given(documents())
@example(CORPUS[0])
@example(CORPUS[3])
@example(CORPUS[7])
def test_token_found_in_a_reply_can_be_sent(attack: Attack, document: Any) -> None:
    attack.cases += 1
    reply = timed_response(200, ((b"content-type", b"application/json"),), json.dumps(document).encode(), wall_s=NOW)
    with attack.on_loop():
        found = outcome(lambda: parse_token_response(reply, TERMS))
    if isinstance(found, Token):
        attack.check(is_kept(document, found), document)
    else:
        attack.check(len(found.reason) <= LONGEST_REASON and found.reason.isprintable(), document)


@pytest.mark.parametrize("document", CORPUS)
@pytest.mark.attack("token replies: type, audience, shape")
def test_reply_with_an_unusable_token_is_a_definite_failure(attack: Attack, document: Any) -> None:
    attack.cases += 1
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
    attack.cases += 1
    with attack.on_loop():
        outcome(lambda: parse_token_response(timed_response(200, (), body), TERMS))
    with attack.memory(allowed_bytes=16 * REPLY_BYTES):
        found = outcome(lambda: parse_token_response(timed_response(200, (), body), TERMS))
    attack.check(not isinstance(found, FetchFailure) or len(found.reason) <= LONGEST_REASON, body[:80])
