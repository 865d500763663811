"""Tell whether an upstream's error quotes the request that it refuses.

gatepass reads nothing from an error text that contains a text of the request. Otherwise a client that sends
`{"seed": "Unsupported parameter: 'seed'"}` could cause a change through an upstream that quotes it.
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterable
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import msgspec

from gatepass.config.routes import MEMBER_PATH
from gatepass.errors import CallerError
from gatepass.json_body import opened
from gatepass.learning.meaning import PERSONAL

BODY_BYTES = 3 << 19
"""Limit on the body to compare, in a thread for up to 50 ms. Above a limit, only `code` and `param` are used."""
MOST_ESCAPES = 10_000
"""Limit on the characters in the compared texts of one request that may begin an escape."""
MOST_SEPARATORS = 40_000
"""Limit on the commas and opening brackets of one body. The JSON parser takes up to 25 ms for so many values."""
MOST_ERROR_CHARS = 8_192
"""Limit on the error text to compare, with the JSON in it."""
BEGINNING_BYTES = 12
"""Folded bytes at the beginning of a text that count as the whole, because upstreams cut what they quote. The shortest
sentence that a matcher reads has as many."""
BEGINNING_CHARS = 2_048
"""Characters of a text in which its beginning is searched."""
BEGINNING_WORDS = 64
"""Words of a text in which its beginning is searched. Some upstreams remove blanks."""
RUN_WORDS, RUN_BYTES, MOST_RUNS = 4, 16, 20
"""Words of an error that show together that it quotes a part of a text, if they have as many folded bytes; and how
often they are searched: up to 5 ms each.
"""
NEAR_BYTES, MOST_PLACES = 8, 20
"""Folded bytes before or behind a member's name that show that it is quoted, and the places that are compared."""
MOST_PATHS, MOST_VALUES = 500, 8
"""Limit on the members of one request that an error may name, and on the values of one that are compared."""
SHORT_CHARS, PERSONAL_CHARS = 32, 256
"""Of the values that a rule may be limited to."""
_OPAQUE = frozenset(("parameters", "input_schema", "schema", "arguments", "properties", "metadata", "logit_bias"))
"""Clients choose the names in these."""

_OF_WORDS = frozenset(("role", "type", "name", "model", "id"))
"""Members whose values are words that upstreams use in their own sentences."""
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+|\[\]-]{0,128}\Z")
"""Names of members, models, roles and tools. They are not sentences, and upstreams use them in their own sentences."""
_HEX = "[0-9a-fA-F]"
_UNIT = rf"[uU](?:{_HEX}{{8}}|{_HEX}{{4}})"
_ESCAPE = (
    rf"\\(?<!\\\\)\\*+(?:{_UNIT}(?:\\++{_UNIT})*|x{_HEX}{{2}}(?:\\++x{_HEX}{{2}})*|[abfnrtv0])"
    rf"|&(?:amp;)*(?:\#\d{{1,7}}|\#[xX]{_HEX}{{1,6}}|[A-Za-z]\w{{1,30}});"
    rf"|%(?:25)*{_HEX}{{2}}(?:%(?:25)*{_HEX}{{2}})*"
)
"""Starts only at the first of several backslashes: a search from each of 8,000 would take 1.4 s.

Each alternative begins with a character: `re` then passes over 1.5 MB without one in 6 ms instead of 140 ms.
"""
_BEGINS_ESCAPE = re.compile(r"[\\&%]")
_CODE_POINT = r"[uU]([0-9a-fA-F]{8}|[0-9a-fA-F]{4})"
_INVISIBLE = "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
_ESCAPED_PERCENT = "%(?:25)+(?=[0-9a-fA-F]{2})"
_PUNCTUATION = bytes(byte for byte in range(128) if not chr(byte).isalnum())


class _Number(str):
    """A number as the client wrote it. To parse an integer takes time that is quadratic in its digits."""

    __slots__ = ()


class Sent(msgspec.Struct, frozen=True):
    """What a request sent: `names` and `texts` in order, and by the paths of members the short values that they have.

    `short` are the texts of at most SHORT_CHARS that a client may have chosen freely, and `personal` those that may
    name a person.

    A value is JSON without blanks. Of a long text, an object or a filled list it is the first character alone, so that
    it always begins with its kind.
    """

    names: list[str] = msgspec.field(default_factory=list)
    texts: list[str] = msgspec.field(default_factory=list)
    values: dict[str, set[str]] = msgspec.field(default_factory=dict)
    short: set[str] = msgspec.field(default_factory=set)
    personal: set[str] = msgspec.field(default_factory=set)


def sent_in(body: bytes) -> Sent | None:
    """Return what `body` sends. None if it exceeds a limit or is not JSON."""
    # Commas and brackets inside strings count as well: a count without parsing is fast, and only errs on this side.
    if len(body) > BODY_BYTES or sum(map(body.count, (b",", b"{", b"["))) > MOST_SEPARATORS:
        return None
    try:
        # Objects as pairs, because parsers differ in which of two equal names they use.
        document = json.loads(body, object_pairs_hook=tuple, parse_int=_Number, parse_float=_Number)
    except (ValueError, RecursionError):
        return None
    sent = Sent()
    pending: list[tuple[str | None, str | None, Any, bool]] = [("", None, document, False)]
    while pending:
        path, name, one, is_personal = pending.pop()
        if name is not None:
            sent.names.append(name)
            inner = f"{path}.{name}" if path else name
            most = MOST_PATHS if path else 2 * MOST_PATHS  # schemas of tools leave room for the top level
            is_shown = path is not None and len(sent.values) < most and MEMBER_PATH.match(inner) is not None
            if is_shown and len(values := sent.values.setdefault(inner, set())) < MOST_VALUES:
                values.add(_short(one))
            is_opaque = name in _OPAQUE or (name == "input" and path)
            path = inner if is_shown and not is_opaque else None
            is_personal = is_personal or inner in PERSONAL or inner == "messages[].name"
        if isinstance(one, tuple):
            pending += ((path, name, value, is_personal) for name, value in reversed(one))
        elif isinstance(one, list):
            each = None if path is None else f"{path}[]"
            pending += ((each, None, value, is_personal) for value in reversed(one))
        elif type(one) is str:
            sent.texts.append(one)
            if len(one) <= SHORT_CHARS and name not in _OF_WORDS and (name is not None or path is not None):
                sent.short.add(one)
        if is_personal and isinstance(one, str):
            sent.personal.add(str(one)[:PERSONAL_CHARS])
    return sent


def top_of(body: bytes) -> Sent:
    """Return the values of the top level alone, of a body that `sent_in` does not read; none if it is not JSON."""
    try:
        listed = opened(body)
    except (ValueError, CallerError):
        return Sent()
    values = ((name, bytes(memoryview(raw)[: SHORT_CHARS + 1]).decode("latin-1")) for name, raw in listed.items())
    return Sent(values={name: {text if len(text) <= SHORT_CHARS else text[0]} for name, text in values})


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "{" if isinstance(value, tuple) else "[" if value else "[]"
    if isinstance(value, _Number):
        return str(value)[:SHORT_CHARS]
    return json.dumps(value) if not isinstance(value, str) or len(value) <= SHORT_CHARS else '"'


class Quotes:
    """Finds the words of an error's `text` that may quote what a request `sent`."""

    def __init__(self, text: str, sent: Sent, more: Iterable[str] = ()) -> None:
        own = ["\n".join(sent.names), "\n".join((*sent.texts, *more))]
        self._is_long = sum(len(_BEGINS_ESCAPE.findall(said)) for said in own) > MOST_ESCAPES
        self._said = b"" if self._is_long else letters_of(own[1])
        self._shown = letters_of(text)
        parts = [] if self._is_long else letters_of("\x80".join(sent.short)).split("\x80".encode())
        self._short = [part for part in set(parts) if part and part in self._shown]

    def have_words_of(self, text: str) -> bool:
        """Whether the request has some successive words of the beginning of `text`."""
        words = text.split(None, MOST_RUNS + RUN_WORDS)
        runs = {letters_of("".join(words[at : at + RUN_WORDS])) for at in range(min(MOST_RUNS, len(words)))}
        return self._is_long or any(len(run) >= RUN_BYTES and run in self._said for run in runs)

    def cover(self, word: str, *, is_value: bool = False) -> bool:
        """Whether the error uses `word` only in a quote: between the letters that surround it in a text of the request.

        A short text of the request is a quote as a whole too. `is_value`: only a longer text that contains the word.
        """
        name = letters_of(word)
        if self._is_long or not name:  # of `_` nothing shows whether it is quoted
            return True
        splits = [tuple(one.split(name, 1)) for one in self._short if name in one and not (is_value and name == one)]
        around = [
            (left, right)
            for left, right in pairwise(self._shown.split(name, MOST_PLACES))
            if not any(left.endswith(before) and right.startswith(behind) for before, behind in splits)
        ]
        if splits and not around:
            return True
        return bool(around) and all(
            (len(left) >= NEAR_BYTES and left[-NEAR_BYTES:] + name in self._said)
            or (len(right) >= NEAR_BYTES and name + right[:NEAR_BYTES] in self._said)
            for left, right in around
        )


def is_echo(sent: Sent, error_text: str) -> bool:
    """Whether `error_text` has two of the top-level members that were sent as they stand in JSON."""
    plain = re.sub(r"[\s\\]", "", error_text[:MOST_ERROR_CHARS]).replace("'", '"')
    found = re.findall(r'"(\w{1,64})":(?=["\[{0-9tfn-])', plain)
    return len(sent.values.keys() & set(found)) > 1


def is_repeated(texts: Iterable[str], error_text: str) -> bool:
    """Whether `error_text` contains the beginning of one of `texts`, in any spelling. Also true above a limit.

    Names of members, models, roles and other plain values do not count.
    """
    if len(error_text) > MOST_ERROR_CHARS:
        return True
    beginnings = {
        " ".join(text.split(None, BEGINNING_WORDS)[:BEGINNING_WORDS])[:BEGINNING_CHARS]
        for text in texts
        if _PLAIN.match(text) is None
    }
    if sum(len(_BEGINS_ESCAPE.findall(text)) for text in beginnings) > MOST_ESCAPES:
        return True
    shown = letters_of(error_text)
    parts = {shown[at : at + BEGINNING_BYTES] for at in range(len(shown) - BEGINNING_BYTES + 1)}
    for text in beginnings:
        begins = letters_of(text)[:BEGINNING_BYTES]
        if begins in parts or (len(text) == BEGINNING_CHARS and len(begins) < BEGINNING_BYTES):
            return True
    return False


def letters_of(text: str) -> bytes:
    """Return the letters and digits of `text`, without case and escapes, in UTF-8: the same for all its spellings."""
    text = re.sub(_ESCAPE, _unescaped, text)
    if not text.isascii():
        # Unicode has blanks that an error text shows as ASCII ones
        text = "".join(re.sub(_INVISIBLE, "", text).split())
    # `casefold` alone keeps letters that `upper` makes equal to plain ones, such as the dotless i
    return text.upper().casefold().encode("utf-8", "replace").translate(None, _PUNCTUATION)


def _unescaped(found: re.Match[str]) -> str:
    text = found[0]
    if text[0] == "&":
        return html.unescape(f"&{text[1:].replace('amp;', '')}")
    if text[0] == "%":
        return unquote(re.sub(_ESCAPED_PERCENT, "%", text))
    kind = text.lstrip("\\")[0]
    if kind in "uU":
        units = [int(point, 16) for point in re.findall(_CODE_POINT, text)]
        points = "".join(chr(unit) for unit in units if unit <= sys.maxunicode)  # `chr` raises above it
        return points.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if kind == "x":
        octets = bytes.fromhex("".join(text.replace("\\", "").split("x")))
        try:
            return octets.decode()
        except UnicodeDecodeError:
            return octets.decode("latin-1")  # Python's `ascii` writes one octet for a Latin-1 character
    return " "
