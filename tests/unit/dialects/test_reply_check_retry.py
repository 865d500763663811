import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.dialects.reply_check import retry_after_s, should_retry

NOW = 1_800_000_000.0
DATE = b"Fri, 15 Jan 2027 08:01:00 GMT"  # NOW and a minute


def waits_s(**headers):
    fields = tuple((name.replace("_", "-").encode(), value) for name, value in headers.items())
    return retry_after_s(fields, NOW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"20", 20.0),
        (b" 1.5 ", 1.5),
        (DATE, 60.0),
        (b"Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        (b"soon", None),
        (b"-3", None),
        (b"inf", None),
        (b"\xb2", None),
        (b"", None),
        (b"Fri, 15 Jan 99999 07:00:00 GMT", None),
    ],
)
def test_header_is_seconds_or_a_date(value, expected):
    assert waits_s(retry_after=value) == expected


def test_milliseconds_come_before_seconds():
    assert waits_s(retry_after_ms=b"250", retry_after=b"1") == 0.25
    assert waits_s(retry_after_ms=b"soon", retry_after=b"1") == 1.0


@given(st.binary())
def test_any_header_is_read_without_a_crash(value):
    names = (b"retry-after", b"retry-after-ms")
    wait = retry_after_s(tuple((name, value) for name in names), NOW)
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"true", True), (b" FALSE ", False), (b"1", None), (b"", None), (b"true, false", None)],
)
def test_an_upstream_states_whether_a_retry_is_allowed(value, expected):
    assert should_retry(((b"x-should-retry", value),)) is expected
