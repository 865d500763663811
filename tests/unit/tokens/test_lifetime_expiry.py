from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.tokens.lifetime import (
    ExpiresAt,
    ExpiresIn,
    JwtTimes,
    TokenKind,
    at_least_left_s,
    issuer_time,
    jwt_lifetime_s,
    jwt_remaining_s,
    jwt_times,
    parse_expiry,
    token_kind,
)
from tests.unit.tokens.scripted import date, signed

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (300, None, ExpiresIn(300)),
        ("3599", None, ExpiresIn(3599)),
        ("300.25", None, ExpiresIn(300.25)),
        (0, None, ExpiresIn(0)),
        (34_560_000, None, ExpiresIn(34_560_000)),
        (34_560_001, None, ExpiresIn(34_560.001)),
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
        ("Fri, 15 Jan 2027 08:00:00 -0000", "s", ExpiresAt(NOW)),
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


@given(st.text() | st.floats() | st.integers() | st.booleans() | st.none(), st.sampled_from([None, "s", "ms"]))
def test_no_value_breaks_the_reading(value, unit):
    assert isinstance(parse_expiry(value, unit), ExpiresIn | ExpiresAt | None)


def test_date_header_is_the_issuers_clock():
    assert issuer_time((date(NOW),)) == NOW
    assert issuer_time(((b"date", b"yesterday"),)) is None
    assert issuer_time(()) is None


@pytest.mark.parametrize(
    ("claimed_lifetime_s", "sure_s"), [(300.0, 298.0), (4.0, 2.0), (3.0, 1.5), (0.5, 0.25), (0.0, 0.0), (-60.0, -30.0)]
)
def test_uncertainty_of_a_date_shortens_the_lifetime(claimed_lifetime_s, sure_s):
    assert at_least_left_s(NOW + claimed_lifetime_s, NOW) == sure_s


OF_300_S = {"iat": NOW, "exp": NOW + 300}
FROM_NBF, EARLY_NBF = {"nbf": NOW, "exp": NOW + 300}, {"nbf": NOW - 300, "exp": NOW + 300}


@pytest.mark.parametrize(
    ("claims", "date_s", "wall_s", "lifetime_s"),
    [
        # with `iat`, whatever this machine's clock shows
        *((OF_300_S, date_s, NOW - skew_s, 300.0) for skew_s in (-86_400.0, 0.0, 120.0) for date_s in (None, NOW)),
        ({"iat": NOW - 240, "exp": NOW + 60}, NOW, NOW, 60.0),  # out of the issuer's cache
        *((OF_300_S, date_s, NOW, 300.0) for date_s in (NOW - 120, NOW + 301, NOW + 86_400)),  # a date contradicts it
        # without `iat` by the issuer's clock, or by this machine's
        ({"exp": NOW + 300}, NOW + 100, NOW, 199.0),
        ({"exp": NOW + 300}, None, NOW, 300.0),
        ({"exp": NOW + 300}, None, NOW + 300, None),
        # with `nbf` as a limit, if this clock is behind, and as the start of a token that ended by this clock
        *((FROM_NBF, None, NOW + skew_s, 300.0) for skew_s in (-120.0, 0.0, 300.0, 86_400.0)),
        *((EARLY_NBF, date_s, wall_s, s) for date_s, wall_s, s in ((None, NOW, 300.0), (None, NOW - 120, 420.0))),
        (EARLY_NBF, NOW, NOW - 120, 299.0),
        *(({"nbf": nbf, "exp": NOW + 300}, None, NOW, 300.0) for nbf in (NOW + 300, NOW + 400, "soon", True, -1)),
        # without a lifetime
        *((claims, None, NOW, None) for claims in ({}, {"exp": True}, {"exp": "x"}, {"exp": NOW, "iat": NOW})),
        *((claims, None, NOW, None) for claims in ({"exp": 1, "iat": NOW}, {"exp": -5}, {"exp": 1e300})),
    ],
)
def test_lifetime_of_a_new_jwt(claims, date_s, wall_s, lifetime_s):
    text = signed(**claims)
    assert token_kind(text) is TokenKind.JWT
    assert jwt_lifetime_s(text, date_s, wall_s) == lifetime_s


@pytest.mark.parametrize(
    ("claims", "written_s", "expires_in_s"),
    [
        ({"iat": NOW, "exp": NOW + 300}, None, 300.0),
        ({"iat": NOW - 500, "exp": NOW - 200}, None, -200.0),
        ({"iat": NOW + 50, "exp": NOW + 350}, None, 300.0),
        ({"iat": NOW + 50, "exp": NOW + 350}, NOW, 300.0),
        ({"iat": NOW + 50, "exp": NOW + 350}, NOW - 60, 240.0),
        ({"iat": NOW + 50, "exp": NOW + 350}, NOW - 550, -250.0),
        ({"iat": NOW + 50, "exp": NOW + 350}, NOW - 551, 300.0),
        ({"iat": NOW - 50, "exp": NOW + 250}, NOW, 250.0),
        ({"exp": NOW + 250}, NOW, 250.0),
        ({"nbf": NOW + 50, "exp": NOW + 350}, None, 300.0),
        ({"nbf": NOW + 50, "exp": NOW + 350}, NOW - 60, 300.0),
        ({"nbf": NOW - 50, "exp": NOW + 250}, None, 250.0),
        ({"iat": NOW + 250, "exp": NOW + 250}, None, 250.0),
        ({"iat": NOW}, NOW, None),
        ({}, None, None),
    ],
)
def test_remaining_lifetime_of_an_old_jwt(claims, written_s, expires_in_s):
    assert jwt_remaining_s(signed(**claims), NOW, written_s) == expires_in_s


@pytest.mark.parametrize(
    ("claimed_s", "meant_s"),
    [
        *((300, 300), (86_400, 86_400), (86_401, 86_401), (129_600, 129_600), (604_800, 604_800)),
        *((2_592_000, 2_592_000), (31_536_000, 31_536_000)),
        *((300_000, 300), (900_000, 900), (3_600_000, 3600), (86_400_000, 86_400), (315_360_000, 315_360)),
    ],
)
def test_a_jwts_life_that_can_only_be_milliseconds_is_put_right(claimed_s, meant_s):
    text = signed(iat=NOW, exp=NOW + claimed_s)
    assert jwt_lifetime_s(text, None, NOW) == meant_s
    assert jwt_lifetime_s(text, NOW + 60, NOW) == meant_s - 60
    assert jwt_times(text) == JwtTimes(NOW, NOW + meant_s, is_guess=claimed_s != meant_s)


def test_a_jwt_without_iat_is_no_guess():
    assert jwt_times(signed(exp=NOW + 300_000)) == JwtTimes(None, NOW + 300_000)
    assert jwt_times(signed(iat=NOW)) is None


@pytest.mark.parametrize("text", ["opaque", "a.b.c", "..", "a.b.c.d.e", "e30.e30.", "W10.W10.W10", "." * 20_000])
def test_text_that_resembles_a_jwt_has_no_lifetime(text):
    assert jwt_lifetime_s(text, None, NOW) is None
