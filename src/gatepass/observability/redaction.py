"""Masks known secrets by value, wherever text is about to leave the process.

Types keep our own code from printing a secret; this catches the ones that come back to us in other
people's words: an upstream's error that quotes the Authorization header, an issuer's trace.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from html.entities import codepoint2name
from urllib.parse import quote_plus

_VISIBLE = bytes(octet for octet in range(0x21, 0x100) if octet != 0x7F)
MASK = "***"
SHORTEST_CHARS = 6
"""A shorter value would mask ordinary words."""
KEPT = 8
"""Values remembered of each owner: what is under way may still carry a token that has been renewed since."""
ANCHOR_CHARS = 16
DIGITS = 8
"""Fewer digits stand in many texts that hold no secret."""
HEAD_CHARS = 16
"""So many characters of a form are searched by a pattern, the rest is compared from there on: a search takes at most
this many steps for each character of a text, however long and repetitive a secret is."""
LONG_CHARS = 40
"""A text without so many letters and digits in a row holds no form that has as many: one look at the text in the place
of a search for each. Request ids, trace ids and hashes of 128 bits are shorter, tokens and keys in base64 longer."""
MANY_FORMS = 8
"""A token has four that are long. With fewer than two tokens the look at a text would cost more than it saves."""
_LONG = b"x" * LONG_CHARS
_RUNS = bytes(120 if chr(byte).isalnum() and byte < 128 else 32 for byte in range(256))
_BACKSLASHES = r"\\{1,4}+"
_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_AMPERSAND = rf"(?:&|{_BACKSLASHES}u0026)"
"""Also as Go's encoding/json writes it."""
_SOFT_BREAK = re.compile(r"=(?:\r?\n|(?:\\{1,4}r)?\\{1,4}n)")
"""Where quoted-printable text goes on in the next line (RFC 2045 6.7), also inside a JSON text."""
_BASE64_BREAK = re.compile(r"(?:\r?\n|(?:\\{1,4}r)?\\{1,4}n)[ \t]*+(?=[A-Za-z0-9+/_=-])")
"""Where base64 may go on in the next line (RFC 2045 6.8), also inside a JSON text."""
_BASE64 = re.compile("[A-Za-z0-9+/_-]")


class Redactor:
    """Knows the secrets of this process by value and takes them out of text."""

    def __init__(self) -> None:
        self._owned: dict[Hashable, dict[str, _Known]] = {}
        self._forms: _Forms | None = None

    def learn(self, value: str, owner: Hashable = None) -> None:
        """Mask `value` from now on, also as JSON, HTML, URLs, quoted-printable, Python, base64 and hex write it.

        `owner` names the setting or the token whose value it is: of each the last KEPT are remembered, however
        often it is rotated. Without an owner a value stays for good.
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
        """`text` without any known secret, in time that is linear in its length for each of them."""
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
        """Whether a known secret stands in `text`."""
        return self.mask(text) != text

    def beginning(self, text: str, limit_chars: int) -> str:
        """The first `limit_chars` of `text`, masked; so is a secret that the cut would halve."""
        if len(text) > limit_chars and ("\n" in text or "\\" in text):
            text = _SOFT_BREAK.sub("", text)
            joined = _BASE64_BREAK.sub("", text)
            text = text if self._masked(joined) == joined else joined
        listed, _ = self._forms or self._longest_first()
        forms = [form for part in listed for forms in part.values() for form in forms]
        cut = min((form.cut(text, limit_chars) for form in forms), default=limit_chars)
        return self.mask(text[:limit_chars]) if cut == limit_chars else self.beginning(text, cut) + MASK

    def _longest_first(self) -> _Forms:
        """A secret may be a part of another one: masked first, it would leave the rest of that one readable."""
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
        is_written_so = not form.is_hex or form.anchor.isdigit()
        (as_written if is_written_so else in_any_case).setdefault(form.anchor, []).append(form)
    return as_written, in_any_case


@dataclass(frozen=True)
class _Known:
    """One secret, with the forms that it may have in a text."""

    value: str = field(repr=False)

    @cached_property
    def forms(self) -> tuple[_Form, ...]:
        """As it is, and in base64 and hexadecimal, also of a form or a JSON text that holds it, such as a request."""
        sent = (quote_plus(self.value, errors="surrogatepass"), json.dumps(self.value)[1:-1])
        datas = [text.encode("utf-8", "surrogatepass") for text in dict.fromkeys((self.value, *sent))]
        encoded = dict.fromkeys(form for data in datas for form in _in_base64(data))
        return (
            _Form(self.value),
            *(_Form(*form) for form in encoded),
            *(_Form(data.hex(), is_hex=True) for data in datas),
        )


def _in_base64(data: bytes) -> Iterator[tuple[str, int, int]]:
    """What `data` makes certain of the base64 of a text around it, at each of the three places where it can begin,
    and how many characters before and behind that hold bits of it."""
    for shift in range(3):
        drop, bits = (0, 2, 3)[shift], 8 * (shift + len(data))
        certain = b64encode(bytes(shift) + data + bytes(2)).decode()[drop : bits // 6]
        for text in (certain, certain.replace("+", "-").replace("/", "_")):
            yield text, int(shift > 0), int(bits % 6 > 0)


@dataclass(frozen=True)
class _Form:
    """A text to be masked in every spelling. Its letters and digits stand for themselves in each, so a part of them,
    the anchor, tells at the price of one search that a text holds none of it.

    `before` and `behind`: how many characters of base64 on either side belong to it.
    """

    value: str = field(repr=False)
    before: int = 0
    behind: int = 0
    is_hex: bool = False

    @cached_property
    def anchor(self) -> str:
        runs = re.findall("[A-Za-z0-9]+", self.value)
        if self.is_hex:  # digits have no case, so they are searched without a copy of the text in lower case
            digits = re.findall("[0-9]+", self.value)
            runs = [run for run in digits if len(run) >= DIGITS] or runs
        return max(runs, key=len, default="")[-ANCHOR_CHARS:]

    @cached_property
    def is_long(self) -> bool:
        """Whether every spelling of it has LONG_CHARS letters and digits in a row."""
        return any(len(part) >= LONG_CHARS and _is_plain(part) for part in self.parts)

    @cached_property
    def parts(self) -> list[str]:
        return _parts(self.value)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        head = "".join(
            part if _is_plain(part) else f"(?:{'|'.join(_spellings(part))})" for part in _parts(self.value[:HEAD_CHARS])
        )
        return re.compile(head, re.IGNORECASE if self.is_hex else 0)

    @cached_property
    def widest_chars(self) -> int:
        """Of a character's spellings the widest is four bytes as `\\\\\\\\xF0`: 28."""
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
        """Where it stands in `text` between `first` and `last`."""
        at, budget = first, len(self.value) + (last - first) // 4
        while (found := self.pattern.search(text, at, last)) is not None:
            start = found.start()
            end, is_whole = self._end(text, start, last)
            if not is_whole:
                budget -= end - start + 1
                if budget <= 0:  # a text made of beginnings of the secret: nothing of the rest is shown
                    yield start, last
                    return
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
        """How far `text` goes on like this form from `start`, and whether to its end.

        A character's spelling may begin like another one's (`&` and `&amp;`), so all of its possible ends are followed
        at once: no text makes it try the same place twice.
        """
        ends = [start]
        for part in self.parts:
            if _is_plain(part):
                size = len(part)
                beside = [at for at in ends if text.startswith(part, at)] if not self.is_hex else ends
                following = [at + size for at in beside if not self.is_hex or text[at : at + size].lower() == part]
            else:
                following = sorted({end for at in ends for end in _ends(part, text, at, last)})
            if not following:
                return ends[-1], False
            ends = following
        return ends[-1], True

    def cut(self, text: str, limit_chars: int) -> int:
        """Where the secret begins that a cut at `limit_chars` would halve; else `limit_chars`."""
        first, last = max(0, limit_chars - self.widest_chars), limit_chars + self.widest_chars
        around = text[first:last]
        if (around.lower() if self.is_hex else around).find(self.anchor) < 0:
            return limit_chars
        spans = self.spans(text, first, min(last, len(text)))
        return next((start for start, end in spans if start < limit_chars < end), limit_chars)


_ByAnchor = tuple[dict[str, list[_Form]], dict[str, list[_Form]]]
"""By their anchors, longest first: those found as they are written, and those in hexadecimal found in any case."""
_Forms = tuple[_ByAnchor, _ByAnchor]
"""All, and those that are not long: the same object where a look at the text would cost more than their searches."""


def _ends(part: str, text: str, at: int, last: int) -> Iterator[int]:
    """Where each spelling of `part` ends that begins at `at`."""
    for spelling in _compiled(part):
        if (found := spelling.match(text, at, last)) is None:
            continue
        yield found.end()
        if part[0] == "\\":  # the last ones of a run may belong to the next character
            yield from (end for end in range(found.end() - 1, found.end() - 5, -1) if end >= at + len(part))


@lru_cache(maxsize=256)
def _compiled(part: str) -> tuple[re.Pattern[str], ...]:
    return tuple(map(re.compile, _spellings(part)))


def _parts(value: str) -> list[str]:
    """Runs of letters and digits, runs of backslashes (no spelling keeps how many there are), and single signs."""
    return re.findall(r"[A-Za-z0-9]+|\\+|.", value, re.DOTALL)


def _is_plain(part: str) -> bool:
    return part.isascii() and part.isalnum()


def _spellings(part: str) -> list[str]:
    """Patterns for one character that is no ASCII letter or digit, or for a run of backslashes.

    As itself, behind backslashes (PHP writes `\\/`, a log line that quotes JSON `\\\\/`), as `\\uXXXX`
    (RFC 8259, section 7), `%XX` (RFC 3986, section 2.1), `%25XX`, `=XX` (RFC 2045, section 6.7), a character reference
    of HTML, or Python's `\\xXX` and `\\UXXXXXXXX`; hexadecimal in either case. `\\xXX` and `%XX` stand for octets of
    UTF-8 or, as Python's `ascii` and JavaScript's `escape` write, for a character of Latin-1.
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
    return spellings


def _escaped(char: str) -> list[str]:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    octets = [f"{octet:02x}" for octet in char.encode("utf-8", "surrogatepass")]
    code = ord(char)
    names = "".join(f"|{name}" for name in (codepoint2name.get(code), "apos" if char == "'" else None) if name)
    reference = rf"(?:#0{{0,5}}{code}|#[xX]0{{0,5}}(?i:{code:x}){names});"
    more = [rf"{_BACKSLASHES}x(?i:{code:02x})", rf"%(?:25)?(?i:{code:02x})"] if 0x80 <= code < 0x100 else []
    return [
        *more,
        rf"{_BACKSLASHES}U(?i:{code:08x})",
        "".join(rf"{_BACKSLASHES}u(?i:{units[at : at + 4]})" for at in range(0, len(units), 4)),
        "".join(rf"%(?:25)?(?i:{octet})" for octet in octets),
        "".join(rf"{_BACKSLASHES}x(?i:{octet})" for octet in octets),
        "".join(rf"=(?i:{octet})" for octet in octets),
        _AMPERSAND + reference,
        f"{_AMPERSAND}amp;{reference}",
    ]


def whole_words(body: bytes) -> bytes:
    """`body`, which was cut, without its last word: that may be the beginning of a secret, which no mask finds."""
    kept = body.rstrip(_VISIBLE)
    return kept if kept or not body.isascii() else body  # no blanks are folded: nobody is shown its end
