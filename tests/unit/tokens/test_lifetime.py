from __future__ import annotations

import math

import pytest

from gatepass.tokens.lifetime import (
    Freshness,
    LifetimeSource,
    Token,
    TokenKind,
    freshness,
    is_reissued,
    refresh_at_s,
    stale_at_s,
    without_extension,
)
from gatepass.types import Secret


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


def test_jitter_makes_stale_earlier_by_5_percent_of_the_life_at_most():
    assert [stale_at_s(token(100), jitter) for jitter in (0.0, 0.5, 1.0)] == [180.0, 177.5, 175.0]


def test_a_jwt_is_refreshed_after_a_day_however_long_its_lifetime():
    week = token(7 * 86_400, born_s=0.0, lifetime_source=LifetimeSource.JWT)
    assert (stale_at_s(week, 0.0), week.expires_s) == (0.8 * 86_400, 7 * 86_400 - 6.0)
    assert refresh_at_s(week, again=False, now=0.0, jitter=0.0) == 0.8 * 86_400
    assert stale_at_s(token(7 * 86_400, born_s=0.0), 0.0) == 483_840.0


def test_a_key_never_becomes_stale():
    key = token(None)
    assert (key.end_s, key.expires_s, stale_at_s(key, 1.0)) == (math.inf,) * 3
    assert freshness(key, 1e12, 1.0) is Freshness.FRESH


@pytest.mark.parametrize(
    ("now", "due"), [(100.0, 250.0), (340.0, 370.0), (396.0, 398.0), (399.5, 400.5), (500.0, 501.0)]
)
def test_reissued_token_is_fetched_again_after_half_of_its_rest(now, due):
    assert refresh_at_s(token(300), again=True, now=now, jitter=0.0) == due
    assert refresh_at_s(token(0.5), again=False, now=now, jitter=0.0) == 101.0, "a second after its own start"


def test_a_reissued_token_is_recognised_by_value():
    assert [is_reissued(token(1), before) for before in (token(2), token(1, text="abd"), None)] == [True, False, False]


def test_a_jwt_out_of_a_cache_ends_when_it_was_first_seen_to_end():
    first = token(300, born_s=100, lifetime_source=LifetimeSource.JWT)
    again = token(300, born_s=340, lifetime_source=LifetimeSource.JWT)
    assert without_extension(again, first).end_s == 400.0


@pytest.mark.parametrize(
    "again",
    [
        token(300, born_s=340, text="another", lifetime_source=LifetimeSource.JWT),
        token(300, born_s=340),
        token(300, born_s=340, lifetime_source=LifetimeSource.DEFAULT),
        token(None, born_s=340),
    ],
)
def test_opaque_tokens_keep_their_lifetime(again):
    assert without_extension(again, token(300, lifetime_source=LifetimeSource.JWT)) is again
    assert without_extension(again, None) is again


@pytest.mark.parametrize(("lifetime_s", "expires_after_s"), [(1, 0.7), (4, 2.8), (10, 8.5), (300, 294)])
def test_a_jwt_minted_late_in_a_second_is_not_sent_past_its_own_end(lifetime_s, expires_after_s):
    """Found by a real issuer with 10-second tokens: `iat` is cut to whole seconds, so `exp` comes early."""
    assert token(lifetime_s, born_s=0.0, lifetime_source=LifetimeSource.JWT).expires_s == pytest.approx(expires_after_s)
