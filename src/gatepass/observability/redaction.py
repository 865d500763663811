"""Mask known secrets by value in each text that leaves the process.

The type `Secret` keeps gatepass's own code from printing a secret. The Redactor finds secrets in received texts: in an
upstream's error that quotes the Authorization header, or in an issuer's traceback. It searches one list of spellings.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import lru_cache
from html import unescape
from struct import iter_unpack
from urllib.parse import quote, quote_plus

_VISIBLE = bytes(octet for octet in range(0x21, 0x100) if octet != 0x7F)
MASK = "***"
SHORTEST_CHARS = 6
"""Shorter values are not masked, because they would mask ordinary words."""
KEPT = 8
"""Values kept for each owner. A request in progress may still carry a token that was renewed since."""
AROUND_CHARS = 32 * 1024
"""How far `Redactor.cut` looks for secrets around a place: a token in base64 is shorter than half of it."""
_GO_AMPERSAND = re.compile(r"(?<!\\)((?:\\\\)*?)\\{1,2}u0026")
"""As Go's encoding/json writes it, behind backslashes of the text before it."""
_REFERENCE = re.compile(r"&(#[0-9]{1,24};?|#[xX][0-9a-fA-F]{1,24};?|[^\t\n\f <&#;]{1,32};?)")
"""What `html.unescape` replaces."""
_SPECIAL = re.compile("[^A-Za-z0-9]")
_OF_NET = re.compile("[^ !#-%(-*,-;=?-_a-~]")
"""What System.Text.Json of .NET escapes, `+` among them."""
_PERCENT = re.compile("%[0-9A-F]{2}")
_GO = {ord(char): f"\\u{ord(char):04x}" for char in "&<>"}
"""What Go's encoding/json escapes too."""
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
        """Return `text` with each known secret masked. Takes time linear in its length for each secret.

        If only the character references of HTML hide one, they are resolved, as JSON writes the characters if possible:
        then a line of JSON stays one.
        """
        masked = self._masked(text)
        if "&" in text or "u0026" in text:
            for write in (_in_json, str):
                plain = masked
                for _ in range(2):  # escaped again, such as `&amp;lt;`
                    plain = _resolved(plain, write)
                    if (again := self._masked(plain)) != plain:  # another secret may be escaped twice
                        masked = plain = again
        return masked

    def holds(self, text: str) -> bool:
        """Return whether `mask` changes `text`."""
        if "&" in text or "u0026" in text:
            return self.mask(text) != text
        return self._masked(text) != text

    def beginning(self, text: str, limit_chars: int) -> str:
        """Return the first `limit_chars` of `text`, masked before the cut."""
        return self.mask(text)[:limit_chars]

    def cut(self, text: str, limit_chars: int) -> int | None:
        """Return a place up to `limit_chars` where no secret is halved. None if there is none in AROUND_CHARS before.

        A secret is found if `text` has it in at most AROUND_CHARS and in twice the longest spelling of any secret.
        """
        around_chars = min(AROUND_CHARS, 2 * max((len(literals[0]) for _, literals in self._spellings()), default=0))
        begin = after_secret = max(0, limit_chars - around_chars)
        for kept in self._masked(text[begin : limit_chars + around_chars]).split(MASK)[:-1]:
            after_secret = max(after_secret, text.find(kept, after_secret, limit_chars) + len(kept))
        # among many secrets in a row, the end of the last text between two of them
        for place in (limit_chars, after_secret, limit_chars - around_chars // 2, begin):
            at = max(0, place)
            before, behind = text[max(0, at - around_chars) : at], text[at : at + around_chars]
            if self.mask(before + behind) == self.mask(before) + self.mask(behind):
                return at
        return None

    def _masked(self, text: str) -> str:
        learned, spellings = self._searched
        for anchor, literals in spellings if learned == self._learned else self._spellings():
            if anchor in text:
                for literal in literals:
                    text = text.replace(literal, MASK)
        return text

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


@lru_cache(maxsize=1024)
def _character(reference: str) -> str:
    return unescape(f"&{reference}")


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _resolved(text: str, write: Callable[[str], str]) -> str:
    def resolve(found: re.Match[str]) -> str:
        character = _character(found[1])
        return found[0] if character.endswith(found[1]) else write(character)

    return _REFERENCE.sub(resolve, _GO_AMPERSAND.sub(r"\1&", text))


def _spelled(value: str) -> Iterator[_Spelling]:
    """Yield the spellings of `value`: the one list. SECURITY.md has it too."""
    yield _spelling(value, _texts(value))
    # base64 of `user:secret`, or of a body, contains the value as a URL-encoded form or JSON writes it
    for text in dict.fromkeys((value, quote_plus(value, errors="surrogatepass"), _in_json(value))):
        data = text.encode("utf-8", "surrogatepass")
        for shift, begin in enumerate((0, 2, 3)):
            # behind `shift` bytes of another text: up to the end, and what `data` alone decides
            ended = b64encode(bytes(shift) + data).decode()[begin:]
            within = ended[: 8 * (shift + len(data)) // 6 - begin]
            found = [ended, ended.rstrip("="), within]
            found += [one.replace("+", "-").replace("/", "_") for one in found]
            found += [spell(one) for one in found for spell in (quote_plus, lambda one: one.replace("/", "\\/"))]
            yield _spelling(within, found)


def _spelling(text: str, literals: Iterable[str]) -> _Spelling:
    """Return the `literals`, which have the same runs of letters and digits as `text`."""
    run = max(re.findall("[A-Za-z0-9]+", text), key=len, default="")
    return run[-ANCHOR_CHARS:], tuple(sorted(dict.fromkeys(literals), key=len, reverse=True))


def _texts(value: str) -> dict[str, None]:
    """Return `value` in JSON (RFC 8259, section 7), once and twice, and in URLs (RFC 3986, section 2.1)."""
    # Python, JavaScript and Go leave different characters as they are
    kept = ("", "/", "!*'()", "$&+,:=@", "$&+,/:;=@", ";,/?:@&=+$!*'()#")
    found = [quote(value, safe, errors="surrogatepass") for safe in kept]
    found += [quote_plus(value, safe, errors="surrogatepass") for safe in ("", "*")]
    found.append(_escaped(value, "utf-8", ">B", "%{:02X}", _SPECIAL))
    found += [_PERCENT.sub(lambda percent: percent[0].lower(), one) for one in found]
    found += [one.replace("%", "%25") for one in found]  # a login's `next=` quotes the URL that has a token
    found += [value, _in_json(value), json.dumps(value, ensure_ascii=False)[1:-1]]
    found += [one.replace("/", "\\/") for one in found[-3:]]  # as PHP does
    for special in (_SPECIAL, _OF_NET):
        found += [_escaped(value, "utf-16-be", ">H", form, special) for form in ("\\u{:04X}", "\\u{:04x}")]
    once = dict.fromkeys(found)
    twice = [_in_json(one) for one in once]
    twice += [one.translate(_GO) for one in twice] + [one.replace("/", "\\/") for one in twice]
    both = once | dict.fromkeys(twice)
    # as `mask` writes them if HTML escaped their quotes alone
    return both | dict.fromkeys(one.replace('"', '\\"') for one in both)


def _escaped(value: str, charset: str, unit: str, form: str, special: re.Pattern[str]) -> str:
    def escape(found: re.Match[str]) -> str:
        units = iter_unpack(unit, found[0].encode(charset, "surrogatepass"))
        return "".join(form.format(*one) for one in units)

    return special.sub(escape, value)


def decoded(body: bytes) -> str:
    """Return the text of `body`, which may be UTF-8, UTF-16 or UTF-32. In the wrong one no secret would be found."""
    return body.decode(json.detect_encoding(body) if is_wide(body) else "utf-8-sig", "replace")


def is_wide(body: bytes) -> bool:
    """Return whether `body` seems to be UTF-16 or UTF-32."""
    return body.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or 4 * body.count(0) > len(body)


def whole_words(body: bytes) -> bytes:
    """Return the cut `body` without its last word, because the beginning of a secret would not be masked."""
    kept = body.rstrip(_VISIBLE)
    return kept if kept or not body.isascii() else body  # a body of one word is never shown to its end
