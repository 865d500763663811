"""`gatepass doctor` at MCP servers of both eras: what it proves, and what it says of each fault."""

import json
import ssl
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
import trustme

from gatepass.cli.mcp_probe import settings_of
from gatepass.cli.probe import ProbeCall
from gatepass.cli.steps import diagnose
from gatepass.config.model import Config
from tests.integration.findings import NETWORK
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
    assert request.header("mcp-method") == message["method"]
    assert request.header("mcp-protocol-version") == "2026-07-28"
    if message["method"] == "server/discover":
        return result(message, {"supportedVersions": ["2026-07-28"], "capabilities": {}})
    listed = {"jsonrpc": "2.0", "id": message["id"], "result": TOOLS}
    progress = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
    return [*begin_stream(), Send(chunk(event(progress))), Send(chunk(event(listed)))]  # it does not end the stream


def handshake(request: Received) -> Dialogue:
    """A server with sessions, whose server/discover names an older revision."""
    if request.method == "DELETE":
        return [Send(reply(b"", 204))]
    message = request.json()
    if request.header("authorization") is None:
        return refused()
    match message["method"]:
        case "server/discover":
            return result(message, {"supportedVersions": ["2025-06-18"]})
        case "initialize":
            agreed = {"protocolVersion": "2025-06-18", "capabilities": {}}
            return result(message, agreed, session="s-1")
        case "notifications/initialized":
            return [Send(reply(b"", 202))]
        case "tools/list" if request.header("mcp-session-id") == "s-1":
            return result(message, TOOLS)
    error = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32600, "message": "Missing session ID"}}
    return [Send(reply(error, 400))]


async def steps_of(
    answer: Answer, keys: Sequence[dict[str, Any]] = (), **settings: Any
) -> tuple[list[str], Sequence[Received]]:
    """Return the steps after those of the network, and what the server received. `keys` have names alone."""
    async with Scripted(answer=lambda _: minted()) as issuer, Scripted(answer=answer) as server:
        login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": SECRET}
        config = {
            "credentials": {"corp": login, "key": {"type": "api_key", "key": SECRET}},
            "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}},
            "mcp": {"tools": {"url": f"{server.url}/mcp", "credential": "corp", **settings}},
            "access": {"keys": [{"hash": f"sha256:{number:064}", **key} for number, key in enumerate(keys)]},
        }
        async with aclosing(diagnose(Config.model_validate(config), mcp="tools")) as steps:
            found = [step async for step in steps if step.what not in NETWORK and step.hop.startswith("upstream:")]
        assert {step.hop for step in found} == {"upstream:mcp/tools"}
        sender = f'The upstream "mcp/tools" ({server.url.removeprefix("http://")})'
        told = [f"{step.outcome} {step.what}: {step.why} {step.advice}".strip() for step in found]
        return [one.replace(sender, "{server}") for one in told], server.received


async def test_a_server_without_a_handshake_lists_its_tools_in_a_stream():
    found, _ = await steps_of(stateless)
    assert found == [
        "ok no token: refuses a request without the token: 401; clients of gatepass never receive it",
        "ok mcp: speaks MCP 2026-07-28 in its headers",
        "ok tools: lists 2 tools: find, read",
    ]


async def test_a_server_with_a_handshake_gets_one_and_its_session_is_ended():
    found, received = await steps_of(handshake)
    assert found[1:] == ["ok mcp: speaks MCP 2025-06-18 by its handshake", "ok tools: lists 2 tools: find, read"]
    assert [request.method for request in received][-1] == "DELETE"
    assert received[-1].header("mcp-session-id") == "s-1"


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        (
            lambda request: [Send(reply(b"", 404))] if request.method == "GET" else result(request.json(), {}),
            (
                "FAIL mcp: The server answers neither server/discover (HTTP 200) nor initialize (HTTP 200): is"
                " mcp.tools.url its endpoint for Streamable HTTP?"
            ),
        ),
        (
            lambda _: PAGE,
            (
                'FAIL mcp: {server} answered 200 OK with an HTML page titled "Sign in to Corp" instead of JSON, which'
                " is invalid as a reply: a login page or a portal is in front of it. Check mcp.tools.url and its"
                " credential."
            ),
        ),
        (
            lambda _: [Send(reply(b"", 302, location="https://login.example/x"))],
            (
                "FAIL mcp: {server} answered 302 Found, a redirect to login.example, which is invalid as a reply:"
                " gatepass does not follow redirects. Check mcp.tools.url (https instead of http, the whole path) and"
                " whether a login page is in front of it."
            ),
        ),
        (
            lambda _: refused(),
            (
                "FAIL mcp: The server rejects the credential that gatepass sends: HTTP 401. Compare these settings"
                " with what this upstream requires: credentials.corp.scope, credentials.corp.audience,"
                " credentials.corp.token_placement."
            ),
        ),
        (lambda _: [Rst()], "FAIL mcp: 127.0.0.1"),
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
            "the credential that gatepass sends: HTTP 401. Replace the key in credentials.key.key by one that",
        ),
        (
            {"credential": None, "headers": {"X-Token": SECRET}},
            "the credential that gatepass sends: HTTP 401. Replace the key in mcp.tools.headers.X-Token by one that",
        ),
        (
            {"credential": None},
            "the request: HTTP 401. gatepass has no credential for it. Set mcp.tools.credential.",
        ),
    ],
)
async def test_a_key_that_a_server_rejects_has_no_audience_to_check(settings: dict[str, Any], last: str):
    found, _ = await steps_of(lambda _: refused(), **settings)
    assert found[-1].startswith(f"FAIL mcp: The server rejects {last}")
    assert "scope" not in found[-1]


async def test_a_port_with_tls_is_reported_for_an_http_url():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with Scripted([], tls=context) as secure:
        (found,), _ = await steps_of(stateless, url=f"{secure.url.replace('https:', 'http:')}/mcp")
    assert "speaks TLS on this port, and mcp.tools.url begins with http://" in found
    assert found.endswith(" Begin mcp.tools.url with https://.")


async def test_a_login_page_without_the_token_is_a_refusal():
    def page(request: Received) -> Dialogue:
        return PAGE if request.header("authorization") is None else stateless(request)

    found, _ = await steps_of(page)
    assert found[0] == (
        "ok no token: answers a request without the token with an HTML page, as a login does; clients never receive it"
    )
    assert found[-1] == "ok tools: lists 2 tools: find, read"


KEYS = (
    {"name": "agent", "mcp": {"tools": ["find"]}},
    {"name": "all"},
    {"name": "chats", "models": ["gpt-*"]},
    {"name": "codex", "operations": ["responses"]},
    {"name": "codex", "operations": ["responses"]},
    {"name": "coder", "operations": ["responses"]},
    {"name": "elsewhere", "mcp": ["other"]},
    {"name": "screen", "role": "viewer"},
)


async def test_the_keys_that_may_use_the_server_are_named_and_those_that_may_not():
    found, _ = await steps_of(stateless, KEYS)
    assert found[2:] == [
        "ok tools: lists 2 tools: find, read",
        "ok keys: may be used by agent (limited), all",
        (
            "ok keys: may not be used by chats, because it has `models` and no `mcp` Add `mcp: [tools]` to a key that"
            " needs it."
        ),
        (
            "ok keys: may not be used by codex, coder, because it has `operations` and no `mcp` Add `mcp: [tools]` to"
            " a key that needs it."
        ),
    ]


async def test_the_first_page_of_a_list_says_that_more_follow():
    def first_page(request: Received) -> Dialogue:
        message = request.json() if request.method == "POST" else {}
        listed = request.header("authorization") is not None and message.get("method") == "tools/list"
        return result(message, {**TOOLS, "nextCursor": "2"}) if listed else handshake(request)

    found, _ = await steps_of(first_page)
    assert found[2:] == ["ok tools: lists 2 tools: find, read; more follow on further pages"]


async def test_a_server_that_no_key_may_use_is_told():
    found, _ = await steps_of(stateless, [{"name": "chats", "models": ["gpt-*"]}])
    assert found[-2] == "???? keys: no key may use the server Add tools to access.keys[].mcp of a key."
    assert found[-1].startswith("ok keys: may not be used by chats, because it has `models` and no `mcp`")


async def test_a_server_that_wants_no_token_proves_nothing_about_it():
    def open_to_all(request: Received) -> Dialogue:
        message = request.json()
        return result(message, {"supportedVersions": ["2026-07-28"], **TOOLS})

    found, _ = await steps_of(open_to_all)
    assert (
        found[0]
        == "???? no token: without the token it answers HTTP 200, so it is not proven that it accepts the token"
    )


def test_the_settings_of_clients_name_the_url():
    text = settings_of("tools", "http://127.0.0.1:8080/gp")
    assert text.count("http://127.0.0.1:8080/gp/mcp/tools") == 3
    assert json.dumps("http://127.0.0.1:8080/gp/mcp/tools") in text
    assert 'claude -p "…" --allowedTools mcp__tools\n' in text
    assert 'default_tools_approval_mode = "approve"\n' in text
    assert 'bearer_token_env_var = "LLM_API_KEY"\n' in text
    assert "--header 'Authorization: Bearer ${LLM_API_KEY}'\n" in text  # in double quotes the shell stores the key
    assert "KEY" not in text.replace("LLM_API_KEY", "")


@pytest.mark.parametrize(("model", "tested"), [(None, {"upstream:mcp/tools"}), ("m", set())])
async def test_calls_that_choose_no_model_leave_the_mcp_servers_in(model: str | None, tested: set[str]) -> None:
    async with Scripted(answer=stateless) as server:
        blocks = {
            "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}},
            "mcp": {"tools": {"url": f"{server.url}/mcp"}},
        }
        async with aclosing(diagnose(Config.model_validate(blocks), [ProbeCall("chat", "m")], model=model)) as steps:
            assert {step.hop async for step in steps} == {"upstream:chat"} | tested
