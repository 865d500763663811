"""The replies to one embeddings call or its parts: whether they are right, and all as one reply.

`is_right` is the fast path: nearly all of a reply are digits, and a JSON parser looks at each (250 µs for 16 vectors of
1,536). It hops over most of them, from bracket to bracket at memory speed, and parses what is left, both ends of each
list included. So a fault in the middle of a long list passes as it came, for the client's parser to find: a comma too
many, too few or in the place of a number, a number in a spelling that JSON does not have. Likewise, where no length was
asked for, a vector that lacks so few numbers that its text is neither the longest nor the shortest. To see each comma
would take three times as long as all of this. What writes such replies writes them throughout: a list without commas,
or with another sign in their place, shows at its ends.

`merge_replies` is the slow path. It raises if a vector is missing, has the wrong length or is in the wrong place: such
a vector would poison an index without an error. Vectors are not built where only their places matter.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from binascii import Error, a2b_base64
from collections.abc import Generator, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import msgspec

from gatepass.errors import UpstreamInvalid
from gatepass.json_scan import has_slow_numbers
from gatepass.types import EmbeddingsOptions, parse_count


def encoded(value: Any) -> bytes:
    """`value` as JSON in UTF-8. Raises ValueError where its raw parts are none: msgspec copies them unread."""
    text = msgspec.json.encode(value)
    if not text.isascii():
        text.decode()
    return text


LOOKED_BYTES = 4 * 1024
"""So much of all vectors together is read as JSON: all of short ones, the ends of others."""
SHORTEST_END_BYTES = 32
COUNTED_BYTES = 16 * 1024
"""Where any length is right, the numbers of all vectors together that are no longer than this are counted; else those
of the longest and the shortest."""


VECTOR_BYTES = 1024 * 1024
"""The longest vector, as it is written: 50,000 numbers. No model has more than 20,000."""
SLICE_BYTES = 256 * 1024
"""After so much of vectors the caller may let the event loop run."""
ENTRY_BYTES = 256
"""What an entry costs beside its numbers, in bytes of them: 20,000 short vectors take 50 ms."""

Slices = Generator[None, None, tuple[bytes, tuple[str, ...]]]


class _Vector(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int


class _Reply(msgspec.Struct, gc=False):
    data: list[_Vector]
    object: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"null")


_REPLY = msgspec.json.Decoder(_Reply)

Span = tuple[int, int]


def is_right(reply: bytes, options: EmbeddingsOptions) -> bool:
    """Whether `reply` is JSON without an error in it, and its vectors are lists of numbers as they were asked for, in
    order, as far as this module looks; False: look closer.
    """
    if options.base64:
        return False
    if options.count < 2 and len(reply) > 2 * VECTOR_BYTES:
        return False
    rest, spans = _parted(reply, _end_bytes(reply, options.count))
    try:
        found = _REPLY.decode(rest)
    except (ValueError, RecursionError):
        return False
    if bytes(found.error) != b"null" or bytes(found.object) == b'"error"':
        return False
    if [entry.index for entry in found.data] != list(range(options.count)) or len(spans) != options.count:
        return False
    if not all(_is_flat_list(bytes(entry.embedding)) for entry in found.data):
        return False
    return all(_holds_numbers(reply, *span) for span in spans) and _are_of_length(reply, spans, options.dimensions)


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


def _holds_numbers(text: bytes, start: int, end: int) -> bool:
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
        return all(_numbers_in(text, span) == length for span in spans)
    if len(spans) < 2:
        return True
    if sum(map(_size_bytes, spans)) > COUNTED_BYTES:
        spans = min(spans, key=_size_bytes), max(spans, key=_size_bytes)
    return len({_numbers_in(text, span) for span in spans}) == 1


def _size_bytes(span: Span) -> int:
    return span[1] - span[0]


def _numbers_in(text: bytes, span: Span) -> int:
    return text.count(b",", *span) + 1


FLOAT_BYTES = 4
LARGEST = 3.4028234663852886e38
"""Of float32."""
PARALLEL = 4
"""Requests of one call that are worth having under way at once."""
ORDER, INDEX = "embeddings=order", "embeddings=index"
NAMES = (ORDER, INDEX)
"""What `x-gatepass-adapted` calls vectors that were put into the order that their `index` says, and an `index` that
was missing or not the vector's place in its reply. That their encoding is the one that was asked for has no name."""

Entry = dict[str, msgspec.Raw]


_OBJECT: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRIES: msgspec.json.Decoder[list[Entry]] = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_NUMBERS: msgspec.json.Decoder[list[float]] = msgspec.json.Decoder(list[float])
_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


class _Unfit(Exception):
    """What is wrong with a reply."""


def merge_replies(
    replies: Sequence[bytes], counts: Sequence[int], options: EmbeddingsOptions, upstream: str
) -> tuple[bytes, tuple[str, ...]]:
    """As `answered`, at once."""
    steps = answered(replies, counts, options, upstream)
    while (made := next_step(steps)) is None:
        pass
    return made


def next_step(steps: Slices) -> tuple[bytes, tuple[str, ...]] | None:
    """Go on with `answered`: its result, None before that."""
    try:
        next(steps)
    except StopIteration as done:
        result: tuple[bytes, tuple[str, ...]] = done.value
        return result
    return None


def answered(replies: Sequence[bytes], counts: Sequence[int], options: EmbeddingsOptions, upstream: str) -> Slices:
    """One reply out of `replies`, each of which is to hold as many vectors as `counts` says: in order, with their
    `index`, usage added up, in the encoding that was asked for; and those of NAMES that say what was wrong.

    A lone reply that is right already comes back as it is. Raises UpstreamInvalid for a vector that is
    missing, empty, of another length than `asked.dimensions` or than the others, not of numbers, or not to be read,
    where `index` says another order than theirs and not which, and where what is rewritten holds numbers beyond any
    float or is no UTF-8. Yields after SLICE_BYTES of vectors, where the caller may let the event loop run.
    """
    try:
        return (yield from _answer(replies, counts, options))
    except _Unfit as fault:
        told = f"The embeddings of the upstream {upstream!r} are invalid: {fault}."
        raise UpstreamInvalid(told, upstream=upstream) from None


def _is_numbers(written: bytes) -> bool:
    """Whether the JSON value `written` is a list of numbers, and not seen at once to be an empty one.

    Every other value has one of these signs: `null` and `false` the l, `true` the t. Five searches for one byte each
    take a tenth of the time that decoding does.
    """
    return (
        written[:1] == b"["
        and written[1:20].strip(b" \t\r\n]") != b""
        and written.rfind(b"[") == 0
        and not (b"l" in written or b'"' in written or b"{" in written or b"t" in written)
    )


def _length(written: bytes) -> int:
    return 0 if not written[1:-1].strip() else written.count(b",") + 1


def _answer(replies: Sequence[bytes], counts: Sequence[int], options: EmbeddingsOptions) -> Slices:
    documents = list[Entry]()
    for reply in replies:
        documents.append(_document(reply))
        yield
    entries, wrong = list[Entry](), set[str]()
    for document, count in zip(documents, counts, strict=True):
        listed = _entries(document, count)
        yield
        ordered = _in_order(listed)
        if ordered is not listed:
            wrong.add(ORDER)
        if _placed(ordered, len(entries)):
            wrong.add(INDEX)
        entries += ordered
    are_written_anew = yield from _fit_all(entries, options)
    names = tuple(name for name in NAMES if name in wrong)
    if wrong or are_written_anew or len(replies) != 1:
        return _written(documents, entries), names
    return replies[0], names


def _document(reply: bytes) -> Entry:
    try:
        return _OBJECT.decode(reply)
    except (ValueError, RecursionError):
        raise _Unfit("the reply is no JSON object") from None


def _entries(document: Entry, count: int) -> list[Entry]:
    try:
        listed = _ENTRIES.decode(document.get("data", msgspec.Raw(b"null")))
    except ValueError:
        raise _Unfit('the reply has no list "data" of objects') from None
    if len(listed) != count:
        raise _Unfit(f"there are {len(listed)} for {count} inputs")
    return listed


def _in_order(listed: list[Entry]) -> list[Entry]:
    """By `index` where that says another order than theirs, from 0 or from any other number on. Some servers leave it
    out, or write 0 everywhere: that says nothing. One that falls and has gaps leaves open whose vector is whose."""
    places = [_place(entry) for entry in listed]
    known = [place for place in places if place is not None]
    ranked = sorted(known)
    if known == ranked:
        return listed
    if len(known) != len(listed) or ranked != list(range(ranked[0], ranked[0] + len(ranked))):
        raise _Unfit('"index" says neither the order in which they stand nor another one')
    return [entry for _, entry in sorted(zip(known, listed, strict=True), key=lambda pair: pair[0])]


def _place(entry: Entry) -> int | None:
    """Some write it as a text, or as 1.0."""
    return parse_count(bytes(entry["index"]).strip(b'"').removesuffix(b".0")) if "index" in entry else None


def _placed(ordered: list[Entry], before: int) -> bool:
    """Give each entry of one reply its place among all, of which `before` stand in front; whether one did not have its
    place in the reply."""
    was_wrong = False
    for position, entry in enumerate(ordered):
        is_right = "index" in entry and bytes(entry["index"]) == b"%d" % position
        was_wrong = was_wrong or not is_right
        if before or not is_right:
            entry["index"] = msgspec.Raw(b"%d" % (before + position))
    return was_wrong


def _fit_all(entries: list[Entry], options: EmbeddingsOptions) -> Generator[None, None, bool]:
    """Check all vectors, and write them as they were asked for; whether that changed one."""
    fits, seen_bytes = list[tuple[int, bool]](), 0
    for entry in entries:
        fits.append(_fit(entry, options))
        seen_bytes += ENTRY_BYTES + len(memoryview(entry["embedding"]))
        if seen_bytes > SLICE_BYTES:
            seen_bytes = 0
            yield
    lengths = {length for length, _ in fits}
    if len(lengths) > 1:
        raise _Unfit(f"one has {min(lengths)} numbers and another {max(lengths)}")
    return any(is_new for _, is_new in fits)


def _fit(entry: Entry, options: EmbeddingsOptions) -> tuple[int, bool]:
    """Check the vector, and write it as it was asked for; its length, and whether that changed it."""
    written = bytes(entry.get("embedding", b""))
    if len(written) > VECTOR_BYTES:
        raise _Unfit(f"a vector is longer than {VECTOR_BYTES} bytes")
    if written.startswith(b"["):
        length = _length(written)
        _check_length(length, options)
        if not _is_numbers(b"[" + written[1:].lstrip()):
            raise _Unfit("a vector holds what is no number")
        if options.base64:
            entry["embedding"] = msgspec.Raw(_in_base64(written))
        return length, options.base64
    if not written.startswith(b'"'):
        raise _Unfit("one has no vector")
    numbers = _from_base64(written)
    _check_length(len(numbers), options)
    if not options.base64:
        entry["embedding"] = msgspec.Raw(msgspec.json.encode(numbers.tolist()))
    return len(numbers), not options.base64


def _check_length(length: int, options: EmbeddingsOptions) -> None:
    if not length:
        raise _Unfit("one is an empty vector")
    if options.dimensions not in (None, length):
        raise _Unfit(
            f"the request asks for {options.dimensions} dimensions and a vector has {length}: the model knows no"
            " `dimensions`, so leave that out or ask for what it has"
        )


def _in_base64(written: bytes) -> bytes:
    """Little-endian float32, as the OpenAI API writes it."""
    if has_slow_numbers(written):
        raise _Unfit("a vector holds a number beyond float32")
    try:
        numbers = _NUMBERS.decode(written)
    except ValueError:
        raise _Unfit("a vector holds what is no number") from None
    if max(numbers) > LARGEST or min(numbers) < -LARGEST:
        raise _Unfit("a vector holds a number beyond float32")
    return b'"%b"' % b64encode(_little_endian(array("f", numbers)).tobytes())


def _from_base64(written: bytes) -> array[float]:
    try:
        data = a2b_base64(_TEXT.decode(written), strict_mode=True)
    except (Error, ValueError):
        raise _Unfit("a vector is a text that is no base64") from None
    if len(data) % FLOAT_BYTES:
        raise _Unfit("a vector is base64 of something else than float32")
    numbers = _little_endian(array("f", data))
    if not all(map(isfinite, numbers)):
        raise _Unfit("a vector holds a number that is not finite")
    return numbers


def _little_endian(numbers: array[float]) -> array[float]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _written(documents: Sequence[Entry], entries: list[Entry]) -> bytes:
    """The first reply with all entries, and the usage of all."""
    merged: dict[str, Any] = {**documents[0], "data": entries}
    usages = _usages(documents)
    if len(documents) > 1 and usages:
        merged["usage"] = _summed(usages)
    try:
        return encoded(merged)
    except ValueError:
        raise _Unfit("the reply is no text in UTF-8") from None


def _usages(documents: Sequence[Entry]) -> list[dict[str, Any]]:
    try:
        found = [msgspec.json.decode(document["usage"]) for document in documents if "usage" in document]
    except ValueError:  # a number beyond any float, bytes that are no text
        raise _Unfit('its "usage" cannot be read') from None
    return [usage for usage in found if isinstance(usage, dict)]


def _summed(usages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers added up by name, objects likewise; of anything else the first."""
    return {name: _sum([usage[name] for usage in usages if name in usage]) for name in dict.fromkeys(_names(usages))}


def _names(usages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    return (name for usage in usages for name in usage)


def _sum(values: list[Any]) -> Any:
    if all(isinstance(value, dict) for value in values):
        return _summed(values)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return _total(numbers) if numbers else values[0]


def _total(numbers: list[int | float]) -> int | float:
    try:
        total = sum(numbers)
        is_finite = isfinite(total)
    except OverflowError:  # an integer beyond any float
        is_finite = False
    if not is_finite:
        raise _Unfit('its "usage" cannot be added up')
    return total
