"""A large completion that was read in slices, as a document of which most is not built."""

from __future__ import annotations

import msgspec

from gatepass.errors import InvalidRequest
from gatepass.json_scan import LONG_BYTES, Edit, Member, ScannedBody, Walk, edited, string
from gatepass.sse.chunk import Object
from gatepass.sse.event import read_json

UNREAD_BYTES = 1024
_QUOTE, _OBJECT, _ARRAY = b'"{['
_PARTS = ("logprobs", "message")


def read_around_large(body: ScannedBody) -> Object:
    """The value of `body`, with what is large in the `logprobs` of its choices as msgspec.Raw.

    An answer of 3,500 tokens with 20 alternatives for each has 400,000 values there, which nothing looks into.
    Long texts of messages are read in pieces. Raises ValueError as `read_json`.
    """
    try:
        spans = _large(Walk(body))
    except InvalidRequest:
        raise ValueError("too many values") from None
    hidden = [Edit(span.value, span.end, (b"null",)) for _, _, span in spans]
    document: Object = read_json(edited(body, hidden))
    for place, part, span in spans:
        document["choices"][place][part][span.name] = _value(bytes(memoryview(body)[span.value : span.end]))
    return document


def _value(written: bytes) -> str | msgspec.Raw:
    if written[0] == _QUOTE:
        return string(written)
    if b"\n" in written or b"\r" in written:  # an event is one line
        written = written.translate(None, b"\r\n")
    return msgspec.Raw(written)


def _large(walk: Walk) -> list[tuple[int, str, Member]]:
    """What is not read: the place of its choice, the name of its part, and where it stands."""
    found = list[tuple[int, str, Member]]()
    text = walk.text
    choices = _last(walk, 0).get("choices")
    if choices is None or text[choices.value] != _ARRAY:
        return found
    for place, (start, _) in enumerate(walk.elements(choices.value)):
        parts = _last(walk, start) if text[start] == _OBJECT else {}
        for name in _PARTS:
            if (part := parts.get(name)) is not None and text[part.value] == _OBJECT:
                found += [
                    (place, name, span) for span in _last(walk, part.value).values() if _is_large(text, name, span)
                ]
    return found


def _last(walk: Walk, at: int) -> dict[str, Member]:
    """The members of an object by name, of which the last one of a name counts."""
    return {member.name: member for member in walk.members(at)}


def _is_large(text: bytes, part: str, span: Member) -> bool:
    size_bytes = span.end - span.value
    if part == "message":
        return size_bytes > LONG_BYTES and text[span.value] == _QUOTE
    return size_bytes > UNREAD_BYTES and text[span.value] in (_OBJECT, _ARRAY)
