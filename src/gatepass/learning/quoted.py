"""Values of a request that an upstream quotes in its error text: cut them out before anything is learned from the text.

Otherwise a client that sends `{"seed": "Unsupported parameter: 'seed'"}` teaches a rule where the upstream quotes it.
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

BODY_BYTES = 3 << 19
"""A longer body cannot be compared within the event loop's 50 ms: no error text teaches anything then."""
MOST_ESCAPES = 10_000
"""Characters in the strings of one request that may begin an escape."""
MOST_PARTS = 20_000
"""Strings, objects and lists of one request."""
MOST_SIGNS = 40_000
"""Commas and opening brackets of one body. The JSON parser needs up to 25 ms for so many values."""
MOST_STEPS = 100_000
"""Of comparisons, where text and values repeat one letter. Above these bounds nothing is learned from the text."""
EDGE_BYTES = 12
"""Folded bytes at the start or end of a value. The shortest sentence that a matcher reads has as many."""
INNER_BYTES = 24
"""Folded bytes from the middle of a value. Phrases of errors that are shorter stand in ordinary prompts too."""
SHORT_CHARS = 64
"""Longer strings of a list are not compared as one: an upstream that prints a list prints all of it."""
CUT = "…"
"""In place of a value: no matcher reads across it as a word."""

_STEP = INNER_BYTES - EDGE_BYTES + 1
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+\[\]-]{0,64}\Z")
"""Names of members, models, roles and tools: no sentence. Upstreams name them in sentences of their own."""
_ESCAPE = re.compile(
    r"(?:\\+[uU](?:[0-9a-fA-F]{8}|[0-9a-fA-F]{4}))+|(?:\\+x[0-9a-fA-F]{2})+|\\+[abfnrtv0]"
    r"|&(?:amp;)*(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});|(?:%(?:25)*[0-9a-fA-F]{2})+"
)
_BEGINS_ESCAPE = ("\\", "&", "%")
_CODE_POINT = re.compile(r"[uU]([0-9a-fA-F]{8}|[0-9a-fA-F]{4})")
_PARTS = (str, dict, list)
_COVERED = re.compile(rb"\x01+")
_PUNCTUATION = bytes(byte for byte in range(128) if not chr(byte).isalnum())


@dataclass(frozen=True, slots=True)
class Quoted:
    """The values of one request, folded (see `_folded`). A member's name that is not plain counts as a value too,
    because the client may have invented it."""

    values: tuple[bytes, ...]

    @classmethod
    def of(cls, body: bytes, labels: Collection[str] = ()) -> Self | None:
        """Return None for a body that cannot be compared: it is too long, or is not JSON.

        `labels` are plain strings that count as values all the same.
        """
        if len(body) > BODY_BYTES or sum(map(body.count, (b",", b"{", b"["))) > MOST_SIGNS:  # texts have some too
            return None
        values: list[bytes] = []
        escapes = MOST_ESCAPES
        try:
            for text in dict.fromkeys(_strings(json.loads(body, object_pairs_hook=_members), labels)):
                escapes -= sum(map(text.count, _BEGINS_ESCAPE))
                if escapes < 0:
                    return None
                value = _folded(text)
                if len(value) >= EDGE_BYTES:
                    values.append(value)
        except (ValueError, RecursionError, _TooMuch):
            return None
        return cls(tuple(values))

    def hold(self, label: str) -> bool:
        """Whether one of the values contains `label`, a code that an upstream states."""
        folded = _letters(label)
        return any(folded in value for value in self.values)

    def cut(self, text: str) -> str:
        """Return `text` with CUT for each value, and for each start, end or long part of one; linear in both."""
        folded, owners = _located(text)
        if len(folded) < EDGE_BYTES:
            return text
        try:
            covered = _Cover(folded).by(self.values)
        except _TooMuch:
            return CUT
        kept: list[str] = []
        end = 0
        for run in _COVERED.finditer(covered):
            first, last = owners[run.start()][0], owners[run.end() - 1][1]
            kept += [text[end:first], CUT]
            end = last
        return "".join([*kept, text[end:]])


class _TooMuch(Exception):
    """One of the bounds above is exceeded."""


class _Cover:
    """Which bytes of one folded text stand in a value."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._covered = bytearray(len(text))
        self._steps = 0
        self._places: dict[bytes, list[int]] = {}
        for at in range(len(text) - EDGE_BYTES + 1):
            self._places.setdefault(text[at : at + EDGE_BYTES], []).append(at)

    def by(self, values: tuple[bytes, ...]) -> bytearray:
        places = self._places
        for value in values:
            if self._text in value:
                return bytearray(b"\x01" * len(self._text))
            for offset, least in ((0, EDGE_BYTES), (len(value) - EDGE_BYTES, EDGE_BYTES)):
                self._extend(value, offset, least)
            for offset in range(_STEP, len(value) - EDGE_BYTES, _STEP):
                if value[offset : offset + EDGE_BYTES] in places:
                    self._extend(value, offset, INNER_BYTES)
        return self._covered

    def _extend(self, value: bytes, offset: int, least: int) -> None:
        """Cover each run of `least` bytes and more around value[offset : offset + EDGE_BYTES]."""
        text, covered = self._text, self._covered
        for place in self._places.get(value[offset : offset + EDGE_BYTES], ()):
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise _TooMuch
            first, last = place, place + EDGE_BYTES
            if covered.find(0, first, last) < 0:
                continue
            before, after = offset, offset + EDGE_BYTES
            while first and before and text[first - 1] == value[before - 1]:
                first, before = first - 1, before - 1
            while last < len(text) and after < len(value) and text[last] == value[after]:
                last, after = last + 1, after + 1
            if last - first >= least:
                covered[first:last] = b"\x01" * (last - first)
            self._steps += last - first


def _members(pairs: list[tuple[str, Any]]) -> Any:
    """The object with these members; a list where a name stands twice, because readers differ in which they take."""
    members = dict(pairs)
    return members if len(members) == len(pairs) else [list(pair) for pair in pairs]


def _strings(document: Any, labels: Collection[str]) -> Iterator[str]:
    """Yield each string that could be a sentence or is one of `labels`, and short strings of one list as one."""
    pending = [document]
    for _ in range(MOST_PARTS):
        if not pending:
            return
        one = pending.pop()
        if isinstance(one, str):
            if _PLAIN.match(one) is None or one.lower() in labels:
                yield one
            continue
        if isinstance(one, dict):
            pending += one
        parts = [part for part in (one.values() if isinstance(one, dict) else one) if isinstance(part, _PARTS)]
        pending += parts
        if isinstance(one, list):
            short = [part for part in parts if isinstance(part, str) and len(part) <= SHORT_CHARS]
            if len(short) > 1:
                yield " ".join(short)
    raise _TooMuch


def _folded(text: str) -> bytes:
    """Return the letters and digits alone, in UTF-8, without case and escapes: all spellings of a text become one."""
    is_plain = not any(sign in text for sign in _BEGINS_ESCAPE)
    return _letters(text if is_plain else _ESCAPE.sub(_unescaped, text))


def _letters(text: str) -> bytes:
    return text.upper().casefold().encode("utf-8", "replace").translate(None, _PUNCTUATION)


def _located(text: str) -> tuple[bytes, list[tuple[int, int]]]:
    """Return `text` folded, with the place in `text` of each byte."""
    folded = bytearray()
    owners: list[tuple[int, int]] = []
    end = 0
    escapes = [(*found.span(), _unescaped(found)) for found in _ESCAPE.finditer(text)]
    for first, last, inside in [*escapes, (len(text), len(text), "")]:
        plain = [(at, at + 1, text[at]) for at in range(end, first)]
        for begin, stop, piece in [*plain, (first, last, inside)]:
            letters = _letters(piece)
            folded += letters
            owners += [(begin, stop)] * len(letters)
        end = last
    return bytes(folded), owners


def _unescaped(found: re.Match[str]) -> str:
    """What one match of `_ESCAPE` stands for."""
    text = found[0]
    if text[0] == "&":
        return html.unescape(f"&{text[1:].replace('amp;', '')}")
    if text[0] == "%":
        return unquote(text.replace("%25", "%"))
    kind = text.lstrip("\\")[0]
    if kind in "uU":
        units = [int(point, 16) for point in _CODE_POINT.findall(text)]
        points = "".join(chr(unit) for unit in units if unit <= sys.maxunicode)
        return points.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if kind == "x":
        octets = bytes.fromhex("".join(text.replace("\\", "").split("x")))
        try:
            return octets.decode()
        except UnicodeDecodeError:
            return octets.decode("latin-1")
    return " "
