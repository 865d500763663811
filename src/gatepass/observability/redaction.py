"""Mask known secrets by value in each text that leaves the process.

The type `Secret` keeps gatepass's own code from printing a secret. The Redactor finds secrets in received texts: in an
upstream's error that quotes the Authorization header, or in an issuer's traceback. It searches a list of spellings.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Hashable, Iterable, Iterator
from html import unescape
from struct import iter_unpack
from typing import NamedTuple
from urllib.parse import quote, quote_plus

_VISIBLE = bytes(octet for octet in range(0x21, 0x100) if octet != 0x7F)
MASK = "***"
SHORTEST_CHARS = 6
"""Shorter values are not masked, because they would mask ordinary words."""
KEPT = 8
"""Values kept for each owner. A request in progress may still carry a token that was renewed since."""
ANCHOR_CHARS = 16
LONG_CHARS = 40
"""One scan for a run of this many letters and digits replaces the search for each spelling that contains one. Request
ids, trace ids and 128-bit hashes are shorter, tokens and keys in base64 are longer."""
MANY_FORMS = 8
"""The fewest long searches that justify the scan. A token has six, so it pays from two tokens on."""
SLICE_CHARS, AROUND_CHARS = 8 * 1024, 32 * 1024
"""`Redactor.slices` masks a text in slices of this size: 8 ms for one with 100 keys. It looks for secrets around the
place between two of them."""
_LONG = b"x" * LONG_CHARS
_RUNS = bytes(120 if chr(byte).isalnum() and byte < 128 else 32 for byte in range(256))
_BASE64_BREAK = re.compile(r"(?:\r?\n|(?:\\{1,4}r)?\\{1,4}n)[ \t]*+(?=[A-Za-z0-9+/_=-])")
"""A line break inside base64 (RFC 2045, section 6.8), also inside a JSON text."""
_GO_AMPERSAND = re.compile(r"(?<!\\)((?:\\\\)*?)\\{1,2}u0026")
"""As Go's encoding/json writes it, behind backslashes of the text before it."""
_ENTITY = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")
"""What `html.unescape` replaces."""
_SPECIAL = re.compile("[^A-Za-z0-9]")
_OF_NET = re.compile("[^ !#-%(-*,-;=?-_a-~]")
"""What System.Text.Json of .NET escapes, `+` among them."""
_PERCENT = re.compile("%[0-9A-F]{2}")
_GO = {ord(char): f"\\u{ord(char):04x}" for char in "&<>"}
"""What Go's encoding/json escapes too."""


class _Spelled(NamedTuple):
    """Spellings that have the same letters and digits. A run of them, the anchor, is searched first."""

    size: int
    anchor: str
    runs: tuple[str, ...]
    """All runs of letters and digits, by which spellings with the same anchor are told apart."""
    is_long: bool
    """They have a run of LONG_CHARS letters and digits."""
    literals: tuple[str, ...]
    """The longest ones first."""

    def __repr__(self) -> str:
        return "_Spelled(***)"


_Searches = dict[str, list[_Spelled]]
"""The spellings of each anchor, the longest ones first. Keys with one ending have one anchor."""


class Redactor:
    """Holds the secrets of this process by value and masks them in texts."""

    def __init__(self) -> None:
        self._owned: dict[Hashable, dict[str, tuple[_Spelled, ...]]] = {}
        self._learned = 0
        """How many values were learned. The thread that exports spans masks too."""
        self._searches: tuple[_Searches, _Searches, int, int] = {}, {}, 0, 0
        """All searches, and those of spellings that are not long. The same object if the scan for long runs would cost
        more than it saves. The numbers are the length of the shortest spelling, and how many values were learned."""

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
        masked = self._unescaped(self._masked(text))
        if "\n" in text or "\\" in text:
            joined = _BASE64_BREAK.sub("", masked)
            if joined is not masked and (again := self._masked(joined)) != joined:
                return again
        return masked

    def _unescaped(self, text: str) -> str:
        """Return `text` with each secret masked that `html.unescape` finds in it, once or twice.

        Each program escapes other characters for HTML, so there are too many spellings for a list.
        """
        if "&" not in text and "u0026" not in text:
            return text
        once = _plain(text)
        if not any(literal for one in (once, _plain(once)) for literal in self._literals_in(one)):
            return text
        plain, places, hidden = text, [*range(len(text) + 1)], set[int]()
        for pattern in (_GO_AMPERSAND, _ENTITY) * 2:
            plain, places = _located(pattern, plain, places)
            for literal in self._literals_in(plain):
                for found in re.finditer(re.escape(literal), plain):
                    end = next(place for place in places[found.end() :] if place != places[found.end() - 1])
                    hidden.update(range(places[found.start()], end))
        masked = {at: "" if at - 1 in hidden else MASK for at in hidden}
        return "".join([masked.get(at, char) for at, char in enumerate(text)])

    def _literals_in(self, text: str) -> Iterator[str]:
        listed, *_ = self._longest_first()
        for anchor, group in listed.items():
            if anchor in text:
                yield from (literal for literal in _literals(group) if literal in text)

    def _masked(self, text: str) -> str:
        listed, short, shortest_chars, learned = self._searches
        if learned != self._learned:
            listed, short, shortest_chars, _ = self._longest_first()
        if len(text) < shortest_chars:
            return text
        if short is not listed and text.encode("utf-8", "surrogatepass").translate(_RUNS).find(_LONG) < 0:
            listed = short
        for anchor in listed:
            if anchor in text:
                for spelled in listed[anchor]:
                    if all(run in text for run in spelled.runs):
                        for literal in spelled.literals:
                            text = text.replace(literal, MASK)
        return text

    def _longest_first(self) -> tuple[_Searches, _Searches, int, int]:
        learned = self._learned
        if self._searches[-1] == learned:
            return self._searches
        # Copies, because another thread may learn meanwhile. A secret may be a part of another one. Masked first, it
        # would leave the rest of the other one readable.
        by_value = {value: spelled for values in [*self._owned.values()] for value, spelled in [*values.items()]}
        known = sorted((one for spelled in by_value.values() for one in spelled), key=lambda one: -one.size)
        listed = _by_anchor(known)
        short = [one for one in known if not one.is_long]
        shortest_chars = min((len(literal) for one in known for literal in one.literals), default=0)
        short_listed = listed if len(known) - len(short) < MANY_FORMS else _by_anchor(short)
        found = self._searches = (listed, short_listed, shortest_chars, learned)
        return found

    def holds(self, text: str) -> bool:
        """Return whether `mask` changes `text`."""
        if "\n" in text or "\\" in text or "&" in text:
            return self.mask(text) != text
        return self._masked(text) != text  # nearly always: saves a call

    def beginning(self, text: str, limit_chars: int) -> str:
        """Return the first `limit_chars` of `text`, masked, also a secret that the cut would halve."""
        text = self._unescaped(text) if len(text) > limit_chars else text
        if len(text) > limit_chars and ("\n" in text or "\\" in text):
            joined = _BASE64_BREAK.sub("", text)
            text = text if self._masked(joined) == joined else joined
        cut = limit_chars
        for literal in self._literals_in(text):
            at = text.find(literal, max(0, limit_chars - len(literal) + 1), limit_chars + len(literal) - 1)
            cut = cut if at < 0 else min(cut, at)
        return self.mask(text[:limit_chars]) if cut == limit_chars else self.beginning(text, cut) + MASK

    def slices(self, text: str) -> Iterator[str]:
        """Yield a large `text` masked. No slice begins or ends inside a secret. With 100 secrets each takes 3 ms."""
        at = 0
        while len(text) - at > SLICE_CHARS:
            cut = self.cut(text, at + SLICE_CHARS)
            if cut is None or cut <= at:  # more secrets in a row than a slice has characters
                yield MASK
                return
            yield self.mask(text[at:cut])
            at = cut
        yield self.mask(text[at:])

    def cut(self, text: str, limit_chars: int) -> int | None:
        """Return a place up to `limit_chars` where no secret is halved. None if there is none in AROUND_CHARS before.

        A secret is found if `text` has it in at most AROUND_CHARS and in twice the longest spelling of any secret.
        """
        listed, *_ = self._longest_first()
        widest_chars = max((len(literal) for group in listed.values() for literal in _literals(group)), default=0)
        around_chars = min(AROUND_CHARS, 2 * widest_chars)
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


def _by_anchor(known: Iterable[_Spelled]) -> _Searches:
    found: _Searches = {}
    for one in known:
        found.setdefault(one.anchor, []).append(one)
    return found


def _plain(text: str) -> str:
    return unescape(_GO_AMPERSAND.sub(r"\1&", text))


def _located(pattern: re.Pattern[str], text: str, places: list[int]) -> tuple[str, list[int]]:
    """Return `text` after one step of `_plain`, and the place of each character. `places` has those of `text`."""
    plain, found_at, at = list[str](), list[int](), 0
    for found in pattern.finditer(text):
        value = unescape(found[0]) if pattern is _ENTITY else f"{found[1]}&"
        plain += (text[at : found.start()], value)
        found_at += [*places[at : found.start()], *[places[found.start()]] * len(value)]
        at = found.end()
    return "".join((*plain, text[at:])), [*found_at, *places[at:]]


def _literals(group: Iterable[_Spelled]) -> Iterator[str]:
    return (literal for spelled in group for literal in spelled.literals)


def _spelled(value: str) -> Iterator[_Spelled]:
    """Yield the spellings of `value` and of its base64."""
    yield _group(value, _texts(value))
    # base64 of `user:secret`, or of a body, contains the value as a URL-encoded form or JSON writes it
    in_bodies = (quote_plus(value, errors="surrogatepass"), json.dumps(value)[1:-1])
    for text in dict.fromkeys((value, *in_bodies)):
        data = text.encode("utf-8", "surrogatepass")
        for shift, begin in enumerate((0, 2, 3)):
            # behind `shift` bytes of another text: up to the end, and what `data` alone decides
            ended = b64encode(bytes(shift) + data).decode()[begin:]
            within = ended[: 8 * (shift + len(data)) // 6 - begin]
            found = [ended, ended.rstrip("="), within]
            found += [one.replace("+", "-").replace("/", "_") for one in found]
            found += [spell(one) for one in found for spell in (quote_plus, lambda text: text.replace("/", "\\/"))]
            yield _group(within, found)


def _group(value: str, literals: Iterable[str]) -> _Spelled:
    """Return the `literals`, which have the same runs of letters and digits as `value`."""
    found = sorted(set(re.findall("[A-Za-z0-9]+", value)), key=len)
    anchor = found[-1][-ANCHOR_CHARS:] if found else ""
    ordered = sorted(dict.fromkeys(literals), key=lambda one: -len(one))
    is_long = any(len(run) >= LONG_CHARS for run in found)
    return _Spelled(len(value), anchor, tuple(found), is_long, tuple(ordered))


def _escaped(value: str, charset: str, unit: str, form: str, special: re.Pattern[str] = _SPECIAL) -> str:
    def escape(found: re.Match[str]) -> str:
        units = iter_unpack(unit, found[0].encode(charset, "surrogatepass"))
        return "".join(form.format(*one) for one in units)

    return special.sub(escape, value)


def _texts(value: str) -> Iterator[str]:
    """Yield `value` in JSON (RFC 8259, section 7), once and twice, and in URLs (RFC 3986, section 2.1)."""
    # Python, JavaScript and Go leave different characters as they are
    in_urls = [quote(value, safe, errors="surrogatepass") for safe in ("", "/", "!*'()", "$&+,:=@")]
    in_urls += [quote_plus(value, safe, errors="surrogatepass") for safe in ("", "*")]
    in_urls.append(_escaped(value, "utf-8", ">B", "%{:02X}"))
    in_urls += [_PERCENT.sub(lambda found: found[0].lower(), one) for one in in_urls]
    in_json = [json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]]
    in_json += [one.replace("/", "\\/") for one in in_json]  # as PHP does
    in_json += [one.replace('\\"', '"') for one in in_json]  # of HTML, whose `&quot;` is no quotation mark in JSON
    forms = ("\\u{:04X}", "\\u{:04x}", "%u{:04X}", "%u{:04x}")
    in_json += [_escaped(value, "utf-16-be", ">H", form) for form in forms]
    in_json += [_escaped(value, "utf-16-be", ">H", form, _OF_NET) for form in forms[:2]]
    # decoded as another charset
    data = value.encode("utf-8", "surrogatepass")
    others = [data.decode(charset, "replace") for charset in ("latin-1", "cp1252", "ascii")]
    others.append(value.encode("latin-1", "replace").decode("utf-8", "replace"))
    found = dict.fromkeys((value, *in_urls, *in_json, *others))
    yield from found
    for one in found:
        again = json.dumps(one)[1:-1]
        yield from (again, again.translate(_GO), again.replace("/", "\\/"), one.replace("%", "%25"))


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
