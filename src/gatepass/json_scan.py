"""Where things stand in a JSON text, and edits made by position.

A body is changed without being modelled: what no edit touches keeps its bytes, whitespace and
spelling included. Everything here works on text that a JSON parser has accepted (a decoded Call's
body is); other text may raise ValueError or IndexError, or give positions that mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isinf
from typing import Any

import msgspec

from gatepass.errors import InvalidRequest

Piece = bytes | memoryview

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
"""`_` and the letters, also those of FOLDED: as much as the names that gatepass looks for can be escaped."""
FOLDED = {"\u017f": "s", "\u212a": "k", "\u0131": "i", "\u0130": "i"}
"""Letters beyond ASCII that readers without regard to case take for one of ASCII: the first two by Unicode's simple
case folding, as Go's encoding/json does, the last two Java."""
_FOLDED_BYTES = tuple(letter.encode() for letter in FOLDED)
_FOLDING = str.maketrans(FOLDED)

WHOLE_ESCAPES = re.compile(
    rb"[^\\]*+(?:\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|u(?![dD][89abAB])[0-9a-fA-F]{4}|[^u])[^\\]*+)*+"
)
LONG_BYTES = 1024 * 1024
"""Longer strings are read and written in pieces: no other thread runs meanwhile."""

SMALL_BYTES = 4096
"""Such a text is searched as it is."""
PART_BYTES, MOST_PART_BYTES = 256, 4096
NAME_BYTES = 128
"""More than any name that is looked for takes, each letter of it as an escape of six."""

VALUES_BYTES = 2048
"""So much of a text is searched for values at once; what follows of a longer string is not searched."""
_BEFORE_STRING = (b"", b",", b":", b"[", b"{")
_NO_VALUE = bytes(byte for byte in range(256) if byte not in b",{[")

MOST_STEPS = 300_000
"""About 12,000 messages. A body with many values is walked over beside the loop (`large_body.apart`). No other thread
runs while the objects of a walk are freed."""
MEMBER_STEPS = 6
ELEMENT_STEPS = 3
"""What a step of each kind costs, in steps over one string or bracket (0.25 µs)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object: from its name's quote at `start` to the end of its value at `end`."""

    name: str
    start: int
    value: int
    end: int


class ScannedBody(bytes):
    """A large body that was read in slices (proxy/large_body.py), with what a search of it would find.

    `names`: the names of members at any depth in one text, each once and in quotes, except those in escapes.
    `ends`: where large values end, by where they begin. `inputs`: as `asked.count_of`, if it was asked for.
    """

    start: int
    members: list[Member]
    ends: dict[int, int]
    names: bytes
    may_spell: bool
    inputs: int | None

    @classmethod
    def made(
        cls, body: bytes, members: list[Member], ends: dict[int, int], names: bytes, *, may_spell: bool
    ) -> ScannedBody:
        made = cls(body)
        made.start, made.members, made.ends = body.index(b"{"), members, ends
        made.names, made.may_spell, made.inputs = names, may_spell, None
        return made


@dataclass(frozen=True, slots=True)
class Edit:
    """`pieces` in the place of what stands from `start` to `end`."""

    start: int
    end: int
    pieces: tuple[Piece, ...] = ()


class TooManySteps(InvalidRequest):
    """A walk was given up."""


@dataclass(slots=True)
class JsonScanner:
    """Steps over the values of `text`, and gives up where that would take too long.

    A step costs a fraction of a microsecond, and requests take thousands of them at most; a body of
    32 MiB made to cost can hold ten million. Every method raises TooManySteps when `steps_left`
    is used up.
    """

    text: bytes
    steps_left: int = MOST_STEPS
    _ends: dict[int, int] = field(default_factory=dict)
    """Where long strings with escaped quotes end: a walk passes over them once for each level above them."""

    def members(self, at: int = 0) -> Iterator[Member]:
        """The members, duplicates included, of the object that begins at or after `at`, in order."""
        text = self.text
        if type(text) is ScannedBody and at <= text.start:
            yield from text.members
            return
        at = _skip(_GAP, text, _skip(_GAP, text, at) + 1)
        while text[at] == _QUOTE:
            self._pay(MEMBER_STEPS)
            name_end = self._string_end(at)
            value = _skip(_COLON, text, name_end)
            end = self.value_end(value)
            yield Member(string(text[at:name_end]), at, value, end)
            at = _skip(_COMMA, text, end)

    def elements(self, at: int) -> Iterator[tuple[int, int]]:
        """The spans of the elements of the array that begins at `at`, in order."""
        text = self.text
        at = _skip(_GAP, text, at + 1)
        while text[at] != _CLOSE_ARRAY:
            self._pay(ELEMENT_STEPS)
            end = self.value_end(at)
            yield at, end
            at = _skip(_COMMA, text, end)

    def value_end(self, at: int) -> int:
        """The end of the value that begins at `at`. Long strings are hopped over, not read."""
        text = self.text
        first = text[at]
        if type(text) is ScannedBody and (end := text.ends.get(at)) is not None:
            return end
        if first == _QUOTE:
            return self._string_end(at)
        if first not in _OPENERS:
            return _skip(_SCALAR, text, at)
        return self._container_end(at)

    def _container_end(self, at: int) -> int:
        text, depth, steps = self.text, 0, self.steps_left
        while (mark := _MARK.search(text, at)) is not None and steps > 0:
            steps -= 1
            at = mark.end()
            sign = text[at - 1]
            if sign == _QUOTE:
                at = self._string_end(at - 1)
            elif sign in _OPENERS:
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    break
        self.steps_left = steps
        self._pay(0)
        return at

    def _string_end(self, at: int) -> int:
        """One memchr for a string without escaped quotes, which is what images are; else a pattern."""
        text = self.text
        end = text.index(b'"', at + 1)
        if text[end - 1] != _BACKSLASH:
            return end + 1
        known = self._ends.get(at)
        if known is not None:
            return known
        end = _skip(_STRING, text, at)
        if end - at > SMALL_BYTES:
            self._ends[at] = end
        return end

    def _pay(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left <= 0:
            raise TooManySteps("The body is made of too many small values for gatepass to change it.")


MOST_SLOW_NUMBERS = 1_000
_SLOW_NUMBERS = (b"e000", b"e+000", b"e-000")
_SHAPES = bytes(ord("0") if sign in b"0123456789" else ord("e") if sign in b"eE" else sign for sign in range(256))
"""Each digit becomes 0, so that the shape of a number can be searched for."""


def _number(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError("Number out of range")
    return number


_BY_PYTHON: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=_number)


def json_value(text: bytes) -> Any:
    """The value of a JSON text. Raises as msgspec does."""
    return _BY_PYTHON.decode(text) if has_slow_numbers(text) else msgspec.json.decode(text)


def has_slow_numbers(text: bytes) -> bool:
    """Whether many exponents have three digits.

    msgspec takes 8 µs for `1e300`, 20 times as long as Python: 250 KiB of them occupy the event loop for 0.36 s.
    Vectors have few exponents, and a text few commas: that tells at memory speed that there are few.
    """
    if len(text) <= SMALL_BYTES or occurrences(text, b"eE", MOST_SLOW_NUMBERS) <= MOST_SLOW_NUMBERS:
        return False
    return text.count(b",") >= MOST_SLOW_NUMBERS and count_fractions(text)[1] > MOST_SLOW_NUMBERS


def occurrences(text: bytes, signs: bytes, most: int) -> int:
    """How many bytes of `text` are one of `signs`. Each sign counts `most` + 1 times at most.

    Where there are few of them, `replace` finds them at memory speed, and `count` looks at each byte: 64 KB of text
    take 6 µs instead of 100 (CPython 3.11).
    """
    return sum(len(text) - len(text.replace(b"%c" % sign, b"", most + 1)) for sign in signs)


def count_fractions(text: bytes) -> tuple[int, int]:
    """How many numbers in a JSON text have a fraction or an exponent, and how many an exponent of three digits.

    What looks so in its strings counts too.
    """
    shapes = text.translate(_SHAPES)
    return shapes.count(b"0.") + shapes.count(b"0e"), sum(map(shapes.count, _SLOW_NUMBERS))


def string(raw: bytes) -> str:
    """What the JSON string `raw`, quotes included, says."""
    if len(raw) > LONG_BYTES:
        return "".join(_strings(raw))
    if _BACKSLASH in raw:
        return msgspec.json.decode(raw, type=str)
    return raw[1:-1].decode()


def _strings(raw: bytes) -> Iterator[str]:
    at, end = 1, len(raw) - 1
    while at < end:
        stop = WHOLE_ESCAPES.match(raw, at, min(at + LONG_BYTES, end)).end()  # type: ignore[union-attr]
        while raw[stop] & 0xC0 == 0x80:  # inside a character
            stop -= 1
        yield msgspec.json.decode(b'"%b"' % raw[at:stop], type=str)
        at = stop


def quoted(text: str) -> bytes:
    """`text` as a JSON string."""
    if len(text) <= LONG_BYTES:
        return msgspec.json.encode(text)
    parts = (msgspec.json.encode(text[at : at + LONG_BYTES])[1:-1] for at in range(0, len(text), LONG_BYTES))
    return b'"%b"' % b"".join(parts)


def at_most_once(text: bytes, names: Sequence[bytes]) -> bool:
    """True only where each of `names` (`b'"model"'`: quotes included) stands in `text` once at most, and none of them
    in escapes.

    A quote inside a string is escaped, so what is counted are whole strings (names of members or
    values, at any depth) and strings that end in `\\"name`. The names consist of a to z and `_`. Costs little where
    most of a large text is long strings such as images.
    """
    if len(text) > SMALL_BYTES:
        text = _thinned(text)
    for name in names:
        if text.count(name) > 1:
            return False
    return not may_spell(text)


def occurs_at_most(text: bytes, names: re.Pattern[bytes], limit: int) -> bool:
    """True only where names out of `names` stand in `text` `limit` times at most, and none of them in escapes.

    `names` matches quoted names as in `at_most_once`, in any case. Letters that fold into one of ASCII count as that
    letter.
    """
    if len(text) <= SMALL_BYTES:  # all at once, in half the time
        if len(names.findall(text)) > limit:
            return False
    else:
        text = _thinned(text)
        if next(islice(names.finditer(text), limit, None), None) is not None:
            return False
    return not (may_spell(text) if text.isascii() else _may_fold(text))


def folded(name: str) -> str:
    """`name` as readers without regard to case compare it."""
    return (name if name.isascii() else name.translate(_FOLDING)).lower()


def any_of(*names: str) -> re.Pattern[bytes]:
    """What `may_name` looks for."""
    return re.compile(b'"(?:%b)"' % "|".join(names).encode())


def may_name(text: bytes, names: re.Pattern[bytes]) -> bool:
    """False only where no member of any object in `text` has one of `names`. One pass takes half as long as four
    searches (CPython 3.11)."""
    if type(text) is ScannedBody:
        return text.may_spell or names.search(text.names) is not None
    if len(text) > SMALL_BYTES:
        text = _thinned(text)
    return names.search(text) is not None or may_spell(text)


def may_name_in_any_case(text: bytes, names: re.Pattern[bytes]) -> bool:
    """As `may_name` for readers without regard to case; `names` are in lower case."""
    if type(text) is ScannedBody:
        return text.may_spell or names.search(text.names.lower()) is not None or _may_fold(text.names)
    lowered = _in_lower_case(text)
    return names.search(lowered) is not None or _may_fold(lowered)


def has_more_values(text: bytes, limit: int) -> bool:
    """Whether more than `limit` commas and opening brackets stand in the JSON `text`.

    Those in long strings do not count, but for the beginnings of the strings.
    """
    begin = 0
    while begin < len(text):
        end = begin + VALUES_BYTES
        limit -= len(text[begin:end].translate(None, _NO_VALUE))
        if limit < 0:
            return True
        begin = end
        quote = text.find(b'"', end)
        if quote - end > NAME_BYTES and text[quote - NAME_BYTES : quote].rstrip()[-1:] not in _BEFORE_STRING:
            begin = quote  # it ends the string in which the search stopped, or stands in it
    return False


def value_span(text: bytes, quoted: bytes) -> tuple[int, int]:
    """The span of the value of the top-level member whose name is `quoted` (quotes included), which is there for
    certain.

    Where several have the name the last one counts, as it does for every parser we met. In a large text the first may
    count: a decoded body has one (`Document.read`).
    """
    if type(text) is ScannedBody:
        name = string(quoted)
        return next((member.value, member.end) for member in reversed(text.members) if member.name == name)
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
    """Where the member of `value_span` stands, -1 where only a walk can tell.

    A large text is searched near its beginning and its end, because all between may be large.
    """
    at = text.find(quoted, 0, SMALL_BYTES)
    if len(text) > SMALL_BYTES:
        around, depth = text[: max(at, 0)], 1
        if at < 0:
            at = text.rfind(quoted, len(text) - SMALL_BYTES)
            around, depth = text[at:], -1
        if at > 0 and text[at - 1] != _BACKSLASH and _COLON.match(text, at + len(quoted)) is not None:
            brackets = _STRING.sub(b"", around)  # `quoted` is a whole string: no quote within a string has no backslash
            if sum(map(brackets.count, _OPEN)) - sum(map(brackets.count, _CLOSE)) == depth:
                return at
    return at if at >= 0 and at_most_once(text, (quoted,)) else -1


def replace_value(text: bytes, quoted: bytes, value: bytes) -> bytes:
    """`text` with the JSON text `value` in the place of the top-level member's own (see `value_span`)."""
    start, end = value_span(text, quoted)
    view = text if len(text) <= SMALL_BYTES else memoryview(text)
    return b"".join((view[:start], value, view[end:]))


def removals(listed: Sequence[Member], gone: Collection[Member]) -> list[Edit]:
    """The edits that take `gone` out of an object with the members `listed`, each with one comma."""
    edits: list[Edit] = []
    one_stays_before = False
    for index, member in enumerate(listed):
        if member not in gone:
            one_stays_before = True
        elif one_stays_before:
            edits.append(Edit(listed[index - 1].end, member.end))
        else:
            edits.append(Edit(member.start, listed[index + 1].start if index + 1 < len(listed) else member.end))
    return edits


def pieces(text: bytes, edits: Iterable[Edit], start: int = 0, end: int | None = None) -> list[Piece]:
    """`text` from `start` to `end` with `edits` made, as pieces to join: nothing is copied.

    The edits do not overlap; of two that begin at one place the shorter comes first.
    """
    view = memoryview(text)
    result: list[Piece] = []
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        result += (view[start : edit.start], *edit.pieces)
        start = edit.end
    result.append(view[start:end])
    return result


def edited(text: bytes, edits: Iterable[Edit]) -> bytes:
    """`text` with `edits` made, in one copy."""
    return b"".join(pieces(text, edits))


def _skip(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    if found is None:
        raise ValueError(f"unexpected text at byte {at}")
    return found.end()


def _thinned(text: bytes) -> bytes:
    """The parts of `text` in which words are looked for, as one."""
    return b"".join(_parts(text))


def _in_lower_case(text: bytes) -> bytes | bytearray:
    """`text` to look for words in, thinned out where it is large. Never two copies of it at once."""
    if len(text) <= SMALL_BYTES:
        return text.lower()
    lowered = bytearray()
    for part in _parts(text):
        lowered += bytes(part).lower()
    return lowered


def _parts(text: bytes) -> list[memoryview]:
    """The parts of `text` that hold quotes: every short string whole, and of a long one little.

    Finding one byte runs at memory speed, finding a word does not, so a large body is thinned out before words are
    looked for in it: 16 texts to embed, 64 KB of them, in 4 µs, where looking for one word takes 25 (CPython 3.11).
    A part begins with a quote, and ends before one or far behind the last. Parts grow while nothing is left out.
    """
    view, kept, part_bytes = memoryview(text), list[memoryview](), PART_BYTES
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
    return kept


def may_spell(text: bytes | bytearray) -> bool:
    """Whether a name may stand in `text` in escapes."""
    return _BACKSLASH in text and _ESCAPED_LETTER.search(text) is not None


def _may_fold(text: bytes | bytearray) -> bool:
    """Whether a name may stand in `text` in escapes, or with a letter that folds into one of ASCII."""
    return may_spell(text) or (not text.isascii() and any(text.find(letter) >= 0 for letter in _FOLDED_BYTES))
