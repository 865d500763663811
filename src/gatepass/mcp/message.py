"""Read the JSON-RPC message of a POST, and write errors as its answer.

`read_message` accepts everything. `request_headers` are the fields that the server receives with it; those of its
replies are `dialects.base.ResponseHeaders`.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Literal

import msgspec

from gatepass import errors
from gatepass.dialects.base import IDENTITY, forwarded
from gatepass.errors import InvalidJson, InvalidRequest
from gatepass.json_body import OBJECT, folded, members, string
from gatepass.json_body import kind as first_char
from gatepass.mcp.access import CALL_TOOL
from gatepass.observability.story import advice_of, names_of
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.error_objects import error_text, retry_after
from gatepass.types import USUAL_CONNECTION, Headers, Hidden, StreamedResponse, named_by_connection

LONGEST_NAME_CHARS = 200
"""Of a method or a tool in a McpMessage, which the log shows."""
LONGEST_ID_BYTES = 256
LONGEST_ERROR_CHARS = 500
"""Of an error that is searched for a lost session."""

_OF_MCP = frozenset((b"accept", b"last-event-id"))
_BOTH: Headers = ((b"accept", b"application/json, text/event-stream"),)
_STREAM: Headers = ((b"accept", b"text/event-stream"),)
_JSON: Headers = ((b"content-type", b"application/json"),)
_UNDERSCORE = ord("_")
"""A number: CPython 3.11 takes 1,800 instructions for `bytes in bytes`, and 700 for `bytes.startswith`."""

_ABSENT = msgspec.Raw(b"")


class McpMessage(Hidden, msgspec.Struct, frozen=True, gc=False):
    """What a POST contains. `unreadable`: a batch, an id above LONGEST_ID_BYTES, or a body without a valid message."""

    kind: Literal["request", "notification", "response", "unreadable"]
    method: str = ""
    """At most LONGEST_NAME_CHARS of it."""
    tool: str = ""
    """The tool that it calls: at most LONGEST_NAME_CHARS of its name."""
    id: bytes = b"null"
    """The JSON text of the id as the client sent it; `null` without an id."""
    result: msgspec.Raw = _ABSENT
    """Of a response without an error."""


class _Envelope(msgspec.Struct, gc=False):
    id: msgspec.Raw = _ABSENT
    method: msgspec.Raw = _ABSENT
    params: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


class _Named(msgspec.Struct, gc=False):
    name: msgspec.Raw = _ABSENT


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_NAMED = msgspec.json.Decoder(_Named)
_ANY = msgspec.json.Decoder()
UNREADABLE = McpMessage("unreadable")
_UNREADABLE_ERRORS = (ValueError, RecursionError)  # DecodeError and UnicodeDecodeError are ValueErrors
LISTEN = "subscriptions/listen"
READS = frozenset(
    (
        *("initialize", "ping", "prompts/get", "prompts/list", "resources/list", "resources/read"),
        *("resources/templates/list", "tools/list", "completion/complete", "server/discover"),
    )
)
"""The requests that change nothing at the server, so that it may receive them twice."""


def read_message(body: bytes) -> McpMessage:
    """Return the message in `body`. If several members have the same name, the last one is used."""
    try:
        found = _ENVELOPE.decode(body)
        text = memoryview(found.id)
        # a string or a number
        identity = bytes(text) if 0 < text.nbytes <= LONGEST_ID_BYTES and text[0] in _IDS else None
        if found.method is _ABSENT:
            result = found.result if found.error is _ABSENT or first_char(found.error) == "n" else _ABSENT
            is_reply = identity is not None and found.result is not found.error  # both absent
            return McpMessage("response", id=identity or b"null", result=result) if is_reply else UNREADABLE
        method = string(found.method)
        # a server may read the first of two methods: it must not run a call that gatepass takes for a read or a stream
        is_free = method in READS or method == LISTEN
        if is_free and [folded(name) for name, _ in members(body)].count("method") > 1:
            return UNREADABLE
    except _UNREADABLE_ERRORS:
        return UNREADABLE
    if text.nbytes > LONGEST_ID_BYTES:  # no error could answer it
        return McpMessage("unreadable", method[:LONGEST_NAME_CHARS])
    try:
        tool = string(_NAMED.decode(found.params).name) if method == CALL_TOOL else ""
    except _UNREADABLE_ERRORS:  # absent, or not a text
        tool = ""
    kind: Literal["request", "notification"] = "request" if text.nbytes else "notification"
    return McpMessage(kind, method[:LONGEST_NAME_CHARS], tool[:LONGEST_NAME_CHARS], identity or b"null")


def is_response(data: bytes, request: McpMessage, response: McpMessage | None = None) -> bool:
    """Return whether `data` answers `request`. `response` is what is in `data`, if it was read before."""
    response = response or read_message(data)
    is_pair = response.kind == "response" and request.kind == "request"
    if is_pair and response.id == request.id and request.id.isdigit():  # nearly always
        return True
    try:
        return is_pair and _ANY.decode(response.id) == _ANY.decode(request.id)
    except _UNREADABLE_ERRORS:  # such as half a surrogate pair
        return False


def has_run(data: bytes, call: McpMessage, response: McpMessage | None = None) -> bool:
    """Return whether `data` answers the call of a tool without an error, of JSON-RPC or of the tool.

    A server answers an unknown tool with either.
    """
    response = response or read_message(data)
    try:
        if not data.isascii():  # a struct does not check that its names are UTF-8
            OBJECT.decode(data)
        is_error = OBJECT.decode(response.result).get("isError", b"false")
        return first_char(is_error) in "nf" and is_response(data, call, response)
    except _UNREADABLE_ERRORS:
        return False


_SESSION = r"(?:mcp[ _-])?session(?:[ _-]?id)?\b(?! (?:token|cookie|key|ticket))"
_LOST = re.compile(
    rf"\b(?:no|unknown|invalid|unrecognized) (?:(?!token|credential|key)\w+ ){{0,3}}{_SESSION}"
    rf"|\b{_SESSION}[^.\n]{{0,80}}?(?:\b(?:not (?:found|exist|known|valid)|unknown|invalid)\b|n't exist\b)"
    r"|\bserver not initialized\b|会话.{0,20}?(?:不存在|未找到|无效)",
    re.IGNORECASE,
)
_ENDED = re.compile(
    rf"\b{_SESSION}[^.\n]{{0,80}}?\b(?:expired|ended|closed|terminated)\b|会话.{{0,20}}?过期", re.IGNORECASE
)


def is_session_lost(text: str, *, may_be_login: bool) -> bool:
    """Whether `text`, the error of a server, says that it does not know the session of MCP that the request named.

    `may_be_login`: a session that ended may be that of the token.
    """
    start = text[:LONGEST_ERROR_CHARS]
    return bool(_LOST.search(start) or (not may_be_login and _ENDED.search(start)))


_IDS = frozenset(b'"-0123456789')


def request_headers(headers: Headers, method: str = "POST") -> Headers:
    """Return the fields of a client's request that the MCP server receives.

    They are all `mcp-*`, `accept`, `last-event-id`, and those of every operation. The content type is always
    JSON: Express decodes a body by its `charset`, and so could read another message than gatepass did.
    Neither a credential, a cookie, `origin` nor a field that `connection` names is among them. Raises InvalidRequest if
    one of MCP, such as the session, is sent twice: gatepass and the server could read different ones.
    """
    own: list[tuple[bytes, bytes]] = []
    kept, names_fields = forwarded(headers), False
    for field in headers:
        name = field[0]
        # `_` could become `-` at a proxy behind gatepass, and the field one that gatepass compared with the body
        if name in _OF_MCP or (name[:4] == b"mcp-" and _UNDERSCORE not in name):
            own.append(field)
        elif name == b"connection":
            names_fields = names_fields or field not in USUAL_CONNECTION
    if names_fields:
        named = named_by_connection(headers)
        own = [field for field in own if field[0] not in named]
        kept = tuple(field for field in kept if field[0] not in named)
    by_name = dict(own)
    if len(by_name) < len(own):
        single = [name for name, _ in own if name != b"accept"]
        if len(set(single)) < len(single):
            twice = next(name for name in single if single.count(name) > 1)
            raise InvalidRequest(f"The header {twice.decode('latin-1')[:100]} appears twice. Send it once.")
    accept = () if b"accept" in by_name else _STREAM if method == "GET" else _BOTH
    return (*kept, *own, *accept, *(_JSON if method == "POST" else ()), IDENTITY)


PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32602, -32603
"""Codes of JSON-RPC 2.0, section 5.1."""


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
            names = {**names_of(error.hop, "", ""), **error.names}
            data["action"] = advice_of(error.stable_code, error.hop, error.case, error.setting, names)["action"]
        if (wait_s := retry_after(error)) is not None:
            data["retry_after_s"] = wait_s
        if request_id:
            data["request_id"] = request_id
        kinds = {errors.McpNotAllowed: INVALID_PARAMS, InvalidJson: PARSE_ERROR, errors.CallerError: INVALID_REQUEST}
        code = next((code for kind, code in kinds.items() if isinstance(error, kind)), INTERNAL_ERROR)
        inner = error_text({"code": code, "message": error.message, "data": data})
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
