"""Where events end in a stream of bytes: whole events go on as they came, the unfinished one waits.

Line ends are LF, CRLF, CR and any mixture (https://html.spec.whatwg.org/multipage/server-sent-events.html,
"Parsing an event stream"); an event ends with a blank line.
"""

from __future__ import annotations

import re

_LINE_FEEDS = b"\n\n"
_WHOLE = (_LINE_FEEDS, b"\r\n\r\n", b"\r\r")
"""What ends with one of these ends with a blank line, whatever stands before it. Most events end with the first, which
is compared: CPython 3.11 takes longer for `endswith`."""

_CR = 13
"""A number: CPython 3.11 takes ten times as long to search for `b"\\r"`."""

_OPEN = b"\n\r"
"""The CR of a blank line at the very end: the LF that makes it a CRLF may still be under way."""

_BLOCK = re.compile(rb"(?:[^\r\n]++(?>\r\n?|\n))*+(?>\r\n?|\n)")

MOST_LINES = 10_000
"""Of one event: a field takes 1 µs, however short. Upstreams that indent their JSON write a hundred."""


def split_events(run: bytes) -> list[bytes]:
    """The events of a run of whole ones, each with its blank line; a lone blank line is one by itself."""
    return _BLOCK.findall(run)


def split_comments(run: bytes) -> tuple[bytes, bytes]:
    """A run of whole events, and the comment lines without a blank line that the judge of a stream may leave behind."""
    window = b"\n" + run
    end = len(run) if window.endswith(_OPEN) else max(_end_of_last_event(window) - 1, 0)
    return run[:end], run[end:]


def has_too_many_lines(block: bytes) -> bool:
    """Whether an event has more than MOST_LINES lines."""
    return len(block) > MOST_LINES and count_lines(block) > MOST_LINES


def count_lines(run: bytes, end: int | None = None) -> int:
    """The line ends of `run` before `end`; a CRLF counts twice."""
    return run.count(b"\n", 0, end) + (run.count(b"\r", 0, end) if _CR in run else 0)


def first_events(run: bytes, lines: int) -> int:
    """The size of the first events of `run`, a run of whole ones, that have at most `lines` lines: 0 if the first has
    more."""
    end = len(run)
    while end and count_lines(run, end) > lines:
        end //= 2
    if end == len(run):
        return end
    end = max(_end_of_last_event(b"\n" + run[:end]) - 1, 0)
    return end + 1 if end and run[end - 1 : end + 1] == b"\r\n" else end


def first_event(run: bytes) -> int:
    """The size of the first event of `run`."""
    found = _BLOCK.match(run)
    return len(run) if found is None else found.end()


class Framer:
    """Cuts pieces of any size into runs of whole events, in time linear in the bytes.

    Only the unfinished event is kept, at most `limit_bytes` of it. An event above the limit, its
    blank line included, sets `overflowed` however its bytes come: the events before it are still
    returned, it and what follows are not. So does an unfinished event of twice MOST_LINES lines.
    """

    __slots__ = ("_edge", "_limit_bytes", "_lines", "_tail", "overflowed")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._tail = bytearray()
        self._lines = 0  # of the tail, where it has more than MOST_LINES bytes
        self._edge = b"\n"  # what a blank line may begin with: the tail's last byte, its last two if _OPEN
        self.overflowed = False

    @property
    def tail(self) -> bytes:
        """The bytes of the unfinished event."""
        return bytes(self._tail)

    def feed(self, piece: bytes) -> bytes:
        """The run of events that `piece` completes, b"" if none.

        The very same object comes back when it is whole events and nothing waited. An event leaves
        with its last byte; only an LF or CRLF followed by a CR waits for one byte more, because
        CRLF streams are many and streams that mix LF and CR are not.
        """
        if not self._tail and (piece[-2:] == _LINE_FEEDS or piece.endswith(_WHOLE)) and len(piece) <= self._limit_bytes:
            return piece
        if self.overflowed:
            return b""
        return self._cut(piece)

    def _cut(self, piece: bytes) -> bytes:
        window = self._edge + piece
        end = _end_of_last_event(window)
        if end < 0:
            self._wait(piece, window)
            return b""
        end -= len(self._edge)
        run = self._joined(piece[:end])
        if len(run) > self._limit_bytes:
            run = self._within_limit(run)
        self._wait(piece[end:], window)
        return run

    def _joined(self, end: bytes) -> bytes:
        if not self._tail:
            return end
        self._tail += end
        run = bytes(self._tail)
        self._tail.clear()
        return run

    def _wait(self, rest: bytes, window: bytes) -> None:
        self._tail += rest
        if not self._tail:
            self._edge, self._lines = b"\n", 0
            return
        self._edge = _OPEN if window.endswith(_OPEN) else window[-1:]
        if len(self._tail) > MOST_LINES:
            self._lines = (0 if len(rest) == len(self._tail) else self._lines) + count_lines(rest)
        if len(self._tail) > self._limit_bytes or self._lines > 2 * MOST_LINES:
            self._overflow()

    def _within_limit(self, run: bytes) -> bytes:
        size_bytes = 0
        for event in split_events(run):
            if len(event) > self._limit_bytes:
                self._overflow()
                return run[:size_bytes]
            size_bytes += len(event)
        return run

    def _overflow(self) -> None:
        self.overflowed = True
        self._tail.clear()
        self._limit_bytes = -1  # nothing takes the short way or waits any more


def _end_of_last_event(data: bytes) -> int:
    """The index just past the last blank line, or -1; `data` begins inside or at the end of a line."""
    stop = len(data) - 1 if data.endswith(_OPEN) else len(data)
    start = data.rfind(b"\n\n", 0, stop)
    if _CR in data:
        start = max(start, data.rfind(b"\r\r", 0, stop), data.rfind(b"\n\r", 0, stop))
    if start < 0:
        return -1
    end = start + 2
    return end + 1 if data[end - 1 : end + 1] == b"\r\n" else end
