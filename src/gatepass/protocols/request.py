"""Parse a client request into a Call, and select the headers that may be sent to an upstream.

The top level of a JSON body is read in one pass; nothing below it is built as Python objects.
"""

from __future__ import annotations

import codecs
import re

import msgspec

from gatepass.errors import InvalidJson, InvalidRequest, UnsupportedHead
from gatepass.json_body import COUNTED_BYTES, TopLevel, check_signs, folded, kind, places, plain_ends, utf8_fault
from gatepass.types import (
    CREDENTIALS,
    HOP_BY_HOP,
    MAX_MODEL_CHARS,
    USUAL_CONNECTION,
    Call,
    ClientRequest,
    Headers,
    Operation,
    named_by_connection,
)

MOST_REQUESTED_CHOICES = 128

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHOWN_CHARS = 40


def decode(client_request: ClientRequest, operation: Operation, body: bytes, caller: str) -> Call:
    """Return the Call for `client_request` and its complete `body`, which the Call contains unchanged.

    Its headers are those that may be sent upstream (see `safe_headers`); a dialect selects from them. `model` is "" if
    the body names none. Raises the errors of `read_body`, and InvalidRequest.
    """
    headers = safe_headers(client_request.headers)
    top = read_body(body)
    options = [*map(top.values.get, ROUTING)]
    if msgspec.Raw in map(type, options):  # as in a large body: see TopLevel
        options = [*map(top.get, ROUTING)]
    named, stream, n = options
    model, choices = "", 1
    if "model" in top.values:
        if isinstance(named, msgspec.Raw) and kind(named) == '"':
            raise _long_model()
        if not isinstance(named, str):
            raise InvalidRequest("`model` must be a string.", param="model")
        model = checked_model(named)
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("`stream` must be true, false or null.", param="stream")
    if type(n) is int and 1 <= n <= MOST_REQUESTED_CHOICES:  # the upstream rejects an invalid number
        choices = n
    return Call(client_request.id, operation, caller, model, body, headers, bool(stream), choices, top=top)


def check_plain(headers: Headers) -> None:
    """Raise UnsupportedHead if a body is compressed (RFC 9110, section 8.4)."""
    listed = b",".join(value for name, value in headers if name == b"content-encoding").decode("latin-1").lower()
    codings = [coding for each in listed.split(",") if (coding := each.strip()) not in ("", "identity")]
    if codings:
        shown = ", ".join(codings)[:_SHOWN_CHARS]
        raise UnsupportedHead(
            "unsupported_encoding", f"gatepass does not read a body with content-encoding {shown!r}. Send it plain."
        )


def call_without_body(client_request: ClientRequest, operation: Operation, caller: str, model: str) -> Call:
    """Return the Call for a request whose body gatepass does not read; `model` is "" if there is none."""
    headers = safe_headers(client_request.headers)
    return Call(id=client_request.id, operation=operation, caller=caller, model=model, body=b"", headers=headers)


def checked_model(model: str) -> str:
    """Return `model`; raise InvalidRequest if it is empty, too long or has a control character."""
    if not model:
        raise InvalidRequest("`model` is empty.", param="model")
    if len(model) > MAX_MODEL_CHARS:
        raise _long_model()
    if not model.isprintable() and _CONTROL.search(model) is not None:  # isprintable is faster than the search
        raise InvalidRequest("`model` contains a control character.", param="model")
    return model


def _long_model() -> InvalidRequest:
    return InvalidRequest(f"`model` is longer than {MAX_MODEL_CHARS} characters.", param="model")


ROUTING = ("model", "stream", "n")
"""Members by which gatepass decides. gatepass and the upstream must read the same values."""
_ROUTING, _ROUTING_CHARS = frozenset(ROUTING), frozenset(map(len, ROUTING))
_PLAIN = {name: re.compile(b'"%b"[ \t\n\r]*:' % name.encode()) for name in ROUTING}
_FEW_NAMES = 100
_BACKSLASH, _ESCAPE = ord("\\"), rb"\u00"
"""The beginning of an escape of a letter. A search for a byte as an `int` takes a fifth of that for one as `bytes`."""

AT_BYTE = re.compile(r" \(byte (\d+)\)\Z")
HALF_PAIR = (
    *("unexpected end of hex escape", "invalid utf-16 surrogate pair"),
    "unexpected end of escaped utf-16 surrogate pair",
)
"""msgspec's messages. Within six bytes of the end it reports truncated data instead."""
_HALF_PAIR_AT_END = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}[^\\]{0,16}\}[ \t\r\n]*\Z")
_KINDS = {b"[": "an array", b'"': "a string", b"t": "true", b"f": "false", b"n": "null"}


def read_body(body: bytes) -> TopLevel:
    """Return the members of a request body, which is checked once.

    - Raises BodyTooComplex for a body that msgspec would read for too long, or with too many members (`json_body`).
    - Raises InvalidJson if `body` is not a JSON object in UTF-8, or is too deep for the decoder.
    - Raises InvalidRequest if a member of ROUTING occurs twice, in another case or with escapes.
    """
    if len(body) > COUNTED_BYTES:
        check_signs(body)
    try:
        top = TopLevel(body)
        if not body.isascii() and utf8_fault(body) is not None:
            raise _not_utf8(body)
    except msgspec.ValidationError:
        is_kind = _KINDS.get(body.lstrip()[:1], "a number")
        raise _not_utf8(body, InvalidJson(f"The body is {is_kind}. Send a JSON object.")) from None
    except msgspec.DecodeError as error:
        raise _not_utf8(body, InvalidJson(json_error(body, str(error)))) from None
    except UnicodeDecodeError:  # in a text that msgspec built
        raise _not_utf8(body) from None
    _check_routing_names(body, top)
    return top


def _not_utf8(body: bytes, other: InvalidJson | None = None) -> InvalidJson:
    """Return the error of a body that is not UTF-8, else the `other` one."""
    if (fault := utf8_fault(body)) is None:
        return other or InvalidJson("The body is not UTF-8 text.")
    return InvalidJson(f"The body is not UTF-8 text: {fault.reason} at byte {fault.start}.")


def json_error(body: bytes, reason: str) -> str:
    """Return the message for a `body` that msgspec rejected because of `reason`."""
    if not body or body.isspace():
        return "The body is empty. Send a JSON object."
    if body.startswith(codecs.BOM_UTF8):
        return "The body begins with a byte order mark. Send the JSON without it (RFC 8259 section 8.1)."
    fault = AT_BYTE.sub("", reason).removeprefix("JSON is malformed: ")
    position = AT_BYTE.search(reason)
    if fault in HALF_PAIR or _HALF_PAIR_AT_END.search(body[-32:]) is not None:
        where = position[1] if position is not None else len(body)
        return (
            f"The body contains half of a surrogate pair (\\ud800 to \\udfff alone) before byte {where}: "
            "a text was cut in the middle of a character."
        )
    if position is None:
        return f"The body is not complete JSON: it ends at byte {len(body)} in the middle of a value."
    return f"The body is not JSON: {fault.replace('object keys', 'member names')} at byte {position[1]}."


def _ambiguous(found: list[str]) -> InvalidRequest:
    """Return the error of a body with the names `found`, of which one is repeated or in another case."""
    if other := next((name for name in found if name not in ROUTING), None):
        name = folded(other)
        return InvalidRequest(
            f"The body contains `{other}`, which some servers read as `{name}`. Send only `{name}`.", param=name
        )
    name = max(found, key=found.count)
    return InvalidRequest(f"The body contains `{name}` {found.count(name)} times. Send it once.", param=name)


def _check_routing_names(body: bytes, top: TopLevel) -> None:
    names = top.names
    together = "".join(names) if len(names) == len(top.values) <= _FEW_NAMES else "\u017f"
    # nearly always none is repeated, and none to be folded
    if not (together.isascii() and together == together.lower()):
        found = [name for name in names if len(name) in _ROUTING_CHARS and folded(name) in ROUTING]
        if len(_ROUTING.intersection(found)) < len(found):
            raise _ambiguous(found)
    if _BACKSLASH not in body:
        return
    found = [name for name in ROUTING if name in top.values]
    ends = plain_ends(body)  # most bodies have these members there
    is_plain = all(any(_PLAIN[name].search(text) is not None for _, text in ends) for name in found)
    if not is_plain and _ESCAPE in body:
        for place in places(body, top.listed):
            if place.name in found and not body.startswith(f'"{place.name}"'.encode(), place.start):
                raise InvalidRequest(
                    f"The body spells `{place.name}` with escapes. Send it in plain letters.", param=place.name
                )


FRAMING = frozenset((b"host", b"content-length", b"content-encoding", b"accept-encoding", b"expect"))
"""Headers that describe only the client's message; the request to the upstream gets its own."""

UNDERSCORE = ord("_")

_NEVER = CREDENTIALS | FRAMING | HOP_BY_HOP


def safe_headers(headers: Headers) -> Headers:
    """Return `headers` without those that are never sent upstream. No setting can add them.

    These are the lists above, the headers that `Connection` names, and names with `_`. CGI-like servers read `_` as
    `-`, so `x_api_key` would be `x-api-key` to them. The upstream's allow-list and `forward_headers` select from the
    rest.
    """
    safe: list[tuple[bytes, bytes]] = []
    unusual: list[tuple[bytes, bytes]] = []
    for field in headers:  # one pass: three took 2 % of a small chat
        name = field[0]
        if name in _NEVER:
            if name == b"connection" and field not in USUAL_CONNECTION:
                unusual.append(field)
        elif UNDERSCORE not in name:
            safe.append(field)
    if unusual:
        named = named_by_connection(unusual)
        safe = [field for field in safe if field[0] not in named]
    return tuple(safe)
