"""Shorten the long texts of large events and replies, so that none of them occupies the event loop for long.

An event of 30 MiB, such as an image in base64, takes 0.3 s to validate, repair and transform. `LongTexts` validates its
longest texts in slices, and replaces them by marks. The shortened event passes through the same code as every other
event. Then `LongTexts.restore` replaces the marks by the upstream's bytes.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from secrets import token_hex

from gatepass.json_scan import quoted
from gatepass.sse.event import LARGE_EVENT_BYTES, EventTransform, read_json

SHORTENED_BYTES = LARGE_EVENT_BYTES
"""Limit of an event without its long texts."""
LONG_BYTES = 8 * 1024
KEPT_BYTES, FIRST_KEPT_BYTES = 4 * 1024, 64 * 1024
"""The beginning of each text stays in the event, because error messages and repairs read it. More of the longest text
stays, so that a shortened event exceeds MAX_MOVED_BYTES of repair.py and the smallest `profiles.NAME.line_bytes`."""
PIECE_BYTES = 32 * 1024

CUT_EVENT = b"data: {"
"""Replaces an unfinished event that is too large."""

WINDOW_BYTES = 256 * 1024
_STRINGS = 4096
_QUOTE, _BACKSLASH = b'"\\'
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_WHOLE = re.compile(rb"[^\\]*+(?:\\(?:u[0-9a-fA-F]{4}|[^u])[^\\]*+)*+")
_HIGH_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_ESCAPE_BYTES = len(rb"\ud83d")
# Its begin and its end differ, so that a text that looks like the beginning of a mark cannot hide a mark. A mark has a
# name, a number, and the size in bytes of the text that it replaces.
_MARK = re.compile(rb";\\+t[0-9a-f]{32}:[0-9]+:([0-9]+)\.")
_MARK_IN_TEXT = re.compile(r"(;\t[0-9a-f]{32}:[0-9]+:[0-9]+\.)")

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


def whole_bytes(shortened: bytes) -> int:
    """Return the size of JSON before it was shortened."""
    return len(shortened) + sum(map(int, _MARK.findall(shortened)))


class LongTexts:
    """The long texts that marks replace in the events of one stream, or in one reply.

    `start` takes whole events and returns steps of a few milliseconds. Between them the caller lets the event loop run.
    At their end `shortened` is the run with marks in its large events. It is None if an event is too large without
    its long texts too, or if transforms have removed more than `limit_bytes` of texts.
    """

    __slots__ = (
        "_held_bytes",
        "_limit_bytes",
        "_name",
        "_next",
        "_pattern",
        "_restored",
        "_texts",
        "shortened",
    )

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.shortened: bytes | None = None
        self._limit_bytes = limit_bytes
        self._name = token_hex(16)  # unknown to the upstream, so that it cannot send a mark
        # it begins with one literal byte, so that the search is fast
        self._pattern = re.compile(rb";(\\+)t%b([:=])([0-9]+)(?::[0-9]+)?\." % self._name.encode())
        self._texts: dict[int, bytes] = {}
        self._restored: set[int] = set()
        self._next = self._held_bytes = 0

    def start(self, run: bytes) -> Iterator[None]:
        """Begin to shorten `run`, and return the steps.

        The caller holds them, because they refer to this object: a stream may end before their last one.
        """
        for number in self._restored:
            self._held_bytes -= len(self._texts.pop(number))
        self._restored.clear()
        self.shortened = None
        if self._limit_bytes is not None and self._held_bytes > self._limit_bytes:
            return iter(())
        return self._shorten(run)

    def restore(self, run: bytes) -> bytes:
        """Return `run` with the upstream's bytes instead of the marks."""
        pieces = self.restored_pieces(run)
        return b"".join(pieces) if len(pieces) > 1 else run

    def restored_pieces(self, run: bytes) -> list[bytes]:
        """Return `run` in pieces, with the upstream's bytes instead of the marks. Long texts are not copied."""
        first, *found = self._pattern.split(run)
        pieces = [first]
        for slashes, sign, digits, after in zip(*(found[at::4] for at in range(4)), strict=True):
            number = int(digits)
            text = self._texts[number]
            if sign == b"=":  # the mark is a JSON string, and replaces a value with other signs around it
                pieces[-1], after = pieces[-1][:-1], after[1:]
            # JSON inside a JSON string has two backslashes, then four
            for _ in range(len(slashes).bit_length() - 1):
                text = quoted(text.decode())[1:-1]
            self._restored.add(number)
            pieces += (text, after)
        return pieces

    def shorten_document(self, text: bytes, unread: Iterable[Span]) -> bytes:
        """Return the JSON `text` with marks for long texts and the values at `unread`. Call it in a thread."""
        parts, at = list[bytes](), 0
        for begin, stop in unread:
            parts += (text[at:begin], self._mark_value(text[begin:stop]))
            at = stop
        if parts:
            text = b"".join((*parts, text[at:]))
        if len(text) <= LARGE_EVENT_BYTES:
            return text
        spans = [span for span in _long_strings(text, 0, len(text)) if span[0] < span[1]]
        steps = self._shorten_event(text, spans)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                shortened: bytes = done.value
                return shortened

    def _shorten(self, run: bytes) -> Iterator[None]:
        events, start, long, long_bytes = list[bytes](), 0, list[Span](), 0
        for line, end, following in _lines(run):
            for begin, stop in _long_strings(run, line, end):
                if begin == stop:
                    yield
                else:
                    long.append((begin, stop))
                    long_bytes += stop - begin
                if stop - start - long_bytes > SHORTENED_BYTES:
                    return
            if end > line:
                continue
            event = run[start:following]
            if len(event) > LARGE_EVENT_BYTES:
                event = yield from self._shorten_event(event, [(begin - start, stop - start) for begin, stop in long])
            if len(event) > SHORTENED_BYTES:
                return
            events.append(event)
            start, long, long_bytes = following, [], 0
        self.shortened = b"".join(events)

    def _shorten_event(self, event: bytes, long: list[Span]) -> Generator[None, None, bytes]:
        """Replace the longest texts first, until a quarter of the size of a large event is left."""
        left_bytes, kept_bytes, pieces = len(event), FIRST_KEPT_BYTES, 0
        replaced = dict[Span, list[bytes]]()
        for begin, stop in sorted(long, key=lambda span: span[0] - span[1]):
            if left_bytes <= LARGE_EVENT_BYTES // 4:  # an event of 1 MiB with such texts takes 50 ms
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
                marks.append(event[at:end] if is_kept else self._mark(event[at:end]))
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

    def _mark(self, raw: bytes) -> bytes:
        return b";\\t%b:%d:%d." % (self._name.encode(), self._keep(raw), len(raw))

    def _mark_value(self, raw: bytes) -> bytes:
        """Return a mark that replaces a whole value, as a JSON string."""
        return b'";\\t%b=%d."' % (self._name.encode(), self._keep(one_line(raw)))

    def _keep(self, raw: bytes) -> int:
        number, self._next = self._next, self._next + 1
        self._texts[number] = raw
        self._held_bytes += len(raw)
        return number


class RestoredTexts:
    """Apply `transform`, and then replace the marks by the texts of the upstream."""

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


def one_line(text: bytes) -> bytes:
    """Return JSON without line ends."""
    slices = (text[at : at + WINDOW_BYTES] for at in range(0, len(text), WINDOW_BYTES))
    return b"".join(part.translate(None, b"\r\n") for part in slices)


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


def _position(run: bytes, searched: bytes, at: int) -> int:
    found = run.find(searched, at)
    return len(run) if found < 0 else found


def _long_strings(run: bytes, at: int, end: int) -> Iterator[Span]:
    """Yield the inside of each long string in the line from `at` to `end`, and an empty span where the loop may run."""
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
