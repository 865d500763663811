"""Mask known secrets by value in each text that leaves the process.

The type `Secret` keeps gatepass's own code from printing a secret. The Redactor finds secrets in received texts: in an
upstream's error that quotes the Authorization header, or in an issuer's traceback. It searches one list of spellings.
"""

from __future__ import annotations

import json
import re
from array import array
from base64 import b64encode
from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache
from html import unescape
from itertools import chain
from urllib.parse import quote_plus, unquote

_VISIBLE = bytes(octet for octet in range(0x21, 0x100) if octet != 0x7F)
MASK = "***"
SHORTEST_CHARS = 6
"""Shorter values are not masked, because they would mask ordinary words."""
KEPT = 8
"""Values kept for each owner. A request in progress may still carry a token that was renewed since."""
ROUNDS = 5
"""How often a text is resolved: JSON and HTML twice, one in the other, and one more."""
_ESCAPE = (
    r"""(?P<pairs>(?:\\["\\/bfnrt])+)"""
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}"
    r"|&(?:#[0-9]{1,24};?|#[xX][0-9a-fA-F]{1,24};?|[A-Za-z][A-Za-z0-9]{1,31};?)"
    r"|%[0-7][0-9a-fA-F]|%[c-fC-F][0-9a-fA-F](?:%[89abAB][0-9a-fA-F]){1,3}"
)
"""What JSON (RFC 8259, section 7), `html.unescape` and URLs (RFC 3986, section 2.1) resolve."""
_PAIRS = str.maketrans("bfnrt", "\b\f\n\r\t")
ANCHOR_CHARS = 16
_Spelling = tuple[str, tuple[str, ...]]
"""An anchor and literals, the longest first. All contain the anchor, so they are searched only if a text has it."""


class Redactor:
    """Holds the secrets of this process by value and masks them in texts."""

    def __init__(self) -> None:
        self._owned: dict[Hashable, dict[str, tuple[_Spelling, ...]]] = {}
        self._learned = 0
        """How many values were learned. The thread that exports spans masks too."""
        self._searched: tuple[int, tuple[_Spelling, ...]] = 0, ()
        """How many values were learned when these spellings were collected."""

    def learn(self, value: str, owner: Hashable = None) -> None:
        """Mask `value` from now on, also as JSON, HTML, URLs and base64 write it.

        `owner` names the setting or token. Only the last KEPT values of an owner are masked. A value without an owner
        is masked for the life of the process.
        """
        if len(value) < SHORTEST_CHARS:
            return
        values = self._owned.setdefault(owner, {})
        known = values.pop(value, None)
        values[value] = known or tuple(_spelled(value))
        if known is None:
            self._learned += 1
        if owner is not None and len(values) > KEPT:
            del values[next(iter(values))]

    def mask(self, text: str) -> str:
        """Return `text` with each known secret masked. Takes time linear in its length for each secret."""
        shown, at = "", 0
        for begin, end in self._places(text):
            shown += text[at:begin] + MASK
            at = end
        return shown + text[at:]

    def holds(self, text: str) -> bool:
        """Return whether `mask` changes `text`."""
        return bool(self._places(text))

    def beginning(self, text: str, limit_chars: int) -> str:
        """Return the first `limit_chars` of `text`, masked before the cut."""
        return self.mask(text)[:limit_chars]

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Return the begin and end of each secret in `text`, in order. Those that overlap are one."""
        learned, spellings = self._searched
        if learned != self._learned:
            spellings = self._spellings()
        for anchor, _ in spellings:
            if anchor in text:
                break
        else:
            if "&" not in text and "%" not in text and "\\u00" not in text:
                return []
        found = [*_occurrences(text, spellings)]
        plain, origin = text, array("L", range(len(text) + 1))
        for _ in range(ROUNDS):
            before = plain
            plain, origin = _resolved(plain, origin)
            if plain == before:
                break
            found += [(origin[begin], origin[end]) for begin, end in _occurrences(plain, spellings)]
        places = list[tuple[int, int]]()
        for begin, end in sorted(found):
            if places and begin < places[-1][1]:
                places[-1] = places[-1][0], max(end, places[-1][1])
            else:
                places.append((begin, end))
        return places

    def _spellings(self) -> tuple[_Spelling, ...]:
        """Return all spellings of all secrets.

        The longest is first. A secret may be a part of another one, and would leave the rest of the other one readable.
        """
        learned, found = self._learned, self._searched
        if found[0] != learned:
            # copies, because another thread may learn meanwhile
            known = dict.fromkeys(
                one for values in [*self._owned.values()] for each in [*values.values()] for one in each
            )
            self._searched = found = learned, tuple(sorted(known, key=lambda one: -len(one[1][0])))
        return found[1]


def _occurrences(text: str, spellings: Iterable[_Spelling]) -> Iterator[tuple[int, int]]:
    for literal in chain.from_iterable(literals for anchor, literals in spellings if anchor in text):
        begin = text.find(literal)
        while begin >= 0:
            yield begin, begin + len(literal)
            begin = text.find(literal, begin + 1)  # also where it overlaps itself


@lru_cache(maxsize=1024)
def _character(escape: str) -> str:
    if escape[0] == "&":
        return unescape(escape)
    return unquote(escape) if escape[0] == "%" else str(json.loads(f'"{escape}"'))


def _resolved(text: str, origin: array[int]) -> tuple[str, array[int]]:
    """Resolve the escapes in `text` once. `origin`: where each character, and the end, was in the first text."""
    parts, places, at = list[str](), array("L"), 0
    for found in re.finditer(_ESCAPE, text):
        begin, end = found.span()
        places += origin[at:begin]
        if found["pairs"]:
            plain = found[0][1::2].translate(_PAIRS)
            places += origin[begin:end:2]
        elif plain := _character(found[0]):  # none of a control character of HTML
            # what follows a reference without a semicolon is as it was
            places.append(origin[begin])
            places += origin[end - len(plain) + 1 : end]
        parts += (text[at:begin], plain)
        at = end
    return "".join((*parts, text[at:])), places + origin[at:]


def _spelled(value: str) -> Iterator[_Spelling]:
    """Yield the spellings of `value` in a text without escapes: the one list. SECURITY.md has it too."""
    in_json = json.dumps(value)[1:-1]
    yield _spelling(value, (value, value.replace(" ", "+"), in_json))
    plain = value
    for _ in range(ROUNDS):
        plain = _resolved(plain, array("L", range(len(plain) + 1)))[0]
    if plain != value and len(plain) >= SHORTEST_CHARS:  # what rounds make of a secret with the signs of an escape
        yield _spelling(plain, (plain, plain.replace(" ", "+")))
    # base64 of `user:secret`, or of a body, contains the value as a URL-encoded form or JSON writes it
    for text in dict.fromkeys((value, quote_plus(value, errors="surrogatepass"), in_json)):
        data = text.encode("utf-8", "surrogatepass")
        for shift, begin in enumerate((0, 2, 3)):
            # behind `shift` bytes of another text: up to the end, and what `data` alone decides
            ended = b64encode(bytes(shift) + data).decode()[begin:]
            within = ended[: 8 * (shift + len(data)) // 6 - begin]
            found = (ended, ended.rstrip("="), within)
            yield _spelling(within, (*found, *(one.replace("+", "-").replace("/", "_") for one in found)))


def _spelling(text: str, literals: Iterable[str]) -> _Spelling:
    """Return the `literals`, which have the same runs of letters and digits as `text`."""
    run = max(re.findall("[A-Za-z0-9]+", text), key=len, default="")
    return run[-ANCHOR_CHARS:], tuple(sorted(dict.fromkeys(literals), key=len, reverse=True))


def whole_words(body: bytes) -> bytes:
    """Return the cut `body` without its last word, because the beginning of a secret would not be masked."""
    kept = body.rstrip(_VISIBLE)
    return kept if kept or not body.isascii() else body  # a body of one word is never shown to its end
