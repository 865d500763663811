"""Read from a reply when to try again, whether to, and whether its header rejects the token. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from gatepass.types import CLIENT_ERROR, SERVER_ERROR, Headers, header

_HTTP_DATE = r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|UTC|[+-][0-9]{4})\Z"
_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,9})?\Z")
_PART = (
    r"(\d{1,9}(?:\.\d{1,12})?)\s*(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d"
    r"|毫秒|秒钟?|分钟?|小时|天)(?![a-z])"
)
_PARTS = rf"((?:{_PART}\s*){{1,4}})"
_IN_TEXT = rf"(?i)(?:retry|try again)\s+(?:after|in)\s+{_PARTS}|{_PARTS}[之以]?后[^。\n]{{0,8}}?(?:重试|再试|请求|调用)"
_MILLI = ("ms", "millisecond", "milliseconds", "毫秒")
_UNIT_S: Mapping[str, float] = dict(zip("smhd秒分小天", (1.0, 60.0, 3600.0, 86400.0) * 2, strict=True))


_CHALLENGE = rb'(?i)([a-z_]+)\s{0,4}=\s{0,4}(?:"([^"]{0,200})"|([^\s",]{1,200}))'


def challenge(headers: Headers) -> dict[bytes, bytes]:
    """Return what the challenges of a reply say, by the names of their parameters (RFC 6750 section 3)."""
    values = b" ".join(value for name, value in headers if name == b"www-authenticate")
    return {name.lower(): quoted or bare for name, quoted, bare in re.findall(_CHALLENGE, values)}


def rejects_token(status: int, headers: Headers) -> bool:
    """Return whether `WWW-Authenticate` of a 4xx says that the token is invalid (RFC 6750 section 3.1)."""
    return CLIENT_ERROR <= status < SERVER_ERROR and challenge(headers).get(b"error") == b"invalid_token"


def should_retry(headers: Headers) -> bool | None:
    """Return the value of `x-should-retry`, which the openai SDKs obey for any status; None without a valid one."""
    values = [value.strip().lower() for name, value in headers if name == b"x-should-retry"]
    return False if b"false" in values else b"true" in values or None


def retry_after_s(status: int, headers: Headers, text: str, wall_s: float) -> float | None:
    """Return the seconds to wait before the next attempt, or None if the reply names no time.

    It reads these sources in order. `wall_s` is the current Unix time, because a header may hold a date.

    1. `retry-after-ms`
    2. `retry-after`: seconds or a date (RFC 9110 10.2.3)
    3. the text of the error: "Please retry after 86400 seconds", "try again in 6m0s", 请在 2 秒后重试
    """
    number = _number(header(headers, b"retry-after-ms"))  # Azure sends it, and the openai SDKs read it first
    wait_s = None if number is None else number / 1000
    if wait_s is None:
        wait_s = _seconds_or_date(headers, wall_s)
    if wait_s is None and should_retry(headers) is False:
        return None  # the server forbids a retry, so its text does not matter
    # the openai SDKs retry these statuses; 425 asks for a retry too (RFC 8470, section 5.2)
    if wait_s is None and (status in (408, 409, 425, 429) or status >= 500) and (found := re.search(_IN_TEXT, text)):
        amounts = ((float(amount), unit) for amount, unit in re.findall(_PART, found[0].lower()))
        wait_s = sum(amount * (0.001 if unit in _MILLI else _UNIT_S[unit[0]]) for amount, unit in amounts)
    return wait_s


def _seconds_or_date(headers: Headers, wall_s: float) -> float | None:
    value = header(headers, b"retry-after")
    number = _number(value)
    if number is not None or value is None:
        return number
    moment_s, now_s = epoch_s(parsedate_to_datetime, value.decode("latin-1")), sent_s(headers)
    # a date is on the server's clock
    return None if moment_s is None else max(0.0, math.ceil(moment_s - (wall_s if now_s is None else now_s)))


def _number(value: bytes | None) -> float | None:
    text = (value or b"").decode("latin-1").strip()
    return max(0.0, float(text)) if text.isascii() and _NUMBER.match(text) else None


def http_date(text: str) -> float | None:
    """Return the epoch seconds of an IMF-fixdate (RFC 9110 5.6.7), or None."""
    return epoch_s(parsedate_to_datetime, text) if re.match(_HTTP_DATE, text) else None


def epoch_s(parse: Callable[[str], datetime], text: str) -> float | None:
    """Return the epoch seconds of the date that `parse` reads in `text`, or None."""
    try:
        moment = parse(text)
        # Without a zone both formats mean UTC here; `timestamp` would take the local one.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def sent_s(headers: Headers) -> float | None:
    """Return when the server sent a reply by its own clock, its `Date` in epoch seconds; None without it."""
    text = header(headers, b"date")
    return None if text is None else http_date(text.decode("latin-1").strip())
