"""Whether an embeddings reply is what was asked for, found without reading all of its numbers.

Nearly all of a reply are digits, and a JSON parser looks at each: 250 µs for 16 vectors of 1,536. Here most of them are
hopped over, from bracket to bracket at memory speed, and a parser reads what is left, both ends of each list included.

So a fault in the middle of a long list passes as it came, for the client's parser to find: a comma too many, too few or
in a number's place, a number in a spelling that JSON has not. Likewise, where no length was asked for, a vector that
lacks so few numbers that its text is neither the longest nor the shortest. To see each comma would take three times as
long as all of this. What writes such replies writes them throughout: a list without commas, or with another sign in
their place, shows at its ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gatepass.asked import Asked

LOOKED_BYTES = 4 * 1024
"""So much of all vectors together is read as JSON: all of short ones, the ends of others."""
SHORTEST_END_BYTES = 32
COUNTED_BYTES = 16 * 1024
"""Where any length is right, the numbers of all vectors together that are no longer than this are counted; else those
of the longest and the shortest."""


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
    order, as far as this module looks; False: look closer. In the place of `form.is_plain_success`, for most replies
    are.
    """
    if asked.base64:
        return False
    rest, spans = _parted(reply, _end_bytes(reply, asked.count))
    try:
        found = _REPLY.decode(rest)
    except (ValueError, RecursionError):
        return False
    if bytes(found.error) != b"null" or bytes(found.object) == b'"error"':
        return False
    if [entry.index for entry in found.data] != list(range(asked.count)) or len(spans) != asked.count:
        return False
    if not all(_is_flat_list(bytes(entry.embedding)) for entry in found.data):
        return False
    return all(_is_numbers(reply, *span) for span in spans) and _are_of_length(reply, spans, asked.dimensions)


def _end_bytes(reply: bytes, count: int) -> int:
    """How much of each end of a list is read. A lone vector is read whole: it is compared with no other, and to count
    its numbers would cost as much."""
    return len(reply) if count < 2 else max(SHORTEST_END_BYTES, LOOKED_BYTES // (2 * count))


def _parted(reply: bytes, end_bytes: int) -> tuple[bytes, list[Span]]:
    """`reply` without the middle of each list that holds no other, and where those lists stand. Of a list stay at most
    `end_bytes` at each end, to a comma: with what is in between gone, it is one as before.

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
        if end - at > 2 * end_bytes:
            cut, again = reply.rfind(b",", at, at + end_bytes), reply.find(b",", end - end_bytes, end)
            if cut >= 0 and again >= 0:
                kept.append(reply[start:cut])
                start = again
        at = reply.find(b"[", end)
    kept.append(reply[start:])
    return b"".join(kept), spans


def _is_flat_list(written: bytes) -> bool:
    """Whether the JSON value `written` is a list that holds something, and no other list."""
    return written[:1] == b"[" and written.rfind(b"[") == 0 and written[1:-1].strip() != b""


def _is_numbers(text: bytes, start: int, end: int) -> bool:
    """Whether the list there, which is flat, holds nothing else; written out, for it is most of the work."""
    find = text.find
    return (
        find(b'"', start, end) < 0
        and find(b"{", start, end) < 0
        and find(b"a", start, end) < 0
        and find(b"n", start, end) < 0
        and find(b"u", start, end) < 0
    )


def _are_of_length(text: bytes, spans: Sequence[Span], length: int | None) -> bool:
    """Whether all are of `length`; where that is None, of one and the same."""
    if length is not None:
        return all(_length(text, span) == length for span in spans)
    if len(spans) < 2:
        return True
    if sum(map(_size_bytes, spans)) > COUNTED_BYTES:
        spans = min(spans, key=_size_bytes), max(spans, key=_size_bytes)
    return len({_length(text, span) for span in spans}) == 1


def _size_bytes(span: Span) -> int:
    return span[1] - span[0]


def _length(text: bytes, span: Span) -> int:
    return text.count(b",", *span) + 1
