"""Read and complete the usage in an upstream's reply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec

from gatepass.sse.chunk import Object

TAIL_BYTES = 2_048
"""`usage_of` searches only this last part of a reply."""

_NAME = b'"usage"'
_USAGE = re.compile(rb'"usage"\s*+:\s*+(\{(?:[^{}"]++|"[^"\\]*+"|\{[^{}]*+\})*+\})')

CACHED = ("prompt_cache_hit_tokens", "cached_tokens")
"""What DeepSeek and Moonshot have instead of `prompt_tokens_details.cached_tokens`."""

Count = Annotated[int, msgspec.Meta(ge=0)] | None


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The numbers of tokens in a `usage` object. A missing or invalid number is None and is not encoded.

    `prompt_tokens` include `cached_tokens`. `completion_tokens` include `reasoning_tokens`. The Responses API and the
    Messages API have the names `input_tokens` and `output_tokens`.
    """

    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None
    cached_tokens: Count = None
    reasoning_tokens: Count = None

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Self | None:
        """Return the usage in a JSON object, None if it has no number. A count may be 12, 12.0 or "12"."""
        if "prompt_tokens" not in payload and ("input_tokens" in payload or "output_tokens" in payload):
            if "cache_read_input_tokens" in payload or "cache_creation_input_tokens" in payload:
                payload = _with_cached(payload)
            prompt, completion = "input", "output"
        else:
            prompt, completion = "prompt", "completion"
        cached = count_of(payload.get(f"{prompt}_tokens_details"), "cached_tokens")
        for name in CACHED if cached is None else ():
            cached = count_of(payload, name) if cached is None else cached
        usage = cls(
            count_of(payload, f"{prompt}_tokens"),
            count_of(payload, f"{completion}_tokens"),
            count_of(payload, "total_tokens"),
            cached,
            count_of(payload.get(f"{completion}_tokens_details"), "reasoning_tokens"),
        )
        return None if usage == _NO_COUNTS else usage


def _with_cached(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the usage of the Messages API, whose `input_tokens` lack those of the cache, like the others."""
    if isinstance(payload.get("input_tokens_details"), dict):
        return payload
    read, written = (count_of(payload, f"cache_{verb}_input_tokens") for verb in ("read", "creation"))
    fresh = count_of(payload, "input_tokens")
    total = {} if fresh is None else {"input_tokens": fresh + (read or 0) + (written or 0)}
    return {**payload, **total, "input_tokens_details": {"cached_tokens": read}}


class UsageDetails(msgspec.Struct, frozen=True, gc=False):
    """The members of `prompt_tokens_details` and `completion_tokens_details` that gatepass reads."""

    cached_tokens: Count = None
    reasoning_tokens: Count = None


_NO_COUNTS = Usage()


def count_of(members: Any, name: str) -> int | None:
    """Return the count `name` of an object; None if it is missing or invalid."""
    value = _whole(members.get(name)) if isinstance(members, dict) else None
    return value if value is not None and value >= 0 else None


def usage_of(body: bytes) -> Usage | None:
    """Return the usage of a whole reply, or None if its last TAIL_BYTES contain none."""
    first = max(0, len(body) - TAIL_BYTES)
    at = body.rfind(_NAME, first)  # three times as fast as a search with the pattern
    found = _USAGE.match(body, at) or _USAGE.search(body, first) if at >= 0 else None
    try:
        return None if found is None else Usage.read(msgspec.json.decode(found[1]))
    except ValueError:  # neither JSON nor UTF-8
        return None


_DIGITS = re.compile(r"[0-9]{1,15}(?:\.0{1,15})?")
_MOST = 2.0**53
"""A float above this does not hold every whole number."""


def complete_usage(usage: Object, *, is_chat: bool) -> Object:
    """Return `usage` with whole numbers: zero for a missing count, and the sum of the others for a missing total."""
    names = ("prompt_tokens", "completion_tokens") if is_chat else ("prompt_tokens",)
    parts = {name: _whole(usage.get(name)) or 0 for name in names}
    total = _whole(usage.get("total_tokens"))
    return {**usage, **parts, "total_tokens": sum(parts.values()) if total is None else total}


def is_identical(usage: Mapping[str, Any], other: Any) -> bool:
    """Whether both are equal and of the same types: 12 is not 12.0."""
    if not isinstance(other, Mapping) or usage.keys() != other.keys():
        return False
    return all((type(usage[name]), usage[name]) == (type(other[name]), other[name]) for name in usage)


def _whole(count: Any) -> int | None:
    if isinstance(count, str) and _DIGITS.fullmatch(count):
        return int(count.partition(".")[0])
    if isinstance(count, float) and 0 <= count < _MOST and count.is_integer():
        return int(count)
    return count if type(count) is int else None
