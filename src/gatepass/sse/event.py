"""Where events end in a stream of bytes: whole events go on as they came, the unfinished one waits.

Line ends are LF, CRLF, CR and any mixture (https://html.spec.whatwg.org/multipage/server-sent-events.html,
"Parsing an event stream"); an event ends with a blank line.

What one event says: its fields by the rules of the event stream format, its data as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.json_scan import SMALL_BYTES, count_fractions, json_value

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


DONE = b"data: [DONE]\n\n"
"""What ends a stream of OpenAI's."""

_LINE = re.compile(rb"([^\r\n]*+)(?>\r\n?|\n)")
_KEPT = (b"event", b"id", b"retry")
_CR = 13


@dataclass(frozen=True, slots=True)
class Event:
    """One event taken apart. `data` is its data lines joined with LF, None where it has none.

    `comments` are its comment lines as they came, line ends included. `is_dispatched` says that
    openai-python makes an event of it though it has no data: it does for a name, an id or a retry
    (`SSEDecoder.decode`), and then fails on the empty text.
    """

    data: bytes | None
    name: bytes
    id: bytes
    comments: bytes
    is_dispatched: bool


def single_line_data(run: bytes) -> bytes | None:
    """The data of `run` if it is exactly one event of one data line, ended by LF or CRLF; else None."""
    if not run.startswith(b"data:"):
        return None
    end = run.find(b"\n")
    if end == len(run) - 2 and run.endswith(b"\n\n") and _CR not in run:
        return run[5:end]
    if end == len(run) - 3 and run.endswith(b"\r\n\r\n") and run.find(b"\r") == end - 1:
        return run[5 : end - 1]
    return None


def parse_event(block: bytes) -> Event:
    """Take one whole event apart; unknown fields are skipped, the last of a repeated field counts."""
    data, comments = bytearray(), bytearray()
    fields: dict[bytes, bytes] = {}  # `dict[bytes, bytes]()` takes 0.8 µs
    for match in _LINE.finditer(block):
        line = match[1]
        if line.startswith(b":"):
            comments += match[0]
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data += value + b"\n"
        elif name in _KEPT and b"\0" not in value:
            fields[name] = value
    event, identity = fields.get(b"event", b""), fields.get(b"id", b"")
    return Event(
        data=bytes(data[:-1]) if data else None,
        name=event,
        id=identity,
        comments=bytes(comments),
        is_dispatched=bool(data or event or identity) or _is_number(fields.get(b"retry", b"")),
    )


def _is_number(value: bytes) -> bool:
    try:
        int(value)
    except ValueError:
        return False
    return True


LARGE_BYTES = 256 * 1024
"""Any smaller text is read within 40 ms."""
MOST_WORK = 2_000_000
"""About 40 ms: a number in a list counts 1, a member 5, an object or a list 9."""


FRACTION_WORK, SLOW_WORK, FEW_NUMBERS = 4, 20, 1_000
"""What a number with a fraction or an exponent counts beside that, and one whose exponent has three digits. Where
LARGE_BYTES hold fewer numbers, they do not matter."""


LENIENT_WORK = MOST_WORK // 5
"""The standard library's parser is slower."""


def takes_long(data: bytes, most_work: int = MOST_WORK) -> bool:
    """Whether to build the value of `data` would occupy the event loop: commas and brackets in its texts count too."""
    if len(data) <= LARGE_BYTES:
        return False
    work = 0
    for at in range(0, len(data), LARGE_BYTES):
        work += _work(data[at : at + LARGE_BYTES])
        if work > most_work:
            return True
    return False


def _work(part: bytes) -> int:
    commas = part.count(b",")
    work = commas + 4 * part.count(b'":') + 8 * (part.count(b"[") + part.count(b"{"))
    if commas < FEW_NUMBERS:
        return work
    fractions, slow = count_fractions(part)
    return work + FRACTION_WORK * min(fractions, commas) + SLOW_WORK * min(slow, commas)


def read_json(data: bytes) -> Any:
    """The JSON value of `data`; raises ValueError for what is none, or has too many values.

    The slower standard parser has the last word: NaN, and half of a surrogate pair (a character cut
    in two by an upstream's tokens), come from real upstreams, and clients accept them.
    """
    decode: Callable[[bytes], Any] = msgspec.json.decode
    if len(data) > SMALL_BYTES:  # few events are, and whatever a smaller one holds is read fast
        decode = json_value
        if takes_long(data):
            raise ValueError("too many values")
    try:
        return decode(data)
    except (ValueError, RecursionError):
        pass
    if takes_long(data, LENIENT_WORK):
        raise ValueError("too many values")
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None


def is_json(data: bytes) -> bool:
    try:
        read_json(data)
    except ValueError:
        return False
    return True
