"""`gatepass doctor` at MCP servers of both eras: what it proves, and what it says of each fault."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from gatepass.cli.probe import ProbeCall
from gatepass.cli.steps import diagnose
from gatepass.config.model import Config
from tests.integration.issuer import SECRET, minted
from tests.integration.scripted import Dialogue, Received, Rst, Scripted, Send, begin_stream, chunk, event, reply

CHALLENGE = 'Bearer error="invalid_token", resource_metadata="https://login.example/.well-known/x"'
TOOLS = {"tools": [{"name": "find"}, {"name": "read"}]}
PAGE = [Send(reply(b"<html><title>Sign in to Corp</title></html>", content_type="text/html"))]
Answer = Callable[[Received], Dialogue]


def refused() -> Dialogue:
    return [Send(reply({"error": "invalid_token"}, 401, www_authenticate=CHALLENGE))]


def result(message: dict[str, Any], value: object, session: str = "") -> Dialogue:
    named = {"mcp_session_id": session} if session else {}
    return [Send(reply({"jsonrpc": "2.0", "id": message["id"], "result": value}, 200, **named))]


def stateless(request: Received) -> Dialogue:
    """A server of the newest revision, which streams its list of tools."""
    if request.method == "GET":
        return [Send(reply(b"", 405))]
    message = request.json()
    if request.header("authorization") is None:
        return refused()
    if message["method"] == "initialize":
        error = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "Method not found"}}
        return [Send(reply(error, 404))]
    assert request.header("mcp-method") == message["method"]
    assert request.header("mcp-protocol-version") == "2026-07-28"
    listed = {"jsonrpc": "2.0", "id": message["id"], "result": TOOLS}
    progress = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
    return [*begin_stream(), Send(chunk(event(progress))), Send(chunk(event(listed)))]  # it does not end the stream


def handshake(request: Received) -> Dialogue:
    """A server with sessions."""
    message = request.json()
    if request.header("authorization") is None:
        return refused()
    match message["method"]:
        case "initialize":
            agreed = {"protocolVersion": "2025-06-18", "capabilities": {}}
            return result(message, agreed, session="s-1")
        case "notifications/initialized":
            return [Send(reply(b"", 202))]
        case "tools/list" if request.header("mcp-session-id") == "s-1":
            return result(message, TOOLS)
    error = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32600, "message": "Missing session ID"}}
    return [Send(reply(error, 400))]


async def steps_of(answer: Answer, **settings: Any) -> tuple[list[str], Sequence[Received]]:
    """Return the steps of the server, and what it received."""
    async with Scripted(answer=lambda _: minted()) as issuer, Scripted(answer=answer) as server:
        login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": SECRET}
        config = {
            "credentials": {"corp": login, "key": {"type": "api_key", "key": SECRET}},
            "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}},
            "mcp": {"tools": {"url": f"{server.url}/mcp", "credential": "corp", **settings}},
        }
        async with aclosing(diagnose(Config.model_validate(config))) as steps:
            found = [step async for step in steps if step.hop == "upstream:mcp/tools"]
        sender = f'The upstream "mcp/tools" ({server.url.removeprefix("http://")})'
        told = [f"{step.outcome} {step.what}: {step.why} {step.advice}".strip() for step in found]
        return [one.replace(sender, "{server}") for one in told], server.received


async def test_a_server_without_a_handshake_lists_its_tools_in_a_stream():
    found, _ = await steps_of(stateless)
    assert found == [
        "unproven initialize: has no handshake: HTTP 404, Method not found",
        "works tools: lists 2 tools: find, read",
    ]


async def test_a_server_with_a_handshake_gets_one_and_its_session_is_named():
    found, received = await steps_of(handshake)
    assert found == ["works initialize: speaks MCP 2025-06-18", "works tools: lists 2 tools: find, read"]
    assert [request.header("mcp-session-id") for request in received] == [None, "s-1", "s-1"]


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        (
            lambda request: [Send(reply(b"", 404))] if request.method == "GET" else result(request.json(), {}),
            (
                "fails tools: answers neither initialize nor tools/list (HTTP 200) Check that mcp.tools.url is its"
                " endpoint for Streamable HTTP."
            ),
        ),
        (
            lambda _: PAGE,
            (
                'fails initialize: {server} answered 200 OK with an HTML page titled "Sign in to Corp" instead of JSON,'
                " probably a login page or a portal. Tried once, with the"
            ),
        ),
        (
            lambda _: [Send(reply(b"", 302, location="https://login.example/x"))],
            "fails initialize: {server} answered 302 Found, a redirect to login.example, which is not the API.",
        ),
        (
            lambda _: refused(),
            ("fails initialize: {server} does not accept the credential that gatepass sends: invalid_token. Tried"),
        ),
        (lambda _: [Rst()], "fails initialize: 127.0.0.1"),
    ],
    ids=["no MCP", "login page", "redirect", "wrong token", "reset"],
)
async def test_each_fault_is_told(answer: Answer, last: str):
    found, _ = await steps_of(answer)
    assert found[-1].startswith(last)
    assert "gatepass doctor" not in found[-1]


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        (
            {"credential": "key"},
            (
                "does not accept the credential that gatepass sends: invalid_token. Tried once, with the only key"
                " of the credential 'key'. Replace the key in `credentials.key`,"
            ),
        ),
        (
            {"credential": None, "headers": {"X-Token": SECRET}},
            (
                "does not accept the credential that gatepass sends: invalid_token Replace the key in"
                " `mcp.tools.headers.X-Token`,"
            ),
        ),
        (
            {"credential": None},
            ("requires a credential that gatepass does not send: invalid_token Set `mcp.tools.credential`."),
        ),
    ],
)
async def test_a_key_that_a_server_rejects_has_no_audience_to_check(settings: dict[str, Any], last: str):
    found, _ = await steps_of(lambda _: refused(), **settings)
    assert found[-1].startswith(f"fails initialize: {{server}} {last}")
    assert "scope" not in found[-1]


@pytest.mark.parametrize(("model", "tested"), [(None, {"upstream:mcp/tools"}), ("m", set())])
async def test_calls_that_choose_no_model_leave_the_mcp_servers_in(model: str | None, tested: set[str]) -> None:
    async with Scripted(answer=stateless) as server:
        blocks = {
            "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}},
            "mcp": {"tools": {"url": f"{server.url}/mcp"}},
        }
        async with aclosing(diagnose(Config.model_validate(blocks), [ProbeCall("chat", "m")], model=model)) as steps:
            assert {step.hop async for step in steps} == {"upstream:chat"} | tested
