from __future__ import annotations

from base64 import urlsafe_b64encode
from contextlib import suppress

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.tokens.lifetime import MAX_CLAIM_CHARS, SAFE_CLAIMS, claims_of, safe_claims

NOW_S = 1_760_000_000.0
KEY = "a-key-of-a-test-that-is-long-enough-for-hs256"


def signed(**claims: object) -> str:
    return jwt.encode(claims, KEY, algorithm="HS256")


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        *("", "opaque", "a.b", "a.b.c", "..", "a.b.c.d.e", "é.é.é", "e30.e30", "e30.e30.e", ".e30.e30", "e30..e30"),
        *(f"{b64(header)}.{b64(claims)}.c2ln" for header, claims in [(b"[]", b"{}"), (b"{}", b"[]"), (b"{", b"{}")]),
        *(f"e30.{b64(claims)}.c2ln" for claims in (b"{", b"\xff\xfe", b"[" * 100_000, b'"text"', b"1", b"null", b"")),
    ],
)
def test_text_that_is_not_a_jwt_has_no_claims(text):
    assert claims_of(text) is None


PARTS = st.sampled_from(["", "e30", "e30=", "e3", "W10", "bnVsbA", "eyJhIjoxfQ", "eyJhIjoxfQ==", "e}0", "-_-_", "*"])


@given(st.lists(PARTS | st.text(alphabet="eyJhIjoxfQ0-_=.+/ ", max_size=12), min_size=2, max_size=4).map(".".join))
def test_claims_are_those_that_pyjwt_reads(text):
    """PyJWT alone looks at the last bits of base64, which RFC 4648 3.5 leaves open."""
    found = claims_of(text)
    with suppress(jwt.PyJWTError):
        assert found == jwt.decode(text, options={"verify_signature": False})


def test_safe_claims_are_shown_in_their_order_and_no_others():
    claims = {name: f"the {name}" for name in ("tid", "scp", "azp", "appid", "client_id", "aud", "iss", "scope")}
    private = {"email": "someone@corp.example", "name": "Some One", "groups": ["a"], "jti": "1", "act": {}}
    shown = safe_claims(signed(**private, **claims), NOW_S)
    assert shown == claims
    assert list(shown) == [name for name in SAFE_CLAIMS if name in claims]


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"sub": "bot", "azp": "bot"}, "bot"),
        ({"sub": "bot", "cid": "bot"}, "bot"),
        ({"sub": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ({"sub": "system:serviceaccount:llm:gatepass"}, "system:serviceaccount:llm:gatepass"),
        ({"sub": "spiffe://corp.example/ns/llm/sa/gatepass"}, "spiffe://corp.example/ns/llm/sa/gatepass"),
        ({"sub": "abcDEF@clients"}, "abcDEF@clients"),
        ({"sub": "alice.smith@corp.example"}, "not shown, 24 characters: it may be a person's name"),
        ({"sub": "alice.smith", "azp": "bot"}, "not shown, 11 characters: it may be a person's name"),
    ],
)
def test_subject_is_shown_if_it_is_a_client(claims, shown):
    assert safe_claims(signed(**claims), NOW_S)["sub"] == shown


def test_a_subject_that_is_no_text_is_not_shown():
    text = b64(b'{"alg":"HS256"}') + "." + b64(b'{"sub":{"name":"Alice"}}') + ".c2ln"
    assert "Alice" not in str(safe_claims(text, NOW_S))


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"iat": int(NOW_S) - 3}, {"iat": "2025-10-09 08:53:17Z (3 s ago)"}),
        ({"nbf": int(NOW_S)}, {"nbf": "2025-10-09 08:53:20Z (in 0 s)"}),
        ({"exp": int(NOW_S) + 300}, {"exp": "2025-10-09 08:58:20Z (in 300 s)"}),
        *(({"exp": number}, {"exp": str(number)}) for number in (10**18, -(10**30))),
        *(({"exp": moment}, {"exp": text}) for moment, text in ((True, "true"), ("soon", "soon"), (None, "null"))),
        ({"exp": [1]}, {"exp": "[1]"}),
        ({"aud": ["a", "b"], "scope": "x" * 1000}, {"aud": '["a", "b"]', "scope": "x" * MAX_CLAIM_CHARS + "…"}),
        ({"iss": "a\x1b[2Jb\nc"}, {"iss": "a?[2Jb?c"}),
    ],
)
def test_times_are_shown_in_utc_and_relative_to_this_machines_clock_and_others_as_one_line(claims, shown):
    assert safe_claims(signed(**claims), NOW_S) == shown
