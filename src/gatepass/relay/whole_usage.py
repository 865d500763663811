"""Token counts that are whole numbers, for clients that add them up without a look."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gatepass.relay.chunk import Object, event
from gatepass.relay.event import parse_event, read_json
from gatepass.relay.short_lines import each_event

USAGE = "repair=usage"

_DIGITS = re.compile(r"[0-9]{1,15}(?:\.0{1,15})?")
_MOST = 2.0**53
"""Above it a float's last digits are made up."""
_TELLS = re.compile(rb'"usage"\s*+:\s*+\{')


class WholeUsage:
    """Makes the `usage` of a stream's chunks whole where there is one. What a chunk does not tell is not added."""

    __slots__ = ("_has_mended",)

    def __init__(self) -> None:
        self._has_mended = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (USAGE,) if self._has_mended else ()

    def feed(self, block: bytes) -> bytes:
        return each_event(block, self._mended) if _TELLS.search(block) else block

    def finish(self) -> bytes:
        return b""

    def _mended(self, block: bytes) -> bytes:
        if not _TELLS.search(block):
            return block
        try:
            said = read_json(parse_event(block).data or b"")
        except ValueError:
            return block
        usage = said.get("usage") if isinstance(said, dict) and "choices" in said else None
        if not isinstance(usage, dict) or is_same(whole := counted(usage, is_chat=True), usage):
            return block
        self._has_mended = True
        return event({**said, "usage": whole})


def counted(usage: Object, *, is_chat: bool) -> Object:
    """`usage` with whole numbers in the places that clients add up: zero where nothing is told, but a lost total is
    the sum of the rest."""
    names = ("prompt_tokens", "completion_tokens") if is_chat else ("prompt_tokens",)
    parts = {name: _whole(usage.get(name)) or 0 for name in names}
    total = _whole(usage.get("total_tokens"))
    return {**usage, **parts, "total_tokens": sum(parts.values()) if total is None else total}


def is_same(usage: Mapping[str, Any], other: Any) -> bool:
    """Equal, and of the same types: 12 is not 12.0 here."""
    if not isinstance(other, Mapping) or usage.keys() != other.keys():
        return False
    return all((type(usage[name]), usage[name]) == (type(other[name]), other[name]) for name in usage)


def _whole(count: Any) -> int | None:
    """A count however it is written (12, 12.0, "12"); None where it is none."""
    if isinstance(count, str) and _DIGITS.fullmatch(count):
        return int(count.partition(".")[0])
    if isinstance(count, float) and 0 <= count < _MOST and count.is_integer():
        return int(count)
    return count if type(count) is int else None
