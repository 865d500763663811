"""What an embeddings request asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec

_NOTHING = msgspec.Raw(b"")


class _Body(msgspec.Struct, gc=False):
    input: msgspec.Raw = _NOTHING
    dimensions: msgspec.Raw = _NOTHING
    encoding_format: msgspec.Raw = _NOTHING


_BODY = msgspec.json.Decoder(_Body)
_LIST: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a client's own embeddings request asks for: how many vectors, in base64 or numbers, how long (None: any)."""

    count: int
    base64: bool = False
    dimensions: int | None = None

    @classmethod
    def of(cls, body: bytes) -> Self:
        """`body` is a JSON object."""
        found = _BODY.decode(body)
        return cls.told(_count(found.input), found.encoding_format, found.dimensions)

    @classmethod
    def told(cls, count: int, encoding_format: msgspec.Raw, dimensions: msgspec.Raw) -> Self:
        """By the members of a request's body, as they are written."""
        return cls(count, bytes(encoding_format) == b'"base64"', whole(bytes(dimensions)))


def count_of(inputs: Sequence[msgspec.Raw]) -> int:
    """The number of inputs that a list is: one of ids is a single one."""
    if not inputs:
        return 0
    return 1 if bytes(memoryview(inputs[0])[:1]) in _DIGITS else len(inputs)


def _count(inputs: msgspec.Raw) -> int:
    """The number of inputs: a string is one."""
    return count_of(_LIST.decode(inputs)) if bytes(memoryview(inputs)[:1]) == b"[" else 1


_DIGITS = frozenset({b"-", *(b"%d" % digit for digit in range(10))})


def whole(text: bytes) -> int | None:
    """The whole number that `text` is, below ten digits; else None."""
    return int(text) if text.isdigit() and len(text) < 10 else None
