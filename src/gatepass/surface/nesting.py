"""How deep a JSON text is nested, measured without building it."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import accumulate

_WINDOW = re.compile(rb"[\x00-\xff]{1,65536}+\\*+[^\\]?+")
"""64 KiB and whatever it takes not to end inside an escape."""

_BRACKETS = b"{[}]"
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\x01\xff\xff")
_OTHER = bytes(byte for byte in range(256) if byte not in _BRACKETS)


def is_deeper(text: bytes, limit: int) -> bool:
    """Whether arrays and objects stand more than `limit` deep in `text`, which a parser has accepted.

    A text with no more than `limit` opening brackets cannot be; that settles the usual request with
    a few searches for one byte each.
    """
    return _has_more(text, b"{[", limit) and any(level > limit for level in _deepest_by_window(text))


def _has_more(text: bytes, signs: bytes, limit: int) -> bool:
    for sign in signs:
        at = text.find(sign)
        while at >= 0:
            limit -= 1
            if limit < 0:
                return True
            at = text.find(sign, at + 1)
    return False


def _deepest_by_window(text: bytes) -> Iterator[int]:
    """The deepest level in each window: brackets inside strings left out, memory bounded by the window."""
    level, inside = 0, 0
    for window in _WINDOW.finditer(text):
        parts = window[0].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) & 1
        steps = array("b", outside.translate(_STEPS, _OTHER))
        yield max(accumulate(steps, initial=level))
        level += sum(steps)
