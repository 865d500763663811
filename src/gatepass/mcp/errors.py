"""`McpProtocol`: errors as JSON-RPC, with the id of the request that failed."""

from __future__ import annotations

from http import HTTPStatus

from gatepass import errors
from gatepass.mcp.message import McpMessage
from gatepass.observability.story import action_of, case_of, names_of
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.error_objects import json_text, retry_after
from gatepass.types import MCP_UPSTREAM, StreamedResponse

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
        """Return a JSON-RPC error with the id of the message."""
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
    match error:
        case errors.McpHeaderMismatch():
            return HEADER_MISMATCH
        case errors.McpNotAllowed(param="method"):
            return METHOD_NOT_FOUND
        case errors.McpNotAllowed(param="tools" | "prompts" | "resources"):
            return INVALID_PARAMS
        case errors.InvalidJson():
            return PARSE_ERROR
        case errors.CallerError():
            return INVALID_REQUEST
        case _:
            return INTERNAL_ERROR


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
