"""Where the model stands in a multipart form that is on its way through (RFC 7578). Sans-I/O.

Readers of forms differ in what they forgive: bare line feeds, folded lines, a backslash before a quote, a second
name. So nothing is forgiven here: what another reader could understand in another way is refused. Only a model named
in single quotes goes up, in double ones, which all readers understand.

A multipart form on its way from the client to an upstream, not held but for its beginning.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote_to_bytes

from gatepass.config.model import Limits
from gatepass.errors import InvalidRequest
from gatepass.normalize.built_in import ADDED
from gatepass.operations.request import checked_model
from gatepass.types import Headers, Operation, header

KEPT_BYTES = 1024 * 1024
"""So much of a form is kept in any case: where the model is looked for, and what can be sent again after a 401."""


Edit = tuple[int, int, bytes]
"""Where in the form something stands, and what is to stand there."""


class Sender(Protocol):
    """As much of a Client as a form is read from."""

    async def read_piece(self, limit_bytes: int) -> bytes:
        """As `Client.piece`."""
        ...


class MultipartUpload:
    """The client's side: reads pieces as they are wanted. `model` is what the form names, as far as it was read.

    A form that is not longer than `limits.body_bytes` is held until its model is known, because many clients write
    their file first. An `operation` that is about no model needs none: the form is not searched for one.
    """

    def __init__(
        self, sender: Sender, operation: Operation, limits: Limits, scan: MultipartScan, length_bytes: int | None
    ) -> None:
        self.length_bytes = length_bytes
        self.bytes_in = 0
        """As much of it as was read."""
        self.routed: str | None = None
        """The name that the call was routed by, where the form names another or none; "" where it has none."""
        self.is_whole = self.has_begun = self.model_is_late = False
        self._sender = sender
        self._operation = operation
        self._limit_bytes = limits.upload_bytes
        self._scan = scan
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._look_bytes = self._keep_bytes = KEPT_BYTES
        self._names_model = operation.names_model
        if operation.names_model and (length_bytes is None or length_bytes <= limits.body_bytes):
            self._look_bytes = max(KEPT_BYTES, limits.body_bytes)

    @property
    def model(self) -> str | None:
        return self._scan.model

    @property
    def is_kept(self) -> bool:
        """Whether all that was read is still here."""
        return bool(self._kept) and self._kept_bytes <= self._keep_bytes

    async def begin(self) -> None:
        """Read until the model is known, for as long as the beginning can be kept; where there is none, one piece: a
        body that is too large, or no form, never goes up."""
        if not self._names_model:
            await self.read()
            return
        while self.model is None and not self.is_whole:
            if self._kept_bytes >= self._look_bytes and not (self._scan.has_named or self._scan.in_head):
                return
            await self.read()

    async def read(self) -> bytes:
        """The next piece; b"" at the end. Raises as `Client.piece` and MultipartScan do, and InvalidRequest for a model
        that comes when the form, routed without it, is on its way."""
        piece = await self._sender.read_piece(self._limit_bytes)
        self.is_whole = not piece
        self.bytes_in += len(piece)
        self._scan.feed(piece)
        if self.is_whole:
            self._scan.finish()
        if self.has_begun and self._scan.has_named and self.model_is_late:
            raise InvalidRequest(
                f"`model` comes so late in the form that the form was on its way without it. {self._advice()}",
                param="model",
            )
        self._kept_bytes += len(piece)
        if not self.has_begun or self._kept_bytes <= self._keep_bytes:
            self._kept.append(piece)
        else:
            self._kept.clear()
        return piece

    def taken(self) -> bytes:
        """What was read so far; from now on the form is on its way."""
        if not self.has_begun:
            self.has_begun, self.model_is_late = True, self._names_model and not self._scan.has_named
            self._keep_bytes = max(KEPT_BYTES, self._kept_bytes)
        self._kept = [b"".join(self._kept)] if self._kept else []
        return self._kept[0] if self._kept else b""

    def as_model(self, name: str | None) -> EditedUpload:
        """The form as an upload, with `name`, or the routed one, in the place of its model's; as its first part, under
        ADDED, where the form names none."""
        name = self.routed if name is None else name
        if not self._names_model:
            return EditedUpload(self)
        if self._scan.span is not None:
            edits: list[Edit] = [] if self._scan.quoted is None else [(*self._scan.quoted, IN_QUOTES)]
            if name is not None and name != self.model:
                edits.append((*self._scan.span, name.encode()))
            return EditedUpload(self, tuple(edits))
        if not name:
            return EditedUpload(self)
        return EditedUpload(self, ((self._scan.start, self._scan.start, self._scan.model_part(name)),), (ADDED,))

    def without_model(self) -> InvalidRequest:
        """The error for a form that is not whole yet, and has to lead somewhere by its model alone."""
        return InvalidRequest(
            f"The first {self._kept_bytes} bytes of the form name no `model`, and no more of it is held."
            f" {self._advice()}",
            param="model",
        )

    def _advice(self) -> str:
        setting = f"operations.{self._operation.name}.model"
        return f"Send `model` before the file, or have {setting} set in gatepass and leave it out."


@dataclass(frozen=True, slots=True)
class EditedUpload:
    """An Upload: what of the form was read, edited, and then what comes. `edits` stand in order; `adapted` names them,
    but for a name in the place of another."""

    upload: MultipartUpload
    edits: tuple[Edit, ...] = ()
    adapted: tuple[str, ...] = ()

    @property
    def length_bytes(self) -> int | None:
        length_bytes = self.upload.length_bytes
        if length_bytes is None:
            return None
        return length_bytes + sum(len(text) - (end - start) for start, end, text in self.edits)

    def can_restart(self) -> bool:
        return not self.upload.has_begun or self.upload.is_kept

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head = self.upload.taken()
        for start, end, text in reversed(self.edits):
            head = head[:start] + text + head[end:]
        if head:
            yield head
        while not self.upload.is_whole:
            if piece := await self.upload.read():
                yield piece


HEAD_BYTES = 16 * 1024
"""The largest head of a part."""
MODEL_BYTES = 4 * 1024

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_PARAMETERS = re.compile(
    rb'(?:; *[a-z0-9_-]+(?:=(?:"(?:[^"\\\x00-\x1f\x7f]|\\(?!"))*"|' + _TOKEN + rb")|\*=" + _TOKEN + rb"))*"
)
"""A backslash before a quote ends the text for some readers and not for others. .NET writes its names without quotes;
the form with a star (RFC 5987) stands for files' names."""
_PARAMETER = re.compile(rb'; *([a-z0-9_*-]+)=(?:"((?:[^"\\]|\\(?!"))*)"|(' + _TOKEN + rb"))")
_SINGLE_QUOTED = re.compile(rb"^(?i:content-disposition):[ \t]*form-data; *name=('model')[ \t]*\r?$", re.MULTILINE)
"""A name without quotes to RFC 2045 (section 5.1: `'` is a letter like others), to PHP and its kin one in quotes."""
IN_QUOTES = b'"model"'
_HIDDEN_NAME = re.compile(rb"; *name *\*?=", re.IGNORECASE)
"""Readers that split at each semicolon find a name inside the quotes of another parameter."""
_AROUND_NAME = b" \t\n\r\v\f'\""
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=?-]{1,70}")
_PLAIN_TEXT = re.compile(rb'text/plain(?:; *charset="?(?:utf-8|us-ascii)"?)?', re.IGNORECASE)
_PLAIN_CODING = (b"7bit", b"8bit", b"binary")


def boundary_of(headers: Headers) -> bytes | None:
    """What parts the form that `headers` announce; None where they announce none.

    Raises InvalidRequest for a content type that readers of forms may understand in different ways.
    """
    kind, separator, rest = (header(headers, b"content-type") or b"").strip().partition(b";")
    if kind.strip().lower() != b"multipart/form-data" or b"boundary" not in rest.lower():
        return None
    lowered = re.sub(rb"; *boundary=", b"; boundary=", separator + rest, flags=re.IGNORECASE)
    boundary = (_parameters(lowered) or {}).get(b"boundary", b"")
    is_one = rest.lower().count(b"boundary=") == 1 and kind == kind.rstrip()
    if not is_one or _BOUNDARY.fullmatch(boundary) is None:
        raise InvalidRequest(
            "The content type of the form can be read in more than one way. Send it as"
            " `content-type: multipart/form-data; boundary=...` with one boundary of letters, digits and dashes."
        )
    return boundary


class MultipartScan:
    """Takes the pieces of a form and finds the member `model`; holds no more than a part's head.

    `start` is where the first delimiter begins, counted from the form's beginning: behind an empty line, if one comes
    before it. `model` is the member's text and `span` where its bytes stand; None until it was seen whole. `quoted`:
    where its name stands in single quotes, in the place of which IN_QUOTES is to go up. `has_named`: the head of its
    part was seen; `in_head`: a part's head is not whole yet. `check_name` is
    called with the name of each other part, and may raise. Raises InvalidRequest where it comes twice, and for any
    form that two readers could understand in different ways.
    """

    def __init__(self, boundary: bytes, check_name: Callable[[str], None] = lambda _: None) -> None:
        self._check_name = check_name
        self.model: str | None = None
        self.span: tuple[int, int] | None = None
        self.quoted: tuple[int, int] | None = None
        self.has_named = False
        self.start = 0
        self._mark = b"--" + boundary
        self._line = b"\r\n" + self._mark
        self._rest = b"\r\n"  # so that the first delimiter looks like all others
        self._at = -2
        self._has_begun = False
        self._in_model = False
        self.in_head = False
        self._is_over = False
        self._alike = re.compile(rb"[\r\n]" + re.escape(self._mark))

    def feed(self, piece: bytes) -> None:
        data = self._rest + piece
        used = 0
        while (step := self._step(data, used)) is not None:
            used = step
        if self._is_over:
            if data[used:].strip():
                raise InvalidRequest("Something follows the end of the form.")
            self._rest = b""
            return
        self._check_beginning(data)
        is_held = self.in_head or self._in_model or not self._has_begun
        keep = used if is_held else max(used, len(data) - len(self._line) - 2)
        self._at += keep
        self._rest = data[keep:]
        if self.in_head and len(self._rest) > HEAD_BYTES:
            raise InvalidRequest(f"The head of a part of the form is larger than {HEAD_BYTES} bytes.")
        if self._in_model and len(self._rest) > MODEL_BYTES:
            raise InvalidRequest("`model` is longer than any model's name.", param="model")

    def finish(self) -> None:
        """The body has ended. Raises InvalidRequest where the form has not: only some readers take its last part."""
        if not self._is_over:
            raise InvalidRequest("The body ends before the form does, or is no form with the announced boundary.")

    def model_part(self, name: str) -> bytes:
        """A part that names the model, as it can stand at `start`, in front of all others."""
        head = b'%b\r\nContent-Disposition: form-data; name="model"' % self._mark
        return b"%b\r\n\r\n%b\r\n" % (head, name.encode())

    def _check_beginning(self, data: bytes) -> None:
        wanted = (self._line, b"\r\n" + self._line)
        if not (self._has_begun or any(line.startswith(data) for line in wanted) or data.startswith(wanted)):
            raise InvalidRequest("The form does not begin with its boundary.")

    def _step(self, data: bytes, used: int) -> int | None:
        """How far `data` is understood after one more step; None where that wants more of it."""
        if self._is_over:
            return None
        if self.in_head:
            end = data.find(b"\r\n\r\n", used)
            first = data[end + 4 : end + 4 + len(self._mark)]
            if end < 0 or (len(first) < len(self._mark) and self._mark.startswith(first)):
                return None
            if first == self._mark:
                raise _unclear("no line of its own between its value and the boundary")
            self.in_head = False
            self._in_model = self._is_model(data[used + 2 : end], self._at + used + 2)
            return end + 4
        place = self._delimiter(data, used)
        if place is None:
            return None
        self._check_beginning(data)
        if not self._has_begun:
            self._has_begun, self.start = True, self._at + place + len(b"\r\n")
        if self._in_model:
            self._in_model = False
            try:
                model = data[used:place].decode()
            except UnicodeDecodeError:
                raise InvalidRequest("`model` is not UTF-8 text.", param="model") from None
            self.model = checked_model(model)
            self.span = (self._at + used, self._at + place)
        self.in_head = True
        return place + len(self._line) + (2 if data.startswith(self._line + b"--", place) else 0)

    def _delimiter(self, data: bytes, used: int) -> int | None:
        """Where the next delimiter begins. Raises InvalidRequest for what only looks like one (RFC 2046 section 5.1.1
        keeps it out of every part)."""
        found = self._alike.search(data, used)
        if found is None:
            return None
        at = found.end()
        behind = data[at : at + 2]
        if len(behind) < 2:
            return None
        is_line = found.start() > used and data.startswith(self._line, found.start() - 1)
        if not is_line or behind not in (b"--", b"\r\n"):
            raise InvalidRequest("A line of the form begins with its boundary and is none.")
        self._is_over = behind == b"--"
        return found.start() - 1

    def _is_model(self, head: bytes, at: int) -> bool:
        """Whether `head`, which stands `at` there in the form, is of the part that names the model."""
        fields = _fields(head)
        named = _parameters(fields[b"content-disposition"].removeprefix(b"form-data")) or {}
        single = _SINGLE_QUOTED.search(head)
        if named[b"name"] != b"model" and single is None:
            # some reader takes it for `model`: without regard to case, escapes, blanks and quotes, or as a list
            name = unquote_to_bytes(named[b"name"])
            plain = re.split(rb"[\[\0]", name.lower())[0]
            if plain.strip(_AROUND_NAME) == b"model":
                raise InvalidRequest(
                    'A part of the form has a name that may be read as `model`. Write it as name="model".',
                    param="model",
                )
            self._check_name(name.decode("utf-8", "replace"))
            return False
        if self.has_named:
            raise InvalidRequest("The form holds `model` twice; send it once.", param="model")
        kind, coding = fields.get(b"content-type"), fields.get(b"content-transfer-encoding", b"7bit")
        is_text = kind is None or _PLAIN_TEXT.fullmatch(kind) is not None
        if len(named) > 1 or not is_text or coding.lower() not in _PLAIN_CODING:
            raise InvalidRequest("`model` must be a plain text in the form, not a file.", param="model")
        self.has_named = True
        self.quoted = None if single is None else (at + single.start(1), at + single.end(1))
        return True


def _fields(head: bytes) -> dict[bytes, bytes]:
    """The lines of a part's head by name, with one content-disposition that names the part; raises InvalidRequest."""
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        found = _FIELD.fullmatch(line)
        if found is None or found[1].lower() in fields:
            raise _unclear("a line that is folded, repeated or no header field")
        fields[found[1].lower()] = found[2].rstrip()
    disposition = fields.get(b"content-disposition", b"")
    parameters = _parameters(disposition[len(b"form-data") :]) if disposition.startswith(b"form-data;") else None
    if parameters is None or b"name" not in parameters or b"\\" in parameters[b"name"]:
        raise _unclear('no plain `Content-Disposition: form-data; name="..."`')
    return fields


def _parameters(text: bytes) -> dict[bytes, bytes] | None:
    """The parameters in `text`, such as `; name="a"; filename=b`; None where it is anything else, or has one twice."""
    if _PARAMETERS.fullmatch(text) is None:
        return None
    found: dict[bytes, bytes] = {}
    for name, quoted, token in _PARAMETER.findall(text):
        if name in found or name in (b"name*", b"boundary*") or _HIDDEN_NAME.search(quoted):
            return None
        found[name] = quoted or token
    return found


def _unclear(what: str) -> InvalidRequest:
    return InvalidRequest(f"A part of the form has {what} in its head; forms are read strictly (RFC 7578).")
