"""Where the model stands in a multipart form that is on its way through (RFC 7578). Sans-I/O."""

from __future__ import annotations

import re

from gatepass.call import Headers, header
from gatepass.errors import InvalidRequest
from gatepass.surface.decode import checked_model

HEAD_BYTES = 16 * 1024
"""The largest head of a part."""
MODEL_BYTES = 4 * 1024

_BOUNDARY = re.compile(
    rb'multipart/form-data[^\r\n]*?;[ \t]*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70})(?=[\s;]|\Z))', re.IGNORECASE
)
_NAME = re.compile(rb'content-disposition:[^\r\n]*?;[ \t]*name\*?=(?:"([^"\r\n]*)"|([^\s;"]*))', re.IGNORECASE)


def boundary_of(headers: Headers) -> bytes | None:
    """What parts the form that `headers` announce; None where they announce none."""
    found = _BOUNDARY.match((header(headers, b"content-type") or b"").strip())
    return (found[1] or found[2]) if found else None


class FormScan:
    """Takes the pieces of a form and finds the member `model`; holds no more than a part's head.

    `model` is its text and `span` where its bytes stand, counted from the form's beginning; None until it was seen
    whole. Raises InvalidRequest where it comes twice: two readers of such a form would differ.
    """

    def __init__(self, boundary: bytes) -> None:
        self.model: str | None = None
        self.span: tuple[int, int] | None = None
        self._mark = b"--" + boundary
        self._line = b"\r\n" + self._mark
        self._rest = b"\r\n"  # so that the first delimiter looks like all others
        self._at = -2
        self._has_named = False
        self._in_model = False
        self._in_head = False
        self._is_over = False

    def feed(self, piece: bytes) -> None:
        if self._is_over:
            return
        data = self._rest + piece
        used = 0
        while (step := self._step(data, used)) is not None:
            used = step
        keep = used if self._in_head or self._in_model else max(used, len(data) - len(self._line) - 1)
        self._at += keep
        self._rest = data[keep:]
        if self._in_head and len(self._rest) > HEAD_BYTES:
            raise InvalidRequest(f"The head of a part of the form is larger than {HEAD_BYTES} bytes.")
        if self._in_model and len(self._rest) > MODEL_BYTES:
            raise InvalidRequest("`model` is longer than any model's name.", param="model")

    def _step(self, data: bytes, used: int) -> int | None:
        """How far `data` is understood after one more step; None where that wants more of it."""
        if self._is_over:
            return None
        if self._in_head:
            end = data.find(b"\r\n\r\n", used)
            if end < 0:
                return None
            self._in_head = False
            self._in_model = self._is_model(data[used : end + 2])
            return end + 4
        place = self._delimiter(data, used)
        if place is None:
            return None
        if self._in_model:
            self._in_model = False
            self.model = checked_model(_text(data[used:place]))
            self.span = (self._at + used, self._at + place)
        self._in_head = True
        return place + len(self._line)

    def _delimiter(self, data: bytes, used: int) -> int | None:
        """Where the next delimiter begins; what only begins like one is none."""
        while (end := data.find(self._line, used)) >= 0:
            at = end + len(self._line)
            behind = data[at : at + 2]
            if len(behind) < 2:
                return None
            self._is_over = behind == b"--"
            if self._is_over or behind == b"\r\n" or behind[:1] in (b" ", b"\t"):
                return end
            used = end + 1
        return None

    def _is_model(self, head: bytes) -> bool:
        names = [found[1] or found[2] for found in _NAME.finditer(head)]
        if b"model" not in names:
            return False
        if self._has_named:
            raise InvalidRequest("The form holds `model` twice; send it once.", param="model")
        self._has_named = True
        return True


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("`model` is not UTF-8 text.", param="model") from None
