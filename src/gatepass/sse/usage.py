"""How many tokens an answer cost, as the upstream reports it, and what a client asked about usage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import msgspec

TAIL_BYTES = 2_048

_NAME = b'"usage"'
_USAGE = re.compile(rb'"usage"\s*+:\s*+(\{(?:[^{}"]++|"[^"\\]*+"|\{[^{}]*+\})*+\})')


Count = Annotated[int, msgspec.Meta(ge=0)] | None


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The counts of a `usage` object; None for what is missing or no whole number, and left out where it is written."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Self:
        get = payload.get
        return cls(_count(get("prompt_tokens")), _count(get("completion_tokens")), _count(get("total_tokens")))


def usage_of(body: bytes) -> Usage | None:
    """The usage of a plain reply, which stands at its end or nowhere that is worth a search."""
    first = max(0, len(body) - TAIL_BYTES)
    at = body.rfind(_NAME, first)  # three times as fast as to let the pattern find it
    found = _USAGE.match(body, at) or _USAGE.search(body, first) if at >= 0 else None
    if found is None:
        return None
    try:
        return _COUNTS.decode(found[1])
    except msgspec.DecodeError:
        return _read(found[1])


def ends_with_usage(body: bytes) -> bool:
    """Whether the JSON object `body` ends with its own `usage`, which holds no objects and no escapes: what `usage_of`
    finds is this one then."""
    at = body.rfind(_NAME, -TAIL_BYTES)
    return (
        body[at - 1 : at + 9] == b',"usage":{'  # behind a comma a quote begins a name
        and body.find(b"}", at) == len(body) - 2  # so it ends the usage, and the last one the body
        and body.find(b"\\", at) < 0
    )


_COUNTS = msgspec.json.Decoder(Usage)
_NOTHING = Usage()


def _read(text: bytes) -> Usage | None:
    """Where not all that is said are counts."""
    try:
        return Usage.read(msgspec.json.decode(text))
    except ValueError:  # no JSON, or no UTF-8
        return None


def nonempty_usage(usage: Usage | None) -> Usage | None:
    """`usage`, if it says anything."""
    return None if usage == _NOTHING else usage


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


class _Options(msgspec.Struct, gc=False):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Body(msgspec.Struct, gc=False):
    stream_options: _Options | None = None


_BODY = msgspec.json.Decoder(_Body)


def requested_usage(body: bytes) -> bool | None:
    """Whether the request `body` asks for a usage chunk at the end; None where it asks for more of it than that
    (vLLM's `continuous_usage_stats`), and where what it says of it is the upstream's to refuse."""
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
    """Where usage goes that RAGFlow's request `body` for a stream did not ask for; it must add nothing to a count.

    The chat class (rag/llm/chat_model.py) estimates the tokens of each chunk with choices and adds its usage: there it
    stands alone, in a chunk without choices, which that class skips and its tool loop reads. The vision class
    (cv_model.py) fails at such a chunk and reads no usage beside an empty text. It sends no settings: a request without
    any may come from either class.
    """
    if b'"image_url"' in body:
        return "finish"
    try:
        return "alone" if _MEMBERS.decode(body).keys() - _SENT_BY_VISION else "drop"
    except msgspec.DecodeError:
        return "drop"
