"""Events that say nothing new: like one that was judged, but for the text in it.

A stream is some hundred events that differ in a few letters. The first is parsed and judged; an
event that has the same bytes around its text needs neither.

Why that is safe. Around the holes stand the very bytes of the judged event, so an unlike event could
hide only inside a hole. A hole begins behind the opening quote of a JSON string and ends before its
closing quote; what fills it holds no quote and no line end and does not end in a backslash. So it is
the inside of that one string, which is a text, never a key, a finish reason, an index or an error.
Content may quote all of these at will: inside a JSON string their quotes stand too, escaped, and an
event with such a quote is parsed.
"""

from __future__ import annotations

import re

_TEXT = re.compile(
    rb'"(?:content|reasoning_content|reasoning|refusal|text|arguments|obfuscation)"\s*+:\s*+"'
    rb'([^"\\]*+(?:\\.[^"\\]*+)*+)"',
    re.DOTALL,
)
"""A member whose value is free text. OpenAI pads each event with a random `obfuscation`."""

_QUOTE, _BACKSLASH, _LF, _CR = b'"\\\n\r'
"""Numbers, because three searches for bytes take 0.6 µs more (CPython 3.11): a tenth of an event."""

_UNLIKE = b'"'
"""Stands for a text that disqualifies the run."""

_NO_EVENT = b"\0"
"""No event begins with it and ends with it: events end with a line end."""

_PATIENCE = 8

_MARK_BYTES = 32
"""So much of a seam is searched, the rest compared: CPython's search slows down with longer needles."""

MAX_BYTES = 4096
"""A pattern is kept as long as the stream."""


class FastPath:
    """The last event that told nothing but text, with holes where the text stood; at first none.

    It gives up after eight templates in a row that fitted no event: some upstreams give each event
    an id of its own, and to learn costs more than to parse.
    """

    __slots__ = (
        "_backslashed",
        "_head",
        "_head_bytes",
        "_learned_at",
        "_mark",
        "_middles",
        "_news",
        "_patience",
        "_rest",
        "_seam_bytes",
        "_tail",
        "_tail_bytes",
    )

    def __init__(self) -> None:
        self._patience, self._learned_at = _PATIENCE, 0
        self._head = self._tail = _NO_EVENT
        self._head_bytes = self._tail_bytes = self._seam_bytes = len(_NO_EVENT)
        self._news: tuple[bytes, int] | None = None

    def set_pattern(self, block: bytes, events: int) -> None:
        """Take `block`, a whole event whose data is JSON, as the pattern of what will come; it is event
        number `events` of its stream. No pattern is made of an event without text, or of a large one.

        The pattern is made when the next event is here: the client need not wait for its first one meanwhile."""
        if len(block) <= MAX_BYTES:
            self._news = block, events

    def _study(self, block: bytes, events: int) -> None:
        self._news = None
        if not self._patience or self._covers(block):
            return
        has_served = events > self._learned_at + 1
        self._patience = _PATIENCE if has_served else self._patience - 1
        self._learned_at = events
        holes = [match.span(1) for match in _TEXT.finditer(block)]
        starts, ends = [0, *(end for _, end in holes)], [*(start for start, _ in holes), len(block)]
        head, *others = (block[start:end] for start, end in zip(starts, ends, strict=True))
        if others:
            self._take(head, tuple(others[:-1]), others[-1])

    def _take(self, head: bytes, middles: tuple[bytes, ...], tail: bytes) -> None:
        self._head, self._middles, self._tail = head, middles, tail
        self._head_bytes, self._tail_bytes = len(head), len(tail)
        seam = tail + head  # what stands between the texts of two events
        self._mark, self._rest = seam[:_MARK_BYTES], seam[_MARK_BYTES:]
        self._seam_bytes = len(seam)
        self._backslashed = tuple(b"\\" + after for after in (*middles, tail))

    def _covers(self, block: bytes) -> bool:
        """Whether only the texts of `block` are why it was parsed."""
        has_edges = block.startswith(self._head) and block.endswith(self._tail)
        return has_edges and (not self._middles or all(middle in block for middle in self._middles))

    def count_matching(self, run: bytes) -> int:
        """How many events `run` is, if each is like this one; 0 as soon as any is not, or may not be."""
        if self._news is not None:
            self._study(*self._news)
        head_bytes, tail_bytes, seam_bytes = self._head_bytes, self._tail_bytes, self._seam_bytes
        # compared, because `startswith` and `endswith` take longer (CPython 3.11)
        if run[:head_bytes] != self._head or run[-tail_bytes:] != self._tail or len(run) < seam_bytes:
            return 0
        texts, count = run[head_bytes:-tail_bytes], 1
        if len(texts) >= seam_bytes or self._middles:
            fillings = self._fillings(texts) if len(texts) >= seam_bytes else [texts]
            texts = self._without_middles(fillings) if self._middles else b"".join(fillings)
            count = len(fillings)
        if _QUOTE in texts or _LF in texts or _CR in texts:
            return 0
        if _BACKSLASH in texts and any(end in run for end in self._backslashed):
            return 0
        return count

    def _fillings(self, inner: bytes) -> list[bytes]:
        """What stands between the seams."""
        first, *others = inner.split(self._mark)
        rest = self._rest
        return [first, *[other[len(rest) :] if other.startswith(rest) else _UNLIKE for other in others]]

    def _without_middles(self, fillings: list[bytes]) -> bytes:
        """The texts of events with several holes."""
        texts = []
        for filling in fillings:
            at = 0
            for middle in self._middles:
                end = filling.find(middle, at)
                if end < 0:
                    return _UNLIKE
                texts.append(filling[at:end])
                at = end + len(middle)
            texts.append(filling[at:])
        return b"".join(texts)
