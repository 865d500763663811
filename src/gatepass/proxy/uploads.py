"""Read multipart forms (RFC 7578).

Parsers of forms differ in what they accept: bare line feeds, folded lines, a backslash before a quote, a repeated name.
gatepass must not check another model than the upstream uses, so it rejects every form that two parsers could read
differently.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Self

import msgspec

from gatepass.errors import InvalidRequest, UnsupportedHead
from gatepass.normalize.rules import ADDED
from gatepass.protocols.request import checked_model
from gatepass.types import Headers, Hidden, header

HEAD_BYTES = 16 * 1024
MODEL_BYTES = 4 * 1024
SEARCHED_BYTES = 1024 * 1024
"""Bytes of a part that are searched before the event loop runs: a boundary of few bytes takes 5 ns a byte."""

_BOUNDARY = (
    rb"(?i)multipart/form-data(?:; *charset=[\w-]+)?"
    rb"; *boundary=(?:([0-9A-Za-z'+_.-]{1,70})|\"([0-9A-Za-z'()+_,./:=?-]{1,70})\")(?:; *charset=[\w-]+)?"
)
_NAME = rb"[A-Za-z0-9_.\[\]-]+"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELDS = {
    b"content-disposition": (
        rb'form-data; *name=(?:"(' + _NAME + rb')"|(' + _NAME + rb"))"
        rb'((?:; *filename=(?:"(?:(?!(?i:; *name *\*?=))[^"\\\x00-\x1f\x7f]|\\(?!"))*+"|' + _TOKEN + rb"))?"
        rb"(?:; *filename\*=" + _TOKEN + rb")?)"
    ),
    b"content-type": rb"[^\x00-\x1f\x7f]*",
    b"content-length": rb"[0-9]+",
    b"content-transfer-encoding": rb"(?i)7bit|8bit|binary",
}
"""The fields of a part. For some parsers a backslash before a quote ends a text, and some split at each semicolon, also
inside a quoted file name. .NET sends names without quotes."""
_PLAIN_TEXT = rb'(?i)text/plain(?:; *charset="?(?:utf-8|us-ascii)"?)?'


def boundary_of(headers: Headers) -> bytes:
    """Return the form's boundary. Raises UnsupportedHead without a form, InvalidRequest if parsers may read another."""
    kind = (header(headers, b"content-type") or b"").strip()
    if not kind.lower().startswith(b"multipart/form-data") or b"boundary" not in kind.lower():
        raise UnsupportedHead(
            "unsupported_media_type", "Send the body as `content-type: multipart/form-data` with its boundary."
        )
    found = re.fullmatch(_BOUNDARY, kind)
    if found is None:
        raise InvalidRequest(
            "The content type of the form can be read in more than one way. Send it as"
            " `content-type: multipart/form-data; boundary=...` with one boundary of letters, digits and dashes."
        )
    return found[1] or found[2]


class Form(Hidden, msgspec.Struct, frozen=True):
    """A form. gatepass holds it whole: many clients send the file before the model.

    - `mark`: the boundary of a part. `start`: the first one, after the empty line that may precede it.
    - `model`: the value of the part of this name, or None. `span`: the position of that value.
    """

    body: bytes
    mark: bytes
    start: int
    model: str | None = None
    span: tuple[int, int] | None = None

    @classmethod
    async def read(cls, body: bytes, boundary: bytes, check_name: Callable[[str], None] = lambda _: None) -> Self:
        """Read `body` to its end. `check_name` is called with the name of each part but `model`, and may raise.

        Raises InvalidRequest for a second `model`, and for a form that two parsers could read differently.
        """
        mark, model, span = b"--" + boundary, None, None
        start = at = 2 if body.startswith(b"\r\n") else 0
        # RFC 2046 (section 5.1.1) allows text before it, which parsers skip differently
        if not body.startswith(mark, at):
            raise InvalidRequest("The form does not begin with its boundary.")
        while not body.startswith(b"--", head := at + len(mark)):
            if not body.startswith(b"\r\n", head):
                raise InvalidRequest("A line of the form begins with its boundary, but does not end there.")
            value = body.find(b"\r\n\r\n", head, head + HEAD_BYTES) + 4
            if value < 4:
                raise InvalidRequest(f"The form ends in the head of a part, or that has more than {HEAD_BYTES} bytes.")
            is_model = _is_model(body[head:value], check_name)
            searched, at = value, -1
            while at < 0:
                if searched >= len(body):  # only some parsers accept the last part of such a form
                    raise InvalidRequest("The body ends before the form does.")
                await asyncio.sleep(0)
                at = body.find(mark, searched, searched + SEARCHED_BYTES + len(mark))
                searched += SEARCHED_BYTES
            # RFC 2046 (section 5.1.1) forbids a line in a part that begins like a delimiter
            if at < value + 2 or not body.startswith(b"\r\n", at - 2):
                raise InvalidRequest("A part of the form contains its boundary, or no line break before it.")
            if is_model and span is not None:
                raise InvalidRequest("The form contains `model` twice. Send it once.", param="model")
            if is_model:
                model, span = _model(body[value : at - 2]), (value, at - 2)
        if len(body) > head + 8 or body[head + 2 :].strip():
            raise InvalidRequest("The body continues after the end of the form.")
        return cls(body, mark, start, model, span)

    def as_model(self, name: str) -> tuple[bytes, tuple[str, ...]]:
        """Return the form with its model replaced by `name`, or added as its first part, and the names of the change.

        Without a change it is `body` itself. An empty `name` changes no model.
        """
        if name in ("", self.model):
            return self.body, ()
        (start, end), text = self.span or (self.start, self.start), name.encode()
        if self.span is None:
            text = b'%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % (self.mark, text)
        return b"%b%b%b" % (self.body[:start], text, self.body[end:]), (ADDED,) * (self.span is None)


def _is_model(head: bytes, check_name: Callable[[str], None]) -> bool:
    """Whether `head`, with the line breaks around it, belongs to the part that names the model."""
    found: dict[bytes, re.Match[bytes]] = {}
    lines = head.split(b"\r\n")[1:-2]
    for line in lines:
        field, _, value = line.partition(b":")
        field = field.lower()
        matched = re.fullmatch(_FIELDS[field], value.strip(b" \t")) if field in _FIELDS and field not in found else None
        if matched is None:
            break
        found[field] = matched
    if len(found) < len(lines) or b"content-disposition" not in found:
        raise InvalidRequest(
            "A part of the form has more in its head than a plain `Content-Disposition: form-data; name=...`, its type"
            " and its length. gatepass parses forms strictly (RFC 7578)."
        )
    quoted, plain, file = found[b"content-disposition"].groups()
    name = (quoted or plain).decode()
    if name != "model":
        if name.lower().partition("[")[0] == "model":  # some parser reads this name as `model`
            raise InvalidRequest(
                'A part of the form has a name that may be read as `model`. Write it as name="model".', param="model"
            )
        check_name(name)
        return False
    kind = found.get(b"content-type")
    if file or (kind is not None and re.fullmatch(_PLAIN_TEXT, kind[0]) is None):
        raise InvalidRequest("`model` must be plain text in the form, not a file.", param="model")
    return True


def _model(value: bytes) -> str:
    if len(value) > MODEL_BYTES:
        raise InvalidRequest(f"`model` is longer than {MODEL_BYTES} bytes.", param="model")
    try:
        return checked_model(value.decode())
    except UnicodeDecodeError:
        raise InvalidRequest("`model` is not UTF-8 text.", param="model") from None
