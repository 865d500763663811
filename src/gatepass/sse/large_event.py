"""Shorten the long texts of large events, so that no event occupies the event loop for long.

To validate, repair and transform an event of 30 MiB, such as a picture in base64, takes 0.3 s. So the longest texts of
a large event are validated in slices, and marks replace them. The shortened event passes through the same code as every
other event. Then `LongTexts.restore` puts the upstream's bytes in the place of the marks.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from secrets import token_hex

from gatepass.json_scan import quoted
from gatepass.sse.event import LARGE_EVENT_BYTES, EventTransform, read_json

MOST_BYTES = LARGE_EVENT_BYTES
"""Limit of an event without its long texts."""
LONG_BYTES = 8 * 1024
"""Only texts above this size are replaced."""
KEPT_BYTES, FIRST_KEPT_BYTES = 4 * 1024, 64 * 1024
"""The beginning of a text stays in the event, because error messages and repairs read it. That of the longest text is
larger, so that a shortened event exceeds MAX_MOVED_BYTES of repair.py and the smallest `profiles.NAME.line_bytes`."""
PIECE_BYTES = 32 * 1024
"""The size of text that one mark replaces."""

CUT_EVENT = b"data: {"
"""Stands for an unfinished event that is too large."""

WINDOW_BYTES = 256 * 1024
_STRINGS = 4096
"""The event loop runs after this many strings."""
_QUOTE, _BACKSLASH = b'"\\'
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_WHOLE = re.compile(rb"[^\\]*+(?:\\(?:u[0-9a-fA-F]{4}|[^u])[^\\]*+)*+")
_HIGH_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_ESCAPE_BYTES = len(rb"\ud83d")
# Begin and end differ, so that a text that looks like the beginning of a mark cannot take the beginning of a mark.
# A mark has a name, a number, and the `_nesting` of the text that it replaces.
_MARK = re.compile(rb";\\+t[0-9a-f]{32}:[0-9]+(?::-?[0-9]{1,5}){3}\.")
_MARK_IN_TEXT = re.compile(r"(;\t[0-9a-f]{32}:[0-9]+(?::-?[0-9]{1,5}){3}\.)")
_ESCAPE = re.compile(r"\\.", re.DOTALL)

Span = tuple[int, int]


def has_marks(run: bytes) -> bool:
    """Return whether `run` may have been shortened."""
    return len(run) > FIRST_KEPT_BYTES and _MARK.search(run) is not None


def has_marks_in_text(text: str) -> bool:
    """Return whether a text of a shortened event may contain marks."""
    return ";\t" in text and _MARK_IN_TEXT.search(text) is not None


def without_marks(data: bytes) -> bytes:
    """Return shortened JSON with only the beginnings of its long texts."""
    return _MARK.sub(b"", data)


def split_text(text: str, most_chars: int) -> list[str]:
    """Split a text into parts, each of at most `most_chars` characters or one mark."""
    parts = []
    for number, part in enumerate(_MARK_IN_TEXT.split(text)):
        size = len(part) if number % 2 else most_chars
        parts += [part[at : at + size] for at in range(0, len(part), size or 1)]
    return parts


def is_balanced(text: str) -> bool:
    """Return whether a text with marks begins as a JSON container and ends outside of its strings and brackets.

    JSON that was cut does not. Other errors are not found.
    """
    depth = inside = 0
    for number, part in enumerate(_MARK_IN_TEXT.split(text)):
        nesting = tuple(map(int, part[:-1].split(":")[2:])) if number % 2 else _nesting(part)
        depth += nesting[inside]
        inside ^= nesting[2]
    return text.lstrip().startswith(("{", "[")) and depth == inside == 0


def _nesting(text: str) -> tuple[int, int, int]:
    """Return the depth that a piece of JSON adds if it begins outside or inside a string, and its quotes modulo 2."""
    if "\\" in text:
        text = _ESCAPE.sub("", text)
    parts = text.split('"')
    return _depth("".join(parts[::2])), _depth("".join(parts[1::2])), (len(parts) - 1) % 2


def _depth(text: str) -> int:
    return text.count("{") + text.count("[") - text.count("}") - text.count("]")


class LongTexts:
    """The long texts that marks replace in the events of one stream.

    `start` takes whole events. While `step` returns True, the caller lets the event loop run and calls it again. Then
    `shortened` is the run with marks in its large events. It is None if an event is too large even without its long
    texts, or if transforms have removed more than `limit_bytes` of texts.
    """

    __slots__ = (
        "_held_bytes",
        "_limit_bytes",
        "_name",
        "_next",
        "_pattern",
        "_restored",
        "_steps",
        "_texts",
        "shortened",
    )

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.shortened: bytes | None = None
        self._limit_bytes = limit_bytes
        self._name = token_hex(16)  # unknown to the upstream, so that it cannot send a mark
        self._pattern = re.compile(rb";(\\+)t%b:([0-9]+)[-:0-9]+\." % self._name.encode())
        self._texts: dict[int, bytes] = {}
        self._restored: set[int] = set()
        self._next = self._held_bytes = 0
        self._steps: Iterator[None] = iter(())

    def start(self, run: bytes) -> None:
        """Begin to shorten `run`."""
        for number in self._restored:
            self._held_bytes -= len(self._texts.pop(number))
        self._restored.clear()
        self.shortened = None
        self._steps = iter(())
        if self._limit_bytes is None or self._held_bytes <= self._limit_bytes:
            self._steps = self._shorten(run)

    def step(self) -> bool:
        """Continue for a few milliseconds. Return whether another step is necessary."""
        return next(self._steps, self) is None

    def restore(self, run: bytes) -> bytes:
        """Return `run` with the upstream's bytes in the place of the marks."""
        first, *found = self._pattern.split(run)
        parts = [first]
        for slashes, digits, after in zip(found[::3], found[1::3], found[2::3], strict=True):
            number = int(digits)
            text = self._texts[number]
            for _ in range(len(slashes).bit_length() - 1):  # JSON inside a JSON string has two backslashes, then four
                text = quoted(text.decode())[1:-1]
            self._restored.add(number)
            parts += (text, after)
        return b"".join(parts) if found else run

    def _shorten(self, run: bytes) -> Iterator[None]:
        events, start, long, long_bytes = list[bytes](), 0, list[Span](), 0
        for line, end, following in _lines(run):
            for begin, stop in _long_strings(run, line, end):
                if begin == stop:
                    yield
                else:
                    long.append((begin, stop))
                    long_bytes += stop - begin
                if stop - start - long_bytes > MOST_BYTES:
                    return
            if end > line:
                continue
            event = run[start:following]
            if len(event) > LARGE_EVENT_BYTES:
                event = yield from self._shorten_event(event, [(begin - start, stop - start) for begin, stop in long])
            if len(event) > MOST_BYTES:
                return
            events.append(event)
            start, long, long_bytes = following, [], 0
        self.shortened = b"".join(events)

    def _shorten_event(self, event: bytes, long: list[Span]) -> Generator[None, None, bytes]:
        """Replace the longest texts first, until the event is no longer large."""
        left_bytes, kept_bytes, pieces = len(event), FIRST_KEPT_BYTES, 0
        replaced = dict[Span, list[bytes]]()
        for begin, stop in sorted(long, key=lambda span: span[0] - span[1]):
            if left_bytes <= LARGE_EVENT_BYTES:
                break
            marks, at = list[bytes](), begin
            while at < stop:
                end = _cut(event, at, at + (PIECE_BYTES if marks else kept_bytes), stop)
                try:
                    text: str = read_json(b'"%b"' % event[at:end])
                except ValueError:
                    return event[: begin + KEPT_BYTES] + b"\n\n"  # without its closing quote it is not JSON either
                # no cut inside an escape of JSON that is the text of a string, such as the arguments of a tool call
                if (len(text) - len(text.rstrip("\\"))) % 2 and event.startswith(b"\\\\", end - 2) and end - 2 > at:
                    end, text = end - 2, text[:-1]
                is_kept = not marks or text == "\\"  # the end of a piece of JSON may be half an escape
                marks.append(event[at:end] if is_kept else self._mark(event[at:end], text))
                at = end
                pieces += 1
                if pieces % 8 == 0:
                    yield
            replaced[begin, stop] = marks
            left_bytes -= stop - begin - len(marks[0])
            kept_bytes = KEPT_BYTES
        parts, at = list[bytes](), 0
        for (begin, stop), marks in sorted(replaced.items()):
            parts += (event[at:begin], *marks)
            at = stop
        return b"".join((*parts, event[at:]))

    def _mark(self, raw: bytes, text: str) -> bytes:
        number, self._next = self._next, self._next + 1
        self._texts[number] = raw
        self._held_bytes += len(raw)
        return b";\\t%b:%d:%d:%d:%d." % (self._name.encode(), number, *_nesting(text))


class RestoredTexts:
    """A transform that ends with the texts of the upstream in the place of the marks. `transform` precedes it."""

    __slots__ = ("_texts", "_transform")

    def __init__(self, transform: EventTransform | None, texts: LongTexts) -> None:
        self._transform = transform
        self._texts = texts

    @property
    def adapted(self) -> tuple[str, ...]:
        return () if self._transform is None else self._transform.adapted

    def feed(self, block: bytes) -> bytes:
        return self._texts.restore(block if self._transform is None else self._transform.feed(block))

    def finish(self) -> bytes:
        return b"" if self._transform is None else self._texts.restore(self._transform.finish())


def _lines(run: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the start of each line, the start of its line end, and the start of the next line."""
    at, line_feed, carriage_return = 0, -1, -1
    while at < len(run):
        if line_feed < at:
            line_feed = _position(run, b"\n", at)
        if carriage_return < at:
            carriage_return = _position(run, b"\r", at)
        end = min(line_feed, carriage_return)
        following = min(end + 2 if line_feed == end + 1 and run[end : end + 1] == b"\r" else end + 1, len(run))
        yield at, end, following
        at = following


def _position(run: bytes, sign: bytes, at: int) -> int:
    found = run.find(sign, at)
    return len(run) if found < 0 else found


def _long_strings(run: bytes, at: int, end: int) -> Iterator[Span]:
    """Yield the inside of each string above LONG_BYTES in the line from `at` to `end`.

    Yields an empty span where the event loop may run.
    """
    if end - at <= LONG_BYTES or run.startswith(b":", at):
        return
    strings = searched_bytes = 0
    while (quote := run.find(b'"', at, end)) >= 0:
        at = run.find(b'"', quote + 1, end)
        if at > 0 and run[at - 1] == _BACKSLASH:
            at = quote + 1
            while at < end and run[at] != _QUOTE:
                inside = _INSIDE.match(run, at, min(at + WINDOW_BYTES, end))
                before, at = at, inside.end()  # type: ignore[union-attr]  # matches the empty text too
                if at == before:
                    return
                searched_bytes += at - before
                if searched_bytes > WINDOW_BYTES:
                    searched_bytes = 0
                    yield quote, quote
        if not 0 < at < end:
            return
        if at - quote > LONG_BYTES:
            yield quote + 1, at
        at += 1
        strings += 1
        if strings % _STRINGS == 0:
            yield at, at


def _cut(text: bytes, at: int, end: int, stop: int) -> int:
    """Return a position of at most `end` outside of escapes, their pairs and UTF-8 characters."""
    if end >= stop:
        return stop
    if text.find(b"\\", at, end) >= 0:
        whole = _whole_end(text, at, end)
        # the next escape is its other half (RFC 8259, section 7)
        if _HIGH_HALF.match(text, whole - _ESCAPE_BYTES, whole) is not None:
            whole = _whole_end(text, at, whole - _ESCAPE_BYTES)
        end = whole if whole > at else end  # an invalid escape
    for _ in range(3):  # a character of UTF-8 has at most four bytes (RFC 3629, section 3)
        if text[end] & 0xC0 == 0x80:
            end -= 1
    return end


def _whole_end(text: bytes, at: int, end: int) -> int:
    found = _WHOLE.match(text, at, end)
    return found.end()  # type: ignore[union-attr]  # matches the empty text too
