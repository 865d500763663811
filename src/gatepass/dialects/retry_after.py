"""What an upstream says about a repeat: whether one is welcome, and after how long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import MappingProxyType

from gatepass.types import Headers, header

_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?\Z")
_PART = (
    r"(\d{1,9}(?:\.\d{1,12})?)\s*(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
)
_DURATION = re.compile(rf"(?:{_PART}\s*)+\Z", re.IGNORECASE)
_IN_TEXT = re.compile(rf"(?:retry|try again)\s+(?:after|in)\s+((?:{_PART}\s*)+)", re.IGNORECASE)
_EACH = re.compile(_PART, re.IGNORECASE)
_UNIT_S: Mapping[str, float] = MappingProxyType({"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0})
EPOCH_S, EPOCH_MS = 1e9, 1e12
"""A number from here on is a moment, not a time to wait."""


def should_retry(headers: Headers) -> bool | None:
    """What `x-should-retry` says, which the openai SDKs obey for any status; None if it says neither."""
    return _SHOULD_RETRY.get((header(headers, b"x-should-retry") or b"").strip().lower())


_SHOULD_RETRY: Mapping[bytes, bool] = MappingProxyType({b"true": True, b"false": False})


def retry_after_s(status: int, headers: Headers, text: str, wall_s: float) -> float | None:
    """Seconds to wait before the next try, or None where the upstream names no time.

    In this order: `retry-after-ms`, `retry-after` (seconds or a date, so `wall_s` is needed), the
    error's own text ("Please retry after 86400 seconds", "try again in 6m0s"), and for a 429
    `x-ratelimit-reset…` of what is used up (OpenAI and Groq write `6m0s`, others seconds or an epoch).
    The last two are not read where the upstream forbids a repeat: no time is worth waiting for.
    """
    number = _number(header(headers, b"retry-after-ms"))
    told = None if number is None else number / 1000
    if told is None:
        told = _seconds_or_date(header(headers, b"retry-after"), wall_s)
    if told is None and should_retry(headers) is False:
        return None
    if told is None and (status in (408, 409, 425, 429) or status >= 500):
        found = _IN_TEXT.search(text)
        told = _sum_s(found[1]) if found else None
    if told is None and status == 429:
        told = _from_limits(headers, wall_s)
    return told


def _seconds_or_date(value: bytes | None, wall_s: float) -> float | None:
    number = _number(value)
    if number is not None or value is None:
        return number
    try:
        return max(0.0, parsedate_to_datetime(value.decode("latin-1")).timestamp() - wall_s)
    except (ValueError, OverflowError):
        return None


def _number(value: bytes | None) -> float | None:
    text = (value or b"").decode("latin-1").strip()
    return float(text) if text.isascii() and _NUMBER.match(text) else None


def _sum_s(duration: str) -> float:
    total_s = 0.0
    for number, unit in _EACH.findall(duration.lower()):
        is_milli = unit == "ms" or unit.startswith("milli")
        total_s += float(number) * (0.001 if is_milli else _UNIT_S[unit[0]])
    return total_s


def _from_limits(headers: Headers, wall_s: float) -> float | None:
    """The longest reset of a limit that is used up; of a lone `x-ratelimit-reset` otherwise."""
    spent = [
        _reset(header(headers, b"x-ratelimit-reset-" + what), wall_s)
        for what in (b"requests", b"tokens")
        if header(headers, b"x-ratelimit-remaining-" + what) == b"0"
    ]
    waits = [wait for wait in spent if wait is not None]
    return max(waits) if waits else _reset(header(headers, b"x-ratelimit-reset"), wall_s)


def _reset(value: bytes | None, wall_s: float) -> float | None:
    number = _number(value)
    if number is None:
        text = (value or b"").decode("latin-1").strip()
        return _sum_s(text) if _DURATION.match(text) else None
    if number < EPOCH_S:
        return number
    return max(0.0, (number / 1000 if number >= EPOCH_MS else number) - wall_s)
