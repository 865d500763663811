"""Tests of errors as JSON-RPC."""

import json

import pytest

from gatepass.errors import (
    BodyTooLarge,
    Draining,
    GatepassError,
    InvalidApiKey,
    InvalidJson,
    InvalidRequest,
    McpNotAllowed,
    Overloaded,
    TokenUnavailable,
    UnknownPath,
    UpstreamAuth,
    UpstreamConnect,
    UpstreamInvalid,
)
from gatepass.mcp.message import McpMessage, McpProtocol
from gatepass.types import StreamedResponse

REQUEST = McpProtocol(McpMessage("request", "tools/call", "find", b'"a"'))
NOTIFICATION = McpProtocol(McpMessage("notification", "notifications/cancelled"))
UNREADABLE = McpProtocol(McpMessage("unreadable"))
NO_TOKEN = TokenUnavailable("The issuer refused the secret.", credential="corp", retry_after_s=1.2)
REJECTED = UpstreamAuth("m", upstream="wiki", status=401)


@pytest.mark.parametrize(
    ("error", "of_request", "of_others", "code"),
    [
        (NO_TOKEN, 200, 503, -32603),
        (REJECTED, 200, 503, -32603),
        (UpstreamConnect("m", upstream="wiki"), 200, 502, -32603),
        (Overloaded("m"), 200, 503, -32603),
        (McpNotAllowed("m"), 200, 403, -32602),
        (InvalidJson("m"), 400, 400, -32700),
        (InvalidRequest("m"), 400, 400, -32600),
        (InvalidApiKey("m"), 401, 401, -32600),
        (BodyTooLarge("m"), 413, 413, -32600),
    ],
)
def test_status_and_code(error: GatepassError, of_request: int, of_others: int, code: int) -> None:
    assert REQUEST.error_status(error) == of_request
    assert NOTIFICATION.error_status(error) == UNREADABLE.error_status(error) == of_others
    assert json.loads(REQUEST.error_body(error, "r1"))["error"]["code"] == code


def test_an_error_has_the_id_the_hop_and_the_action() -> None:
    body = json.loads(REQUEST.error_body(NO_TOKEN, "r1"))
    data = body["error"].pop("data")
    assert body == {"jsonrpc": "2.0", "id": "a", "error": {"code": -32603, "message": "The issuer refused the secret."}}
    assert data.pop("action").startswith("Run `gatepass token corp`, which tests the credential alone.")
    assert data == {"code": "token_unavailable", "hop": "credential:corp", "retry_after_s": 2, "request_id": "r1"}
    assert json.loads(UNREADABLE.error_body(REJECTED, ""))["id"] is None


def test_the_action_names_the_settings_of_the_server() -> None:
    errors = (
        UpstreamConnect("m", upstream="mcp/wiki"),
        UpstreamAuth("m", upstream="mcp/wiki", status=401),
        UpstreamInvalid("m", upstream="mcp/wiki"),
        UnknownPath("There is no MCP server 'wikki' here."),
    )
    actions = [json.loads(REQUEST.error_body(error, "r1"))["error"]["data"]["action"] for error in errors]
    connect, auth, invalid, unknown = actions
    assert invalid == "Check that `mcp.wiki.url` is the endpoint of an MCP server."
    assert unknown == "Use a URL `http://HOST/mcp/NAME`."
    assert connect == "Check `mcp.wiki.url`, whether that server is up, and whether this network needs `network.proxy`."
    assert auth.startswith("Correct what the message names, then")


def test_a_stream_ends_with_the_error_of_its_request() -> None:
    streamed = StreamedResponse(request_id="r1")
    event = REQUEST.stream_error(NO_TOKEN, streamed, rewords=False)
    assert event == b"event: message\ndata: " + REQUEST.error_body(NO_TOKEN, "r1") + b"\n\n"
    assert REQUEST.stream_error(Draining("m"), streamed, rewords=False) == b""
    assert UNREADABLE.stream_error(NO_TOKEN, streamed, rewords=False) == b""
