"""Split a stream of bytes into events, parse an event, and the contract of changes to a stream (`EventTransform`).

An event ends with a blank line. Line ends are LF, CRLF, CR and any mixture
(https://html.spec.whatwg.org/multipage/server-sent-events.html, "Parsing an event stream").
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gatepass.json_body import SMALL_BYTES, has_more, json_value, lenient_value, takes_long
from gatepass.observability.redaction import MASK
from gatepass.replies.error_body import Mask
from gatepass.types import StreamedResponse

_LINE_FEEDS = b"\n\n"
_BLANK_LINE_ENDS = (_LINE_FEEDS, b"\r\n\r\n", b"\r\r")
"""Bytes that end with one of these end with a blank line, regardless of the bytes before."""

_CR = ord("\r")

_OPEN = b"\n\r"
"""Undecided end of a piece: the LF that makes this CR a CRLF may arrive with the next piece."""

_BLOCK = re.compile(rb"(?:[^\r\n]++(?>\r\n?|\n))*+(?>\r\n?|\n)")

MOST_LINES = 10_000
"""Line limit of one event. A field takes 1 µs, even a short one. An upstream that indents its JSON sends about 100."""


def split_events(run: bytes) -> list[bytes]:
    """Return the events of a run of whole events, each with its blank line. A lone blank line is an event too."""
    return _BLOCK.findall(run)


def split_comments(run: bytes) -> tuple[bytes, bytes]:
    """Split a run into its whole events and the comment lines after them, which EventStream may leave there."""
    window = b"\n" + run
    end = len(run) if window.endswith(_OPEN) else max(_end_of_last_event(window) - 1, 0)
    return run[:end], run[end:]


def count_lines(run: bytes, end: int | None = None) -> int:
    """Return the number of line ends in `run` before `end`. A CRLF counts twice."""
    return run.count(b"\n", 0, end) + (run.count(b"\r", 0, end) if _CR in run else 0)


def first_events(run: bytes, lines: int) -> int:
    """Return the size in bytes of the first events of `run` that have at most `lines` lines together; 0 if none has."""
    end = len(run)
    while end and count_lines(run, end) > lines:
        end //= 2
    return end if end == len(run) else first_events_within(run, end)


def first_events_within(run: bytes, most_bytes: int) -> int:
    """Return the size in bytes of the first events of `run` that have at most `most_bytes`; 0 if the first has more."""
    end = max(_end_of_last_event(b"\n" + run[:most_bytes]) - 1, 0)
    return end + 1 if end and run[end - 1 : end + 1] == b"\r\n" else end


def _lines(run: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield where each line of `run` begins and ends, and where the next one begins."""
    at, lf, cr, size = 0, -1, -1, len(run)  # single bytes are found at memory speed
    while at < size:
        if lf < at:
            lf = run.find(b"\n", at) % (size + 1)  # `size` if there is none
        if cr < at:
            cr = run.find(b"\r", at) % (size + 1)
        end = min(lf, cr)
        after = end + 2 if run[end : end + 2] == b"\r\n" else end + 1
        yield at, end, after
        at = after


def first_event(run: bytes) -> int:
    return next((after for at, end, after in _lines(run) if at == end), len(run))


def split_large(run: bytes) -> tuple[bytes, memoryview, Event]:
    """Return the first event of `run`, its data, and the event without its data.

    It has more than LARGE_EVENT_BYTES, and is not copied without need. Raises ValueError for one with more than
    MOST_LARGE_LINES lines, without data, with more than LARGE_EVENT_BYTES in its other lines, or with more than
    MOST_ESCAPES.
    """
    block, view, values, others = run, memoryview(run), list[memoryview](), bytearray()
    for count, (at, end, after) in enumerate(_lines(run)):
        if at == end:
            block = run[:after]
            break
        if run.startswith(b"data:", at):
            values.append(view[at + 5 : end])
        else:
            others += view[at:after]
        if count >= MOST_LARGE_LINES or len(others) > LARGE_EVENT_BYTES:
            raise ValueError("too many lines")
    if not values:
        raise ValueError("no data")
    data = values[0] if len(values) == 1 else memoryview(b"\n".join(values))
    if has_more(data, b"\\", MOST_ESCAPES):
        raise ValueError("too many escapes")
    return block, data, parse_event(bytes(others))


MOST_ESCAPES = 1_600_000
"""A large event with more takes over 50 ms."""
LARGE_EVENT_BYTES = 1024 * 1024
"""To repair and transform an event of this size takes up to 45 ms. A larger one is read and written in separate turns.

A whole reply of this size is read as objects without a search before.
"""
MOST_LARGE_LINES = 1_000
"""Line limit of a large event, whose lines are joined in the same turn: 10,000 take 25 ms more."""

_BLANK_LINE = re.compile(rb"(?>\r\n?|\n)(?>\r\n?|\n)")


class Framer:
    """Cut pieces of any size into runs of whole events, in time linear in the bytes.

    `feed` does not return a run with a large event: it is in `large`, until `take_large` is called.

    Only the unfinished event is kept, at most `limit_bytes` of it. An event above the limit, including its blank
    line, sets `overflowed` for every split of its bytes. The events before it are returned, but not the event and the
    bytes after it.
    """

    __slots__ = ("_edge", "_limit_bytes", "_passing_bytes", "is_blocked", "large", "overflowed", "unfinished")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._passing_bytes = min(limit_bytes, LARGE_EVENT_BYTES)
        self.large = b""
        self.is_blocked = False
        """Whether `overflowed` or `large` is set: one look for each piece."""
        self.unfinished = bytearray()
        self._edge = b"\n"  # a blank line may begin with these bytes: the last of the tail, the last two if _OPEN
        self.overflowed = False

    @property
    def tail(self) -> bytes:
        return bytes(self.unfinished)

    def feed(self, piece: bytes) -> bytes:
        """Return the run of events that `piece` completes, b"" if none.

        `piece` itself is returned if it consists of whole events and no unfinished event was kept. An event is
        returned with its last byte.
        """
        # most events end with two LF
        if (
            not self.unfinished
            and (piece[-2:] == _LINE_FEEDS or piece.endswith(_BLANK_LINE_ENDS))
            and len(piece) <= self._passing_bytes
        ):
            return piece
        if self.overflowed:
            return b""
        window = self._edge + piece
        end = _end_of_last_event(window)
        if end < 0:
            self._keep(piece, window)
            return b""
        end -= len(self._edge)
        run, tail_bytes = piece[:end], len(self.unfinished)
        if self.unfinished:
            self.unfinished += run
            run = bytes(self.unfinished)
            self.unfinished.clear()
        if len(run) > self._limit_bytes:
            run = self._within_limit(run, tail_bytes)
        self._keep(piece[end:], window)
        if len(run) > LARGE_EVENT_BYTES:
            self.large, run, self.is_blocked = self.large + run, b"", True
        return run

    def take_large(self) -> bytes:
        large, self.large, self.is_blocked = self.large, b"", self.overflowed
        return large

    def take_unfinished(self) -> bytes:
        tail, self._edge = self.tail, b"\n"
        self.unfinished.clear()
        return tail

    def _keep(self, rest: bytes, window: bytes) -> None:
        self.unfinished += rest
        if not self.unfinished:
            self._edge = b"\n"
            return
        self._edge = _OPEN if window.endswith(_OPEN) else window[-1:]
        if len(self.unfinished) > self._limit_bytes:
            self._overflow()

    def _within_limit(self, run: bytes, tail_bytes: int) -> bytes:
        """Return the first events of `run`. Its first event, and no other, contains the `tail_bytes` of the tail."""
        found = _BLANK_LINE.search(run, max(tail_bytes - len(b"\r\n\r"), 0)) if tail_bytes else None
        size_bytes = 0 if found is None else found.end()
        if size_bytes > self._limit_bytes:
            self._overflow()
            return b""
        for event in split_events(run[size_bytes:]):
            if len(event) > self._limit_bytes:
                self._overflow()
                return run[:size_bytes]
            size_bytes += len(event)
        return run

    def _overflow(self) -> None:
        self.overflowed = self.is_blocked = True
        self.unfinished.clear()
        self._limit_bytes = self._passing_bytes = -1  # from here on `feed` returns and keeps no bytes


def _end_of_last_event(data: bytes) -> int:
    """Return the index after the last blank line, or -1. `data` begins inside or at the end of a line."""
    # LF CR at the end waits for one more byte: CRLF streams are common, streams that mix LF and CR are rare
    stop = len(data) - 1 if data.endswith(_OPEN) else len(data)
    start = data.rfind(b"\n\n", 0, stop)
    if _CR in data:
        start = max(start, data.rfind(b"\r\r", 0, stop), data.rfind(b"\n\r", 0, stop))
    if start < 0:
        return -1
    end = start + 2
    return end + 1 if data[end - 1 : end + 1] == b"\r\n" else end


DONE = b"data: [DONE]\n\n"

_LINE = re.compile(rb"([^\r\n]*+)(?>\r\n?|\n)")
_KEPT = (b"event", b"id", b"retry")
_UNKNOWN_FIELD = re.compile(rb"(?i)(?!error:)[a-z][\w-]*+:")


@dataclass(frozen=True, slots=True)
class Event:
    """A parsed event. `data` is its data lines joined with LF, or None if it has none.

    `comments` are its unchanged comment lines with their line ends, and `text` its lines that are no fields: clients
    ignore them, and an upstream that fails writes its error there. `beside` are all lines but its data.
    `is_dispatched`: openai-python makes an event of it even without data, because of a name, an id or a retry
    (`SSEDecoder.decode`), and then fails on the empty text.
    """

    data: bytes | None = field(repr=False)
    name: bytes
    id: bytes
    comments: bytes = field(repr=False)
    is_dispatched: bool
    text: bytes = field(default=b"", repr=False)
    beside: bytes = field(default=b"", repr=False, compare=False)


def single_line_data(run: bytes) -> bytes | None:
    """Return the data of `run` if it is exactly one event of one data line, ended by LF or CRLF; else None."""
    if not run.startswith(b"data:"):
        return None
    end = run.find(b"\n")
    if end == len(run) - 2 and run.endswith(b"\n\n") and _CR not in run:
        return run[5:end]
    if end == len(run) - 3 and run.endswith(b"\r\n\r\n") and run.find(b"\r") == end - 1:
        return run[5 : end - 1]
    return None


def parse_event(block: bytes) -> Event:
    """Parse one whole event. Unknown fields are ignored, and the last of a repeated field applies."""
    data, comments, text, beside = bytearray(), bytearray(), bytearray(), bytearray()
    fields: dict[bytes, bytes] = {}
    for match in _LINE.finditer(block):
        line = match[1]
        if not line:
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")  # one blank belongs to the format, further ones to the value
        if name == b"data":
            data += value + b"\n"
            continue
        beside += match[0]
        if not name:
            comments += match[0]
        elif name in _KEPT:
            if b"\0" not in value:  # the format ignores an id with a NUL
                fields[name] = value
        elif not _UNKNOWN_FIELD.match(line):
            text += match[0]
    event, identity = fields.get(b"event", b""), fields.get(b"id", b"")
    return Event(
        data=bytes(data[:-1]) if data else None,
        name=event,
        id=identity,
        comments=bytes(comments),
        text=bytes(text.strip()),
        is_dispatched=bool(data or event or identity) or fields.get(b"retry", b"").isdigit(),
        beside=bytes(beside),
    )


MOST_ESCAPED = 128
"""A longer line with escapes is not searched: 512 of them would occupy the event loop for long."""


def public_line(line: bytes, mask: Mask) -> bytes:
    """Return a field, or a comment, without the secrets that `mask` finds. A comment with one is left as its colon."""
    text, name = line.decode(errors="surrogateescape"), line.partition(b":")[0]
    if len(line) > MOST_ESCAPED and any(sign in text for sign in ("&", "%", "\\u00")):
        shown = f"{name.decode()}: {MASK}"
    elif (shown := mask(text)) == text:
        return line
    return shown.encode(errors="surrogateescape") if name else b":"


def public_lines(block: bytes, mask: Mask) -> bytes:
    """Return `block` without the lines that the format does not define, and without secrets beside its data.

    b"" if only the blank line remains.
    """
    kept = []
    for match in _LINE.finditer(block):
        line = match[1]
        if line[:1] == b":" or line.partition(b":")[0] in _KEPT:
            kept.append(public_line(line, mask) + match[0][len(line) :])
        elif not line or line.partition(b":")[0] == b"data":
            kept.append(match[0])
    return b"".join(kept) if len(kept) > 1 else b""


def read_json(data: bytes) -> Any:
    """Parse `data` as JSON, also as `lenient_value` does. Raises ValueError for other data, or for too many values."""
    decode: Callable[[bytes], Any] = msgspec.json.decode
    if len(data) > SMALL_BYTES:  # rare; smaller data is parsed fast regardless of its content
        decode = json_value
        if takes_long(data):
            raise ValueError("too many values")
    try:
        return decode(data)
    except (ValueError, RecursionError):
        pass
    return lenient_value(data)


def is_json(data: bytes) -> bool:
    try:
        read_json(data)
    except ValueError:
        return False
    return True


class EventTransform(ABC):
    """Change the events of a stream on their way to the client. It takes and returns runs of whole events.

    Comment lines without a blank line may end a run, because the validation of a stream leaves them there.

    A transform may hold events back, but only a bounded number. It returns them before a `[DONE]`, before an error
    event, or from `finish` if neither arrives. It never adds a `[DONE]`, because EventStream decides whether a stream
    is complete.

    The events may have another form, with numbers of their own. Then `named` is the response that they named, for the
    errors and keep-alives that gatepass writes after them. The next one of these has `next_number`. `unsent` has the
    events before an error that `feed` raises. `kept_bytes` is what the transform holds in memory.
    """

    def __init__(self) -> None:
        self._adapted: dict[str, None] = {}
        self.named: StreamedResponse | None = None
        self.unsent = b""
        self.next_number = self.kept_bytes = 0

    @property
    def adapted(self) -> tuple[str, ...]:
        """The names of the changes so far, in the order in which each was first made."""
        return tuple(self._adapted)

    @abstractmethod
    def feed(self, block: bytes) -> bytes:
        """Return the changed run; the same object if nothing changed.

        Raises UpstreamError if the client can receive no such answer. The stream then ends with it.
        """

    def take(self) -> bytes:
        """Return the next events that `feed` left, up to a large one, so that the event loop can run; b"" for none."""
        return b""

    def finish(self) -> bytes:
        """End the stream, and return the events that were held back, or b""."""
        return b""
