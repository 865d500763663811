from base64 import urlsafe_b64encode
from contextlib import suppress

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.tokens.lifetime import (
    MAX_CLAIM_CHARS,
    SAFE_CLAIMS,
    ExpiresAt,
    ExpiresIn,
    Freshness,
    LifetimeSource,
    Token,
    TokenKind,
    claims_of,
    freshness,
    jwt_lifetime_s,
    parse_expiry,
    refresh_at_s,
    safe_claims,
    stale_at_s,
    token_kind,
    without_extension,
)
from gatepass.types import Secret
from tests.unit.tokens.scripted import signed


def token(
    lifetime_s: float | None,
    *,
    born_s: float = 100.0,
    text: str = "abc",
    lifetime_source: LifetimeSource = LifetimeSource.REPLY,
) -> Token:
    return Token(Secret(text), born_s, lifetime_s, TokenKind.OPAQUE, lifetime_source)


@pytest.mark.parametrize(
    ("lifetime_s", "stale_after_s", "expires_after_s"),
    [(1, 0.8, 0.95), (5, 4, 4.75), (60, 48, 57), (100, 80, 95), (300, 240, 295), (3600, 2880, 3595)],
)
def test_stale_at_80_percent_and_expired_5_s_or_5_percent_before_the_end(lifetime_s, stale_after_s, expires_after_s):
    it = token(lifetime_s, born_s=0.0)
    ahead = 1e-9 * lifetime_s
    moments = {
        0.0: Freshness.FRESH,
        stale_after_s - ahead: Freshness.FRESH,
        stale_after_s: Freshness.STALE,
        expires_after_s - ahead: Freshness.STALE,
        expires_after_s: Freshness.EXPIRED,
        lifetime_s * 10.0: Freshness.EXPIRED,
    }
    assert {moment: freshness(it, moment, 0.0) for moment in moments} == moments


def test_a_token_is_refreshed_after_a_day_however_long_its_lifetime():
    week = token(7 * 86_400, born_s=0.0)
    assert (stale_at_s(week, 0.0), week.expires_s) == (0.8 * 86_400, 7 * 86_400 - 5.0)
    assert refresh_at_s(week, again=False, now=0.0, jitter=0.0) == 0.8 * 86_400


@pytest.mark.parametrize(
    ("now", "due"), [(100.0, 250.0), (340.0, 370.0), (396.0, 398.0), (399.5, 400.5), (500.0, 501.0)]
)
def test_reissued_token_is_fetched_again_after_half_of_its_rest(now, due):
    assert refresh_at_s(token(300), again=True, now=now, jitter=0.0) == due
    assert refresh_at_s(token(0.5), again=False, now=now, jitter=0.0) == 101.0, "a second after its own start"


def test_a_jwt_out_of_a_cache_ends_when_it_was_first_seen_to_end():
    first = token(300, born_s=100, lifetime_source=LifetimeSource.JWT)
    again = token(300, born_s=340, lifetime_source=LifetimeSource.JWT)
    assert without_extension(again, first).end_s == 400.0


@pytest.mark.parametrize(
    "again",
    [
        token(300, born_s=340, text="another", lifetime_source=LifetimeSource.JWT),
        token(300, born_s=340),
        token(None, born_s=340),
    ],
)
def test_opaque_tokens_keep_their_lifetime(again):
    assert without_extension(again, token(300, lifetime_source=LifetimeSource.JWT)) is again
    assert without_extension(again, None) is again


NOW = 1_800_000_000.0


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        *("", "opaque", "a.b", "a.b.c", "..", "a.b.c.d.e", "é.é.é", "e30.e30", "e30.e30.e", ".e30.e30", "e30..e30"),
        "." * 20_000,
        *(f"{b64(header)}.{b64(claims)}.c2ln" for header, claims in [(b"[]", b"{}"), (b"{}", b"[]"), (b"{", b"{}")]),
        *(f"e30.{b64(claims)}.c2ln" for claims in (b"{", b"\xff\xfe", b"[" * 100_000, b'"text"', b"1", b"null", b"")),
    ],
)
def test_text_that_is_not_a_jwt_has_no_claims_and_no_lifetime(text):
    assert claims_of(text) is None
    assert jwt_lifetime_s(text, NOW) is None


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
    shown = safe_claims(signed(**private, **claims), NOW)
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
    assert safe_claims(signed(**claims), NOW)["sub"] == shown


def test_a_subject_that_is_no_text_is_not_shown():
    text = b64(b'{"alg":"HS256"}') + "." + b64(b'{"sub":{"name":"Alice"}}') + ".c2ln"
    assert "Alice" not in str(safe_claims(text, NOW))


@pytest.mark.parametrize(
    ("claims", "shown"),
    [
        ({"iat": int(NOW) - 3}, {"iat": "2027-01-15 07:59:57Z (3 s ago)"}),
        ({"nbf": int(NOW)}, {"nbf": "2027-01-15 08:00:00Z (in 0 s)"}),
        ({"exp": int(NOW) + 300}, {"exp": "2027-01-15 08:05:00Z (in 300 s)"}),
        *(({"exp": number}, {"exp": str(number)}) for number in (10**18, -(10**30))),
        *(({"exp": moment}, {"exp": text}) for moment, text in ((True, "true"), ("soon", "soon"), (None, "null"))),
        ({"exp": [1]}, {"exp": "[1]"}),
        ({"aud": ["a", "b"], "scope": "x" * 1000}, {"aud": '["a", "b"]', "scope": "x" * MAX_CLAIM_CHARS + "…"}),
        ({"iss": "a\x1b[2Jb\nc"}, {"iss": "a?[2Jb?c"}),
    ],
)
def test_times_are_shown_in_utc_and_relative_to_this_machines_clock_and_others_as_one_line(claims, shown):
    assert safe_claims(signed(**claims), NOW) == shown


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (300, None, ExpiresIn(300)),
        ("3599", None, ExpiresIn(3599)),
        ("300.25", None, ExpiresIn(300.25)),
        (0, None, None),
        (-2, None, ExpiresIn(-2)),
        (34_560_000, None, ExpiresIn(34_560_000)),
        (300_000, "ms", ExpiresIn(300)),
        (1_800_000_300, None, ExpiresAt(1_800_000_300)),
        ("1671217329", None, ExpiresAt(1_671_217_329)),
        (1_800_000_300_000, None, ExpiresAt(1_800_000_300)),
        (1_800_000_300_000, "ms", ExpiresAt(1_800_000_300)),
        (1_800_000_300, "s", ExpiresAt(1_800_000_300)),
        ("2027-01-15T08:00:00Z", None, ExpiresAt(NOW)),
        ("2027-01-15 08:00:00", None, ExpiresAt(NOW)),
        ("2027-01-15T09:00:00+01:00", None, ExpiresAt(NOW)),
        ("Fri, 15 Jan 2027 08:00:00 GMT", None, ExpiresAt(NOW)),
    ],
)
def test_every_form_of_an_expiry_is_read(value, unit, expected):
    assert parse_expiry(value, unit) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, None, [], {}, [300], "", "soon", "nan", "inf", "1e3", "0x10", "٣٠٠", "1" * 40),
        *(float("inf"), float("nan"), 10**400, -(10**400)),
        *(
            "2027-13-01T00:00:00Z",
            "2027-01-01T00:00:00+99:00",
            "Fri, 99 Jan 2027 08:00:00 GMT",
            "Fri, 15 Foo 2027 08:00:00 GMT",
        ),
    ],
)
def test_invalid_expiry_is_not_read(value):
    assert parse_expiry(value, None) is None


OF_300_S, FROM_NBF = {"iat": NOW, "exp": NOW + 300}, {"nbf": NOW, "exp": NOW + 300}


@pytest.mark.parametrize(
    ("claims", "now_s", "left_s", "new_s"),
    [
        *((of, NOW + late_s, 300.0 - late_s, 300.0 - late_s) for of in (OF_300_S, FROM_NBF) for late_s in (0, 60, 299)),
        *((of, NOW - 120, 300.0, 300.0) for of in (OF_300_S, FROM_NBF)),  # this clock is behind
        *((of, NOW + 400, -100.0, 300.0) for of in (OF_300_S, FROM_NBF)),  # old, or this clock is ahead
        ({"iat": NOW, "nbf": NOW - 300, "exp": NOW + 300}, NOW - 120, 300.0, 300.0),
        ({"iat": NOW * 1000, "exp": (NOW + 300) * 1000}, NOW, 300_000.0, 300_000.0),
        *(({**start, "exp": NOW + 300}, NOW, 300.0, 300.0) for start in ({}, {"iat": NOW + 300}, {"nbf": "soon"})),
        ({"exp": NOW - 5}, NOW, -5.0, None),
        *((claims, NOW, None, None) for claims in ({}, {"exp": True}, {"exp": "x"}, {"exp": -5}, {"exp": 1e300})),
    ],
)
def test_lifetime_of_a_jwt_by_its_claims_and_a_clock(claims, now_s, left_s, new_s):
    text = signed(**claims)
    assert token_kind(text) is TokenKind.JWT
    assert (jwt_lifetime_s(text, now_s), jwt_lifetime_s(text, now_s, is_new=True)) == (left_s, new_s)
