"""Read a JSON text one level at a time: an object is `dict[str, msgspec.Raw]`, a list is `list[msgspec.Raw]`.

msgspec reads a text in one pass and builds nothing below the level that is opened, so a value that no rule opens keeps
its bytes. Names are compared decoded. A part of a text that was read may be opened again: its errors are then
BodyTooComplex and that of `too_deep` alone.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from pydantic_core import SchemaValidator, ValidationError, core_schema

from gatepass.errors import BodyTooComplex, InvalidJson, InvalidRequest

Text = bytes | memoryview | msgspec.Raw
"""The JSON text of one value."""
Piece = bytes | memoryview

BOM = b"\xef\xbb\xbf"
"""A byte order mark, which may precede a document or a stream. Clients lose the first event after one."""
ONE_PASS_BYTES = 3 * 1024 * 1024
"""The largest document that gatepass builds or converts in one pass of up to 26 ms."""
SMALL_BYTES = 4096
CHECKED_BYTES = 64 * 1024
"""How much text is searched or decoded at once: no other thread runs meanwhile."""

# bounds: each keeps what one call of msgspec takes below 50 ms, because no other thread runs meanwhile

MOST_OPENED = 500_000
"""Values of a list that is opened, counted as its commas: a million takes 46 ms. OpenAI accepts 300,000 token ids."""
MOST_MEMBERS = 60_000
"""Members of an object that is opened. As many take 25 ms."""
UNCOUNTED_BYTES = 256 * 1024
"""A smaller text is parsed within 25 ms, whatever it contains."""
COUNTED_BYTES = 12 * 1024 * 1024
"""In a larger text the costly signs are counted before msgspec reads it: 32 MiB of `[]` take 64 ms."""
MOST_SIGNS = 4_000_000
"""Commas and brackets of a text above COUNTED_BYTES, those in its strings too."""
MOST_ESCAPES = 6_000_000
"""Backslashes of such a text."""
MAX_DEPTH = 64
"""How many levels of a body a rule opens. What it does not open may be as deep as the decoder reads."""
LONGEST_NAME_BYTES = 16 * 1024
"""No API has a longer name. To decode one of 27 MiB takes 53 ms, and to fold it 2.5 s."""

END_BYTES = 512
_HEAD = re.compile(rb"[ \t\n\r]*\{([^\[\]{}\\]{0,%d})" % END_BYTES)
_GAP = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_PLAIN_QUOTE = re.compile(rb'[^\\]"')
_COMMA, _BACKSLASH = b",\\"

NUMBERS = frozenset("-0123456789")
"""The first characters of numbers."""
FOLDED = {"\u017f": "s", "\u212a": "k", "\u0131": "i", "\u0130": "i"}
"""Letters outside ASCII that case-insensitive parsers treat as ASCII letters. Go's encoding/json does so for the first
two (Unicode simple case folding), Java for the last two."""
_FOLDING = str.maketrans(FOLDED)


class _Key:
    """The type that msgspec is told for a member's name."""

    __slots__ = ()
    text: str


class _Name(_Key, msgspec.Struct, eq=False, gc=False):
    """A member's name, which msgspec makes without Python code.

    It is compared by identity, so that a dict keeps each member of a name that is repeated.
    """

    kind: type
    text: str


def _check_lengths(names: list[str]) -> None:
    if names and len(max(names, key=len)) > LONGEST_NAME_BYTES:
        raise _long_name()


RAW = msgspec.json.Decoder(msgspec.Raw)
"""Checks one JSON value and builds nothing."""
OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
LIST = msgspec.json.Decoder(list[msgspec.Raw])
_MEMBERS = msgspec.json.Decoder(dict[_Key, msgspec.Raw], dec_hook=_Name)

Members = list[tuple[str, msgspec.Raw]]
"""The members of an object in order, repeated names too."""


def members(text: Text, *, repeats: bool = True) -> Members:
    """Return the members of the object `text`. `repeats`: False if it is small and repeats no name, which is cheaper.

    Raises msgspec.DecodeError for another text, InvalidJson for a deep one (`too_deep`), BodyTooComplex for more than
    MOST_MEMBERS, and InvalidRequest for a name above LONGEST_NAME_BYTES.
    """
    decoder = _MEMBERS
    if memoryview(text).nbytes > UNCOUNTED_BYTES:
        left = MOST_MEMBERS

        def name_of(kind: type, name: str) -> _Name:
            nonlocal left
            left -= 1
            if left < 0:
                raise BodyTooComplex(f"An object of the body has more than {MOST_MEMBERS} members.")
            return _Name(kind, name)

        decoder = msgspec.json.Decoder(dict[_Key, msgspec.Raw], dec_hook=name_of)
    try:
        if not repeats:
            return [*OBJECT.decode(text).items()]
        found = decoder.decode(text)
    except RecursionError:
        raise too_deep() from None
    names = [name.text for name in found]
    _check_lengths(names)
    return [*zip(names, found.values(), strict=True)]


_OBJECTS = msgspec.json.Decoder(list[dict[_Key, msgspec.Raw]], dec_hook=_Name)


def members_of_each(values: list[msgspec.Raw]) -> Iterator[Members]:
    """Yield the members of each object in `values`. They are read at once unless they are large.

    Raises BodyTooComplex and InvalidRequest as `members` does.
    """
    text = b"[%b]" % b",".join(values)
    try:
        listed = None if len(text) > UNCOUNTED_BYTES else _OBJECTS.decode(text)
    except msgspec.ValidationError:  # one is no object
        listed = None
    except RecursionError:
        raise too_deep() from None
    if listed is None:
        yield from (members(one) for one in values if kind(one) == "{")
        return
    for found in listed:
        _check_lengths([name.text for name in found])
        yield [(name.text, value) for name, value in found.items()]


_SHALLOW: msgspec.json.Decoder[dict[_Key, Any]] = msgspec.json.Decoder(
    dict[_Key, list[msgspec.Raw] | dict[str, msgspec.Raw] | str | int | float | bool | None], dec_hook=_Name
)


_MODEL = re.compile(rb'"model"[ \t\n\r]*:[ \t\n\r]*("[^"]*")')
_FIRST_MODEL = re.compile(rb'[ \t\n\r]*\{[ \t\n\r]*"model"[ \t\n\r]*:[ \t\n\r]*("[^"\\]*")')


class TopLevel:
    """The members of a body: `names` in order, repeated ones too, and the `values` by name, of several the last.

    Of a body up to SMALL_BYTES, lists and objects are opened, and other values built, in the one pass in which it is
    read. A larger body has the texts of its values, which `get` opens. `listed` has the texts of all members, which of
    a small body take another pass. Nothing changes `names`, which the members of a renamed body share.
    """

    __slots__ = ("_listed", "names", "text", "values")

    def __init__(
        self, text: bytes, listed: Members | None = None, known: tuple[list[str], dict[str, Any]] | None = None
    ) -> None:
        """Open a body, or take its members `listed`, or `known` names and values. Raises as `members` does."""
        self.text = text
        self._listed = listed
        if known is not None:
            self.names, self.values = known
            return
        if listed is None and len(text) <= SMALL_BYTES:
            try:
                found = _SHALLOW.decode(text)
            except msgspec.ValidationError:  # not an object, or a number beyond Python's
                pass
            except RecursionError:
                raise too_deep() from None
            else:
                self.values = {name.text: value for name, value in found.items()}
                self.names = [*self.values] if len(self.values) == len(found) else [name.text for name in found]
                return
        try:
            self._listed = members(text) if listed is None else listed
            self.values = dict(self._listed)
        except (msgspec.DecodeError, InvalidRequest, InvalidJson):
            if len(text) <= UNCOUNTED_BYTES:
                with suppress(msgspec.ValidationError, RecursionError):
                    _SHALLOW.decode(text)  # says more exactly what is wrong with a string
            raise
        self.names = [name for name, _ in self._listed]

    @property
    def listed(self) -> Members:
        if self._listed is None:
            self._listed = members(self.text, repeats=len(self.names) > len(self.values))
        return self._listed

    def with_model(self, model: str) -> TopLevel:
        """Return the members with another `model`, or with one before all others. The other bytes of `text` remain."""
        text, names = self.text, self.names
        written, view = msgspec.json.encode(model), memoryview(text)  # megabytes are copied once
        if (first := _FIRST_MODEL.match(text)) is not None:  # of most clients
            start, end = first.span(1)
        elif "model" not in self.values:
            start = end = text.index(b"{") + 1
            written = b'"model":%b%b' % (written, b"," if names else b"")
            names = ["model", *names]
        elif near := [(at, found) for at, part in plain_ends(text) if (found := _MODEL.search(part)) is not None]:
            ((at, found), *_) = near
            start, end = at + found.start(1), at + found.end(1)
        else:
            place = next(place for place in places(text, self.listed) if place.name == "model")
            start, end = place.value, place.end
        listed = self._listed
        if listed is not None:
            raw = msgspec.Raw(msgspec.json.encode(model))
            listed = [(name, raw if name == "model" else old) for name, old in listed]
            listed = listed if names is self.names else [("model", raw), *listed]
        return TopLevel(b"".join((view[:start], written, view[end:])), listed, (names, {**self.values, "model": model}))

    def get(self, name: str) -> Any:
        """Return the value of a member, None without one. A string above UNCOUNTED_BYTES is its text."""
        value = self.values.get(name)
        if not isinstance(value, msgspec.Raw):
            return value
        if (first := kind(value)) == "[":
            return elements(value)
        if first == "{":
            return opened(value)
        try:
            return msgspec.json.decode(value) if memoryview(value).nbytes <= UNCOUNTED_BYTES else value
        except msgspec.ValidationError:  # a number beyond Python's
            return value


def opened(text: Text) -> dict[str, msgspec.Raw]:
    """Return the members of the object `text` by name; of several with one name the last. Raises as `members` does."""
    return dict(members(text))


def elements(text: Text) -> list[msgspec.Raw]:
    """Return the values of the list `text`.

    Raises msgspec.DecodeError for another text, InvalidJson for a deep one, and BodyTooComplex for more than
    MOST_OPENED.
    """
    view = memoryview(text)
    if view.nbytes > UNCOUNTED_BYTES:
        if (alone := _only_string(text)) is not None:  # an image of megabytes is not read again
            return [alone]
        if has_more(text, b",", MOST_OPENED):
            raise BodyTooComplex(f"A list of the body has more than {MOST_OPENED} commas. Send less in one request.")
    try:
        return LIST.decode(text)
    except RecursionError:
        raise too_deep() from None


def _only_string(text: Text) -> msgspec.Raw | None:
    """Return the string of the list `text` if it contains nothing else; None for another text, or one with a blank."""
    view = memoryview(text)
    if bytes(view[:2]) != b'["':
        return None
    for at in range(2, view.nbytes, CHECKED_BYTES):  # in parts, because an image of megabytes is not copied
        end = bytes(view[at : at + CHECKED_BYTES]).find(b'"')
        if end >= 0:
            is_alone = at + end == view.nbytes - 2 and view[at + end - 1] != _BACKSLASH
            return msgspec.Raw(view[1:-1]) if is_alone else None
    return None


def kind(text: Text) -> str:
    """Return the first character of a value: `{`, `[`, `"`, `t`, `f`, `n`, a digit or `-`."""
    return chr(memoryview(text)[0])


string: Callable[[Text], str] = msgspec.json.Decoder(str).decode
"""Returns the text that the value `text` is. Raises msgspec.DecodeError for another value."""


def folded(name: str) -> str:
    """Return `name` as case-insensitive parsers compare it."""
    return (name if name.isascii() else name.translate(_FOLDING)).lower()


class Place(NamedTuple):
    """Where a member is: its name's quote is at `start`, its value from `value` to `end`."""

    name: str
    start: int
    value: int
    end: int


def places(text: bytes, listed: Members) -> Iterator[Place]:
    """Yield where each of the `listed` members of the object `text` is. The lengths of their values are known."""
    at = _after_gap(text, text.index(b"{") + 1)
    for name, value in listed:
        start = at
        at = _after_gap(text, _STRING.match(text, at).end())  # type: ignore[union-attr]  # msgspec has read a name there
        begin = _after_gap(text, at + 1)
        end = begin + memoryview(value).nbytes
        yield Place(name, start, begin, end)
        at = _after_gap(text, end)
        if text[at] == _COMMA:
            at = _after_gap(text, at + 1)


def plain_ends(text: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return where parts at both ends of the object `text` begin, and the parts, which have its own members alone.

    They have no escapes: what has neither a bracket nor a backslash belongs to the top level up to the ends. A quote
    behind a backslash ends no text.
    """
    found = list[tuple[int, bytes]]()
    if (head := _HEAD.match(text)) is not None:
        found.append((head.start(1), head[1]))
    begin = max(0, len(text) - END_BYTES)
    tail = text[begin:].rstrip()[:-1]
    cut = max(map(tail.rfind, (b"[", b"]", b"{", b"}", b"\\"))) + 2
    return (*found, (begin + cut, tail[cut:]))


def spans(text: bytes, at: int, listed: Iterable[msgspec.Raw]) -> Iterator[tuple[int, int]]:
    """Yield where each of the `listed` values of the list that begins at `at` begins and ends."""
    for value in listed:
        start = _after_gap(text, at + 1)  # behind the bracket or the comma
        end = start + memoryview(value).nbytes
        yield start, end
        at = _after_gap(text, end)


def _after_gap(text: bytes, at: int) -> int:
    if text[at] > ord(" "):  # nearly always
        return at
    while True:  # blanks of 16 MiB take 40 ms, in which no other thread runs
        end = _GAP.match(text, at, at + CHECKED_BYTES).end()  # type: ignore[union-attr]  # the pattern matches an empty text too
        if end < at + CHECKED_BYTES:
            return end
        at = end


def has_more(text: Text, chars: bytes, most: int) -> bool:
    """Whether more than `most` bytes of `text` are one of `chars`."""
    view, left = text if isinstance(text, bytes) else memoryview(text), most  # bytes are not copied
    for at in range(0, len(view), CHECKED_BYTES):
        part = bytes(view[at : at + CHECKED_BYTES])
        for char in chars:
            # `replace` finds rare bytes at memory speed, `count` checks each byte: 6 µs instead of 100 for 64 KB
            left -= len(part) - len(part.replace(b"%c" % char, b"", left + 1))
            if left < 0:
                return True
    return False


def check_signs(text: bytes) -> None:
    """Raise BodyTooComplex or InvalidRequest if msgspec takes more than 50 ms for a `text` above COUNTED_BYTES."""
    if sum(map(text.count, (b",", b"[", b"{"))) > MOST_SIGNS:
        raise BodyTooComplex(f"The body has more than {MOST_SIGNS} commas and brackets. Send less in one request.")
    if text.count(b"\\") > MOST_ESCAPES:
        raise BodyTooComplex(f"The body has more than {MOST_ESCAPES} backslashes. Send fewer in one request.")
    begin = 0  # of what may be one string
    for at in range(0, len(text), CHECKED_BYTES):
        quote = text.find(b'"', at, at + CHECKED_BYTES)
        if quote > 0 and text[quote - 1] == _BACKSLASH:
            found = _PLAIN_QUOTE.search(text, at, at + CHECKED_BYTES)
            quote = -1 if found is None else found.end() - 1
        if quote < 0:
            continue
        if at - begin > COUNTED_BYTES // 2 and text.startswith(b":", _after_gap(text, quote + 1)):
            raise _long_name()
        begin = at + CHECKED_BYTES


def _long_name() -> InvalidRequest:
    return InvalidRequest(f"The body contains a member name that is longer than {LONGEST_NAME_BYTES} bytes.")


def searched(pattern: str) -> SchemaValidator:
    """Return what `lacks` searches with.

    pydantic-core (2.50) checks in Rust that bytes are UTF-8, searches them, and builds a text only of a match. An
    agent's turn of 178 KB takes 0.11 million instructions instead of the 0.91 of the loop of `utf8_fault`, and a search
    for three signs 13 µs more instead of the 275 of Python 3.11.
    """
    return SchemaValidator(core_schema.str_schema(pattern=pattern))


_NOTHING, _LACKING = searched(r"\A\z."), "string_pattern_mismatch"


def lacks(text: bytes, pattern: SchemaValidator) -> bool:
    """Whether `text` is UTF-8 without a match of `pattern`, which has no comma. False proves nothing."""
    at = 0
    while at < len(text):
        # in parts, because to build one of 27 MiB takes 80 ms; neither a character nor a match has a comma
        end = len(text) if len(text) - at <= ONE_PASS_BYTES else text.rfind(b",", at, at + ONE_PASS_BYTES)
        try:
            pattern.validate_python(text[at : max(at, end)])
        except ValidationError as found:
            kind_of_fault = found.errors(include_url=False, include_context=False, include_input=False)[0]["type"]
        else:
            return False
        if end < at or kind_of_fault != _LACKING:
            return False
        at = end + 1
    return True


def utf8_fault(text: bytes) -> UnicodeDecodeError | None:
    """Return the error of `text` if it is not UTF-8. msgspec does not check the values that it does not build."""
    if text.isascii() or lacks(text, _NOTHING):
        return None
    at = 0
    while at < len(text):  # in parts: most are ASCII, and the others make small strings, three times faster
        part = text[at : at + SMALL_BYTES]
        try:
            at += len(part) if part.isascii() else codecs.utf_8_decode(part, "strict", at + len(part) == len(text))[1]
        except UnicodeDecodeError as error:
            error.start += at
            return error.with_traceback(None)  # whose frames would keep the body until the next garbage collection
    return None


def too_deep() -> InvalidJson:
    """Return the error of a body that a rule would open further, or that the decoder cannot read."""
    return InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels.")


# values

MOST_SLOW_NUMBERS = 1_000
"""The extra costs of fewer fractions and exponents are small."""
_SHAPES = bytes(ord("0") if char in b"0123456789" else ord("e") if char in b"eE" else char for char in range(256))
"""Translates every digit to 0, so that the shape of a number can be searched."""


def json_value(text: bytes) -> Any:
    """Parse a JSON text; raise the errors of msgspec, also for many numbers that it parses slowly."""
    if has_slow_numbers(text):
        raise msgspec.DecodeError("too many values")
    return msgspec.json.decode(text)


MOST_WORK = 1_250_000
"""About 25 ms of parsing. A number costs 1, a string in a list 6, a member 9, and an object or a list 7 more."""
FRACTION_WORK, SLOW_WORK = 2, 20
"""Extra cost of a fraction or an exponent, and of an exponent of three digits."""
LENIENT_WORK = MOST_WORK // 8
"""The same time of the parser of the standard library."""


def takes_long(data: bytes, most_work: int = MOST_WORK) -> bool:
    """Whether parsing `data` would occupy the event loop for too long, by an estimate that is rarely too low."""
    if len(data) <= UNCOUNTED_BYTES:
        return False
    work = 0
    for at in range(0, len(data), UNCOUNTED_BYTES):
        part = data[at : at + UNCOUNTED_BYTES]
        if b'\\"' in part:  # those of a text are no structure
            part = part.replace(rb"\\", b"").replace(rb"\"", b"")
        commas, members = part.count(b","), part.count(b'":')
        # `replace` finds rare bytes at memory speed; many of them end the loop soon
        quotes, lists, objects = (len(part) - len(part.replace(sign, b"")) for sign in (b'"', b"[", b"{"))
        work += commas + 8 * members + 5 * max(0, quotes // 2 - members) + 7 * (lists + objects)
        if commas >= MOST_SLOW_NUMBERS:
            exponents = part.count(b"e") + part.count(b"E")
            work += FRACTION_WORK * min(part.count(b".") + exponents, commas)
            if exponents >= MOST_SLOW_NUMBERS:
                work += SLOW_WORK * min(slow_exponents(part), commas)
        if work > most_work:
            return True
    return False


def lenient_value(text: bytes, errors: str = "strict") -> Any:
    """Parse a JSON text with the standard library, slower than `json_value`. Raises ValueError, also for a large one.

    It accepts NaN and half of a surrogate pair, which an upstream sends when its tokens split a character. Real
    upstreams send both, and clients accept them. `errors` is that of `bytes.decode`.
    """
    if takes_long(text, LENIENT_WORK):
        raise ValueError("too many values")
    try:
        return json.loads(text.decode(errors=errors))
    except RecursionError:
        raise ValueError("nested too deep") from None


def has_slow_numbers(text: bytes) -> bool:
    """Whether many numbers have an exponent of three digits. msgspec parses them 20 times slower than Python."""
    # Texts have few commas and vectors have few exponents. So these two searches, at memory speed, usually decide.
    if len(text) <= SMALL_BYTES or not has_more(text, b",", MOST_SLOW_NUMBERS - 1):
        return False
    return has_more(text, b"eE", MOST_SLOW_NUMBERS) and slow_exponents(text) > MOST_SLOW_NUMBERS


def slow_exponents(text: bytes) -> int:
    return text.translate(_SHAPES, b"+-").count(b"e000")


def decoded(body: bytes) -> str:
    """Return the text of `body`, which may be UTF-8, UTF-16 or UTF-32. In the wrong one no secret would be found."""
    is_wide = body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 4 * body.count(0) > len(body)
    return body.decode(json.detect_encoding(body) if is_wide else "utf-8-sig", "replace")
