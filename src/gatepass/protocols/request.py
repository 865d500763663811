"""Parse a client request into a Call, and select the headers that may be sent to an upstream.

The top level of a JSON body is read in one pass; nothing below it is built as Python objects.
"""

from __future__ import annotations

import codecs
import re
from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Self

import msgspec

from gatepass.errors import BodyTooComplex, InvalidJson, InvalidRequest, UnsupportedHead
from gatepass.json_body import SMALL_BYTES, folded
from gatepass.json_scan import (
    WINDOW_BYTES,
    JsonScanner,
    Member,
    has_more_escapes,
    names_in,
    signs_by_window,
    string,
    top_members,
)
from gatepass.normalize.rules import SEARCHED
from gatepass.types import (
    CREDENTIALS,
    HOP_BY_HOP,
    MAX_MODEL_BYTES,
    MAX_MODEL_CHARS,
    USUAL_CONNECTION,
    Call,
    ClientRequest,
    Headers,
    Hidden,
    Operation,
    named_by_connection,
)

MOST_REQUESTED_CHOICES = 128
MOST_VALUES = 500_000
"""Limit on the commas and brackets of a body above LARGE_BYTES: a million takes the event loop 10 ms. OpenAI accepts
300,000 token ids in one request. A chat of 14 MiB in messages of 100 bytes has 460,000 values."""
MOST_ESCAPES = 6_000_000
"""32 MiB of `\\uXXXX` have fewer. To read as many takes msgspec 28 ms, in which no other thread runs."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_QUOTE = ord('"')
_COUNT = re.compile(rb"[1-9][0-9]{0,2}")
_SHOWN_CHARS = 40
_STREAM = {None: False, b"null": False, b"false": False, b"true": True}


def decode(client_request: ClientRequest, operation: Operation, body: bytes, caller: str) -> Call:
    """Return the Call for `client_request` and its complete `body`, which the Call contains unchanged.

    Its headers are those that may be sent upstream (see `safe_headers`); a dialect selects from them. `model` is "" if
    the body names none. Raises InvalidJson and InvalidRequest, and BodyTooComplex for more than MOST_VALUES.
    """
    headers = safe_headers(client_request.headers)
    top = RequestBody.read(body)
    model, choices = "", 1
    if top.model is not None:
        if top.model[0] != _QUOTE:
            raise InvalidRequest("`model` must be a string.", param="model")
        if len(top.model) > MAX_MODEL_BYTES:  # to decode one of 27 MiB takes 90 ms
            raise _long_model()
        model = checked_model(string(top.model))
    stream = _STREAM.get(top.stream)
    if stream is None:
        raise InvalidRequest("`stream` must be true, false or null.", param="stream")
    n = top.n  # the upstream rejects an invalid number
    if n is not None and _COUNT.fullmatch(n) is not None and int(n) <= MOST_REQUESTED_CHOICES:
        choices = int(n)
    return Call(client_request.id, operation, caller, model, body, headers, stream, choices, top.lacks_words)


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


_TO_ARRAYS = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
_PASSES = 6
"""Most JSON consists of small objects, so six times the innermost brackets leave few of them."""


def is_deeper(text: bytes, limit: int) -> bool:
    """Whether arrays and objects in the valid JSON `text` are nested deeper than `limit`."""
    # A text with at most `limit` opening brackets is not, as most requests. What is left of a small one without them
    # shows their number, and a few searches that of a large one.
    left = limit
    if len(text) <= SMALL_BYTES:
        left -= 2 * len(text) - len(text.replace(b"{", b"")) - len(text.replace(b"[", b""))
    else:
        for opener in (b"{", b"["):
            at = text.find(opener)
            while at >= 0 and left >= 0:
                left, at = left - 1, text.find(opener, at + 1)
    if left >= 0:
        return False
    level = 0
    for signs in signs_by_window(text):
        level, is_deeper = _level_after(signs, level, limit)
        if is_deeper:
            return True
    return False


def _level_after(signs: bytes, level: int, limit: int) -> tuple[int, bool]:
    """Return the level after `signs`, which begin at `level`, and whether they exceed `limit`."""
    brackets = signs.translate(_TO_ARRAYS, b",")
    after = level + 2 * brackets.count(b"[") - len(brackets)
    if len(brackets) <= limit - level:
        return after, False
    outer, passes = brackets, 0
    while passes < _PASSES and len(inner := outer.replace(b"[]", b"")) < len(outer):
        is_slow = len(inner) > len(outer) * 7 // 8
        outer, passes = inner, passes + 1
        if is_slow:
            break
    if level + outer.count(b"[") + passes <= limit:
        return after, False
    return after, max(accumulate(array("b", brackets.translate(_STEPS)), initial=level)) > limit


MAX_DEPTH = 64
LARGE_BYTES = 256 * 1024
"""A larger body is read in another way (`RequestBody.read`)."""

ROUTING = ("model", "stream", "n")
"""Members by which gatepass decides. gatepass and the upstream must read the same values."""


# A struct, because a malicious body could make a dict of all members many times larger than the body.
class _Top(msgspec.Struct, gc=False):
    """The members of the top level that every operation reads."""

    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    n: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_TOP = msgspec.json.Decoder(_Top)
_SOUGHT = (*ROUTING, *(word for rule in SEARCHED for word in rule.words))
_INITIALS = "".join(dict.fromkeys(name[0] + name[0].upper() for name in _SOUGHT)).encode()
_RESTS = "|".join(f'{name[1:]}"' if len(name) > 1 else f'(?<={name})"' for name in _SOUGHT).encode()
_NAMES = re.compile(rb'"[%b](?i:%b)' % (_INITIALS, _RESTS))
"""The names of ROUTING and the words of the built-in rules in any case, because one search takes half as long as two.
The initials come first, because most quotes precede another letter. A name with the initial of another one is found
too, and only costs a closer look."""
_ROUTING_NAMES = frozenset(f'"{name}"'.encode() for name in ROUTING)
_UNSET = msgspec.UNSET
AT_BYTE = re.compile(r" \(byte (\d+)\)\Z")
HALF_PAIR = ("unexpected end of hex escape", "invalid utf-16 surrogate pair")
"""msgspec's messages. Within six bytes of the end it reports truncated data instead."""
_HALF_PAIR_AT_END = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}[^\\]{0,16}\}[ \t\r\n]*\Z")
_KINDS = {b"[": "an array", b'"': "a string", b"t": "true", b"f": "false", b"n": "null"}


class RequestBody(Hidden, msgspec.Struct, frozen=True, gc=False):
    """A request body, and the JSON text of the top-level members that gatepass reads, or None."""

    body: bytes
    model: bytes | None
    stream: bytes | None
    n: bytes | None
    lacks_words: bool = False
    """As in Call."""

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Read a body.

        - Raises BodyTooComplex for a body above LARGE_BYTES with more than MOST_VALUES (see `has_more_values`) or
          MOST_ESCAPES, or with too many members (see `top_members`).
        - Raises InvalidJson if `body` is not a JSON object in UTF-8 or is nested deeper than MAX_DEPTH.
        - Raises InvalidRequest if a member of ROUTING occurs twice, in another case or with escapes.
        """
        if len(body) > LARGE_BYTES:
            return cls._read_large(body)
        if not body.isascii():
            _check_utf8(body)
        top = top_level(body)
        if is_deeper(body, MAX_DEPTH):
            raise too_deep()
        model, stream, n = top.model, top.stream, top.n
        present, found = (model is not _UNSET) + (stream is not _UNSET) + (n is not _UNSET), names_in(body, _NAMES)
        # the decoder found each present one by its plain name
        lacks_words = found is not None and len(found) == present
        if not lacks_words and (found is None or sum(name.lower() in _ROUTING_NAMES for name in found) > present):
            _check_routing_names(body, JsonScanner(body).members())
        return cls(
            body,
            None if model is msgspec.UNSET else bytes(model),
            None if stream is msgspec.UNSET else bytes(stream),
            None if n is msgspec.UNSET else bytes(n),
            lacks_words,
        )

    @classmethod
    def _read_large(cls, body: bytes) -> Self:
        """Read the top level in one pass, because to search a large body for names takes longer."""
        if has_more_escapes(body, MOST_ESCAPES):
            raise BodyTooComplex(f"The body has more than {MOST_ESCAPES} backslashes. Send fewer in one request.")
        level, is_deeper, left = 0, False, MOST_VALUES
        for signs in signs_by_window(body, checks_names=True):
            left -= len(signs)
            if left < 0:
                reason = f"The body has more than {MOST_VALUES} commas and brackets outside of its texts"
                raise BodyTooComplex(f"{reason}. Send less structure in one request.")
            if not is_deeper:
                level, is_deeper = _level_after(signs, level, MAX_DEPTH)
        if not body.isascii():
            _check_utf8(body)
        try:
            members = top_members(body)
        except (msgspec.DecodeError, RecursionError):
            top_level(body)  # names the fault
            raise
        if is_deeper:
            raise too_deep()
        _check_routing_names(body, members)
        found = {one.name: body[one.value : one.end] for one in members if one.name in ROUTING}
        return cls(body, found.get("model"), found.get("stream"), found.get("n"))


def _check_utf8(body: bytes) -> None:
    # In windows, because one character beyond U+FFFF makes a str four times the size of its bytes.
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
        raise InvalidJson(f"The body is {kind}. Send a JSON object.") from None
    except msgspec.DecodeError as error:
        raise InvalidJson(json_error(body, str(error))) from None
    except RecursionError:
        raise too_deep() from None


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


def too_deep() -> InvalidJson:
    return InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _check_routing_names(body: bytes, members: Iterable[Member]) -> None:
    listed: dict[str, list[Member]] = {name: [] for name in ROUTING}
    for member in members:
        if (name := folded(member.name)) in listed:
            listed[name].append(member)
    for name, found in listed.items():
        if other := next((member.name for member in found if member.name != name), None):
            raise InvalidRequest(
                f"The body contains `{other}`, which some servers read as `{name}`. Send only `{name}`.", param=name
            )
        if len(found) > 1:
            raise InvalidRequest(f"The body contains `{name}` {len(found)} times. Send it once.", param=name)
        if found and not body.startswith(f'"{name}"'.encode(), found[0].start):
            raise InvalidRequest(f"The body spells `{name}` with escapes. Send it in plain letters.", param=name)


FRAMING = frozenset((b"host", b"content-length", b"content-encoding", b"accept-encoding", b"expect"))
"""Headers that describe only the client's message; the request to the upstream gets its own."""

UNDERSCORE = ord("_")
"""A number, because searching a name for `b"_"` takes 0.2 µs more (CPython 3.11): 1 % of a small chat in total."""

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
