"""Roles and ends of keys, and several keys of one caller, in the configuration."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from gatepass.config.access import SOON_S, AccessKey, expiry_warnings

HASH = "sha256:" + "0" * 64
END = datetime(2027, 1, 31, tzinfo=UTC)
CREATE = "create another one with `gatepass keys new --name a`"


def key(**fields):
    return AccessKey(name="a", hash=HASH, **fields)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2027-01-31", END),
        ("2027-01-31T18:30:00Z", END + timedelta(hours=18, minutes=30)),
        ("2027-01-31t18:30:00.25z", END + timedelta(hours=18, minutes=30, seconds=0.25)),
        ("2027-01-31T01:00:00+02:00", END - timedelta(hours=1)),
        (datetime(2027, 1, 31, 1, tzinfo=timezone(timedelta(hours=1))), END),
    ],
)
def test_an_end_is_a_date_or_a_time(written, meant):
    assert key(expires=written).expires == meant


@pytest.mark.parametrize(
    "written",
    [
        *("", "soon", "2027", "2027-1-31", "2027-02-30", "20270131", "2027-W05-1", "2027-01-31 18:30:00Z"),
        *("2027-01-31T18:30:00", "2027-01-31T18:30Z", "2027-01-31T25:00:00Z", "9999-12-31T23:59:59-01:00"),
        *("2027-01-31\n", "\u0662027-01-31", 1801353600, 1.5, True, datetime(2027, 1, 31)),
    ],
)
def test_invalid_expiry_is_refused(written):
    with pytest.raises(ValidationError, match="expects a date, such as 2027-01-31, or an RFC 3339 time"):
        key(expires=written)


@pytest.mark.parametrize(
    ("left_s", "state"),
    [(-1, "expired"), (0, "expired"), (0.001, "expires soon"), (SOON_S, "expires soon"), (SOON_S + 1, "valid")],
)
def test_the_state_of_a_key(left_s, state):
    assert key(expires=END).state(END.timestamp() - left_s) == state
    assert key().state(1e12) == "valid"


def test_keys_near_their_end_are_warned_about():
    day_s = 86_400.0
    keys = [key(), key(expires="2027-01-31"), key(expires="2027-02-10T12:00:00Z"), key(expires="2028-01-01")]
    assert list(expiry_warnings(keys, END.timestamp() - 60 * day_s)) == []
    assert list(expiry_warnings(keys, END.timestamp())) == [
        f"access.keys[1]: this key of 'a' expired at 2027-01-31T00:00:00Z: {CREATE}, or remove it",
        f"access.keys[2]: this key of 'a' expires at 2027-02-10T12:00:00Z: {CREATE}",
    ]
