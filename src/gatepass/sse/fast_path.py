"""Recognize events that differ from a validated event only in their text, without parsing them.

A stream has hundreds of events that differ in a few letters. The first one is parsed and validated. An event with the
same bytes around its text passes at once.

This is safe because the bytes around the text are those of the validated event. A different event could only hide in
the text. The text starts after the opening quote of a JSON string and ends before its closing quote. It contains no
quote and no line end, and it does not end with a backslash. So it is the inside of that one string: never a key, a
finish reason, an index or an error. Text that quotes such members contains escaped quotes, so that event is parsed.
"""

from __future__ import annotations

import re

_TEXT = re.compile(
    rb'"(?:content|reasoning_content|reasoning|refusal|text|arguments|obfuscation)"\s*+:\s*+"'
    rb'([^"\\]*+(?:\\.[^"\\]*+)*+)"',
    re.DOTALL,
)
"""A member whose value is free text. OpenAI pads each event with a random `obfuscation`."""

# Numbers, because three searches for bytes take 0.6 µs more (CPython 3.11): a tenth of an event.
_QUOTE, _BACKSLASH, _LF, _CR = b'"\\\n\r'

_MISMATCH = b'"'
"""Replaces a text that does not fit the pattern: `count_matching` rejects a run with a quote in its texts."""

_NO_EVENT = b"\0"
"""A head and tail that match no event, because every event ends with a line end."""

_TRIES = 8
"""This many patterns in a row may match no event before the fast path gives up."""

_MARK_BYTES = 32
"""Only this part of the seam is searched, and the rest compared: CPython's search is slower for longer needles."""

MAX_BYTES = 4096
"""Size limit of a pattern, because it is kept as long as the stream."""


class FastPath:
    """The pattern of the last event that carried only text: its bytes with holes instead of the text.

    It gives up after eight patterns in a row that matched no event. Some upstreams give each event a new id, and
    making a pattern costs more than parsing.
    """

    __slots__ = (
        "_backslashed",
        "_head",
        "_head_bytes",
        "_made_at",
        "_mark",
        "_middles",
        "_next",
        "_rest",
        "_seam_bytes",
        "_tail",
        "_tail_bytes",
        "_tries",
    )

    def __init__(self) -> None:
        self._tries, self._made_at = _TRIES, 0
        self._head = self._tail = _NO_EVENT
        self._middles: tuple[bytes, ...] = ()
        self._head_bytes = self._tail_bytes = self._seam_bytes = len(_NO_EVENT)
        self._next: tuple[bytes, int] | None = None

    def set_pattern(self, block: bytes, events: int) -> None:
        """Use `block`, a whole event whose data is JSON, as the pattern of the events after it.

        `events` is its number in the stream. An event without text or above MAX_BYTES does not become a pattern.
        """
        if len(block) <= MAX_BYTES:
            # made when the next event has arrived, so that the client does not wait for this one meanwhile
            self._next = block, events

    def _make_pattern(self, block: bytes, events: int) -> None:
        self._next = None
        has_edges = block.startswith(self._head) and block.endswith(self._tail)
        if has_edges and (not self._middles or all(middle in block for middle in self._middles)):
            return  # the pattern fits already: `block` was parsed because of its text, such as an escaped quote
        if not self._tries:
            return
        has_matched = events > self._made_at + 1
        self._tries = _TRIES if has_matched else self._tries - 1
        self._made_at = events
        holes = [match.span(1) for match in _TEXT.finditer(block)]
        starts, ends = [0, *(end for _, end in holes)], [*(start for start, _ in holes), len(block)]
        head, *others = (block[start:end] for start, end in zip(starts, ends, strict=True))
        if not others:
            return
        *middles, tail = others
        self._head, self._middles, self._tail = head, tuple(middles), tail
        self._head_bytes, self._tail_bytes = len(head), len(tail)
        seam = tail + head  # the bytes between the texts of two events
        self._mark, self._rest = seam[:_MARK_BYTES], seam[_MARK_BYTES:]
        self._seam_bytes = len(seam)
        self._backslashed = tuple(b"\\" + after for after in others)

    def count_matching(self, run: bytes) -> int:
        """Return the number of events in `run` if all of them match the pattern, else 0."""
        if self._next is not None:
            self._make_pattern(*self._next)
        head_bytes, tail_bytes, seam_bytes = self._head_bytes, self._tail_bytes, self._seam_bytes
        # compared, because `startswith` and `endswith` take longer (CPython 3.11)
        if run[:head_bytes] != self._head or run[-tail_bytes:] != self._tail or len(run) < seam_bytes:
            return 0
        texts, count = run[head_bytes:-tail_bytes], 1
        if len(texts) >= seam_bytes or self._middles:
            fillings = [texts]
            if len(texts) >= seam_bytes:
                first, *others = texts.split(self._mark)
                rest = self._rest
                fillings = [
                    first,
                    *[other[len(rest) :] if other.startswith(rest) else _MISMATCH for other in others],
                ]
            texts = self._without_middles(fillings) if self._middles else b"".join(fillings)
            count = len(fillings)
        if _QUOTE in texts or _LF in texts or _CR in texts:
            return 0
        # a backslash before the closing quote would escape it, and the string would go on
        if _BACKSLASH in texts and any(end in run for end in self._backslashed):
            return 0
        return count

    def _without_middles(self, fillings: list[bytes]) -> bytes:
        """Return the texts of events with several holes, without the bytes between the holes."""
        texts = []
        for filling in fillings:
            at = 0
            for middle in self._middles:
                end = filling.find(middle, at)
                if end < 0:
                    return _MISMATCH
                texts.append(filling[at:end])
                at = end + len(middle)
            texts.append(filling[at:])
        return b"".join(texts)
