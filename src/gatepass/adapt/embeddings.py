"""One embeddings call as several requests, their replies as one, and vectors in the form that the client asked for.

All or nothing: a vector that is missing, of the wrong length or in the wrong place would poison an index
without a word, so whatever does not fit raises. Vectors are not built where only their places matter.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from binascii import Error, a2b_base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from gatepass.call import Call
from gatepass.errors import UpstreamInvalid
from gatepass.jsontext import Edit, Member, Walk, edited

FLOAT_BYTES = 4
LARGEST = 3.4028234663852886e38
"""Of float32."""
PARALLEL = 4
"""Requests of one call that are worth having under way at once."""

Entry = dict[str, msgspec.Raw]


class _Vector(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int


class _Reply(msgspec.Struct, gc=False):
    data: list[_Vector]
    object: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"null")


_REPLY = msgspec.json.Decoder(_Reply)

_OBJECT: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRIES: msgspec.json.Decoder[list[Entry]] = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_NUMBERS: msgspec.json.Decoder[list[float]] = msgspec.json.Decoder(list[float])
_TEXT: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client's own embeddings request asks for: how many vectors, in base64 or numbers, how long (None: any)."""

    count: int
    base64: bool = False
    dimensions: int | None = None

    @classmethod
    def of(cls, body: bytes) -> Self:
        """`body` is a decoded Call's, before any rule."""
        walk = Walk(body)
        members = {member.name: member for member in walk.members()}
        wanted, inputs = members.get("dimensions"), members.get("input")
        encoding = members.get("encoding_format")
        return cls(
            count=_count(walk, inputs),
            base64=encoding is not None and body[encoding.value : encoding.end] == b'"base64"',
            dimensions=_whole(body[wanted.value : wanted.end]) if wanted is not None else None,
        )


def _count(walk: Walk, inputs: Member | None) -> int:
    """The number of inputs: a string and a list of ids are one."""
    if inputs is None or not walk.text.startswith(b"[", inputs.value):
        return 1
    spans = list(walk.elements(inputs.value))
    return 1 if spans and walk.text[spans[0][0]] in b"-0123456789" else len(spans)


def _whole(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) < 10 else None


def split(call: Call) -> tuple[Call, ...]:
    """`call` as requests of at most `call.max_inputs` inputs each, in order; itself alone where that is no bound.

    With a bound of 1 the input stands alone, without a list around it: old Zhipu endpoints take nothing else.
    """
    inputs = _inputs(call) if call.max_inputs is not None else None
    if inputs is None or call.max_inputs is None:
        return (call,)
    walk, member = inputs
    spans = list(walk.elements(member.value))
    if not spans or (len(spans) <= call.max_inputs and call.max_inputs > 1):
        return (call,)
    groups = [spans[at : at + call.max_inputs] for at in range(0, len(spans), call.max_inputs)]
    return tuple(replace(call, body=_with_input(call, member, group), max_inputs=None) for group in groups)


def _inputs(call: Call) -> tuple[Walk, Member] | None:
    """The list of inputs; None where there is one input only."""
    walk = Walk(call.body)
    found = [member for member in walk.members() if member.name == "input"]
    if not found or not call.body.startswith(b"[", found[-1].value):
        return None
    first = next(walk.elements(found[-1].value), None)
    is_one = first is not None and call.body[first[0]] in b"-0123456789"
    return None if is_one else (walk, found[-1])


def _with_input(call: Call, member: Member, group: Sequence[tuple[int, int]]) -> bytes:
    view = memoryview(call.body)
    inner = view[group[0][0] : group[-1][1]]
    pieces = (inner,) if call.max_inputs == 1 else (b"[", inner, b"]")
    return edited(call.body, [Edit(member.value, member.end, pieces)])


class _Unfit(Exception):
    """What is wrong with a reply."""


def answer(replies: Sequence[bytes], counts: Sequence[int], asked: Asked, upstream: str) -> bytes:
    """One reply out of `replies`, each of which is to hold as many vectors as `counts` says: in order, with their
    `index`, usage added up, in the encoding that was asked for.

    A lone reply that is right already comes back as it is. Raises UpstreamInvalid for a vector that is
    missing, empty, of another length than `asked.dimensions`, or not to be read.
    """
    try:
        return _answer(replies, counts, asked)
    except _Unfit as fault:
        told = f"The embeddings of the upstream {upstream!r} are invalid: {fault}."
        raise UpstreamInvalid(told, upstream=upstream) from None


def is_right(reply: bytes, asked: Asked) -> bool:
    """Whether `reply` is JSON without an error in it, and its vectors are what was asked for, in order. One pass, in
    the place of `form.is_plain_success`, for most replies are; False: look closer."""
    if asked.base64:
        return False
    try:
        found = _REPLY.decode(reply)
    except (ValueError, RecursionError):
        return False
    listed = found.data
    if bytes(found.error) != b"null" or bytes(found.object) == b'"error"':
        return False
    if [entry.index for entry in listed] != list(range(asked.count)):
        return False
    return all(_is_numbers(memoryview(entry.embedding), asked.dimensions) for entry in listed)


def _is_numbers(written: memoryview, length: int | None) -> bool:
    """Whether `written` is a list, and not an empty one; of `length`, where that matters: to count takes long."""
    if bytes(written[:1]) != b"[":
        return False
    return _length(bytes(written)) == length if length is not None else bool(bytes(written[1:20]).strip(b" \t\r\n]"))


def _length(written: bytes) -> int:
    return 0 if not written[1:-1].strip() else written.count(b",") + 1


def _answer(replies: Sequence[bytes], counts: Sequence[int], asked: Asked) -> bytes:
    documents = [_document(reply) for reply in replies]
    changed, entries = len(replies) != 1, list[Entry]()
    for document, count in zip(documents, counts, strict=True):
        listed = _entries(document, count)
        ordered = _in_order(listed)
        changed = changed or ordered != listed
        entries += ordered
    for position, entry in enumerate(entries):
        news = _placed(entry, position) | _fit(entry, asked)
        changed = changed or news
    return _written(documents, entries) if changed else replies[0]


def _document(reply: bytes) -> Entry:
    try:
        return _OBJECT.decode(reply)
    except ValueError:
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
    """By `index` where that says something: some servers leave it out, or write 0 everywhere."""
    places = [_place(entry) for entry in listed]
    known = [place for place in places if place is not None]
    if sorted(known) != list(range(len(listed))):
        return listed
    return [listed[known.index(place)] for place in range(len(listed))] if known != sorted(known) else listed


def _place(entry: Entry) -> int | None:
    return _whole(bytes(entry["index"])) if "index" in entry else None


def _placed(entry: Entry, position: int) -> bool:
    """Give the entry its place among all; whether that is news."""
    if _place(entry) == position:
        return False
    entry["index"] = msgspec.Raw(str(position).encode())
    return True


def _fit(entry: Entry, asked: Asked) -> bool:
    """Check the vector, and write it as it was asked for; whether that changed it."""
    written = bytes(entry.get("embedding", b""))
    if written.startswith(b"["):
        _check_length(_length(written), asked)
        if asked.base64:
            entry["embedding"] = msgspec.Raw(_in_base64(written))
        return asked.base64
    if not written.startswith(b'"'):
        raise _Unfit("one has no vector")
    numbers = _from_base64(written)
    _check_length(len(numbers), asked)
    if not asked.base64:
        entry["embedding"] = msgspec.Raw(msgspec.json.encode(numbers.tolist()))
    return not asked.base64


def _check_length(length: int, asked: Asked) -> None:
    if not length:
        raise _Unfit("one is an empty vector")
    if asked.dimensions not in (None, length):
        raise _Unfit(
            f"the request asks for {asked.dimensions} dimensions and a vector has {length}: the model knows no"
            " `dimensions`, so leave that out or ask for what it has"
        )


def _in_base64(written: bytes) -> bytes:
    """Little-endian float32, as the OpenAI API writes it."""
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
    found = [msgspec.json.decode(document["usage"]) for document in documents if "usage" in document]
    usages = [usage for usage in found if isinstance(usage, dict)]
    if len(documents) > 1 and usages:
        merged["usage"] = _summed(usages)
    return msgspec.json.encode(merged)


def _summed(usages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers added up by name, objects likewise; of anything else the first."""
    return {name: _sum([usage[name] for usage in usages if name in usage]) for name in dict.fromkeys(_names(usages))}


def _names(usages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    return (name for usage in usages for name in usage)


def _sum(values: list[Any]) -> Any:
    if all(isinstance(value, dict) for value in values):
        return _summed(values)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return sum(numbers) if numbers else values[0]
