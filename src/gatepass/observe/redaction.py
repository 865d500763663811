"""Masks known secrets by value, wherever text is about to leave the process.

Types keep our own code from printing a secret; this catches the ones that come back to us in other
people's words: an upstream's error that quotes the Authorization header, an issuer's trace.
"""

from __future__ import annotations

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

    def learn(self, value: str, *, permanent: bool = False) -> None:
        """Mask `value` (and its URL-encoded forms) from now on. Tokens pass, configured secrets stay."""
        if len(value) < SHORTEST_CHARS:
            return
        for form in {value, quote(value, safe=""), quote_plus(value)}:
            if permanent:
                self._permanent[form] = None
            elif form not in self._permanent:
                self._passing[form] = None
                self._passing.move_to_end(form)
        while len(self._passing) > REMEMBERED:
            self._passing.popitem(last=False)

    def mask(self, text: str) -> str:
        for known in (self._permanent, self._passing):
            for value in known:
                if value in text:
                    text = text.replace(value, MASK)
        return text
