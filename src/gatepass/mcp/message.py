"""Read the JSON-RPC message of a POST, leniently for the log and strictly for keys with lists.

`read_message` accepts everything. `check_message` refuses what an MCP server could read in another way than gatepass,
and what the lists of the key do not allow. `request_headers` are the fields that the server receives with it; those of
its replies are `dialects.base.ResponseHeaders`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import MappingProxyType
from typing import Literal

import msgspec

from gatepass import errors
from gatepass.dialects.base import forwarded
from gatepass.errors import InvalidJson, InvalidRequest, McpHeaderMismatch, McpNotAllowed
from gatepass.json_scan import folded, has_more_values, top_members
from gatepass.mcp.access import LONGEST_URI_CHARS, MOST_VALUES, Kind, McpAllowed
from gatepass.observability.story import action_of, case_of, names_of
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.error_objects import json_text, retry_after
from gatepass.types import MCP_UPSTREAM, Headers, Hidden, StreamedResponse, header, named_by_connection

LONGEST_NAME_CHARS = 200
"""Of a method or a name in a McpMessage, which the log shows."""
LONGEST_ID_BYTES = 256
MOST_URIS, MOST_URI_CHARS = 1_000, 64 * 1024
"""Subscriptions in one request of a key with lists, and the characters of all their URIs."""

_OF_MCP = frozenset((b"accept", b"last-event-id"))
_BOTH: Headers = ((b"accept", b"application/json, text/event-stream"),)
_STREAM: Headers = ((b"accept", b"text/event-stream"),)
_JSON: Headers = ((b"content-type", b"application/json"),)
_IDENTITY = (b"accept-encoding", b"identity")  # compression would delay the events of a stream

_BLANKS = b" \t\n\r"
_ABSENT = msgspec.Raw(b"")


class McpMessage(Hidden, msgspec.Struct, frozen=True, gc=False):
    """What a POST contains. `unreadable`: a batch, an id above LONGEST_ID_BYTES, or a body without a valid message."""

    kind: Literal["request", "notification", "response", "unreadable"]
    method: str = ""
    """At most LONGEST_NAME_CHARS of it."""
    name: str = ""
    """The name of a tool or a prompt, or the URI of a resource: at most LONGEST_NAME_CHARS of it."""
    id: bytes = b"null"
    """The JSON text of the id as the client sent it; `null` without an id."""


class _Envelope(msgspec.Struct, gc=False):
    id: msgspec.Raw = _ABSENT
    method: msgspec.Raw = _ABSENT
    params: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


class _Named(msgspec.Struct, gc=False):
    name: msgspec.Raw = _ABSENT
    uri: msgspec.Raw = _ABSENT


class _Tools(msgspec.Struct, gc=False):
    tools: list[_Named]


class _ToolList(msgspec.Struct, gc=False):
    result: _Tools


_TOOL_LIST = msgspec.json.Decoder(_ToolList)
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_NAMED = msgspec.json.Decoder(_Named)
_TEXT = msgspec.json.Decoder(str)
_TEXTS = msgspec.json.Decoder(list[str] | None)
_ANY = msgspec.json.Decoder()
UNREADABLE = McpMessage("unreadable")
_UNREADABLE_ERRORS = (ValueError, RecursionError)  # DecodeError and UnicodeDecodeError are ValueErrors
_NAMED_BY: Mapping[str, tuple[Kind, str]] = MappingProxyType(
    {
        "tools/call": ("tools", "name"),
        "prompts/get": ("prompts", "name"),
        "resources/read": ("resources", "uri"),
        "resources/subscribe": ("resources", "uri"),
        "resources/unsubscribe": ("resources", "uri"),
    }
)
"""The requests that name something, with the member of `params` that contains the name."""
LISTEN, COMPLETE, DISCOVER = "subscriptions/listen", "completion/complete", "server/discover"
LIST_TOOLS = "tools/list"
READS = frozenset(
    (
        *("initialize", "ping", "prompts/get", "prompts/list", "resources/list", "resources/read"),
        *("resources/templates/list", LIST_TOOLS, COMPLETE, DISCOVER),
    )
)
"""The requests that change nothing at the server, so that it may receive them twice."""
REQUESTS = READS | _NAMED_BY.keys() | {"logging/setLevel", LISTEN}
"""The requests of clients in all revisions from 2024-11-05 to 2026-07-28, without the experimental `tasks/`."""
NOTIFICATIONS = frozenset(
    (
        *("notifications/cancelled", "notifications/initialized", "notifications/progress"),
        "notifications/roots/list_changed",
    )
)
"""The notifications of clients in the same revisions."""


def read_message(body: bytes) -> McpMessage:
    """Return the message in `body`. If several members have the same name, the last one is used."""
    try:
        found = _ENVELOPE.decode(body)
        text = memoryview(found.id)
        # a string or a number
        identity = bytes(text) if 0 < text.nbytes <= LONGEST_ID_BYTES and text[0] in _IDS else None
        if not _size(found.method):
            is_reply = identity is not None and (_size(found.result) or _size(found.error))
            return McpMessage("response", id=identity or b"null") if is_reply else UNREADABLE
        method = _TEXT.decode(found.method)
    except _UNREADABLE_ERRORS:
        return UNREADABLE
    # a server may read the first of two methods: it must not execute a call that gatepass takes for a read or a stream
    if (method in READS or method == LISTEN) and not _names_once(body, "method"):
        return UNREADABLE
    if _size(found.id) > LONGEST_ID_BYTES:  # no error could answer it
        return McpMessage("unreadable", method[:LONGEST_NAME_CHARS])
    name = ""
    if method in _NAMED_BY:
        with suppress(*_UNREADABLE_ERRORS):  # absent, or not a text
            named = _NAMED.decode(found.params)
            name = _TEXT.decode(named.name if _NAMED_BY[method][1] == "name" else named.uri)
    kind: Literal["request", "notification"] = "request" if _size(found.id) else "notification"
    return McpMessage(kind, method[:LONGEST_NAME_CHARS], name[:LONGEST_NAME_CHARS], identity or b"null")


def is_response(data: bytes, request: McpMessage) -> bool:
    response = read_message(data)
    return (
        response.kind == "response"
        and request.kind == "request"
        and _ANY.decode(response.id) == _ANY.decode(request.id)
    )


def listed_tools(reply: bytes) -> list[str]:
    try:
        return [_TEXT.decode(tool.name)[:LONGEST_NAME_CHARS] for tool in _TOOL_LIST.decode(reply).result.tools]
    except _UNREADABLE_ERRORS:
        return []


def repeats_failed(message: McpMessage, body: bytes, repeat: Collection[str]) -> bool:
    """Whether `message` may be sent again after a failure, although the server may have executed it.

    `repeat` lists the tools that may run twice. False if `body` has a second method, params or name, which the server
    could read.
    """
    if message.method != "tools/call" or message.name not in repeat or not _names_once(body, "method", "params"):
        return False
    return _names_once(bytes(_ENVELOPE.decode(body).params), "name")


def _names_once(text: bytes, *names: str) -> bool:
    """Whether no member of the object `text` repeats one of `names`, for parsers that ignore case too."""
    members = [folded(member.name) for member in top_members(text)]
    return all(members.count(name) <= 1 for name in names)


def check_message(body: bytes, headers: Headers, allowed: McpAllowed) -> McpMessage:
    """Return the message in `body`, if every server must read it as gatepass does and `allowed` allows it.

    Raises InvalidJson, InvalidRequest, McpHeaderMismatch and McpNotAllowed.
    """
    if has_more_values(body, MOST_VALUES):
        raise InvalidRequest(f"The message has more than {MOST_VALUES} values. A key with lists accepts no more.")
    top = _members(body.lstrip(_BLANKS), "the body", ("jsonrpc", "id", "method", "params", "result", "error"))
    message = read_message(body)
    if message.kind == "unreadable" or (b"id" in top and message.id in (b"null", b"")):
        raise InvalidRequest(
            f"The body is not one JSON-RPC message with an id of at most {LONGEST_ID_BYTES} bytes. A key with lists"
            " accepts no other."
        )
    if message.kind == "response":
        _check_headers(headers, None, None, None)
        return message
    if b"result" in top or b"error" in top:
        raise InvalidRequest("The message has a method, and a result or an error too.")
    method = _TEXT.decode(top[b"method"])
    known = REQUESTS if message.kind == "request" else NOTIFICATIONS
    if method not in known:
        raise McpNotAllowed(
            f"A key with lists cannot send the {message.kind} {method[:LONGEST_NAME_CHARS]!r}. Use another key, or a"
            " method of the protocol.",
            param="method",
        )
    params = _object(top.get(b"params"), "params", ("name", "uri", "ref", "notifications", "_meta"))
    name = _text(params.get(_NAMED_BY[method][1].encode())) if method in _NAMED_BY else None
    meta = _object(params.get(b"_meta"), "params._meta", (_VERSION,))
    _check_headers(headers, method, name, _text(meta.get(_VERSION.encode())))
    for kind, named in _names(method, params):
        if not allowed.allows(kind, named):
            shown, word = named[:LONGEST_NAME_CHARS], kind.removesuffix("s")
            raise McpNotAllowed(
                f"This key may not use the {word} {shown!r}. Use another key, or add the {word} to access.keys[].mcp.",
                param=kind,
            )
    return message


def _names(method: str, params: Mapping[bytes, bytes]) -> Iterator[tuple[Kind, str]]:
    """Yield what a request names. Raises InvalidRequest for a name that is absent or not a text."""
    if method in _NAMED_BY:
        kind, member = _NAMED_BY[method]
        yield kind, _required(params, member, f"params.{member}")
    elif method == COMPLETE:
        ref = _object(params.get(b"ref"), "params.ref", ("type", "name", "uri"))
        sort = _required(ref, "type", "params.ref.type")
        if sort == "ref/prompt":
            yield "prompts", _required(ref, "name", "params.ref.name")
        elif sort == "ref/resource":
            yield "resources", _required(ref, "uri", "params.ref.uri")
        else:
            raise InvalidRequest("params.ref.type is neither ref/prompt nor ref/resource.", param="params.ref.type")
    elif method == LISTEN:
        wanted = _object(params.get(b"notifications"), "params.notifications", ("resourceSubscriptions",))
        listed = wanted.get(b"resourceSubscriptions", b"[]")
        if has_more_values(listed, MOST_URIS + 1):  # the commas between them and two brackets
            raise InvalidRequest(f"params.notifications.resourceSubscriptions has more than {MOST_URIS} URIs.")
        try:
            uris = _TEXTS.decode(listed) or ()
        except _UNREADABLE_ERRORS:
            raise InvalidRequest("params.notifications.resourceSubscriptions is not a list of texts.") from None
        if sum(map(len, uris)) > MOST_URI_CHARS:
            raise InvalidRequest(
                f"params.notifications.resourceSubscriptions has more than {MOST_URI_CHARS} characters."
            )
        for uri in uris:
            yield "resources", _bounded(uri, "params.notifications.resourceSubscriptions")


_VERSION = "io.modelcontextprotocol/protocolVersion"
_ROUTING = (b"mcp-method", b"mcp-name", b"mcp-protocol-version")


def _check_headers(headers: Headers, method: str | None, name: str | None, version: str | None) -> None:
    """Raise McpHeaderMismatch if a header and the body state different values, or a header states two."""
    stated: dict[bytes, bytes] = {}
    for field, value in headers:
        if field in _ROUTING:
            if field in stated:
                raise McpHeaderMismatch(f"The header {field.decode()} appears twice.")
            stated[field] = value
    for field, text in ((b"mcp-method", method), (b"mcp-name", name)):
        if field in stated and (_header_text(stated[field]) or None) != (text or ""):
            raise McpHeaderMismatch(f"The header {field.decode()} differs from the body. Send the same in both.")
    sent = stated.get(b"mcp-protocol-version")
    if version is not None and sent is not None and _header_text(sent) != version:
        raise McpHeaderMismatch("The header mcp-protocol-version differs from the body. Send the same in both.")


_ENCODED = re.compile(rb"=\?base64\?(.*)\?=\Z", re.DOTALL)


def _header_text(value: bytes) -> str | None:
    """Return the text of a header, which may be base64 (revision 2026-07-28); None if it is malformed."""
    found = _ENCODED.match(value)
    try:
        if found is None:
            return value.decode("ascii")
        text = base64.b64decode(found[1], validate=True)
        return text.decode() if base64.b64encode(text) == found[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _object(text: bytes | None, where: str, known: tuple[str, ...]) -> Mapping[bytes, bytes]:
    return {} if text is None or text == b"null" else _members(text, where, known)


def _members(text: bytes, where: str, known: tuple[str, ...]) -> Mapping[bytes, bytes]:
    """Return the values of an object by name. Raises InvalidJson, and InvalidRequest for an ambiguous name.

    A name appears once, and none differs from one of `known` only in case: some parsers ignore it.
    """
    if text[:1] == b"[":
        raise InvalidRequest(f"A key with lists cannot send a batch: {where} is a list.")
    try:
        listed = top_members(text)
    except _UNREADABLE_ERRORS:
        raise InvalidJson(f"For a key with lists, {where} must be one object in JSON.") from None
    found: dict[bytes, bytes] = {}
    spelled = {folded(name): name for name in known}
    for member in listed:
        name = member.name.encode("utf-8", "surrogatepass")
        if name in found:
            raise InvalidRequest(f"{member.name[:LONGEST_NAME_CHARS]!r} appears twice in {where}.")
        if spelled.get(folded(member.name), member.name) != member.name:
            raise InvalidRequest(f"{member.name[:LONGEST_NAME_CHARS]!r} in {where} differs from its name in case.")
        found[name] = text[member.value : member.end]
    return found


def _required(members: Mapping[bytes, bytes], name: str, where: str) -> str:
    text = _text(members.get(name.encode()))
    if text is None:
        raise InvalidRequest(f"{where} is not a text.", param=where)
    return _bounded(text, where)


def _bounded(text: str, where: str) -> str:
    if len(text) > LONGEST_URI_CHARS:
        raise InvalidRequest(f"{where} has more than {LONGEST_URI_CHARS} characters.", param=where)
    return text


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else _TEXT.decode(value)  # which stops at the first byte of another type
    except _UNREADABLE_ERRORS:
        return None


def _size(raw: msgspec.Raw) -> int:
    return memoryview(raw).nbytes


_IDS = frozenset(b'"-0123456789')


def request_headers(headers: Headers, forward_headers: Collection[str] = (), method: str = "POST") -> Headers:
    """Return the fields of a client's request that the MCP server receives.

    They are all `mcp-*`, `accept`, `last-event-id`, those of every operation, and `forward_headers`. The content type
    is always JSON: Express decodes a body by its `charset`, and so could read another message than gatepass did.
    Neither a credential, a cookie, `origin` nor a field that `connection` names is among them. Raises InvalidRequest if
    one of MCP, such as the session, is sent twice: gatepass and the server could read different ones.
    """
    named = named_by_connection(headers)
    sent = tuple([field for field in headers if field[0] not in named])
    # `_` could become `-` at a proxy behind gatepass, and the field another one that gatepass compared with the body
    own = [field for field in sent if field[0] in _OF_MCP or (field[0].startswith(b"mcp-") and b"_" not in field[0])]
    single = [field[0] for field in own if field[0] != b"accept"]
    if len(set(single)) < len(single):
        twice = next(name for name in single if single.count(name) > 1)
        raise InvalidRequest(f"The header {twice.decode('latin-1')[:100]} appears twice. Send it once.")
    missing: Headers = ()
    if header(sent, b"accept") is None:
        missing += _STREAM if method == "GET" else _BOTH
    if method == "POST":
        missing += _JSON
    return (*forwarded(sent, forward_headers), *own, *missing, _IDENTITY)


PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
"""Codes of JSON-RPC 2.0, section 5.1."""
HEADER_MISMATCH = -32020
"""A code of MCP, revision 2026-07-28."""


class McpProtocol(ClientProtocol):
    """The protocol of one request: errors answer its message.

    A request gets HTTP 200 if gatepass or the server failed: SDKs do not show the error of another status, and a 401
    would begin a login. Everything else gets the status of the error, and a 503 instead of a 401 that does not concern
    the key.
    """

    __slots__ = ("_message",)

    name = "mcp"

    def __init__(self, message: McpMessage) -> None:
        self._message = message

    def error_body(self, error: errors.GatepassError, request_id: str) -> bytes:
        data: dict[str, object] = {"code": error.public_code, "hop": error.hop}
        if isinstance(error, errors.UnknownPath):  # its documentation names the base URL of models
            data["action"] = "Use a URL `http://HOST/mcp/NAME`."
        else:
            case = case_of(error.code, error.hop, error.http_status, error.message)
            if action := action_of(error.code, error.hop, case, names_of(error.hop, "", "", "", error.message)):
                data["action"] = action
        if (wait_s := retry_after(error)) is not None:
            data["retry_after_s"] = wait_s
        if request_id:
            data["request_id"] = request_id
        inner = json_text({"code": _code(error), "message": error.message, "data": data})
        return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (self._message.id, inner)

    def error_status(self, error: errors.GatepassError) -> int:
        """Return 200 for a request that failed behind its HTTP layer."""
        if self._message.kind == "request" and (
            isinstance(error, errors.McpNotAllowed) or not isinstance(error, errors.CallerError)
        ):
            return HTTPStatus.OK
        if error.http_status == HTTPStatus.UNAUTHORIZED and not isinstance(error, errors.InvalidApiKey):
            return HTTPStatus.SERVICE_UNAVAILABLE
        return error.http_status

    def stream_error(self, error: errors.GatepassError, streamed: StreamedResponse, *, rewords: bool) -> bytes:
        """Return the last event of a stream: the error of its request. A drain and other streams end without one."""
        del rewords
        if self._message.kind != "request" or isinstance(error, errors.Draining):
            return b""
        return b"event: message\ndata: %b\n\n" % self.error_body(error, streamed.request_id)


def _code(error: errors.GatepassError) -> int:
    if isinstance(error, errors.McpNotAllowed):
        return METHOD_NOT_FOUND if error.param == "method" else INVALID_PARAMS
    kinds = {errors.McpHeaderMismatch: HEADER_MISMATCH, InvalidJson: PARSE_ERROR, errors.CallerError: INVALID_REQUEST}
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), INTERNAL_ERROR)


def name_settings(error: errors.GatepassError, name: str) -> None:
    """Let the text of `error`, which names settings of an upstream, name those of the MCP server `name`."""
    if MCP_UPSTREAM in error.message:
        prefix, mcp = f"upstreams.{MCP_UPSTREAM}{name}", f"mcp.{name}"
        message = error.message.replace(
            f"{prefix}.base_url does not end with the version, such as https://host/v1, or it does not support this"
            " operation.",
            f"it is not an MCP endpoint. Check {mcp}.url.",
        )
        error.message = message.replace(f"{prefix}.base_url", f"{mcp}.url").replace(prefix, mcp)
