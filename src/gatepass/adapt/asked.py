"""What an embeddings request asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import msgspec

_NOTHING = msgspec.Raw(b"")


class _Body(msgspec.Struct, gc=False):
    input: msgspec.Raw = _NOTHING
    dimensions: msgspec.Raw = _NOTHING
    encoding_format: msgspec.Raw = _NOTHING


_BODY = msgspec.json.Decoder(_Body)
_LIST: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client's own embeddings request asks for: how many vectors, in base64 or numbers, how long (None: any)."""

    count: int
    base64: bool = False
    dimensions: int | None = None

    @classmethod
    def of(cls, body: bytes) -> Self:
        """`body` is a decoded Call's, before any rule."""
        found = _BODY.decode(body)
        return cls(
            count=_count(found.input),
            base64=bytes(found.encoding_format) == b'"base64"',
            dimensions=whole(bytes(found.dimensions)),
        )


def _count(inputs: msgspec.Raw) -> int:
    """The number of inputs: a string and a list of ids are one."""
    if bytes(memoryview(inputs)[:1]) != b"[":
        return 1
    listed = _LIST.decode(inputs)
    if not listed:
        return 0
    return 1 if bytes(memoryview(listed[0])[:1]) in _DIGITS else len(listed)


_DIGITS = frozenset({b"-", *(b"%d" % digit for digit in range(10))})


def whole(text: bytes) -> int | None:
    """The whole number that `text` is, below ten digits; else None."""
    return int(text) if text.isdigit() and len(text) < 10 else None
