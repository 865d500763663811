"""Check the replies to one embeddings call or its parts, and merge them into one reply.

`has_valid_vectors` is the fast path. A JSON parser reads every digit of a reply: 250 µs for 16 vectors of 1,536
numbers. `has_valid_vectors` searches for brackets instead, which runs at memory speed, and parses only the rest and
both ends of each list. Therefore it does not find these faults, and leaves them to the client's parser:

- one comma too many or too few, or an invalid number, in the middle of a long list
- a wrong number of numbers, if the client requests no length and the vector is neither the longest nor the shortest

Finding them takes three times as long. A server that omits commas or writes another separator does so everywhere, and
the ends of the lists show it.

`join_replies` is the slow path. It raises if a vector is missing, has the wrong length or is in the wrong place,
because such a vector would corrupt an index without an error. It parses the numbers only to convert them.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from binascii import Error, a2b_base64
from collections.abc import Generator, Mapping, Sequence
from itertools import islice
from math import isfinite
from typing import Any

import msgspec

from gatepass import json_scan
from gatepass.errors import UpstreamInvalid
from gatepass.json_body import OBJECT, RAW, Piece, has_slow_numbers
from gatepass.json_scan import ONE_PASS_BYTES, JsonScanner
from gatepass.types import EmbeddingsOptions, counted, parse_count


def encoded(value: Any) -> bytes:
    """Return `value` as JSON. Raises ValueError if a raw part of it is not UTF-8."""
    text = msgspec.json.encode(value)
    if not text.isascii():
        text.decode()  # msgspec copies raw parts without reading them
    return text


PARSED_BYTES = 4 * 1024
"""How much of all vectors together is parsed as JSON: short vectors as a whole, of longer ones the ends."""
SHORTEST_END_BYTES = 32
COUNTED_BYTES = 16 * 1024
"""Up to this size of all vectors together, `has_valid_vectors` compares the lengths of all. Above it, only those of the
longest and the shortest text. It applies if the client requests no length."""

OTHER_BRACKETS = 16
"""A reply has one more opening bracket than vectors. A few more may be in its texts."""
VECTOR_BYTES = 1024 * 1024
"""Limit on the text of one vector: 50,000 numbers. No model has more than 20,000."""
MOST_ESCAPES = 2_000_000
"""Limit on the backslashes of a large reply. Base64 that escapes each slash has one in 64 letters."""
MOST_BLANK_WINDOWS = 64
"""Limit on the windows of a large reply that have only blanks: 4 MiB of long runs. A pattern passes 1 MiB in 1.5 ms."""
OTHER_OBJECTS = 1_000
"""Most objects of a reply in addition to two for each input."""
SLICE_BYTES = 256 * 1024
"""Size of vectors after which `join_replies` yields, so that the event loop can run."""
ENTRY_BYTES = 256
"""Cost of an entry in addition to its numbers, as bytes of numbers: 20,000 short vectors take 50 ms."""

Joined = tuple[list[bytes], tuple[str, ...]]
Slices = Generator[None, None, Joined]


class _Vector(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int


class _Reply(msgspec.Struct, gc=False):
    data: list[_Vector]
    object: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"null")


_REPLY = msgspec.json.Decoder(_Reply)

Span = tuple[int, int]


def has_valid_vectors(reply: bytes, options: EmbeddingsOptions) -> bool:
    """Whether `reply` is certainly a correct reply to the call, within the limits that the module describes.

    Its vectors are lists of numbers, as many and as long as requested, in order. False: `join_replies` must decide.
    """
    if options.base64:
        return False
    if options.count < 2 and len(reply) > 2 * VECTOR_BYTES:
        return False
    end_bytes = max(SHORTEST_END_BYTES, PARSED_BYTES // (2 * options.count)) if options.count > 1 else len(reply)
    # A single vector is parsed as a whole: its length cannot be compared with another, and counting costs as much.
    rest, spans = _without_middles(reply, end_bytes, options.count)
    if sum(map(len, rest)) > 2 * VECTOR_BYTES:
        return False
    try:
        found = _REPLY.decode(b"".join(rest))
    except (ValueError, RecursionError):
        return False
    if bytes(found.error) != b"null" or bytes(found.object) == b'"error"':
        return False
    if [entry.index for entry in found.data] != list(range(options.count)) or len(spans) != options.count:
        return False
    for entry in found.data:
        text = bytes(entry.embedding)
        if text[:1] != b"[" or text.rfind(b"[") != 0 or text[1:-1].strip() == b"":  # not a flat list with numbers
            return False
    return all(_has_only_numbers(reply, *span) for span in spans) and _have_length(reply, spans, options.dimensions)


def _without_middles(reply: bytes, end_bytes: int, most_lists: int) -> tuple[list[Piece], list[Span]]:
    """Return the pieces of `reply` without the middle of each flat list, and the spans of these lists.

    At most `end_bytes` remain at each end of a list, cut at a comma, so that the rest is still a list. A bracket in a
    string looks like a list, so there may be more spans than vectors. The search ends after a few more brackets than
    `most_lists`, because a hostile reply has millions.
    """
    # slices of a memoryview are not copies; those of a small reply take longer
    view: Piece = reply if len(reply) <= VECTOR_BYTES else memoryview(reply)
    kept, spans, start = list[Piece](), list[Span](), 0
    at, end, brackets_left = reply.find(b"["), -1, most_lists + OTHER_BRACKETS
    while at >= 0 and brackets_left > 0:
        brackets_left -= 1
        if end < at:
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
                kept.append(view[start:cut])
                start = again
        at = reply.find(b"[", end)
    kept.append(view[start:])
    return kept, spans


def _has_only_numbers(text: bytes, start: int, end: int) -> bool:
    """Whether the flat list from `start` to `end` has no strings, objects and literals."""
    find = text.find
    # Searches for one byte take a tenth of the time of decoding, and a loop over the bytes would add to it.
    # The n is for Infinity, which Python's json module writes, as it writes NaN.
    return (
        find(b'"', start, end) < 0
        and find(b"{", start, end) < 0
        and find(b"a", start, end) < 0
        and find(b"n", start, end) < 0
        and find(b"u", start, end) < 0
    )


def _have_length(text: bytes, spans: Sequence[Span], length: int | None) -> bool:
    """Whether all lists have `length` numbers, or the same number of them if `length` is None."""
    if length is not None:
        return all(text.count(b",", *span) + 1 == length for span in spans)
    if len(spans) < 2:
        return True
    sizes_bytes = [end - start for start, end in spans]
    if sum(sizes_bytes) > COUNTED_BYTES:
        spans = [spans[sizes_bytes.index(size_bytes)] for size_bytes in (min(sizes_bytes), max(sizes_bytes))]
    return len({text.count(b",", *span) for span in spans}) == 1


FLOAT_BYTES = 4
LARGEST = 3.4028234663852886e38
PARALLEL = 4
ORDER, INDEX = "embeddings=order", "embeddings=index"
NAMES = (ORDER, INDEX)
"""Names in `x-gatepass-adapted` for vectors sorted by `index`, and for an `index` that was missing or wrong."""

_TOO_LONG = f"a vector is longer than {VECTOR_BYTES} bytes"
_TOO_LARGE = "all vectors together exceed limits.reply_bytes. Send fewer inputs, or request base64"

Entry = dict[str, msgspec.Raw]

_ARRAY = ord("[")
ENTRIES: msgspec.json.Decoder[list[Entry]] = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_NUMBERS: msgspec.json.Decoder[list[float]] = msgspec.json.Decoder(list[float])
_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


class InvalidReply(Exception):
    """The reason why a reply is invalid."""


def next_step(steps: Slices) -> Joined | None:
    """Continue `join_replies`; return its result, or None if it has not ended."""
    try:
        next(steps)
    except StopIteration as done:
        result: Joined = done.value
        return result
    return None


def join_replies(
    replies: Sequence[bytes], counts: Sequence[int], options: EmbeddingsOptions, upstream: str, limit_bytes: int
) -> Slices:
    """Merge `replies` into one reply, and return its pieces with those of NAMES that apply.

    Each reply must have as many vectors as `counts` states. In the result they are in order, with their `index`, in the
    requested encoding, and with the sum of the usage. A single correct reply is the only piece.

    Yields after each SLICE_BYTES of vectors. Raises UpstreamInvalid for these faults:

    - A vector is missing, empty, unreadable, or not of numbers.
    - A vector has another length than `options.dimensions` or than the others.
    - `index` contradicts the order of the entries and does not define another one.
    - The merged reply is not UTF-8 or has a number beyond any float.
    - The merged or converted reply has more than `limit_bytes`.
    """
    try:
        return (yield from _join(replies, counts, options, limit_bytes))
    except InvalidReply as fault:
        reason = f"The embeddings of the upstream {upstream!r} are invalid: {fault}."
        of_request = options.dimensions is not None or fault.args == (_TOO_LARGE,)
        raise UpstreamInvalid(reason, upstream=upstream, of_request=of_request) from None


def _join(replies: Sequence[bytes], counts: Sequence[int], options: EmbeddingsOptions, limit_bytes: int) -> Slices:
    documents, entries, wrong = list[Entry](), list[Entry](), set[str]()
    for reply, count in zip(replies, counts, strict=True):
        try:
            document, listed = yield from (_read if len(reply) <= ONE_PASS_BYTES else _read_large)(reply, count)
        except (ValueError, IndexError, RecursionError, json_scan.TooManySteps):
            raise InvalidReply('the reply is not a JSON object, or has no list "data" of objects') from None
        if len(listed) != count:
            raise InvalidReply(f"the reply has {counted(len(listed), 'vector')} for {counted(count, 'input')}")
        documents.append(document)
        yield
        ordered = _in_order(listed)
        if ordered is not listed:
            wrong.add(ORDER)
        before = len(entries)
        for position, entry in enumerate(ordered):
            is_right = "index" in entry and bytes(entry["index"]) == b"%d" % position
            if not is_right:
                wrong.add(INDEX)
            if before or not is_right:
                entry["index"] = msgspec.Raw(b"%d" % (before + position))
        entries += ordered
    is_converted = yield from _convert_all(entries, options, limit_bytes)
    names = tuple(name for name in NAMES if name in wrong)
    if wrong or is_converted or len(replies) != 1:
        return (yield from _written(documents, entries, limit_bytes)), names
    return [replies[0]], names


def _read(reply: bytes, count: int) -> Generator[None, None, tuple[Entry, list[Entry]]]:
    """Return the members of `reply` and its entries. Raises ValueError and RecursionError."""
    document = OBJECT.decode(reply)
    yield
    data = document["data"] if "data" in document else msgspec.Raw(b"null")
    if bytes(data).count(b"{") > 2 * count + OTHER_OBJECTS:
        raise InvalidReply(f"it has more objects than vectors for {counted(count, 'input')}")
    return document, ENTRIES.decode(data)


STEPS_OF_ENTRY, STEPS_OF_OTHERS = 200, 100_000


def _read_large(reply: bytes, count: int) -> Generator[None, None, tuple[Entry, list[Entry]]]:
    """Read a large reply as `_read` does, entry by entry: at once it may take 60 ms. Returns `count` + 1 at most."""
    if json_scan.has_more_escapes(reply, MOST_ESCAPES):
        raise InvalidReply(f"the reply has more than {MOST_ESCAPES} backslashes")
    yield
    windows = (reply[at : at + json_scan.WINDOW_BYTES] for at in range(0, len(reply), json_scan.WINDOW_BYTES))
    if next(islice(filter(bytes.isspace, windows), MOST_BLANK_WINDOWS, None), None) is not None:
        raise InvalidReply("the reply has more than 4 MiB of blanks")
    yield
    view, scanner = memoryview(reply), JsonScanner(reply, STEPS_OF_ENTRY * count + STEPS_OF_OTHERS)
    document, listed, read_bytes = Entry(), list[Entry](), 0
    for name, value in scanner.names_and_values():
        if value > read_bytes + SLICE_BYTES:
            read_bytes = value
            yield
        if name != "data" or reply[value] != _ARRAY:
            document[name] = RAW.decode(view[value : scanner.value_end(value)])
            continue
        document[name], listed = msgspec.Raw(b"[]"), []
        for start, end in islice(scanner.elements(value), count + 1):
            if end - start > 2 * VECTOR_BYTES:
                raise InvalidReply(_TOO_LONG)
            listed.append(OBJECT.decode(view[start:end]))
            if end > read_bytes + SLICE_BYTES:
                read_bytes = end
                yield
        if len(listed) > count:
            break
    return document, listed


def _in_order(listed: list[Entry]) -> list[Entry]:
    """Return the entries sorted by `index`, or the same list if `index` defines no other order.

    Some servers omit `index` or write 0 in every entry. An `index` may start at any number. If it decreases and has
    gaps, the vector of an input is unknown.
    """
    # Some servers write `index` as a string, or as 1.0.
    found = [
        parse_count(bytes(one["index"]).strip(b'"').removesuffix(b".0")) if "index" in one else None for one in listed
    ]
    known = [index for index in found if index is not None]
    ranked = sorted(known)
    if known == ranked:
        return listed
    if len(known) != len(listed) or ranked != list(range(ranked[0], ranked[0] + len(ranked))):
        raise InvalidReply('"index" contradicts the order of the entries and does not define another one')
    # By the index alone, because entries cannot be compared.
    return [entry for _, entry in sorted(zip(known, listed, strict=True), key=lambda pair: pair[0])]


def _convert_all(entries: list[Entry], options: EmbeddingsOptions, limit_bytes: int) -> Generator[None, None, bool]:
    results, seen_bytes = list[tuple[int, bool]](), 0
    for entry in entries:
        results.append(_convert(entry, options))
        limit_bytes -= len(memoryview(entry["embedding"]))
        if limit_bytes < 0:
            raise InvalidReply(_TOO_LARGE)
        seen_bytes += ENTRY_BYTES + len(memoryview(entry["embedding"]))
        if seen_bytes > SLICE_BYTES:
            seen_bytes = 0
            yield
    lengths = {length for length, _ in results}
    if len(lengths) > 1:
        raise InvalidReply(f"one vector has {min(lengths)} numbers and another {max(lengths)}")
    return any(is_new for _, is_new in results)


def _convert(entry: Entry, options: EmbeddingsOptions) -> tuple[int, bool]:
    """Check one vector and convert it to the requested encoding; return its length and whether it changed."""
    written = bytes(entry.get("embedding", b""))
    if len(written) > VECTOR_BYTES:
        raise InvalidReply(_TOO_LONG)
    if written.startswith(b"["):
        length = 0 if not written[1:-1].strip() else written.count(b",") + 1
        _check_length(length, options)
        if written.rfind(b"[") != 0 or not _has_only_numbers(written, 0, len(written)):
            raise InvalidReply("a vector contains a value that is not a number")
        if options.base64:
            entry["embedding"] = msgspec.Raw(_in_base64(written))
        return length, options.base64
    if not written.startswith(b'"'):
        raise InvalidReply("an entry has no vector")
    try:
        # Strict, because Python otherwise skips every character that is not base64.
        data = a2b_base64(_TEXT.decode(written), strict_mode=True)
    except (Error, ValueError):
        raise InvalidReply("a vector is a string that is not base64") from None
    if len(data) % FLOAT_BYTES:
        raise InvalidReply("a vector is base64 of something other than float32")
    numbers = _little_endian(array("f", data))
    if not all(map(isfinite, numbers)):
        raise InvalidReply("a vector contains a number that is not finite")
    _check_length(len(numbers), options)
    if not options.base64:
        entry["embedding"] = msgspec.Raw(msgspec.json.encode(numbers.tolist()))
    return len(numbers), not options.base64


def _check_length(length: int, options: EmbeddingsOptions) -> None:
    if not length:
        raise InvalidReply("a vector is empty")
    if options.dimensions not in (None, length):
        raise InvalidReply(
            f"the request asks for {options.dimensions} dimensions and a vector has {length}. The model does not"
            " support `dimensions`: omit it or request the length of the model"
        )


def _in_base64(written: bytes) -> bytes:
    """Return the vector as base64 of little-endian float32, as the OpenAI API writes it."""
    if has_slow_numbers(written):
        raise InvalidReply("a vector contains a number beyond float32")
    try:
        numbers = _NUMBERS.decode(written)
    except ValueError:
        raise InvalidReply("a vector contains a value that is not a number") from None
    if max(numbers) > LARGEST or min(numbers) < -LARGEST:
        raise InvalidReply("a vector contains a number beyond float32")
    return b'"%b"' % b64encode(_little_endian(array("f", numbers)).tobytes())


def _little_endian(numbers: array[float]) -> array[float]:
    # The base64 of the API is little-endian on every machine.
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _written(documents: Sequence[Entry], entries: list[Entry], limit_bytes: int) -> Generator[None, None, list[bytes]]:
    merged: dict[str, Any] = {**documents[0], "data": None}
    try:
        found = [msgspec.json.decode(document["usage"]) for document in documents if "usage" in document]
    except ValueError:  # a number beyond any float, or bytes that are not UTF-8
        raise InvalidReply('its "usage" cannot be read') from None
    usages = [usage for usage in found if isinstance(usage, dict)]
    if len(documents) > 1 and usages:
        merged["usage"] = _summed(usages)
    pieces, sign, written_bytes = list[bytes](), b"{", 0
    try:
        for name, value in merged.items():
            pieces += (sign, encoded(name), b":")
            sign = b","
            if name != "data":
                pieces.append(encoded(value))
                continue
            for position, entry in enumerate(entries):
                pieces += (b"," if position else b"[", encoded(entry))
                entry.clear()  # frees a converted vector
                written_bytes += len(pieces[-1])
                if written_bytes > SLICE_BYTES:
                    written_bytes = 0
                    yield
            pieces.append(b"]")
    except ValueError:
        raise InvalidReply("the reply is not UTF-8") from None
    pieces.append(b"}")
    if sum(map(len, pieces)) > limit_bytes:
        raise InvalidReply(_TOO_LARGE)
    return pieces


def _summed(usages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add numbers by name, also in objects; of any other value keep the first."""
    summed: dict[str, Any] = {}
    for name in dict.fromkeys(name for usage in usages for name in usage):
        values = [usage[name] for usage in usages if name in usage]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if all(isinstance(value, dict) for value in values):
            summed[name] = _summed(values)
        elif not numbers:
            summed[name] = values[0]
        else:
            try:
                summed[name] = sum(numbers)
                is_finite = isfinite(summed[name])
            except OverflowError:  # an integer beyond any float
                is_finite = False
            if not is_finite:
                raise InvalidReply('its "usage" cannot be added up')
    return summed
