"""Masks known secrets by value, wherever text is about to leave the process.

Types keep our own code from printing a secret; this catches the ones that come back to us in other
people's words: an upstream's error that quotes the Authorization header, an issuer's trace.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property

MASK = "***"
SHORTEST_CHARS = 6
"""A shorter value would mask ordinary words."""
KEPT = 8
"""Values remembered of each owner: what is under way may still carry a token that has been renewed since."""
ANCHOR_CHARS = 16

_BACKSLASHES = r"\\{1,4}"
_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


class Redactor:
    """Knows the secrets of this process by value and takes them out of text."""

    def __init__(self) -> None:
        self._owned: dict[Hashable, dict[str, _Known]] = {}
        self._by_length: list[_Known] | None = None

    def learn(self, value: str, owner: Hashable = None) -> None:
        """Mask `value`, however a URL or JSON writes it, from now on.

        `owner` names the setting or the token whose value it is: of each the last KEPT are remembered, however
        often it is rotated. Without an owner a value stays for good.
        """
        if len(value) < SHORTEST_CHARS:
            return
        values = self._owned.setdefault(owner, {})
        known = values.pop(value, None)
        values[value] = known or _Known(value)
        if known is None:
            self._by_length = None
        if owner is not None and len(values) > KEPT:
            del values[next(iter(values))]

    def mask(self, text: str) -> str:
        for known in self._by_length or self._longest_first():
            if known.anchor in text:
                text = known.pattern.sub(MASK, text)
        return text

    def beginning(self, text: str, limit_chars: int) -> str:
        """The first `limit_chars` of `text`, masked; so is a secret that the cut would halve."""
        cut = min((known.cut(text, limit_chars) for known in self._longest_first()), default=limit_chars)
        return self.mask(text[:limit_chars]) if cut == limit_chars else self.beginning(text, cut) + MASK

    def _longest_first(self) -> list[_Known]:
        """A secret may be a part of another one: masked first, it would leave the rest of that one readable."""
        if (found := self._by_length) is None:
            known = {value: one for values in self._owned.values() for value, one in values.items()}
            found = self._by_length = sorted(known.values(), key=lambda one: len(one.value), reverse=True)
        return found


@dataclass(frozen=True)
class _Known:
    """One secret. Its letters and digits stand for themselves in every spelling, so a part of them, the
    anchor, tells at the price of one search that a text holds none of it."""

    value: str = field(repr=False)

    @cached_property
    def anchor(self) -> str:
        return max(re.findall("[A-Za-z0-9]+", self.value), key=len, default="")[-ANCHOR_CHARS:]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\+|[^A-Za-z0-9\\]", lambda found: _spellings(found[0]), self.value))

    @cached_property
    def widest_chars(self) -> int:
        """Of a character's spellings the widest is four bytes as `\\\\\\\\xF0`: 28."""
        return sum(1 if char.isascii() and char.isalnum() else 28 for char in self.value)

    def cut(self, text: str, limit_chars: int) -> int:
        """Where the secret begins that a cut at `limit_chars` would halve; else `limit_chars`."""
        first, last = max(0, limit_chars - self.widest_chars), limit_chars + self.widest_chars
        if text.find(self.anchor, first, last) < 0:
            return limit_chars
        spans = (found.span() for found in self.pattern.finditer(text, first, last))
        return next((start for start, end in spans if start < limit_chars < end), limit_chars)


def _spellings(part: str) -> str:
    """A pattern for one character that is no ASCII letter or digit, or for a run of backslashes.

    As itself, behind backslashes (PHP writes `\\/`, a log line that quotes JSON `\\\\/`), as `\\uXXXX`
    (RFC 8259, section 7), `%XX` (RFC 3986, section 2.1), `%25XX`, or Python's `\\xXX`; hexadecimal in
    either case.
    """
    count = len(part)
    if part[0] == "\\":
        return rf"(?:\\{{{count},{4 * count}}}|(?:{_escaped(part[0])}){{{count}}})"
    others = [rf"\\{{0,3}}{re.escape(part)}", _escaped(part)]
    if part in _LETTERS:
        others.append(_BACKSLASHES + _LETTERS[part])
    if part == " ":
        others.append(r"\+")
    return f"(?:{'|'.join(others)})"


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    octets = char.encode("utf-8", "surrogatepass").hex()
    return "|".join(
        (
            "".join(rf"{_BACKSLASHES}u(?i:{units[at : at + 4]})" for at in range(0, len(units), 4)),
            "".join(rf"%(?:25)?(?i:{octets[at : at + 2]})" for at in range(0, len(octets), 2)),
            "".join(rf"{_BACKSLASHES}x(?i:{octets[at : at + 2]})" for at in range(0, len(octets), 2)),
        )
    )
