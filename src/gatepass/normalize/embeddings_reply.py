"""Check the replies to one embeddings call or its parts, and merge them into one reply.

A JSON parser reads every digit of a reply: 250 µs for 16 vectors of 1,536 numbers. `_cut` finds the vectors by their
name instead, which runs at memory speed, and msgspec parses only the rest and both ends of each vector. Searches for
brackets, quotes and letters check the numbers. These faults are left to the client's parser:

- one comma too many or too few, or an invalid number, in the middle of a long list
- a wrong vector length, if the client requests no length and the text of the vector is neither the longest nor the
  shortest

Finding them takes three times as long. A server that omits commas or writes another separator does so everywhere, and
the ends of the lists show it. `join_replies` finds them too, in vectors that are merged or converted. A vector that is
missing, has the wrong length or is in the wrong place would corrupt an index without an error.
"""

from __future__ import annotations

import re
import sys
from array import array
from base64 import b64encode
from binascii import Error, a2b_base64
from collections.abc import Generator, Sequence
from math import isfinite
from typing import Any, TypeVar

import msgspec

from gatepass.config.advice import Advice
from gatepass.errors import UpstreamInvalid
from gatepass.json_body import OBJECT, ONE_PASS_BYTES, RAW, UNCOUNTED_BYTES, has_more, has_slow_numbers
from gatepass.types import EmbeddingsOptions, counted, parse_count


def encoded(value: Any) -> bytes:
    """Return `value` as JSON. Raises ValueError if a raw part of it is not UTF-8."""
    text = msgspec.json.encode(value)
    if not text.isascii():
        text.decode()  # msgspec copies raw parts without reading them
    return text


PARSED_BYTES = 4 * 1024
"""How much of all vectors together is parsed as JSON: short vectors completely, only the ends of longer ones."""
SHORTEST_END_BYTES = 32
COUNTED_BYTES = 16 * 1024
"""If the client requests no length, `usage_of_valid` compares the lengths of all vectors up to this total size. Above
it, it compares only the vectors with the longest and the shortest text."""
MOST_BYTES, MOST_MEMBERS = ONE_PASS_BYTES, 100_000
"""Limits on the rest of a reply, without its vectors: bytes, and colons and opening braces. Reading it takes 40 ms."""
MOST_VALIDATED = 5_000
"""How many vectors are read at once."""
VECTOR_BYTES = 1024 * 1024
"""Limit on the text of one vector: 50,000 numbers. No model has more than 20,000."""
SLICE_BYTES = 256 * 1024
"""Size of vectors after which `join_replies` yields, so that the event loop can run."""
ENTRY_BYTES = 256
"""Cost of an entry in addition to its numbers, as bytes of numbers: 20,000 short vectors take 50 ms."""

FLOAT_BYTES = 4
LARGEST = 3.4028234663852886e38
PARALLEL = 4
ORDER, INDEX, ROW = "embeddings=order", "embeddings=index", "embeddings=row"
NAMES = (ORDER, INDEX, ROW)
"""Names in `x-gatepass-adapted`: sorted by `index`; an `index` that was missing or wrong; a vector alone in a list."""

_TOO_LONG = f"a vector is longer than {VECTOR_BYTES} bytes"
_TOO_LARGE = "all vectors together are larger than a reply may be (base64 is smaller)", "reply_too_large"

_NOT_NUMBERS = "a vector contains a value that is not a number"
_NOT_FINITE = re.compile(rb"[\[,:\s]-?(?:NaN|Infinity)\b|[\[,]\s*+null\s*+[\],]")
"""What a server writes for a number that JSON does not have. Rust and JavaScript write null."""

Entry = dict[str, msgspec.Raw]
Span = tuple[int, int]
Result = TypeVar("Result")
Steps = Generator[None, None, Result]
Joined = tuple[list[bytes], tuple[str, ...]]


class _Reply(msgspec.Struct, gc=False):
    data: list[Entry]
    object: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")


_REPLY = msgspec.json.Decoder(_Reply)
_NUMBERS: msgspec.json.Decoder[list[float]] = msgspec.json.Decoder(list[float])
_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_BEGIN = rb'(?:"|\[[ \t\r\n]{0,64}+[^\] \t\r\n])'
"""A string or a list that is not empty."""
_VECTOR = re.compile(rb'"embedding"(?<!\\"embedding")[ \t\r\n]*+:[ \t\r\n]*+(?=%b)' % _BEGIN)
"""The name of a vector. It is a member's, because a quote without a backslash before it begins or ends a string."""
_is_vector = re.compile(_BEGIN).match
_BACKSLASH, _LIST = b"\\["
_LETTERS = (b"a", b"f", b"u")
"""Each of NaN, Infinity, null, true and false has one. Python's json module writes the first two."""


class InvalidReply(Exception):
    """The reason why a reply is invalid, the case of errors.json that has the action, "" for none, and its setting."""

    def __init__(self, reason: str, case: str = "", setting: str = "") -> None:
        super().__init__(reason)
        self.reason, self.case, self.setting = reason, case, setting

    def upstream_error(self, what: str, upstream: str, *, of_request: bool = False) -> UpstreamInvalid:
        case, setting, of_request = self.case, self.setting, of_request or self.case != ""
        text, advice = f"{what}: {self.reason}.", str(Advice(case, {"setting": setting}))
        return UpstreamInvalid(
            text, upstream=upstream, of_request=of_request, case=case, setting=setting, advice=advice
        )


def unreadable(text: bytes, place: str, reason: str) -> InvalidReply:
    """Return the fault of `text`, which cannot be read: a value that is not a number in `place`, or else `reason`."""
    if _NOT_FINITE.search(text) is not None:
        return InvalidReply(f"{place} contains a value that is not a number: NaN, Infinity or null", "not_finite")
    return InvalidReply(reason)


def next_step(steps: Steps[Result]) -> Result | None:
    """Continue `steps`; return their result, or None if they have not ended."""
    try:
        next(steps)
    except StopIteration as done:
        result: Result = done.value
        return result
    return None


def usage_of_valid(reply: bytes, options: EmbeddingsOptions) -> bytes:
    """Return the `usage` in an object, if `reply` is certainly correct within the limits of the module, else b"".

    Its vectors are then lists of numbers, as many and as long as requested, in order. b"": `join_replies` must decide.
    """
    if options.base64 or options.count > MOST_VALIDATED or (options.count < 2 and len(reply) > 2 * VECTOR_BYTES):
        return b""
    steps = _read(reply, options.count)
    try:
        while (result := next_step(steps)) is None:
            pass
    except InvalidReply:
        return b""
    _, found, spans = result
    if not spans or bytes(found.error) != b"null" or bytes(found.object) == b'"error"':
        return b""
    indexes = b",".join([entry.get("index", b"") for entry in found.data])
    if b"[%b]" % indexes != msgspec.json.encode([*range(options.count)]):
        return b""
    is_valid = _have_only_numbers(reply, spans) and _have_length(reply, spans, options.dimensions)
    return b'{"usage":%b}' % bytes(found.usage) if is_valid else b""


def _have_only_numbers(text: bytes, spans: Sequence[Span]) -> bool:
    """Whether the lists at `spans` have no strings, objects and literals."""
    find, start, end = text.find, spans[0][0], spans[-1][1]
    # Searches for one byte take a tenth of the time of decoding, and a loop over the bytes would add to it.
    for letter in _LETTERS:  # usually none, in other members neither
        if find(letter, start, end) >= 0 and any(find(letter, *span) >= 0 for span in spans):
            return False
    return all(find(b'"', start, end) < 0 and find(b"{", start, end) < 0 for start, end in spans)


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


def join_replies(
    replies: Sequence[bytes], counts: Sequence[int], options: EmbeddingsOptions, upstream: str, limit_bytes: int
) -> Steps[Joined]:
    """Merge `replies` into one reply, and return its pieces with those of NAMES that apply.

    Each reply must have as many vectors as `counts` states. The result has the vectors in order, with their `index`, in
    the requested encoding, and the sum of the usage. A single correct reply is returned unchanged, as the only piece.

    Yields after each SLICE_BYTES of vectors. Raises UpstreamInvalid for these faults:

    - A vector is missing, empty or unreadable, or has a value that is not a number.
    - The length of a vector differs from `options.dimensions` or from the other vectors.
    - `index` contradicts the order of the entries and does not define another one.
    - The merged reply is not UTF-8 or has a number beyond any float.
    - The merged or converted reply has more than `limit_bytes`.
    - A reply has more than MOST_BYTES without its vectors.
    """
    try:
        return (yield from _join(replies, counts, options, limit_bytes))
    except InvalidReply as fault:
        what = f"The embeddings of the upstream {upstream!r} are invalid"
        raise fault.upstream_error(what, upstream, of_request=options.dimensions is not None) from None


def _join(
    replies: Sequence[bytes], counts: Sequence[int], options: EmbeddingsOptions, limit_bytes: int
) -> Steps[Joined]:
    rests, entries, wrong = list[bytes](), list[Entry](), set[str]()
    for reply, count in zip(replies, counts, strict=True):
        rest, found, spans = yield from _read(reply, count)
        rests.append(rest)
        listed, view = found.data, memoryview(reply)
        for entry, (start, end) in zip(listed, spans, strict=False):  # without spans the entries contain the vectors
            entry["embedding"] = msgspec.Raw(view[start:end])
        yield
        ordered = _in_order(listed)
        if ordered is not listed:
            wrong.add(ORDER)
        before = len(entries)
        for position, entry in enumerate(ordered):
            is_right = "index" in entry and bytes(entry["index"]) == b"%d" % position
            if not is_right:
                wrong.add(INDEX)
            if _take_row(entry):
                wrong.add(ROW)
            if before or not is_right:
                entry["index"] = msgspec.Raw(b"%d" % (before + position))
        entries += ordered
    is_converted = yield from _convert_all(entries, options, limit_bytes)
    names = tuple(name for name in NAMES if name in wrong)
    if wrong or is_converted or len(replies) != 1:
        return (yield from _written(rests, entries, limit_bytes)), names
    return [replies[0]], names


def _read(reply: bytes, count: int) -> Steps[tuple[bytes, _Reply, list[Span]]]:
    """Return `reply` without the middle of its vectors, the parsed rest, and the span of each vector.

    If `_cut` finds other vectors than the entries have, the spans are empty and the entries contain the vectors. Raises
    InvalidReply.
    """
    rest, spans, left_bytes = yield from _cut(reply, count)
    yield
    found = _decoded(rest, count)
    texts = [bytes(entry.get("embedding", b"")) for entry in found.data]
    if len(spans) == count and left_bytes == sum(map(len, texts)) and all(map(_is_vector, texts)):
        return rest, found, spans
    return reply, _decoded(reply, count), []


def _decoded(text: bytes, count: int) -> _Reply:
    if len(text) > MOST_BYTES:
        raise InvalidReply(f"it has more than {MOST_BYTES >> 20} MiB beside the vectors of {counted(count, 'input')}")
    if len(text) > UNCOUNTED_BYTES and has_more(text, b"{:", MOST_MEMBERS):
        raise InvalidReply(f"it has more than {MOST_MEMBERS} members and objects")
    try:
        found = _REPLY.decode(text)
    except (ValueError, RecursionError):
        reason = 'the reply is not a JSON object, or has no list "data" of objects'
        raise unreadable(text, "a vector", reason) from None
    if len(found.data) != count:
        raise InvalidReply(f"the reply has {counted(len(found.data), 'vector')} for {counted(count, 'input')}")
    return found


def _cut(reply: bytes, count: int) -> Steps[tuple[bytes, list[Span], int]]:
    """Return `reply` with only both ends of each vector, where the vectors are, and how much is left of them."""
    kept, spans, start, at, vector_bytes = list[bytes](), list[Span](), 0, 0, 0
    # A single vector is parsed as a whole: its length cannot be compared with another, and counting costs as much.
    end_bytes = VECTOR_BYTES if count < 2 else max(SHORTEST_END_BYTES, PARSED_BYTES // (2 * count))
    while len(spans) <= count and (found := _VECTOR.search(reply, at, MOST_BYTES + vector_bytes)) is not None:
        begin = found.end()
        if reply[begin] == _LIST:
            at = reply.find(b"]", begin) + 1
            if at - begin > 2 * end_bytes:  # cut at commas, so that the rest is still a list
                cut, again = reply.rfind(b",", begin, begin + end_bytes), reply.find(b",", at - end_bytes, at)
                if cut >= 0 and again >= 0:
                    kept.append(reply[start:cut])
                    start = again
        else:
            at = reply.find(b'"', begin + 1) + 1
            if reply[at - 2] == _BACKSLASH:  # a text
                return reply, [], 0
            kept.append(reply[start : begin + 1])
            start = at - 1
        if at == 0:  # it does not end
            break
        spans.append((begin, at))
        vector_bytes += at - begin
        if not len(spans) % MOST_VALIDATED:
            yield
    if len(reply) - start > MOST_BYTES:
        if len(spans) > count:
            raise InvalidReply(f"the reply has {counted(len(spans), 'vector')} for {counted(count, 'input')}")
        return reply, spans, vector_bytes
    rest = b"".join((*kept, reply[start:]))
    return rest, spans, vector_bytes - len(reply) + len(rest)


def _in_order(listed: list[Entry]) -> list[Entry]:
    """Return the entries sorted by `index`, or the same list if `index` defines no other order.

    Some servers omit `index` or write 0 in every entry, or start at another number. If it decreases and is not 0 to
    n-1 in some order, the vector of an input is unknown.
    """
    # Some servers write `index` as a string, or as 1.0.
    found = [
        parse_count(bytes(one["index"]).strip(b'"').removesuffix(b".0")) if "index" in one else None for one in listed
    ]
    known = [index for index in found if index is not None]
    if known == sorted(known):
        return listed
    if sorted(known) != [*range(len(listed))]:
        raise InvalidReply('"index" contradicts the order of the entries and does not define another one')
    # By the index alone, because entries cannot be compared.
    return [entry for _, entry in sorted(zip(known, listed, strict=True), key=lambda pair: pair[0])]


def _convert_all(entries: list[Entry], options: EmbeddingsOptions, limit_bytes: int) -> Steps[bool]:
    results, seen_bytes = list[tuple[int, bool]](), 0
    for entry in entries:
        results.append(_convert(entry, options))
        limit_bytes -= len(memoryview(entry["embedding"]))
        if limit_bytes < 0:
            raise InvalidReply(*_TOO_LARGE)
        seen_bytes += ENTRY_BYTES + len(memoryview(entry["embedding"]))
        if seen_bytes > SLICE_BYTES:
            seen_bytes = 0
            yield
    lengths = {length for length, _ in results}
    if len(lengths) > 1:
        raise InvalidReply(f"one vector has {min(lengths)} numbers and another {max(lengths)}")
    return any(is_new for _, is_new in results)


def _take_row(entry: Entry) -> bool:
    """Replace a list of one vector with the vector (llama.cpp without pooling). Raises InvalidReply for more rows."""
    written = memoryview(entry.get("embedding", b""))
    if re.match(rb"\[\s*\[", written) is None:
        return False
    if (rows := bytes(written).count(b"[") - 1) > 1:
        raise InvalidReply(f"a text has a list of {rows} vectors, as one for each token. Set pooling at the server")
    entry["embedding"] = msgspec.Raw(bytes(written)[1:-1].strip())
    return True


def _convert(entry: Entry, options: EmbeddingsOptions) -> tuple[int, bool]:
    """Check one vector and convert it to the requested encoding; return its length and whether it changed."""
    written = bytes(entry.get("embedding", b""))
    if len(written) > VECTOR_BYTES:
        raise InvalidReply(_TOO_LONG)
    if written.startswith(b"["):
        length = 0 if not written[1:-1].strip() else written.count(b",") + 1
        _check_length(length, options)
        if written.rfind(b"[") != 0 or not _have_only_numbers(written, [(0, len(written))]):
            raise unreadable(written, "a vector", _NOT_NUMBERS)
        try:
            if is_new := options.base64 and not options.is_packed:
                entry["embedding"] = msgspec.Raw(_in_base64(written))
            else:
                RAW.decode(written)
        except ValueError:
            raise unreadable(written, "a vector", _NOT_NUMBERS) from None
        return length, is_new
    if not written.startswith(b'"'):
        raise InvalidReply("an entry has no vector")
    try:
        # Strict, because Python otherwise skips every character that is not base64.
        data = a2b_base64(_TEXT.decode(written), strict_mode=True)
    except (Error, ValueError):
        raise InvalidReply("a vector is a string that is not base64") from None
    if options.is_packed and data:
        return len(data), False
    if len(data) % FLOAT_BYTES:
        raise InvalidReply("a vector is base64 of something other than float32")
    numbers = _little_endian(array("f", data))
    if not all(map(isfinite, numbers)):
        raise InvalidReply("a vector contains a number that is not finite", "not_finite")
    _check_length(len(numbers), options)
    if not options.base64:
        entry["embedding"] = msgspec.Raw(msgspec.json.encode(numbers.tolist()))
    return len(numbers), not options.base64


def _check_length(length: int, options: EmbeddingsOptions) -> None:
    if not length:
        raise InvalidReply("a vector is empty")
    if options.dimensions not in (None, length) and (setting := options.declared_by):
        reason = f"a vector has {counted(length, 'number')}, and {setting} declares {options.dimensions}"
        raise InvalidReply(reason, "declared_length", setting)
    if options.dimensions not in (None, length):
        raise InvalidReply(
            f"the request asks for {options.dimensions} dimensions and a vector has {length}. The model does not"
            " support `dimensions`: omit it or request the length of the model"
        )


def _in_base64(written: bytes) -> bytes:
    """Return the vector as base64 of little-endian float32, as the OpenAI API writes it. Raises ValueError."""
    if has_slow_numbers(written):
        raise InvalidReply("a vector contains a number beyond float32")
    numbers = _NUMBERS.decode(written)
    if max(numbers) > LARGEST or min(numbers) < -LARGEST:
        raise InvalidReply("a vector contains a number beyond float32")
    return b'"%b"' % b64encode(_little_endian(array("f", numbers)).tobytes())


def _little_endian(numbers: array[float]) -> array[float]:
    # The base64 of the API is little-endian on every machine.
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _written(rests: Sequence[bytes], entries: list[Entry], limit_bytes: int) -> Steps[list[bytes]]:
    documents = list[Entry]()
    for rest in rests:
        try:
            documents.append(OBJECT.decode(rest))
        except ValueError:  # `_Reply` does not read other names
            raise InvalidReply("the reply is not UTF-8") from None
        yield
    merged: dict[str, Any] = {**documents[0], "data": None}
    try:
        for document in documents:
            msgspec.json.decode(document.get("usage", b"null"))
    except ValueError:  # a number beyond any float, or bytes that are not UTF-8
        raise InvalidReply('its "usage" cannot be read') from None
    usages = [OBJECT.decode(one["usage"]) for one in documents if bytes(one.get("usage", b"")).startswith(b"{")]
    if len(documents) > 1 and usages:
        merged["usage"] = {**usages[0], **_summed(usages)}  # with its other members, such as details
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
        raise InvalidReply(*_TOO_LARGE)
    return pieces


def _summed(usages: Sequence[Entry]) -> Entry:
    """Return the sum of the token counts."""
    summed = Entry()
    for name in ("prompt_tokens", "total_tokens"):
        found = [parse_count(bytes(usage.get(name, b""))) for usage in usages]
        if counts := [count for count in found if count is not None]:
            summed[name] = msgspec.Raw(b"%d" % sum(counts))
    return summed
