"""Find positions in a JSON text and edit it by position.

A body is changed without being parsed into objects, so every byte outside an edit stays unchanged, whitespace and
spelling included. The functions require text that a JSON parser has accepted, such as the body of a Call. Other text
may raise ValueError or IndexError, or return meaningless positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from gatepass.errors import BodyTooComplex, InvalidRequest
from gatepass.json_body import FOLDED, RAW, SMALL_BYTES, Piece

ONE_PASS_BYTES = 3 * 1024 * 1024
"""The largest document that gatepass builds or converts in one pass of up to 26 ms."""

_QUOTE, _BACKSLASH, _CLOSE_ARRAY = b'"\\]'
_OPENERS = b"{["
_OPEN, _CLOSE = (b"{", b"["), (b"}", b"]")
_GAP = re.compile(rb"[ \t\n\r]*+")
_COLON = re.compile(rb"[ \t\n\r]*+:[ \t\n\r]*+")
_TEXT_MEMBER = re.compile(rb'[ \t\n\r]*+:[ \t\n\r]*+("[^"\\]*+")')
_COMMA = re.compile(rb"[ \t\n\r]*+,?[ \t\n\r]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_SCALAR = re.compile(rb"[^ \t\n\r,\]}]++")
_MARK = re.compile(rb'["{}\[\]]')
_ESCAPED_LETTER = re.compile(rb"\\u(?:00(?:4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])|017[fF]|013[01]|212[aA])")
"""Escapes of `_`, ASCII letters and the letters in FOLDED: the searched names contain no other letters."""
_FOLDED_BYTES = tuple(letter.encode() for letter in FOLDED)


WHOLE_ESCAPES = re.compile(
    rb"[^\\]*+(?:\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|u(?![dD][89abAB])[0-9a-fA-F]{4}|[^u])[^\\]*+)*+"
)
LONG_BYTES = 1024 * 1024
"""Longer strings are decoded and encoded in pieces, because no other thread runs during each call."""

MANY_QUOTES_BYTES = 256 * 1024
"""A larger text is searched in windows."""
PART_BYTES, MOST_PART_BYTES = 256, 4096
NAME_BYTES = 256
"""More than any searched name has, even with each letter written as an escape of six bytes."""

WINDOW_BYTES = 64 * 1024
"""A text is searched in windows of this size, because no other thread runs during one search."""
_ESCAPED_CHAR = re.compile(rb'\\["\\]')
MOST_ESCAPED_CHARS = 2_000
_SIGNS = b"{[}],"
_NO_MARK = bytes(byte for byte in range(256) if byte not in _SIGNS + b'"')

MOST_STEPS = 300_000
"""Limit of one scan, about 12,000 messages. No other thread runs while the objects of a scan are freed. Bodies with
many values are scanned outside the event loop (`body_threads.BodyThreads`)."""
LONGEST_NAME_BYTES = 16 * 1024
"""No API has a longer name. To fold one of 27 MiB takes 2.5 s, in which no other thread runs."""
MEMBER_STEPS = 6
ELEMENT_STEPS = 3
"""The cost of a member and of an element, in steps over one string or bracket (0.25 µs)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object: its name's quote is at `start`, its value from `value` to `end`."""

    name: str
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces the bytes from `start` to `end` by `pieces`."""

    start: int
    end: int
    pieces: tuple[Piece, ...] = field(default=(), repr=False)


class TooManySteps(InvalidRequest):
    """A scan exceeded its limit."""


MOST_MEMBERS = 1_000
"""No API has more than 60 members at its top level."""
SHORT_STEPS = 100
"""msgspec finds the end of a container with more brackets and strings."""
BYTES_OF_STEP = 1024
"""What msgspec passes over in the time of a step or two. Nested values are passed over once for each level."""
_BLANKS = b" \t\n\r"


@dataclass(slots=True)
class JsonScanner:
    """Skip from value to value of `text`. Ordinary requests need thousands of steps, a malicious body ten million.

    Every method raises TooManySteps when `steps_left` is used up, and for a name above LONGEST_NAME_BYTES.
    """

    text: bytes = field(repr=False)
    steps_left: int = MOST_STEPS
    _ends: dict[int, int] = field(default_factory=dict)
    """Ends of long strings with escaped quotes, which a scan skips once for each level above them, and of arrays."""

    def members(self, at: int = 0) -> Iterator[Member]:
        """Yield the members of the object that begins at or after `at`, in order and with duplicates."""
        text = self.text
        at = _skip(_GAP, text, _skip(_GAP, text, at) + 1)
        while text[at] == _QUOTE:
            name, value = self._name(at)
            end = self.value_end(value)
            yield Member(name, at, value, end)
            at = _skip(_COMMA, text, end)

    def names_and_values(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the position of the value of each member of the top level, before the value is read."""
        text = self.text
        at = _skip(_GAP, text, _skip(_GAP, text, 0) + 1)
        while text[at] == _QUOTE:
            name, value = self._name(at)
            yield name, value
            at = _skip(_COMMA, text, self.value_end(value))

    def _name(self, at: int) -> tuple[str, int]:
        self._use_steps(MEMBER_STEPS)
        end = self._string_end(at)
        if end - at > LONGEST_NAME_BYTES:
            raise _too_long_name()
        return string(self.text[at:end]), _skip(_COLON, self.text, end)

    def elements(self, at: int) -> Iterator[tuple[int, int]]:
        """Yield the spans of the elements of the array that begins at `at`, in order."""
        text, begin = self.text, at
        at = _skip(_GAP, text, at + 1)
        while text[at] != _CLOSE_ARRAY:
            self._use_steps(ELEMENT_STEPS)
            end = self.value_end(at)
            yield at, end
            at = _skip(_COMMA, text, end)
        if at - begin > SMALL_BYTES:
            self._ends[begin] = at + 1

    def value_end(self, at: int) -> int:
        """Return the end of the value that begins at `at`. Long strings are skipped, not read."""
        text = self.text
        first = text[at]
        if first == _QUOTE:
            return self._string_end(at)
        if first not in _OPENERS:
            return _skip(_SCALAR, text, at)
        return self._ends.get(at) or self._container_end(at)

    def _container_end(self, at: int) -> int:
        text, depth, steps, begin = self.text, 0, self.steps_left, at
        short = steps - SHORT_STEPS
        while steps > 0:
            mark = _MARK.search(text, at, at + WINDOW_BYTES)
            if mark is None or steps == short:
                end = _end_of_value(text, begin)
                if end is not None:
                    at, steps = end, steps - (end - begin) // BYTES_OF_STEP
                    break
                if mark is None:
                    raise ValueError(f"no JSON value at byte {begin}")
            steps -= 1
            at = mark.end()
            char = text[at - 1]
            if char == _QUOTE:
                at = self._string_end(at - 1)
            elif char in _OPENERS:
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    break
        self.steps_left = steps
        self._use_steps(0)  # raises if the loop ended because no steps were left
        if at - begin > SMALL_BYTES:
            self._ends[begin] = at
        return at

    def _string_end(self, at: int) -> int:
        text = self.text
        end = text.index(b'"', at + 1)  # one memchr for a string without escaped quotes, such as an image
        if text[end - 1] != _BACKSLASH:
            return end + 1
        known = self._ends.get(at)
        if known is not None:
            return known
        whole = _STRING.match(text, at, at + SMALL_BYTES)
        if whole is not None:
            return whole.end()
        known = _end_of_value(text, at)
        if known is None:  # text that only lenient parsers accept
            if (whole := _STRING.match(text, at)) is None:
                raise ValueError(f"no JSON string at byte {at}")
            known = whole.end()
        self._ends[at] = known
        return known

    def _use_steps(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left <= 0:
            raise TooManySteps(
                "The body has too many small values for gatepass to change it. Send less structure in one request."
            )


_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)\Z")


def _end_of_value(text: bytes, at: int) -> int | None:
    """Return the end of the value that begins at `at`. None if msgspec does not accept it, such as NaN in a reply.

    msgspec passes over a value a hundred times as fast as a scan. It reports what follows the value as its error.
    """
    try:
        RAW.decode(memoryview(text)[at:])
    except msgspec.DecodeError as error:
        found = _TRAILING.search(str(error))
        if found is None:
            return None
        end = at + int(found[1]) - 1  # it counts from one
    except RecursionError:
        return None
    else:
        end = len(text)
    while text[end - 1] in _BLANKS:
        end -= 1
    return end


class MemberName:
    """A member's name. It is compared by identity, so that a dict keeps each member of a name that is repeated."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def top_members(text: bytes) -> list[Member]:
    """Return the members of the object `text`, in order and with duplicates, in one pass of msgspec.

    Nothing below the top level is built. Raises msgspec.DecodeError, RecursionError, BodyTooComplex for more than
    MOST_MEMBERS members, and TooManySteps for a name above LONGEST_NAME_BYTES.
    """
    names_left = MOST_MEMBERS

    def name_of(_: type, name: str) -> MemberName:
        nonlocal names_left
        names_left -= 1
        if names_left < 0:
            raise BodyTooComplex(f"The body has more than {MOST_MEMBERS} members at its top level.")
        if len(name) > LONGEST_NAME_BYTES:
            raise _too_long_name()
        return MemberName(name)

    found = msgspec.json.Decoder(dict[MemberName, msgspec.Raw], dec_hook=name_of).decode(text)
    members, scanner, at = list[Member](), JsonScanner(text), text.index(b"{") + 1
    for name, raw in found.items():
        start = _skip(_COMMA, text, at)
        value = _skip(_COLON, text, scanner.value_end(start))
        at = value + memoryview(raw).nbytes
        members.append(Member(name.text, start, value, at))
    return members


def _too_long_name() -> TooManySteps:
    return TooManySteps(f"The body contains a member name that is longer than {LONGEST_NAME_BYTES} bytes.")


def occurrences(text: bytes, chars: bytes, most: int) -> int:
    """Return how many bytes of `text` are one of `chars`, counting at most `most` + 1 for each of them."""
    # `replace` finds rare bytes at memory speed, `count` checks each byte: 6 µs instead of 100 for 64 KB (CPython 3.11)
    return sum(len(text) - len(text.replace(b"%c" % char, b"", most + 1)) for char in chars)


def string(raw: bytes) -> str:
    if len(raw) > LONG_BYTES:
        return "".join(_decode_slices(raw))
    if _BACKSLASH in raw:
        return msgspec.json.decode(raw, type=str)
    return raw[1:-1].decode()


def _decode_slices(raw: bytes) -> Iterator[str]:
    at, end = 1, len(raw) - 1
    while at < end:
        # no cut inside an escape or between the escapes of a surrogate pair
        stop = WHOLE_ESCAPES.match(raw, at, min(at + LONG_BYTES, end)).end()  # type: ignore[union-attr]  # matches ""
        while raw[stop] & 0xC0 == 0x80:  # inside a UTF-8 character
            stop -= 1
        yield msgspec.json.decode(b'"%b"' % raw[at:stop], type=str)
        at = stop


def quoted(text: str) -> bytes:
    if len(text) <= LONG_BYTES:
        return msgspec.json.encode(text)
    parts = (msgspec.json.encode(text[at : at + LONG_BYTES])[1:-1] for at in range(0, len(text), LONG_BYTES))
    return b'"%b"' % b"".join(parts)


def at_most_once(text: bytes, name: bytes) -> bool:
    """Return True only if `name` occurs at most once in `text`, and not with escapes.

    `name` includes its quotes (`b'"model"'`). A quote inside a string is escaped, so the matches are whole strings at
    any depth, names or values, and strings that end in `\\"name`.
    """
    count = 0
    for part in parts_with_names(text):
        count += part.count(name)
        if count > 1 or may_spell(part):
            return False
    return True


def names_in(text: bytes, names: re.Pattern[bytes]) -> list[bytes] | None:
    """Return each match of `names` in `text`, None if a name may have escapes or a letter of FOLDED.

    `names` matches quoted names as in `at_most_once`.
    """
    found: list[bytes] = []  # `list[bytes]()` takes 0.8 µs
    for part in parts_with_names(text):
        found += names.findall(part)
        if may_fold(part):
            return None
    return found


def any_of(*names: str) -> re.Pattern[bytes]:
    """Return a pattern of the quoted `names`, which may be patterns themselves. Each begins with a letter."""
    by_initial: dict[str, list[str]] = {}
    for name in names:
        by_initial.setdefault(name[0], []).append(name[1:])
    # most quotes precede another letter, so the initials come first
    words = "|".join(f"{initial}(?:{'|'.join(rests)})" for initial, rests in by_initial.items())
    return re.compile(f'"(?=[{"".join(by_initial)}])(?:{words})"'.encode())


def may_name(text: bytes, names: re.Pattern[bytes]) -> bool:
    """Return False only if no member of any object in `text` has one of `names`."""
    for part in parts_with_names(text):
        if names.search(part) is not None:
            return True
        if may_spell(part):
            return True
    return False


def has_more_values(text: bytes | memoryview, most: int) -> bool:
    """Whether the JSON `text` has more than `most` commas and brackets outside of its strings.

    A value takes a comma or two brackets, so this limits the values.
    """
    left = most
    for signs in signs_by_window(text) if len(text) > most else ():
        left -= len(signs)
        if left < 0:
            return True
    return False


def signs_by_window(text: bytes | memoryview, *, checks_names: bool = False) -> Iterator[bytes]:
    """Yield the commas and brackets in each window of the JSON `text`, without those in strings.

    With `checks_names`, raises TooManySteps for a name that fills a window: to decode one of 27 MiB takes 80 ms.
    """
    end = 0
    for start, window, is_inside in _windows(text):
        if checks_names and start > end:
            at = _end_of_run(_GAP, text, start + window.find(b'"') + 1)
            if bytes(text[at : at + 1]) == b":":
                raise _too_long_name()
        end = start + len(window)
        yield _signs(window, is_inside)


def _signs(window: bytes, is_inside: bool) -> bytes:
    marks = window.translate(None, _NO_MARK)  # the signs, and the quotes that open or close strings
    parts = (b'"' + marks if is_inside else marks).replace(b'""', b"").split(b'"')
    return b"".join(parts[::2])


def has_more_escapes(text: bytes | memoryview, most: int) -> bool:
    view, left = memoryview(text), most
    for at in range(0, len(view) if len(view) > most else 0, WINDOW_BYTES):
        window = bytes(view[at : at + WINDOW_BYTES])
        if b"\\" in window:  # finds a rare byte at memory speed, `count` checks each byte
            left -= window.count(b"\\")
            if left < 0:
                return True
    return False


def _windows(text: bytes | memoryview) -> Iterator[tuple[int, bytes, bool]]:
    """Yield each window of `text`, JSON: its start, its bytes without escaped quotes, whether it begins in a string.

    A window that is a part of one string is left out. None begins or ends inside an escape of two characters.
    """
    view, end, is_inside = memoryview(text), 0, False
    while end < len(view):
        at = end
        window = bytes(view[at : at + WINDOW_BYTES])
        if (len(window) - len(window.rstrip(b"\\"))) % 2:
            window = bytes(view[at : at + WINDOW_BYTES + 1])
        end += len(window)
        # nothing of a long string is read, and escapes only where there are quotes too
        if is_inside and (b'"' not in window or (_BACKSLASH in window and _is_within_string(window))):
            continue
        window = _unescaped(window)
        if is_inside and b'"' not in window:  # `_is_within_string` rejects the second half of a surrogate pair
            continue
        yield at, window, is_inside
        is_inside ^= window.count(b'"') % 2 == 1


def _is_within_string(text: bytes) -> bool:
    """Whether all of `text`, which begins in a string and ends in no escape, belongs to that string."""
    try:
        RAW.decode(b'"' + text)  # takes a tenth of the time of `_unescaped`
    except msgspec.DecodeError as error:
        return str(error) == "Input data was truncated"
    return False


def _unescaped(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    # The pattern takes half as long as `replace` for few escapes, and ten times as long for many. A replacement of the
    # same length works in place, twice as fast as a shorter one (CPython 3.11).
    if text.count(b"\\") <= MOST_ESCAPED_CHARS:
        return _ESCAPED_CHAR.sub(b"__", text)
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def value_span(text: bytes, quoted: bytes) -> tuple[int, int]:
    """Return the span of the value of the top-level member `quoted` (its name with quotes), which must exist.

    Of several members with the name the last one is used, as all tested parsers do. In a large text it may be the
    first: a parsed request body has only one (`RequestBody.read`).
    """
    at = place_of(text, quoted)
    if at >= 0:
        span = _TEXT_MEMBER.match(text, at + len(quoted))
        if span is not None:
            return span.span(1)
        value = _skip(_COLON, text, at + len(quoted))
        return value, JsonScanner(text).value_end(value)
    name = string(quoted)
    spans = [(member.value, member.end) for member in JsonScanner(text).members() if member.name == name]
    return spans[-1]


def place_of(text: bytes, quoted: bytes) -> int:
    """Return the position of the member of `value_span`, -1 if only a scan can find it."""
    at = text.find(quoted, 0, SMALL_BYTES)
    if len(text) > SMALL_BYTES:
        around, depth = text[: max(at, 0)], 1
        if at < 0:
            at = text.rfind(quoted, len(text) - SMALL_BYTES)
            around, depth = text[at:], -1
        if at > 0 and text[at - 1] != _BACKSLASH and _COLON.match(text, at + len(quoted)) is not None:
            brackets = _STRING.sub(b"", around)  # `quoted` is a whole string, because quotes in strings are escaped
            if sum(map(brackets.count, _OPEN)) - sum(map(brackets.count, _CLOSE)) == depth:
                return at
    return at if at >= 0 and at_most_once(text, quoted) else -1


def edited(text: bytes, edits: Iterable[Edit]) -> bytes:
    """Return `text` with `edits` applied, in one copy.

    The edits must not overlap. Of two edits with the same start the shorter one is applied first.
    """
    view, start, result = memoryview(text), 0, list[Piece]()
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        result += (view[start : edit.start], *edit.pieces)
        start = edit.end
    return b"".join((*result, view[start:]))


def _skip(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Return the end of what `pattern` matches at `at`, in one window or, for blanks and numbers, in several."""
    found = pattern.match(text, at, at + WINDOW_BYTES)
    if found is not None and (end := found.end()) < at + WINDOW_BYTES:
        return end
    start = at if pattern is _SCALAR else _end_of_run(_GAP, text, at)
    found = pattern.match(text, start, start + WINDOW_BYTES)
    if found is None:
        raise ValueError(f"unexpected text at byte {at}")
    return _end_of_run(_SCALAR if pattern is _SCALAR else _GAP, text, found.end())


def _end_of_run(chars: re.Pattern[bytes], text: bytes | memoryview, at: int) -> int:
    while (found := chars.match(text, at, at + WINDOW_BYTES)) is not None and found.end() > at:
        at = found.end()
    return at


def parts_with_names(text: bytes) -> Iterator[bytes]:
    """Yield parts of the JSON `text` that contain each short string whole, and little of the long ones.

    A string of more than NAME_BYTES is cut. In a large text the escaped quotes are left out.
    """
    if len(text) <= MANY_QUOTES_BYTES:
        yield text if len(text) <= SMALL_BYTES else _thinned(text)
        return
    begun = b""  # a string that continues in the next window
    for _, window, _ in _windows(text):
        whole = begun + window
        yield _thinned(whole)
        at = whole.rfind(b'"', -NAME_BYTES)
        begun = whole[at:] if at >= 0 else b""


def _thinned(text: bytes) -> bytes:
    """Return the parts of `text` that contain quotes: all of every short string and little of a long one.

    A single byte is found at memory speed, a word is not. A part begins with a quote, and ends before one or far after
    the last one. Parts grow while nothing is left out.
    """
    kept: list[memoryview] = []
    view, part_bytes = memoryview(text), PART_BYTES
    at = text.find(b'"')
    while at >= 0:
        end = at + part_bytes
        following = text.find(b'"', end)
        if 0 <= following < end + NAME_BYTES:
            end, part_bytes = following, min(2 * part_bytes, MOST_PART_BYTES)
        else:
            part_bytes = PART_BYTES
        kept.append(view[at:end])
        at = following
    return b"".join(kept)


def may_spell(text: bytes) -> bool:
    return _BACKSLASH in text and _ESCAPED_LETTER.search(text) is not None


def may_fold(text: bytes) -> bool:
    """Whether `text` may contain a name written with escapes or with a letter of FOLDED."""
    return may_spell(text) or (not text.isascii() and any(text.find(letter) >= 0 for letter in _FOLDED_BYTES))
