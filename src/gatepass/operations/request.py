"""The top level of a JSON object body, read in one pass; nothing below it is built.

One client request ─► Call, for the operations whose body is a JSON object with a `model`.

Which request headers of a client may leave gatepass at all.
"""

from __future__ import annotations

import codecs
import re
from array import array
from collections.abc import Iterator
from itertools import accumulate
from typing import Self

import msgspec

from gatepass.errors import InvalidJson, InvalidRequest, UnsupportedEncoding
from gatepass.json_scan import MOST_STEPS, JsonScanner, Member, ScannedBody, folded, occurs_at_most, string
from gatepass.types import (
    CREDENTIALS,
    HOP_BY_HOP,
    KEEPS_ALIVE,
    Call,
    ClientProtocol,
    ClientRequest,
    EmbeddingsOptions,
    Headers,
    Operation,
    count_inputs,
    named_by_connection,
)

MAX_MODEL_CHARS = 512
MAX_CHOICES = 128

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_QUOTE = ord('"')
_COUNT = re.compile(rb"[1-9][0-9]{0,2}")
_STREAM = {None: False, b"null": False, b"false": False, b"true": True}


def decode(
    client_request: ClientRequest, operation: Operation, body: bytes, caller: str, most_steps: int = MOST_STEPS
) -> Call:
    """The Call that `client_request` and its whole `body` stand for. Its body is `body` itself.

    Its headers are all that may go upstream at all (see `safe_headers`): whoever encodes the request
    for an upstream picks from them. `model` is "" where the body names none.
    Raises UnsupportedEncoding, InvalidJson and InvalidRequest, and TooManySteps where the body takes more than
    `most_steps` (see Walk).
    """
    headers = safe_headers(client_request.headers, is_read=True)
    document = RequestBody.read(
        body, asks_vectors=operation.protocol is ClientProtocol.EMBEDDINGS, most_steps=most_steps
    )
    model, choices = _model(document.model), 1
    stream = _STREAM.get(document.stream)
    if stream is None:
        raise InvalidRequest("`stream` must be true, false or null.", param="stream")
    n = document.n  # where it is no count, the upstream says so and not we
    if n is not None and _COUNT.fullmatch(n) is not None and int(n) <= MAX_CHOICES:
        choices = int(n)
    return Call(
        client_request.id, operation, caller, model, body, headers, stream, choices, embeddings=document.embeddings
    )


def without_body(client_request: ClientRequest, operation: Operation, caller: str, model: str) -> Call:
    """The Call of a request whose body gatepass does not read; `model` is "" where there is none."""
    headers = safe_headers(client_request.headers)
    return Call(id=client_request.id, operation=operation, caller=caller, model=model, body=b"", headers=headers)


def _model(raw: bytes | None) -> str:
    if raw is None:
        return ""
    if raw[0] != _QUOTE:
        raise InvalidRequest("`model` must be a string.", param="model")
    return checked_model(string(raw))


def checked_model(model: str) -> str:
    """`model` itself; raises InvalidRequest for what is no name."""
    if not model:
        raise InvalidRequest("`model` is empty.", param="model")
    if len(model) > MAX_MODEL_CHARS:
        raise InvalidRequest(f"`model` is longer than {MAX_MODEL_CHARS} characters.", param="model")
    if not model.isprintable() and _CONTROL.search(model) is not None:  # what is printable holds none
        raise InvalidRequest("`model` holds a control character.", param="model")
    return model


_WINDOW = re.compile(rb".{1,262144}+\\*+[^\\]?+", re.DOTALL)
"""256 KiB and whatever it takes not to end inside an escape."""

_ESCAPED_SIGN = re.compile(rb'\\["\\]')
MOST_ESCAPED_SIGNS = 2_000

_OPENERS = b"{", b"["
_BRACKETS = b"{[}]"
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\x01\xff\xff")
_OTHER = bytes(byte for byte in range(256) if byte not in _BRACKETS + b'"')


def is_deeper(text: bytes, limit: int) -> bool:
    """Whether arrays and objects stand more than `limit` deep in `text`, which a parser has accepted.

    A text with no more than `limit` opening brackets cannot be; that settles the usual request with
    a few searches for one byte each.
    """
    find, left = text.find, limit
    for sign in _OPENERS:
        at = find(sign)
        while at >= 0:
            left -= 1
            if left < 0:
                return any(level > limit for level in _deepest_by_window(text))
            at = find(sign, at + 1)
    return False


def _deepest_by_window(text: bytes) -> Iterator[int]:
    """The deepest level in each window: brackets inside strings left out, memory bounded by the window."""
    level, is_inside = 0, False
    for window in _WINDOW.finditer(text):
        # the brackets and the quotes that open or close strings
        marks = _unescaped(window[0]).translate(None, _OTHER)
        parts = (b'"' + marks if is_inside else marks).replace(b'""', b"").split(b'"')
        is_inside = len(parts) % 2 == 0
        steps = array("b", b"".join(parts[::2]).translate(_STEPS))
        yield max(accumulate(steps, initial=level))
        level += sum(steps)


def _unescaped(text: bytes) -> bytes:
    """`text` with another sign in the place of each escaped quote and backslash.

    The pattern takes half as long as `replace` where there are few, and ten times as long where there are many. A
    replacement as long as what it replaces is made in place, at twice the speed of one that shortens (CPython 3.11).
    """
    if b"\\" not in text:
        return text
    changed, count = _ESCAPED_SIGN.subn(b"__", text, MOST_ESCAPED_SIGNS)
    if count < MOST_ESCAPED_SIGNS:
        return changed
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


MAX_DEPTH = 64
WINDOW_BYTES = 64 * 1024
LISTED_BYTES = 128 * 1024
"""The inputs of a larger body are not listed: a list of the shortest takes thirty times as much as its text."""
BEGINNING_BYTES = 1024
"""So much of a body is looked at for a list of texts."""

ROUTING = ("model", "stream", "n")
"""What gatepass decides by. Two parsers that read different values here would part ways. Go's encoding/json, and with
it Ollama, one-api and new-api, reads names without regard to case and takes the last."""


class _Top(msgspec.Struct, gc=False):
    """A struct, since a dict of all members takes many times the size of a body made for that."""

    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    n: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _TopOfInputs(_Top, gc=False, kw_only=True):
    """Of an embeddings request with a list of texts: a second pass would cost as much as the first."""

    input: list[msgspec.Raw]
    dimensions: msgspec.Raw = msgspec.Raw(b"")
    encoding_format: msgspec.Raw = msgspec.Raw(b"")


_TOP = msgspec.json.Decoder(_Top)
_TOP_OF_INPUTS = msgspec.json.Decoder(_TopOfInputs)
_TEXTS = re.compile(rb'"input"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*"')
_PLAIN = tuple(f'"{name}"'.encode() for name in ROUTING)
_INITIALS = "".join(name[0] + name[0].upper() for name in ROUTING).encode()
_NAMES = re.compile(rb'"[%b](?i:%b)' % (_INITIALS, "|".join(f'(?<={name[0]}){name[1:]}"' for name in ROUTING).encode()))
"""Most quotes stand before another letter: without a look at it each name would be tried there, in any case."""
_UNSET = msgspec.UNSET
_AT_BYTE = re.compile(r" \(byte (\d+)\)\Z")
HALF_PAIR = ("unexpected end of hex escape", "invalid utf-16 surrogate pair")
"""How msgspec puts it; within six bytes of the end it speaks of truncated data instead."""
_HALF_PAIR_AT_END = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}[^\\]{0,16}\}[ \t\r\n]*\Z")
_KINDS = {b"[": "an array", b'"': "a string", b"t": "true", b"f": "false", b"n": "null"}


class RequestBody(msgspec.Struct, frozen=True, gc=False):
    """A request body, and the top-level members that gatepass reads: as they are written, None where absent."""

    body: bytes
    model: bytes | None
    stream: bytes | None
    n: bytes | None
    embeddings: EmbeddingsOptions | None = None

    @classmethod
    def read(cls, body: bytes, *, asks_vectors: bool = False, most_steps: int = MOST_STEPS) -> Self:
        """`asks_vectors`: it is an embeddings request, so `options` is read too where that costs nothing.
        `most_steps`: see Walk.

        Raises InvalidJson for what is no JSON object in UTF-8, or nested deeper than 64, and
        InvalidRequest where a member of ROUTING stands twice, in another case, or is spelled with escapes.
        """
        if type(body) is ScannedBody:
            return cls._of_scanned(body)
        if not body.isascii():
            _check_utf8(body)
        top, options = _of_inputs(body) if asks_vectors else (top_level(body), None)
        if is_deeper(body, MAX_DEPTH):
            raise too_deep()
        model, stream, n = top.model, top.stream, top.n
        present = (model is not _UNSET) + (stream is not _UNSET) + (n is not _UNSET)
        if not occurs_at_most(body, _NAMES, present):  # the decoder read each present one by its plain name
            _check_routing_names(body, most_steps)
        return cls(
            body,
            None if model is msgspec.UNSET else bytes(model),
            None if stream is msgspec.UNSET else bytes(stream),
            None if n is msgspec.UNSET else bytes(n),
            options,
        )

    @classmethod
    def _of_scanned(cls, body: ScannedBody) -> Self:
        _check_routing_names(body)
        spans = {member.name: slice(member.value, member.end) for member in body.members}
        found = {name: body[spans[name]] for name in (*ROUTING, "encoding_format", "dimensions") if name in spans}
        options = None
        if body.inputs is not None:
            encoding, dimensions = (msgspec.Raw(found.get(name, b"")) for name in ("encoding_format", "dimensions"))
            options = EmbeddingsOptions.from_members(body.inputs, encoding, dimensions)
        return cls(body, found.get("model"), found.get("stream"), found.get("n"), options)


def _check_utf8(body: bytes) -> None:
    """In windows: a single character beyond Latin-1 makes a str four times the size of its bytes."""
    view, at = memoryview(body), 0
    try:
        while at < len(body):
            end = at + WINDOW_BYTES
            at += codecs.utf_8_decode(view[at:end], "strict", end >= len(body))[1]
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not UTF-8 text: {error.reason} at byte {at + error.start}.") from None


def top_level(body: bytes) -> _Top:
    try:
        return _TOP.decode(body)
    except msgspec.ValidationError:
        kind = _KINDS.get(body.lstrip()[:1], "a number")
        raise InvalidJson(f"The body is {kind} where a JSON object was expected.") from None
    except msgspec.DecodeError as error:
        raise InvalidJson(json_error(body, str(error))) from None
    except RecursionError:
        raise too_deep() from None


def _of_inputs(body: bytes) -> tuple[_Top, EmbeddingsOptions | None]:
    """What it asks for comes along where that is a list of texts, as most are; else a second pass tells, if there is an
    answer (see `Call.wishes`)."""
    if len(body) > LISTED_BYTES or _TEXTS.search(body, 0, BEGINNING_BYTES) is None:
        return top_level(body), None
    try:
        top = _TOP_OF_INPUTS.decode(body)
    except (msgspec.DecodeError, RecursionError):  # `input` stands twice, or this is no request at all
        return top_level(body), None
    return top, EmbeddingsOptions.from_members(count_inputs(top.input), top.encoding_format, top.dimensions)


def json_error(body: bytes, said: str) -> str:
    if not body or body.isspace():
        return "The body is empty where a JSON object was expected."
    if body.startswith(codecs.BOM_UTF8):
        return "The body begins with a byte order mark: send the JSON without it (RFC 8259 section 8.1)."
    reason = _AT_BYTE.sub("", said).removeprefix("JSON is malformed: ")
    place = _AT_BYTE.search(said)
    if reason in HALF_PAIR or _HALF_PAIR_AT_END.search(body[-32:]) is not None:
        where = place[1] if place is not None else len(body)
        return (
            f"The body holds half of a surrogate pair (\\ud800 to \\udfff alone) before byte {where}: "
            "a text was cut in the middle of a character."
        )
    if place is None:
        return f"The body is not complete JSON: it ends at byte {len(body)} in the middle of a value."
    return f"The body is not JSON: {reason.replace('object keys', 'member names')} at byte {place[1]}."


def too_deep() -> InvalidJson:
    return InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _check_routing_names(body: bytes, most_steps: int = MOST_STEPS) -> None:
    listed: dict[str, list[Member]] = {name: [] for name in ROUTING}
    for member in JsonScanner(body, most_steps).members():
        if (name := folded(member.name)) in listed:
            listed[name].append(member)
    for name, plain in zip(ROUTING, _PLAIN, strict=True):
        _check_spelling(body, name, plain, listed[name])


def _check_spelling(body: bytes, name: str, plain: bytes, listed: list[Member]) -> None:
    if other := next((member.name for member in listed if member.name != name), None):
        raise InvalidRequest(
            f"The body holds `{other}`, which some servers read as `{name}`; send `{name}` alone.", param=name
        )
    if len(listed) > 1:
        raise InvalidRequest(f"The body holds `{name}` {len(listed)} times; send it once.", param=name)
    if listed and not body.startswith(plain, listed[0].start):
        raise InvalidRequest(f"The body spells `{name}` with escapes; send it in plain letters.", param=name)


FRAMING = frozenset((b"host", b"content-length", b"content-encoding", b"accept-encoding", b"expect"))
"""True of the first hop's message only; the second hop gets its own."""

UNDERSCORE = ord("_")
"""A number, because searching a name for `b"_"` takes 0.2 µs more (CPython 3.11): 1 % of a small chat in all."""

_NEVER = CREDENTIALS | FRAMING | HOP_BY_HOP
_TELLING = frozenset((b"connection", b"content-encoding"))
"""Of `_NEVER`, the ones whose value has a say here."""


def safe_headers(headers: Headers, *, is_read: bool = False) -> Headers:
    """`headers` without those that must not go upstream, whatever a configuration says.

    Gone are the lists above, what `Connection` names, and names with `_`, which CGI-like servers
    read as `-` (so that `x_api_key` would pass for `x-api-key`). What is left is what an upstream's
    allow-list and its `forward_headers` choose from. `is_read`: the body is, so raises what `check_encoding` does.

    In one pass: three of them were 2 % of a small chat.
    """
    safe: list[tuple[bytes, bytes]] = []
    telling: list[tuple[bytes, bytes]] = []
    for field in headers:
        name = field[0]
        if name in _NEVER:
            if name in _TELLING and field != KEEPS_ALIVE:
                telling.append(field)
        elif UNDERSCORE not in name:
            safe.append(field)
    if telling:
        if is_read:
            check_encoding(tuple(telling))
        named = named_by_connection(telling)
        safe = [field for field in safe if field[0] not in named]
    return tuple(safe)


def check_encoding(headers: Headers) -> None:
    """Raises UnsupportedEncoding for a compressed body: rules read it, and nothing bounds what it unfolds to."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            shown = value.decode("latin-1")[:40]
            raise UnsupportedEncoding(f"A request body with content-encoding {shown!r} is not read; send it plain.")
