"""Read the token counts that an upstream reports, and the usage that a client requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import msgspec

TAIL_BYTES = 2_048
"""Usage is searched only in this last part of a reply."""

_NAME = b'"usage"'
_USAGE = re.compile(rb'"usage"\s*+:\s*+(\{(?:[^{}"]++|"[^"\\]*+"|\{[^{}]*+\})*+\})')


Count = Annotated[int, msgspec.Meta(ge=0)] | None


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The counts of a `usage` object. A count that is missing or not a whole number is None, and is not written."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Self:
        get = payload.get
        return cls(_count(get("prompt_tokens")), _count(get("completion_tokens")), _count(get("total_tokens")))


_COUNTS = msgspec.json.Decoder(Usage)
_NO_COUNTS = Usage()


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def usage_of(body: bytes) -> Usage | None:
    """Return the usage of a whole reply, or None if its last TAIL_BYTES hold none."""
    first = max(0, len(body) - TAIL_BYTES)
    at = body.rfind(_NAME, first)  # three times as fast as a search with the pattern
    found = _USAGE.match(body, at) or _USAGE.search(body, first) if at >= 0 else None
    if found is None:
        return None
    try:
        return _COUNTS.decode(found[1])
    except msgspec.DecodeError:  # a member is not a count: read the others
        try:
            return Usage.read(msgspec.json.decode(found[1]))
        except ValueError:  # neither JSON nor UTF-8
            return None


def ends_with_usage(body: bytes) -> bool:
    """Whether the JSON object `body` ends with its own `usage`, without objects or escapes in it.

    If it does, `usage_of` finds this usage.
    """
    at = body.rfind(_NAME, -TAIL_BYTES)
    return (
        body[at - 1 : at + 9] == b',"usage":{'  # behind a comma a quote begins a name
        and body.find(b"}", at) == len(body) - 2  # so it ends the usage, and the last one the body
        and body.find(b"\\", at) < 0
    )


def nonempty_usage(usage: Usage | None) -> Usage | None:
    """Return `usage`, or None if it holds no count."""
    return None if usage == _NO_COUNTS else usage


class _Options(msgspec.Struct, gc=False):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Body(msgspec.Struct, gc=False):
    stream_options: _Options | None = None


_BODY = msgspec.json.Decoder(_Body)


def requested_usage(body: bytes) -> bool | None:
    """Return whether the request `body` asks for a usage chunk at the end of the stream.

    None if it asks for usage in every chunk (vLLM's `continuous_usage_stats`), or if `stream_options` is malformed:
    then the upstream rejects it.
    """
    if b'"stream_options"' not in body:
        return False
    try:
        options = _BODY.decode(body).stream_options
    except msgspec.DecodeError:
        return None
    if options is None:
        return False
    return None if options.continuous_usage_stats else options.include_usage


_SENT_BY_VISION = frozenset({"model", "messages", "stream", "enable_thinking", "provider"})
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def place_for_ragflow(body: bytes) -> Literal["alone", "finish", "drop"]:
    """Return where to put usage that RAGFlow did not request for the stream of `body`.

    RAGFlow must not count it twice. Its two client classes differ:

    * The chat class (rag/llm/chat_model.py) estimates the tokens of each chunk with choices, and adds the chunk's
      usage. It skips a chunk without choices, which its tool loop reads: usage goes there (`alone`).
    * The vision class (cv_model.py) fails at a chunk without choices, and ignores usage next to an empty text
      (`finish`). It sends no settings, so a request without settings may come from either class (`drop`).
    """
    if b'"image_url"' in body:
        return "finish"
    try:
        return "alone" if _MEMBERS.decode(body).keys() - _SENT_BY_VISION else "drop"
    except msgspec.DecodeError:
        return "drop"
