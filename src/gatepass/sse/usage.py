"""Read and complete the usage in an upstream's reply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import msgspec
from msgspec.structs import astuple

from gatepass.sse.chunk import Object

MOST_USAGE_BYTES = 64 * 1024
"""A larger `usage` is neither read nor changed: a million members would hold the event loop for 0.3 s. One has some
hundred bytes."""


class _WithUsage(msgspec.Struct, gc=False):
    usage: msgspec.Raw = msgspec.Raw(b"null")


_WITH_USAGE = msgspec.json.Decoder(_WithUsage)

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

    def used(self, *, generates: bool) -> int:
        """Return the tokens of a finished answer or, without `generates`, of an input. 0: they are not reported."""
        if generates and self.completion_tokens is None and not self.total_tokens:
            return 0
        return max(self.total_tokens or 0, (self.prompt_tokens or 0) + (self.completion_tokens or 0))

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
        given, made, total = (count_of(payload, f"{name}_tokens") for name in (prompt, completion, "total"))
        if made is None and total is not None and given is not None and total > given:  # Gemini, with thoughts alone
            made = total - given
        reasoning = count_of(payload.get(f"{completion}_tokens_details"), "reasoning_tokens")
        usage = cls(given, made, total, cached, reasoning)
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
    """Return the usage at the top level of a whole reply, or None if it has none. 16 MiB take up to 23 ms."""
    try:
        text = _WITH_USAGE.decode(body).usage
        usage = msgspec.json.decode(text) if memoryview(text).nbytes <= MOST_USAGE_BYTES else None
    except (ValueError, RecursionError):  # neither JSON nor UTF-8
        return None
    return Usage.read(usage) if isinstance(usage, dict) else None


def sum_of(usages: Sequence[Usage | None]) -> Usage | None:
    """Return what parts of a call used together, None if one of them reports nothing."""
    known = [astuple(usage) for usage in usages if usage is not None]
    if len(known) < len(usages):
        return None
    return Usage(*(None if None in counts else sum(counts) for counts in zip(*known, strict=True)))


_DIGITS = re.compile(r"[0-9]{1,15}(?:\.0{1,15})?")
_MOST = 2.0**53
"""A float above this does not hold every whole number."""


def complete_usage(usage: Object, *, is_chat: bool) -> Object:
    """Return `usage` with whole numbers: zero for a missing count, and the sum of the others for a missing total."""
    counts = Usage.read(usage) or _NO_COUNTS
    parts = {"prompt_tokens": counts.prompt_tokens or 0}
    parts |= {"completion_tokens": counts.completion_tokens or 0} if is_chat else {}
    total = counts.total_tokens
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
