"""Masks known secrets by value, wherever text is about to leave the process.

Types keep our own code from printing a secret; this catches the ones that come back to us in other
people's words: an upstream's error that quotes the Authorization header, an issuer's trace.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST_CHARS = 6
"""A shorter value would mask ordinary words."""
REMEMBERED = 256
"""Values remembered at most, besides the permanent ones: current and previous tokens of every credential."""


class Redactor:
    """Knows the secrets of this process by value and takes them out of text."""

    def __init__(self) -> None:
        self._permanent: dict[str, None] = {}
        self._passing: OrderedDict[str, None] = OrderedDict()
        self._by_length: list[str] | None = None

    def learn(self, value: str, *, permanent: bool = False) -> None:
        """Mask `value`, however a URL or JSON writes it, from now on. Tokens pass, configured secrets stay."""
        if len(value) < SHORTEST_CHARS:
            return
        self._by_length = None
        for form in _forms(value):
            if permanent:
                self._permanent[form] = None
            elif form not in self._permanent:
                self._passing[form] = None
                self._passing.move_to_end(form)
        while len(self._passing) > REMEMBERED:
            self._passing.popitem(last=False)

    def mask(self, text: str) -> str:
        for value in self._longest_first():
            if value in text:
                text = text.replace(value, MASK)
        return text

    def beginning(self, text: str, limit_chars: int) -> str:
        """The first `limit_chars` of `text`, masked; so is a secret that the cut would halve."""
        cut = limit_chars
        for value in self._longest_first():
            at = text.find(value, max(0, limit_chars - len(value) + 1), limit_chars + len(value) - 1)
            cut = at if 0 <= at < cut else cut
        return self.mask(text[:cut]) + (MASK if cut < limit_chars else "")

    def _longest_first(self) -> list[str]:
        """A secret may be a part of another one: masked first, it would leave the rest of that one readable."""
        if self._by_length is None:
            self._by_length = sorted((*self._permanent, *self._passing), key=len, reverse=True)
        return self._by_length


def _forms(value: str) -> set[str]:
    """`value` as it is, in a URL and a form, and in JSON: once written, and twice as in a log line that quotes JSON."""
    written = {text for is_ascii in (True, False) for text in _written(value, 2, is_ascii)}
    return {value, quote(value, safe=""), quote_plus(value), repr(value.encode())[2:-1]} | written


def _written(text: str, times: int, is_ascii: bool) -> list[str]:
    inside = json.dumps(text, ensure_ascii=is_ascii)[1:-1]
    return [inside, *_written(inside, times - 1, is_ascii)] if times else []
