import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.replies.retry_after import rejects_token, retry_after_s, should_retry

NOW = 1_800_000_000.0
DATE = b"Fri, 15 Jan 2027 08:01:00 GMT"  # NOW and a minute


def waits_s(status=429, text="", **headers):
    fields = tuple((name.replace("_", "-").encode(), value) for name, value in headers.items())
    return retry_after_s(status, fields, text, NOW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"20", 20.0),
        (b" 1.5 ", 1.5),
        (DATE, 60.0),
        (b"Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        (b"soon", None),
        (b"", None),
        (b"Fri, 15 Jan 99999 07:00:00 GMT", None),
    ],
)
def test_header_is_seconds_or_a_date(value, expected):
    assert waits_s(status=503, retry_after=value) == expected


def test_milliseconds_come_before_seconds_and_header_before_text():
    assert waits_s(retry_after_ms=b"250", retry_after=b"1", text="try again in 9s") == 0.25
    assert waits_s(retry_after=b"1", text="try again in 9s") == 1.0
    assert waits_s(retry_after=b"soon", text="try again in 9s") == 9.0


def test_retry_header_is_read_for_any_status():
    assert waits_s(status=400, retry_after=b"3") == 3.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rate limit is exceeded. Please retry after 86400 seconds. Please go here", 86400.0),
        ("Rate limit is exceeded. Try again in 2 seconds.", 2.0),
        ("Please try again in 5.289s. Visit https://example.com", 5.289),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 20ms.", 0.02),
        ("Please retry after 1 day 2 hours 3 mins 4 secs", 93784.0),
        ("Please retry after 250 milliseconds", 0.25),
        ("Please retry after 2027-01-15", None),
        ("请求过于频繁，请在 2 秒后重试", 2.0),
        ("触发限流，请等待1分30秒之后再试。", 90.0),
        ("请 500 毫秒后重新请求", 0.5),
        ("请3分钟以后再次调用", 180.0),
        ("套餐 2 天后到期，请续费", None),
    ],
)
def test_text_names_the_time(text, expected):
    assert waits_s(text=text) == (pytest.approx(expected) if expected else None)


def test_retry_time_in_the_text_is_read_only_for_retryable_statuses():
    waits = {
        status: waits_s(status=status, text="retry after 2 seconds") for status in (400, 404, 408, 409, 425, 500, 503)
    }
    assert waits == dict.fromkeys((408, 409, 425, 500, 503), 2.0) | dict.fromkeys((400, 404))


@given(st.integers(100, 599), st.binary(), st.text())
def test_any_header_and_text_are_read_without_a_crash(status, value, text):
    names = (b"retry-after", b"retry-after-ms")
    wait = retry_after_s(status, tuple((name, value) for name in names), text, NOW)
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"true", True), (b" FALSE ", False), (b"1", None), (b"", None), (b"true, false", None)],
)
def test_an_upstream_states_whether_a_retry_is_allowed(value, expected):
    assert should_retry(((b"x-should-retry", value),)) is expected


def test_no_time_is_derived_where_a_repeat_is_forbidden():
    assert waits_s(text="try again in 9s") == 9.0
    assert waits_s(text="try again in 9s", x_should_retry=b"false") is None
    assert waits_s(text="try again in 9s", x_should_retry=b"true") == 9.0
    assert waits_s(retry_after=b"7", x_should_retry=b"false") == 7.0


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        (400, b'Bearer error="invalid_token"', True),
        (403, b'Basic realm="x", Bearer scope="a", error=invalid_token, error_description="old"', True),
        (403, b'Bearer error="insufficient_scope", error_description="see error=invalid_token"', False),
        (403, b'Bearer realm="error=invalid_token"', False),
        (200, b'Bearer error="invalid_token"', False),
        (503, b'Bearer error="invalid_token"', False),
        (400, b"Bearer", False),
    ],
)
def test_a_header_rejects_the_token_by_its_error_alone(status, value, expected):
    assert rejects_token(status, ((b"www-authenticate", value),)) is expected
