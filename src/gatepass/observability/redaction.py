"""Mask known secrets by value in each text that leaves the process.

The type `Secret` keeps gatepass's own code from printing a secret. The Redactor finds secrets in received texts: in an
upstream's error that quotes the Authorization header, or in an issuer's traceback.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from html.entities import html5
from urllib.parse import quote_plus

_VISIBLE = bytes(octet for octet in range(0x21, 0x100) if octet != 0x7F)
MASK = "***"
SHORTEST_CHARS = 6
"""Shorter values are not masked, because they would mask ordinary words."""
KEPT = 8
"""Values kept for each owner. A request in progress may still carry a token that was renewed since."""
ANCHOR_CHARS = 16
DIGITS = 8
"""The fewest digits of a hexadecimal anchor. Fewer occur in many texts without a secret."""
HEAD_CHARS = 16
"""The characters of a form that a pattern searches. The rest is compared from there on. So a search takes at most this
many steps for each character of a text, also for a long and repetitive secret."""
SPAN_BUDGET, SPAN_COST = 8192, 8
"""A text is masked to its end after 1,024 repeats of a secret, or after 8,192 characters of beginnings of it. Without
this limit a text of 64 KiB would take up to 70 ms."""
LONG_CHARS = 40
"""One scan for a run of this many letters and digits replaces the search for each form that contains one. Request ids,
trace ids and 128-bit hashes are shorter, tokens and keys in base64 are longer."""
MANY_FORMS = 8
"""The fewest long forms that justify the scan. A token has four, so it pays from two tokens on."""
SLICE_CHARS, AROUND_CHARS = 16 * 1024, 32 * 1024
"""`Redactor.slices` masks a text in slices of this size. It looks for secrets around the place between two of them."""
_LONG = b"x" * LONG_CHARS
_RUNS = bytes(120 if chr(byte).isalnum() and byte < 128 else 32 for byte in range(256))
_BACKSLASHES = r"\\{1,4}+"
_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_AMPERSAND = rf"(?:&|{_BACKSLASHES}u0026)"
"""Go's encoding/json writes `&` as `\\u0026`."""
HTML_NAMES: dict[str, list[str]] = {"-": ["hyphen", "dash", "minus"], "~": ["tilde"], "^": ["circ"]}
"""The names of each character in HTML 5. PHP writes `&sol;` for `/`. ASCII characters without a name of their own have
the names of similar characters, because pages use them."""
for _name, _char in html5.items():
    if _name.endswith(";"):
        HTML_NAMES.setdefault(_char, []).append(_name[:-1])
_SOFT_BREAK = re.compile(r"=(?:\r?\n|(?:\\{1,4}r)?\\{1,4}n)")
"""A soft line break of quoted-printable text (RFC 2045, section 6.7), also inside a JSON text."""
_BASE64_BREAK = re.compile(r"(?:\r?\n|(?:\\{1,4}r)?\\{1,4}n)[ \t]*+(?=[A-Za-z0-9+/_=-])")
"""A line break inside base64 (RFC 2045, section 6.8), also inside a JSON text."""
_BASE64 = re.compile("[A-Za-z0-9+/_-]")


class Redactor:
    """Holds the secrets of this process by value and masks them in texts."""

    def __init__(self) -> None:
        self._owned: dict[Hashable, dict[str, _Known]] = {}
        self._forms: _Forms | None = None

    def learn(self, value: str, owner: Hashable = None) -> None:
        """Mask `value` from now on, also as JSON, HTML, URLs, quoted-printable, Python, base64 and hex write it.

        `owner` names the setting or token. Only the last KEPT values of an owner are masked. A value without an owner
        is masked for the life of the process.
        """
        if len(value) < SHORTEST_CHARS:
            return
        values = self._owned.setdefault(owner, {})
        known = values.pop(value, None)
        values[value] = known or _Known(value)
        if known is None:
            self._forms = None
        if owner is not None and len(values) > KEPT:
            del values[next(iter(values))]

    def mask(self, text: str) -> str:
        """Return `text` with each known secret masked. Takes time linear in its length for each secret."""
        masked = self._masked(text)
        if "\n" in text or "\\" in text:
            joined = _BASE64_BREAK.sub("", _SOFT_BREAK.sub("", masked))
            if joined is not masked and (again := self._masked(joined)) != joined:
                return again
        return masked

    def _masked(self, text: str) -> str:
        listed, short = self._forms or self._longest_first()
        if short is not listed and text.encode("utf-8", "surrogatepass").translate(_RUNS).find(_LONG) < 0:
            listed = short
        as_written, in_any_case = listed
        for anchor in as_written:
            if anchor in text:
                for form in as_written[anchor]:
                    text = form.masked(text)
        if in_any_case:
            lowered = text.lower()
            for anchor in in_any_case:
                if anchor in lowered:
                    for form in in_any_case[anchor]:
                        text = form.masked(text)
        return text

    def holds(self, text: str) -> bool:
        return self.mask(text) != text

    def beginning(self, text: str, limit_chars: int) -> str:
        """Return the first `limit_chars` of `text`, masked, also a secret that the cut would halve."""
        if len(text) > limit_chars and ("\n" in text or "\\" in text):
            text = _SOFT_BREAK.sub("", text)
            joined = _BASE64_BREAK.sub("", text)
            text = text if self._masked(joined) == joined else joined
        listed, _ = self._forms or self._longest_first()
        forms = [form for part in listed for forms in part.values() for form in forms]
        cut = min((form.cut(text, limit_chars) for form in forms), default=limit_chars)
        return self.mask(text[:limit_chars]) if cut == limit_chars else self.beginning(text, cut) + MASK

    def slices(self, text: str) -> Iterator[str]:
        """Yield a large `text` masked, in slices that take 20 ms each. None of them begins or ends inside a secret."""
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
        listed, _ = self._forms or self._longest_first()
        widths = (form.widest_chars for part in listed for forms in part.values() for form in forms)
        around_chars = min(AROUND_CHARS, 2 * max(widths, default=0))
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

    def _longest_first(self) -> _Forms:
        # A secret may be a part of another one. Masked first, it would leave the rest of the other one readable.
        if (found := self._forms) is None:
            known = {value: one for values in self._owned.values() for value, one in values.items()}
            forms = sorted((form for one in known.values() for form in one.forms), key=lambda form: -len(form.value))
            short = [form for form in forms if not form.is_long]
            listed = _by_anchor(forms)
            found = self._forms = (listed, listed if len(forms) - len(short) < MANY_FORMS else _by_anchor(short))
        return found


def _by_anchor(forms: Iterable[_Form]) -> _ByAnchor:
    as_written: dict[str, list[_Form]] = {}
    in_any_case: dict[str, list[_Form]] = {}
    for form in forms:
        has_no_case = not form.is_hex or form.anchor.isdigit()
        (as_written if has_no_case else in_any_case).setdefault(form.anchor, []).append(form)
    return as_written, in_any_case


@dataclass(frozen=True)
class _Known:
    value: str = field(repr=False)

    @cached_property
    def forms(self) -> tuple[_Form, ...]:
        """The value, and its base64 and hexadecimal."""
        # Base64 and hexadecimal of a request body contain the value as a URL-encoded form or JSON writes it.
        in_bodies = (quote_plus(self.value, errors="surrogatepass"), json.dumps(self.value)[1:-1])
        datas = [text.encode("utf-8", "surrogatepass") for text in dict.fromkeys((self.value, *in_bodies))]
        encoded = dict.fromkeys(form for data in datas for form in _in_base64(data))
        return (
            _Form(self.value),
            *(_Form(*form) for form in encoded),
            *(_Form(data.hex(), is_hex=True) for data in datas),
        )


def _in_base64(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield the base64 characters that `data` alone decides, for each of its three alignments in a surrounding text.

    Each text is followed by the numbers of characters before and behind it that also contain bits of `data`.
    """
    for shift in range(3):
        drop, bits = (0, 2, 3)[shift], 8 * (shift + len(data))
        certain = b64encode(bytes(shift) + data + bytes(2)).decode()[drop : bits // 6]
        for text in (certain, certain.replace("+", "-").replace("/", "_")):
            yield text, int(shift > 0), int(bits % 6 > 0)


@dataclass(frozen=True)
class _Form:
    """A text to be masked in each spelling.

    Each spelling has the same letters and digits. A run of them, the anchor, is searched first. `before` and `behind`
    are the numbers of base64 characters on either side that belong to it.
    """

    value: str = field(repr=False)
    before: int = 0
    behind: int = 0
    is_hex: bool = False

    @cached_property
    def anchor(self) -> str:
        runs = re.findall("[A-Za-z0-9]+", self.value)
        if self.is_hex:  # digits have no case, so their search needs no lower-case copy of the text
            digits = re.findall("[0-9]+", self.value)
            runs = [run for run in digits if len(run) >= DIGITS] or runs
        return max(runs, key=len, default="")[-ANCHOR_CHARS:]

    @cached_property
    def is_long(self) -> bool:
        """Whether each spelling has LONG_CHARS letters and digits in a row."""
        return any(len(part) >= LONG_CHARS and _is_plain(part) for part in self.parts)

    @cached_property
    def parts(self) -> list[str]:
        return _parts(self.value)

    @cached_property
    def spellings(self) -> dict[str, tuple[re.Pattern[str], ...]]:
        others = {part for part in self.parts if not _is_plain(part)}
        return {part: tuple(map(re.compile, _spellings(part))) for part in others}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        head = "".join(
            part if _is_plain(part) else f"(?:{'|'.join(_spellings(part))})" for part in _parts(self.value[:HEAD_CHARS])
        )
        return re.compile(head, re.IGNORECASE if self.is_hex else 0)

    @cached_property
    def widest_chars(self) -> int:
        # The widest spelling of a character is four bytes as `\\\\xF0`: 28 characters.
        return 4 + sum(1 if char.isascii() and char.isalnum() else 28 for char in self.value)

    def masked(self, text: str) -> str:
        pieces: list[str] = []
        at = 0
        for start, end in self.spans(text, 0, len(text)):
            pieces += (text[at:start], MASK)
            at = end
        pieces.append(text[at:])
        return "".join(pieces)

    def spans(self, text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the spans of the form in `text` between `first` and `last`."""
        at, budget = first, len(self.value) + SPAN_BUDGET
        while (found := self.pattern.search(text, at, last)) is not None:
            start = found.start()
            end, is_whole = self._end(text, start, last)
            budget -= SPAN_COST if is_whole else end - start + 1
            if budget <= 0:
                yield start, last
                return
            if not is_whole:
                at = start + 1
                continue
            if self.before and start > at and _BASE64.match(text, start - 1):
                start -= 1
            if self.behind and _BASE64.match(text, end):
                end += 1
            if self.before or self.behind:
                end += text.startswith("==", end) + text.startswith("=", end)
            yield start, end
            at = end

    def _end(self, text: str, start: int, last: int) -> tuple[int, bool]:
        """Return how far `text` matches this form from `start`, and whether it matches all of it."""
        # A spelling may begin like another one (`&` and `&amp;`), so all possible ends are followed at once: no text
        # causes the same place to be tried twice.
        ends = [start]
        for part in self.parts:
            if _is_plain(part):
                size = len(part)
                matching = [at for at in ends if text.startswith(part, at)] if not self.is_hex else ends
                following = [at + size for at in matching if not self.is_hex or text[at : at + size].lower() == part]
            else:
                following = sorted({end for at in ends for end in _ends(part, self.spellings[part], text, at, last)})
            if not following:
                return ends[-1], False
            ends = following
        return ends[-1], True

    def cut(self, text: str, limit_chars: int) -> int:
        """Return the beginning of the secret that a cut at `limit_chars` would halve, else `limit_chars`."""
        first, last = max(0, limit_chars - self.widest_chars), limit_chars + self.widest_chars
        around = text[first:last]
        if (around.lower() if self.is_hex else around).find(self.anchor) < 0:
            return limit_chars
        spans = self.spans(text, first, min(last, len(text)))
        return next((start for start, end in spans if start < limit_chars < end), limit_chars)


_ByAnchor = tuple[dict[str, list[_Form]], dict[str, list[_Form]]]
"""Forms by their anchors, longest first: those searched as written, and hexadecimal ones searched in any case."""
_Forms = tuple[_ByAnchor, _ByAnchor]
"""All forms, and those that are not long. The same object if the scan for long runs would cost more than it saves."""


def _ends(part: str, spellings: Iterable[re.Pattern[str]], text: str, at: int, last: int) -> Iterator[int]:
    """Yield the end of each of the `spellings` of `part` that begins at `at`."""
    for spelling in spellings:
        if (found := spelling.match(text, at, last)) is None:
            continue
        yield found.end()
        if part[0] == "\\":  # the last backslashes of a run may belong to the next character
            yield from (end for end in range(found.end() - 1, found.end() - 5, -1) if end >= at + len(part))


def _parts(value: str) -> list[str]:
    """Split into runs of letters and digits, runs of backslashes, and other single characters."""
    return re.findall(r"[A-Za-z0-9]+|\\+|.", value, re.DOTALL)


def _is_plain(part: str) -> bool:
    return part.isascii() and part.isalnum()


def _spellings(part: str) -> list[str]:
    """Return patterns for one character that is not an ASCII letter or digit, or for a run of backslashes.

    The spellings, with hexadecimal digits in either case:

    - The character itself, also after backslashes. PHP writes `\\/`, and a log line that quotes JSON `\\\\/`.
    - Escapes of JSON (`\\u4e2d`, RFC 8259, section 7), JavaScript (`%u4e2d`) and Python (`\\xe4`, `\\U00004e2d`).
    - The escape of URLs (`%XX`, RFC 3986, section 2.1), also escaped again (`%25XX`).
    - The escape of e-mail (`=XX`, RFC 2045, section 6.7).
    - A character reference of HTML.
    - A quote twice (SQL, CSV).
    - Octets of UTF-8 in octal (protobuf's text format), or decoded as Latin-1 or Windows-1252.
    - For a character beyond ASCII, U+FFFD or `?`, once or for each octet. Decoders write them for unknown octets.

    `\\xXX` and `%XX` are octets of UTF-8. From Python's `ascii` and JavaScript's `escape` they are code points of
    Latin-1.
    """
    count = len(part)
    if part[0] == "\\":
        return [rf"\\{{{count},{4 * count}}}", *(f"(?:{escaped}){{{count}}}" for escaped in _escaped(part[0]))]
    spellings = [*_escaped(part), rf"\\{{0,3}}{re.escape(part)}"]
    if part == "&":
        spellings.append(_AMPERSAND)
    if part in _LETTERS:
        spellings.append(_BACKSLASHES + _LETTERS[part])
    if part == " ":
        spellings += (r"\+", "_")
    if part in ("'", '"'):
        spellings.append(part * 2)
    if not part.isascii():
        octets = part.encode("utf-8", "surrogatepass")
        misread = {octets.decode(charset, "replace") for charset in ("latin-1", "cp1252")}
        spellings += map(re.escape, sorted(misread))
        spellings += (f"[?\ufffd]{{{count}}}" for count in {1, len(octets)})
    return spellings


def _escaped(char: str) -> list[str]:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    octets = [f"{octet:02x}" for octet in char.encode("utf-8", "surrogatepass")]
    code = ord(char)
    names = "".join(f"|{name}" for name in HTML_NAMES.get(char, ()))
    reference = rf"(?:#0{{0,5}}{code}|#[xX]0{{0,5}}(?i:{code:x}){names});"
    more = [rf"{_BACKSLASHES}x(?i:{code:02x})", rf"%(?:25)?(?i:{code:02x})"] if 0x80 <= code < 0x100 else []
    return [
        *more,
        rf"{_BACKSLASHES}U(?i:{code:08x})",
        "".join(rf"(?:{_BACKSLASHES}|%)u(?i:{units[at : at + 4]})" for at in range(0, len(units), 4)),
        "".join(rf"%(?:25)?(?i:{octet})" for octet in octets),
        "".join(rf"{_BACKSLASHES}x(?i:{octet})" for octet in octets),
        "".join(rf"=(?i:{octet})" for octet in octets),
        "".join(rf"{_BACKSLASHES}{int(octet, 16):03o}" for octet in octets),
        rf"\\{{0,3}}{_AMPERSAND}{reference}",
        f"{_AMPERSAND}amp;{reference}",
    ]


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
