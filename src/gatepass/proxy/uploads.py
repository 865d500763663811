"""Relay multipart forms (RFC 7578) to an upstream without holding the file in memory.

`MultipartUpload` reads the client's body and keeps its beginning, `EditedUpload` is the body for one attempt, and
`MultipartScan` finds the part that names the model (sans-I/O). Parsers of forms differ in what they accept: bare line
feeds, folded lines, a backslash before a quote, a repeated name. gatepass must not check another model than the
upstream uses, so it rejects every form that two parsers could read differently.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gatepass.config.model import Limits
from gatepass.errors import InvalidRequest, Overloaded
from gatepass.normalize.rules import ADDED
from gatepass.protocols.request import checked_model
from gatepass.proxy.in_flight import RequestMemory
from gatepass.types import Headers, Operation, header

KEPT_BYTES = 1024 * 1024
"""Bytes of a form that are always kept, to search them for the model and to send them again after a 401."""

SCANNED_BYTES = 8 * 1024
"""Bytes of a form that are scanned before the event loop runs. Heads of parts take up to 0.8 µs a byte."""

Edit = tuple[int, int, bytes]
"""Start and end of a span of the form, and the bytes that replace it."""


class MultipartUpload:
    """The form as the client sends it, read piece by piece. `model` is the model it names, None until it was read.

    A form of at most `limits.body_bytes` is kept until its model is known, because many clients send the file first.
    Forms of an `operation` without a model are not searched for one.
    """

    def __init__(
        self,
        read_piece: Callable[[int], Awaitable[bytes]],
        operation: Operation,
        limits: Limits,
        scan: MultipartScan,
        length_bytes: int | None,
        memory: RequestMemory | None = None,
    ) -> None:
        """`read_piece` is that of the `RequestCycle`. `memory` counts the bytes that are kept; None: nothing does."""
        self.length_bytes = length_bytes
        self.memory = memory
        self.bytes_in = 0
        self.is_whole = self.has_begun = self.model_is_late = False
        self._read_piece = read_piece
        self._operation = operation
        self._limit_bytes = limits.upload_bytes
        self._scan = scan
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._search_bytes = self._keep_bytes = KEPT_BYTES
        if length_bytes is None or length_bytes <= limits.body_bytes:
            self._search_bytes = max(KEPT_BYTES, limits.body_bytes)

    @property
    def model(self) -> str | None:
        return self._scan.model

    @property
    def is_kept(self) -> bool:
        """Whether all bytes that were read are still kept."""
        return bool(self._kept) and self._kept_bytes <= self._keep_bytes

    async def begin(self) -> None:
        """Read until the model is known or the bytes to search are used up; without a model read one piece."""
        if not self._operation.names_model:
            await self.read()
            return
        while self.model is None and not self.is_whole:
            # a `model` that is cut at the end of the searched bytes is still read
            if self._kept_bytes >= self._search_bytes and not (self._scan.has_named or self._scan.in_head):
                return
            await self.read()

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end.

        Raises: the errors of `RequestCycle.read_piece` and MultipartScan, InvalidRequest for a `model` that arrives
        after the form was routed without it, and Overloaded if the piece must be kept and does not fit.
        """
        piece = await self._read_piece(self._limit_bytes)
        self.is_whole = not piece
        self.bytes_in += len(piece)
        for at in range(0, len(piece), SCANNED_BYTES):
            if at:
                await asyncio.sleep(0)
            self._scan.feed(piece[at : at + SCANNED_BYTES])
        if self.is_whole:
            self._scan.finish()
        if self.has_begun and self._scan.has_named and self.model_is_late:
            raise InvalidRequest(
                f"`model` follows too late in the form: gatepass had already sent its beginning. {self._advice()}",
                param="model",
            )
        self._kept_bytes += len(piece)
        if not self.has_begun or self._kept_bytes <= self._keep_bytes:
            try:
                if self.memory is not None:
                    self.memory.claim(len(piece))
            except Overloaded:
                if not self.has_begun:
                    raise
                self._drop()  # the upstream has the beginning, so the rest is sent without being kept
            else:
                self._kept.append(piece)
        elif self._kept:
            self._drop()
        return piece

    def _drop(self) -> None:
        self._kept.clear()  # a beginning alone cannot be sent again
        self._keep_bytes = 0
        if self.memory is not None:
            self.memory.release()

    def begin_sending(self) -> bytes:
        if not self.has_begun:
            self.has_begun, self.model_is_late = True, self._operation.names_model and not self._scan.has_named
            self._keep_bytes = max(KEPT_BYTES, self._kept_bytes)
        self._kept = [b"".join(self._kept)] if self._kept else []  # joined once, also for a second attempt
        return self._kept[0] if self._kept else b""

    def as_model(self, name: str | None) -> EditedUpload:
        """Return the form with its model replaced by `name`, or added as its first part. None changes nothing."""
        if not self._operation.names_model:
            return EditedUpload(self)
        if self._scan.span is not None:
            edits: list[Edit] = [] if self._scan.quoted is None else [(*self._scan.quoted, IN_QUOTES)]
            if name is not None and name != self.model:
                edits.append((*self._scan.span, name.encode()))
            return EditedUpload(self, tuple(edits))
        if not name:
            return EditedUpload(self)
        return EditedUpload(self, ((self._scan.start, self._scan.start, self._scan.model_part(name)),), (ADDED,))

    def unrouted_error(self) -> InvalidRequest:
        """Return the error for a form that cannot be routed, because its kept beginning names no model."""
        return InvalidRequest(
            f"The first {self._kept_bytes} bytes of the form name no `model`, and gatepass keeps no more of it."
            f" {self._advice()}",
            param="model",
        )

    def _advice(self) -> str:
        setting = f"operations.{self._operation.name}.model"
        return f"Send `model` before the file, or omit it and set {setting} in the gatepass configuration."


@dataclass(frozen=True, slots=True)
class EditedUpload:
    """An Upload for one attempt: the kept bytes with `edits` applied in order, then the rest of the client's body."""

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
        head = self.upload.begin_sending()
        for start, end, text in reversed(self.edits):  # from the end, so that the other positions stay valid
            head = head[:start] + text + head[end:]
        if head:
            yield head
        while not self.upload.is_whole:
            if piece := await self.upload.read():
                yield piece


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
_SINGLE_QUOTED = re.compile(rb"^(?i:content-disposition):[ \t]*form-data; *name=('model')[ \t]*\r?$", re.MULTILINE)
"""In RFC 2045 (section 5.1) `'` is an ordinary character of an unquoted name; PHP and others treat it as a quote. The
name is sent on in double quotes, which all parsers read alike."""
IN_QUOTES = b'"model"'
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

    - `start`: the first delimiter, after the empty line that may precede it.
    - `model`: the value of the part, None until it is complete. `span`: the position of that value.
    - `quoted`: the position of a name in single quotes, which IN_QUOTES has to replace.
    - `has_named`: the head of the part was read. `in_head`: the head of some part is not complete.

    `check_name` is called with the name of every other part, and may raise. Raises InvalidRequest for a second `model`,
    and for any form that two parsers could read differently.
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
        self._rest = b"\r\n"  # makes the first delimiter look like all others; hence `_at` begins at -2
        self._at = -2
        self._has_begun = False
        self._in_model = False
        self.in_head = False
        self._is_over = False
        self._delimiter_like = re.compile(rb"[\r\n]" + re.escape(self._mark))

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
        is_held = self.in_head or self._in_model or not self._has_begun
        keep = used if is_held else max(used, len(data) - len(self._line) - 2)
        self._at += keep
        self._rest = data[keep:]
        if self.in_head and len(self._rest) > HEAD_BYTES:
            raise InvalidRequest(f"The head of a part of the form is larger than {HEAD_BYTES} bytes.")
        if self._in_model and len(self._rest) > MODEL_BYTES:
            raise InvalidRequest(f"`model` is longer than {MODEL_BYTES} bytes.", param="model")

    def finish(self) -> None:
        """Handle the end of the body. Raises InvalidRequest if the form has no end delimiter."""
        if not self._is_over:  # only some parsers accept the last part of such a form
            raise InvalidRequest("The body ends before the form does, or is not a form with the announced boundary.")

    def model_part(self, name: str) -> bytes:
        """Return a part that names the model, to be inserted at `start`."""
        head = b'%b\r\nContent-Disposition: form-data; name="model"' % self._mark
        return b"%b\r\n\r\n%b\r\n" % (head, name.encode())

    def _check_start(self, data: bytes) -> None:
        # RFC 2046 (section 5.1.1) allows text before the first delimiter, but parsers differ in how they skip it
        lines = (self._line, b"\r\n" + self._line)
        if not (self._has_begun or any(line.startswith(data) for line in lines) or data.startswith(lines)):
            raise InvalidRequest("The form does not begin with its boundary.")

    def _step(self, data: bytes, used: int) -> int | None:
        """Parse one head or body of a part. Return the position after it, None if `data` does not hold all of it."""
        if self._is_over:
            return None
        if self.in_head:
            end = data.find(b"\r\n\r\n", used)
            first = data[end + 4 : end + 4 + len(self._mark)]
            if end < 0 or (len(first) < len(self._mark) and self._mark.startswith(first)):
                return None
            if first == self._mark:
                raise _ambiguous("no line break between its value and the boundary")
            self.in_head = False
            self._in_model = self._is_model(data[used + 2 : end], self._at + used + 2)
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
        self.in_head = True
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

    def _is_model(self, head: bytes, at: int) -> bool:
        """Whether `head`, at the position `at` of the form, belongs to the part that names the model."""
        fields = _fields(head)
        named = _parameters(fields[b"content-disposition"].removeprefix(b"form-data")) or {}
        single = _SINGLE_QUOTED.search(head)
        if named[b"name"] != b"model" and single is None:
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
        if self.has_named:
            raise InvalidRequest("The form contains `model` twice. Send it once.", param="model")
        kind, coding = fields.get(b"content-type"), fields.get(b"content-transfer-encoding", b"7bit")
        is_text = kind is None or _PLAIN_TEXT.fullmatch(kind) is not None
        if len(named) > 1 or not is_text or coding.lower() not in _PLAIN_CODING:
            raise InvalidRequest("`model` must be plain text in the form, not a file.", param="model")
        self.has_named = True
        self.quoted = None if single is None else (at + single.start(1), at + single.end(1))
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
