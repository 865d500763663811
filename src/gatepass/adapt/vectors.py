"""Whether an embeddings reply is what was asked for, found without reading its numbers.

Nearly all of a reply are digits, and a JSON parser looks at each: 250 µs for 16 vectors of 1,536. Here they are
hopped over, from bracket to bracket at memory speed, and a parser reads what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gatepass.adapt.asked import Asked

_NO_NUMBER = (b'"', b"{", b"a", b"n", b"u")
"""One of these is in every JSON value that is neither a number nor a list, and in NaN and Infinity in any spelling."""


class _Vector(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int


class _Reply(msgspec.Struct, gc=False):
    data: list[_Vector]
    object: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"null")


_REPLY = msgspec.json.Decoder(_Reply)

Span = tuple[int, int]


def is_right(reply: bytes, asked: Asked) -> bool:
    """Whether `reply` is JSON without an error in it, and its vectors are lists of numbers as they were asked for, in
    order; False: look closer. In the place of `form.is_plain_success`, for most replies are.

    How a number is spelled is left to the client's parser. To count all of them would take as long as the rest, so
    where no length was asked for only those of the longest and the shortest text are counted.
    """
    if asked.base64:
        return False
    rest, spans = _parted(reply)
    try:
        found = _REPLY.decode(rest)
    except (ValueError, RecursionError):
        return False
    if bytes(found.error) != b"null" or bytes(found.object) == b'"error"':
        return False
    if [entry.index for entry in found.data] != list(range(asked.count)) or len(spans) != asked.count:
        return False
    if any(bytes(entry.embedding) != b"[]" for entry in found.data):
        return False
    return all(_is_numbers(reply, span) for span in spans) and _are_of_length(reply, spans, asked.dimensions)


def _parted(reply: bytes) -> tuple[bytes, list[Span]]:
    """`reply` with `[]` in the place of each list that holds no other, and where those lists stand.

    A bracket in a string looks like a list's too: then there are more of them than vectors.
    """
    kept, spans, start = list[bytes](), list[Span](), 0
    at = reply.find(b"[")
    while at >= 0:
        end = reply.find(b"]", at)
        if end < 0:
            break
        inner = reply.find(b"[", at + 1, end)
        if inner >= 0:
            at = inner
            continue
        spans.append((at, end + 1))
        kept.append(reply[start : at + 1])
        start, at = end, reply.find(b"[", end)
    kept.append(reply[start:])
    return b"".join(kept), spans


def _is_numbers(text: bytes, span: Span) -> bool:
    """Whether the list at `span`, which holds no other, is one of numbers, and not seen at once to be an empty one."""
    start, end = span
    if not text[start + 1 : min(start + 20, end - 1)].strip():
        return False
    return all(text.find(sign, start, end) < 0 for sign in _NO_NUMBER)


def _are_of_length(text: bytes, spans: Sequence[Span], length: int | None) -> bool:
    if length is not None:
        return all(_length(text, span) == length for span in spans)
    by_size = sorted(spans, key=lambda span: span[1] - span[0])
    return not spans or _length(text, by_size[0]) == _length(text, by_size[-1])


def _length(text: bytes, span: Span) -> int:
    return text.count(b",", *span) + 1
