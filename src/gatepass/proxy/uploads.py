"""Read multipart forms (RFC 7578).

`MultipartScan` finds the part of a `Form` that names the model (sans-I/O). Parsers of forms differ in what they accept:
bare line feeds, folded lines, a backslash before a quote, a repeated name. gatepass must not check another model than
the upstream uses, so it rejects every form that two parsers could read differently.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Self
from urllib.parse import unquote_to_bytes

import msgspec

from gatepass.errors import InvalidRequest
from gatepass.normalize.rules import ADDED
from gatepass.protocols.request import checked_model
from gatepass.types import Headers, Hidden, header

SCANNED_BYTES = 8 * 1024
"""Bytes of a form that are scanned before the event loop runs. Heads of parts take up to 0.8 µs a byte."""


class Form(Hidden, msgspec.Struct, frozen=True):
    """A form. gatepass holds it whole: many clients send the file before the model."""

    body: bytes
    scan: MultipartScan

    @classmethod
    async def read(cls, body: bytes, scan: MultipartScan) -> Self:
        """Scan `body` to its end. Raises the errors of MultipartScan."""
        await _feed(scan, body)
        scan.finish()
        return cls(body, scan)

    def as_model(self, name: str) -> tuple[bytes, tuple[str, ...]]:
        """Return the form with its model replaced by `name`, or added as its first part, and the names of the change.

        Without a change it is `body` itself. An empty `name` changes no model.
        """
        scan = self.scan
        if name in ("", scan.model):
            return self.body, ()
        (start, end), text = scan.span or (scan.start, scan.start), name.encode()
        if scan.span is None:
            text = b'%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % (scan.mark, text)
        return b"%b%b%b" % (self.body[:start], text, self.body[end:]), (ADDED,) * (scan.span is None)


async def _feed(scan: MultipartScan, piece: bytes) -> None:
    for at in range(0, len(piece), SCANNED_BYTES):
        if at:
            await asyncio.sleep(0)
        scan.feed(piece[at : at + SCANNED_BYTES])


HEAD_BYTES = 16 * 1024
MODEL_BYTES = 4 * 1024

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_PARAMETERS = re.compile(
    rb'(?:; *[a-z0-9_-]+(?:=(?:"(?:[^"\\\x00-\x1f\x7f]|\\(?!"))*"|' + _TOKEN + rb")|\*=" + _TOKEN + rb"))*"
)
"""Rejects a backslash before a quote: for some parsers that quote ends the text, for others not. .NET sends names
without quotes; the form with a star (RFC 5987) is used for file names."""
_PARAMETER = re.compile(rb'; *([a-z0-9_*-]+)=(?:"((?:[^"\\]|\\(?!"))*)"|(' + _TOKEN + rb"))")
_HIDDEN_NAME = re.compile(rb"; *name *\*?=", re.IGNORECASE)
"""Parsers that split at each semicolon find this name inside the quoted value of another parameter."""
_AROUND_NAME = b" \t\n\r\v\f'\""
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=?-]{1,70}")
_PLAIN_TEXT = re.compile(rb'text/plain(?:; *charset="?(?:utf-8|us-ascii)"?)?', re.IGNORECASE)
_PLAIN_CODING = (b"7bit", b"8bit", b"binary")


def boundary_of(headers: Headers) -> bytes | None:
    """Return the form's boundary, None without a form; raise InvalidRequest if parsers could read it differently."""
    kind, separator, rest = (header(headers, b"content-type") or b"").strip().partition(b";")
    if kind.strip().lower() != b"multipart/form-data" or b"boundary" not in rest.lower():
        return None
    lowered = re.sub(rb"; *boundary=", b"; boundary=", separator + rest, flags=re.IGNORECASE)
    boundary = (_parameters(lowered) or {}).get(b"boundary", b"")
    # a second `boundary=`, even inside a quoted value, may be the one that another parser uses
    is_one = rest.lower().count(b"boundary=") == 1 and kind == kind.rstrip()
    if not is_one or _BOUNDARY.fullmatch(boundary) is None:
        raise InvalidRequest(
            "The content type of the form can be read in more than one way. Send it as"
            " `content-type: multipart/form-data; boundary=...` with one boundary of letters, digits and dashes."
        )
    return boundary


class MultipartScan:
    """Find the part `model` in the pieces of a form; holds at most the head of one part.

    All positions are in bytes from the beginning of the form.

    - `mark`: the boundary of a part. `start`: the first delimiter, after the empty line that may precede it.
    - `model`: the value of the part, None until it is complete. `span`: the position of that value.

    `check_name` is called with the name of every other part, and may raise. Raises InvalidRequest for a second `model`,
    and for any form that two parsers could read differently.
    """

    def __init__(self, boundary: bytes, check_name: Callable[[str], None] = lambda _: None) -> None:
        self._check_name = check_name
        self.model: str | None = None
        self.span: tuple[int, int] | None = None
        self._has_named = False
        self.start = 0
        self.mark = b"--" + boundary
        self._line = b"\r\n" + self.mark
        self._rest = b"\r\n"  # makes the first delimiter look like all others; hence `_at` begins at -2
        self._at = -2
        self._has_begun = False
        self._in_model = False
        self._in_head = False
        self._is_over = False
        self._delimiter_like = re.compile(rb"[\r\n]" + re.escape(self.mark))

    def feed(self, piece: bytes) -> None:
        data = self._rest + piece
        used = 0
        while (step := self._step(data, used)) is not None:
            used = step
        if self._is_over:
            if data[used:].strip():
                raise InvalidRequest("The body continues after the end of the form.")
            self._rest = b""
            return
        self._check_start(data)
        # outside a head only the bytes that may begin a delimiter are kept
        is_held = self._in_head or self._in_model or not self._has_begun
        keep = used if is_held else max(used, len(data) - len(self._line) - 2)
        self._at += keep
        self._rest = data[keep:]
        if self._in_head and len(self._rest) > HEAD_BYTES:
            raise InvalidRequest(f"The head of a part of the form is larger than {HEAD_BYTES} bytes.")
        if self._in_model and len(self._rest) > MODEL_BYTES:
            raise InvalidRequest(f"`model` is longer than {MODEL_BYTES} bytes.", param="model")

    def finish(self) -> None:
        """Handle the end of the body. Raises InvalidRequest if the form has no end delimiter."""
        if not self._is_over:  # only some parsers accept the last part of such a form
            raise InvalidRequest("The body ends before the form does, or is not a form with the announced boundary.")

    def _check_start(self, data: bytes) -> None:
        # RFC 2046 (section 5.1.1) allows text before the first delimiter, but parsers differ in how they skip it
        lines = (self._line, b"\r\n" + self._line)
        if not (self._has_begun or any(line.startswith(data) for line in lines) or data.startswith(lines)):
            raise InvalidRequest("The form does not begin with its boundary.")

    def _step(self, data: bytes, used: int) -> int | None:
        """Parse one head or body of a part. Return the position after it, None if `data` does not hold all of it."""
        if self._is_over:
            return None
        if self._in_head:
            end = data.find(b"\r\n\r\n", used)
            first = data[end + 4 : end + 4 + len(self.mark)]
            if end < 0 or (len(first) < len(self.mark) and self.mark.startswith(first)):
                return None
            if first == self.mark:
                raise _ambiguous("no line break between its value and the boundary")
            self._in_head = False
            self._in_model = self._is_model(data[used + 2 : end])
            return end + 4
        delimiter = self._find_delimiter(data, used)
        if delimiter is None:
            return None
        self._check_start(data)
        if not self._has_begun:
            self._has_begun, self.start = True, self._at + delimiter + len(b"\r\n")
        if self._in_model:
            self._in_model = False
            try:
                model = data[used:delimiter].decode()
            except UnicodeDecodeError:
                raise InvalidRequest("`model` is not UTF-8 text.", param="model") from None
            self.model = checked_model(model)
            self.span = (self._at + used, self._at + delimiter)
        self._in_head = True
        return delimiter + len(self._line) + (2 if data.startswith(self._line + b"--", delimiter) else 0)

    def _find_delimiter(self, data: bytes, used: int) -> int | None:
        """Return the position of the next delimiter, None if `data` ends before it; raise InvalidRequest."""
        found = self._delimiter_like.search(data, used)
        if found is None:
            return None
        at = found.end()
        following = data[at : at + 2]
        if len(following) < 2:
            return None
        is_line = found.start() > used and data.startswith(self._line, found.start() - 1)
        # RFC 2046 (section 5.1.1) forbids a line in a part that begins like a delimiter
        if not is_line or following not in (b"--", b"\r\n"):
            raise InvalidRequest("A line of the form begins with its boundary but is not a delimiter.")
        self._is_over = following == b"--"
        return found.start() - 1

    def _is_model(self, head: bytes) -> bool:
        """Whether `head` belongs to the part that names the model."""
        fields = _fields(head)
        named = _parameters(fields[b"content-disposition"].removeprefix(b"form-data")) or {}
        if named[b"name"] != b"model":
            # some parser reads this name as `model`: it ignores case, escapes, blanks or quotes, or reads `model[]`
            name = unquote_to_bytes(named[b"name"])
            plain = re.split(rb"[\[\0]", name.lower())[0]
            if plain.strip(_AROUND_NAME) == b"model":
                raise InvalidRequest(
                    'A part of the form has a name that may be read as `model`. Write it as name="model".',
                    param="model",
                )
            self._check_name(name.decode("utf-8", "replace"))
            return False
        if self._has_named:
            raise InvalidRequest("The form contains `model` twice. Send it once.", param="model")
        kind, coding = fields.get(b"content-type"), fields.get(b"content-transfer-encoding", b"7bit")
        is_text = kind is None or _PLAIN_TEXT.fullmatch(kind) is not None
        if len(named) > 1 or not is_text or coding.lower() not in _PLAIN_CODING:
            raise InvalidRequest("`model` must be plain text in the form, not a file.", param="model")
        self._has_named = True
        return True


def _fields(head: bytes) -> dict[bytes, bytes]:
    """Return the fields of a part's head by name; raise InvalidRequest if parsers could read the head differently."""
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        found = _FIELD.fullmatch(line)
        if found is None or found[1].lower() in fields:
            raise _ambiguous("a line that is folded, repeated or not a header field")
        fields[found[1].lower()] = found[2].rstrip()
    disposition = fields.get(b"content-disposition", b"")
    parameters = _parameters(disposition[len(b"form-data") :]) if disposition.startswith(b"form-data;") else None
    if parameters is None or b"name" not in parameters or b"\\" in parameters[b"name"]:
        raise _ambiguous('no plain `Content-Disposition: form-data; name="..."`')
    return fields


def _parameters(text: bytes) -> dict[bytes, bytes] | None:
    """Parse `text`, such as `; name="a"; filename=b`. Return None if it is invalid or repeats a parameter."""
    if _PARAMETERS.fullmatch(text) is None:
        return None
    found: dict[bytes, bytes] = {}
    for name, quoted, token in _PARAMETER.findall(text):
        # parsers disagree whether `name*` (RFC 5987) overrides `name`
        if name in found or name in (b"name*", b"boundary*") or _HIDDEN_NAME.search(quoted):
            return None
        found[name] = quoted or token
    return found


def _ambiguous(defect: str) -> InvalidRequest:
    return InvalidRequest(f"A part of the form has {defect} in its head. gatepass parses forms strictly (RFC 7578).")
