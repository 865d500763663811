"""The times at which the reads of a stream arrived: reads per slice of time, and the longest gaps. Less than 2 KiB.

A read of a stream must cost less than 250 ns here (`make bench-inspector`). So `relay` only appends its moment to
`recent`, without a call, and `count` then processes a BATCH of them at once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from operator import add, sub

import msgspec

SLICES = 64
FIRST_WIDTH_S = 1 / 64
"""The width of a slice at first. It doubles when a read is later than all slices. A power of two divides exactly."""
GAPS = 3
BATCH = 96
"""Reads that are kept as they are. Most streams have fewer, and are counted only for a story."""

_NO_READS = array("d")


class Timeline(msgspec.Struct, frozen=True):
    """The reads of a stream up to a moment. Moments are those of `Clock.now`."""

    first_s: float
    last_s: float
    width_s: float
    """The width of a slice."""
    counts: list[int]
    """The reads in each slice, up to the last one with a read. The first slice begins at `first_s`."""
    gaps: list[tuple[float, float]]
    """The longest times between two reads, the longest first, each with the moment at which it began."""


class Arrivals(msgspec.Struct, gc=False, eq=False):
    """Collects the reads of one stream. Its size does not depend on their number. The first read is at `first_s`."""

    first_s: float
    _last_s: float = 0.0
    _width_s: float = FIRST_WIDTH_S
    recent: array[float] = _NO_READS
    """The moments of the reads that are not counted yet. Whoever appends one calls `count` at BATCH of them."""
    _counts: array[int] | bytes | None = None
    """None for a short stream without a story yet."""
    _gaps: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * GAPS

    def __post_init__(self) -> None:
        self._last_s, self.recent = self.first_s, array("d", (self.first_s,))

    def close(self) -> None:
        """Hold the reads as bytes, which the garbage collector does not follow. No read comes after this."""
        self.recent = bytes(self.recent)  # type: ignore[assignment]  # nothing appends to it any more
        self._counts = None if self._counts is None else bytes(self._counts)

    def note(self, now_s: float) -> None:
        """Note the next read, at `now_s`. Time does not go back."""
        self.recent.append(now_s)
        if len(self.recent) >= BATCH:
            self.count()

    def timeline(self) -> Timeline:
        """Return the timeline of all reads so far."""
        counts = self.count().tolist()
        while len(counts) > 1 and not counts[-1]:
            counts.pop()
        return Timeline(self.first_s, self._last_s, self._width_s, counts, [gap for gap in self._gaps if gap[0]])

    def count(self) -> array[int]:
        """Add the recent reads to the slices and the gaps, and return the number of reads per slice."""
        # `map`, `max` and `bisect_left` do most of it, because each step in Python is paid for every read.
        recent, first_s = array("d", self.recent).tolist(), self.first_s
        counts = None if self._counts is None else array("I", self._counts)
        if recent:
            before = [self._last_s, *recent]
            self._last_s, self.recent = recent[-1], array("d")
            lengths = [*map(sub, recent, before)]
            if max(lengths) > self._gaps[-1][0]:  # seldom, in a long stream
                self._gaps = tuple(sorted((*self._gaps, *zip(lengths, before, strict=False)), reverse=True)[:GAPS])
            while self._last_s >= first_s + SLICES * self._width_s:
                if counts is not None:
                    counts = array("I", (*map(add, counts[::2], counts[1::2]), *(0,) * (SLICES // 2)))
                self._width_s *= 2
        counts = self._counts = counts or array("I", bytes(4 * SLICES))
        at, size, width_s = 0, len(recent), self._width_s
        while at < size:
            index = int((recent[at] - first_s) / width_s)
            end = bisect_left(recent, first_s + (index + 1) * width_s, at + 1)
            counts[index] += end - at
            at = end
        return counts
