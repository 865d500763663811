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
    """The counts of a `usage` object. A count that is missing or not a whole number is None, and is not written.

    `cached_tokens` are part of `prompt_tokens`, and `reasoning_tokens` are part of `completion_tokens`. The Responses
    API names the two `input_tokens` and `output_tokens`.
    """

    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None
    cached_tokens: Count = None
    reasoning_tokens: Count = None

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> Self:
        """Return the counts of any JSON object, whatever the types of its members are."""
        is_response = "input_tokens" in payload and "prompt_tokens" not in payload
        prompt, completion = ("input", "output") if is_response else ("prompt", "completion")
        return cls(
            _count(payload, f"{prompt}_tokens"),
            _count(payload, f"{completion}_tokens"),
            _count(payload, "total_tokens"),
            _count(payload.get(f"{prompt}_tokens_details"), "cached_tokens"),
            _count(payload.get(f"{completion}_tokens_details"), "reasoning_tokens"),
        )


class _Details(msgspec.Struct, gc=False):
    cached_tokens: Count = None
    reasoning_tokens: Count = None


_NO_DETAILS = _Details()


class _ChatUsage(msgspec.Struct, gc=False):
    """The `usage` of a chat or of embeddings. Without `prompt_tokens` it is another one."""

    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)]
    completion_tokens: Count = None
    total_tokens: Count = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


_CHAT_USAGE = msgspec.json.Decoder(_ChatUsage)
_NO_COUNTS = Usage()


def _count(members: Any, name: str) -> int | None:
    value = members.get(name) if isinstance(members, dict) else None
    return value if type(value) is int and value >= 0 else None


def usage_of(body: bytes) -> Usage | None:
    """Return the usage of a whole reply, or None if its last TAIL_BYTES hold none."""
    first = max(0, len(body) - TAIL_BYTES)
    at = body.rfind(_NAME, first)  # three times as fast as a search with the pattern
    found = _USAGE.match(body, at) or _USAGE.search(body, first) if at >= 0 else None
    if found is None:
        return None
    try:
        usage = _CHAT_USAGE.decode(found[1])
    except msgspec.DecodeError:  # another usage, or a member is not a count: read the others
        try:
            return Usage.read(msgspec.json.decode(found[1]))
        except ValueError:  # neither JSON nor UTF-8
            return None
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        (usage.prompt_tokens_details or _NO_DETAILS).cached_tokens,
        (usage.completion_tokens_details or _NO_DETAILS).reasoning_tokens,
    )


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
