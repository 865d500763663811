"""MCP clients call a server of the official SDK, which wants tokens that live ten seconds, through gatepass."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.mcp.clients import (
    CLIENTS,
    FINDING,
    INITIALIZE,
    MODERN,
    SEEN,
    Client,
    McpServer,
    conformance,
    inspect,
    mcp_server,
    open_session,
    request,
    routes,
    send,
    tour,
)
from tests.e2e.process import Process
from tests.e2e.servers import (
    CLIENT_SECRET,
    KEY,
    ONE_LATE,
    ROOT,
    TOKEN_LIFE_S,
    VIEWER,
    Issuer,
    listening,
    serve_routes,
    start_issuer,
)

OTHER_KEY = "e2e-key-of-another-caller"
VIEWER_KEY = "e2e-key-of-a-viewer"
KEYS = {"e2e": KEY, "other": OTHER_KEY, VIEWER: VIEWER_KEY}
TOUR_S = 2.0 * TOKEN_LIFE_S
"""Each client calls for longer than two tokens live."""
SHORT_LIFE_S = 5
DRAIN_S = 10.0
"""Less than a drain takes that waits for a stream."""
STATELESS_LISTEN = {"mcp-protocol-version": MODERN, "mcp-method": "subscriptions/listen"}
AT_ONCE = len(CLIENTS)
"""The clients wait more than they compute."""
SHOWING = [*FINDING, *(client for client in CLIENTS if client.name != "typescript 2, stateless")]
"""That one shows only that it got no version, whatever the error says."""
FOREIGN = "https://evil.example"


def stateless_request(method: str, params: dict[str, Any]) -> bytes:
    """Return a request as the era without a handshake wants it."""
    prefix = "io.modelcontextprotocol"
    meta = {
        f"{prefix}/protocolVersion": MODERN,
        f"{prefix}/clientCapabilities": {},
        f"{prefix}/clientInfo": {"name": "tests", "version": "1"},
    }
    return json.dumps(request(method, **params, _meta=meta)).encode()


@contextmanager
def begun_stream(
    url: str, method: str, body: bytes | None, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    """Yield the reply whose head has arrived."""
    fields = {"authorization": f"Bearer {KEY}", "accept": "application/json, text/event-stream", **headers}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    with closing(connection):
        connection.request(method, "/mcp/tools", body, {**fields, "content-type": "application/json"})
        with connection.getresponse() as reply:
            assert (reply.status, reply.headers.get_content_type()) == (200, "text/event-stream")
            yield reply


@dataclass(frozen=True, slots=True)
class Setup:
    """gatepass before the server, and the tours, which go on beside the tests."""

    url: str
    server: McpServer
    gatepass: Process
    tours: dict[str, Future[dict[str, Any]]]

    @property
    def mcp(self) -> str:
        return f"{self.url}/mcp/tools"


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with ExitStack() as started:
        issuer = Issuer(listening(started.enter_context(start_issuer())))
        server = started.enter_context(mcp_server("tools", issuer))
        folder = tmp_path_factory.mktemp("mcp")
        process = started.enter_context(serve_routes(folder, issuer, routes(server), keys=KEYS))
        url = listening(process)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            tours = {client.name: pool.submit(tour, client, f"{url}/mcp/tools", server, TOUR_S) for client in CLIENTS}
            yield Setup(url, server, process, tours)


def test_the_curl_of_the_page_lists_the_tools(setup: Setup):
    page = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```sh\n(curl .*?)```", page, re.DOTALL)
    command = command.replace("http://localhost:8080/mcp/search", setup.mcp)
    environment = {"PATH": os.environ["PATH"], "LLM_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=30, check=True)
    assert "echo" in {tool["name"] for tool in json.loads(done.stdout)["result"]["tools"]}


@pytest.mark.parametrize("key", [None, "no-key-of-gatepass"])
def test_a_client_without_a_key_of_gatepass_is_not_sent_to_a_login(setup: Setup, key: str | None):
    reply = send(setup.mcp, INITIALIZE, key)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    for path in ("oauth-protected-resource", "oauth-authorization-server", "openid-configuration"):
        for url in (f"{setup.url}/.well-known/{path}", f"{setup.url}/.well-known/{path}/mcp/tools"):
            assert send(url, None, None, "GET").status == 404


def test_a_session_belongs_to_the_caller_that_opened_it(setup: Setup):
    session = open_session(setup.mcp)
    echo = request("tools/call", name="echo", arguments={"text": "amber"})
    for method, message in (("POST", echo), ("GET", None), ("DELETE", None)):
        taken = send(setup.mcp, message, OTHER_KEY, method, mcp_session_id=session)
        assert taken.status == 404, (method, taken)
    mine = send(setup.mcp, echo, mcp_session_id=session)
    assert mine.message["result"]["content"][0]["text"] == "amber"
    assert send(setup.mcp, None, KEY, "DELETE", mcp_session_id=session).status == 200
    assert send(setup.mcp, echo, mcp_session_id=session).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": FOREIGN},
        {"origin": "null"},
        {"origin": FOREIGN, "host": "evil.example"},
        {"sec_fetch_site": "same-origin", "host": "evil.example"},
    ],
    ids=["foreign origin", "no origin", "rebound host", "rebound host without an origin"],
)
def test_a_foreign_page_gets_nothing(setup: Setup, headers: dict[str, str]):
    said = f"from {headers}"
    message = request("tools/call", name="slow", arguments={"call": said})
    stateless = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "slow"}
    reply = send(setup.mcp, message, **headers, **stateless)
    assert reply.status == 403, reply
    assert "access-control-allow-origin" not in reply.headers
    assert f"began {said}" not in setup.server.events()


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_command_line_of_the_inspector(setup: Setup, era: str):
    call = ("--method", "tools/call", "--tool-name", "echo", "--tool-arg", "text=amber")
    assert inspect(setup.mcp, era, *call)["result"]["content"] == [{"type": "text", "text": "amber"}]
    listed = inspect(setup.mcp, era, "--method", "tools/list")["result"]["tools"]
    assert [tool["name"] for tool in listed] == ["echo", "progress", "slow", "announce", "interrupted"]


def test_the_scenarios_of_the_conformance_suite_end_as_without_gatepass(tmp_path):
    """The suite sends no key, so this gatepass requires none."""
    with ExitStack() as started:
        issuer = Issuer(listening(started.enter_context(start_issuer())))
        server = started.enter_context(mcp_server("scenarios", issuer))
        open_server = started.enter_context(mcp_server("scenarios", None))
        process = started.enter_context(serve_routes(tmp_path, issuer, routes(server), keys={}))
        with ThreadPoolExecutor() as pool:
            direct = pool.submit(conformance, f"{open_server.url}/mcp")
            results = conformance(f"{listening(process)}/mcp/tools")
        assert {name for name, (_, failed) in results.items() if failed} == set(), process.output
        assert results == direct.result()
        assert len(results) == 32
        assert sum(passed for passed, _ in results.values()) >= 44
        assert server.tally().refusals in ONE_LATE


@pytest.fixture(scope="module")
def without_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MCP server in a gatepass whose issuer does not listen."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = Issuer(f"http://127.0.0.1:{taken.getsockname()[1]}")
    with ExitStack() as started:
        server = started.enter_context(mcp_server("tools", None))
        folder = tmp_path_factory.mktemp("dead")
        process = started.enter_context(serve_routes(folder, dead, routes(server), keys=KEYS))
        yield f"{listening(process)}/mcp/tools"


def test_a_missing_token_is_an_error_of_the_protocol_and_no_empty_list(without_token: str):
    reply = send(without_token, request("tools/list", "a"), mcp_protocol_version=MODERN, mcp_method="tools/list")
    assert reply.status == 200
    assert "www-authenticate" not in reply.headers
    message = reply.message
    assert (message["jsonrpc"], message["id"], "result" in message) == ("2.0", "a", False)
    error = message["error"]
    assert isinstance(error["code"], int)
    assert error["data"]["hop"] == "credential:sso"
    assert error["data"]["code"]
    notified = send(without_token, request("notifications/initialized", None), mcp_session_id="x")
    assert notified.status in {404, 503}, notified


@pytest.mark.parametrize("client", SHOWING, ids=lambda client: client.name)
def test_a_client_shows_why_there_is_no_token(without_token: str, client: Client):
    with pytest.raises(AssertionError) as raised:
        tour(client, without_token, McpServer(without_token), 0)
    shown = str(raised.value)
    assert "sso" in shown
    assert "127.0.0.1" in shown


def test_the_inspector_shows_why_there_is_no_token(without_token: str):
    printed = json.dumps(inspect(without_token, "legacy", "--method", "tools/list"))
    assert "sso" in printed


def test_tools_never_vanish_when_the_issuer_dies(tmp_path):
    """Each list is whole or an error: a host drops the tools that a list does not have."""
    with ExitStack() as started:
        issuing = started.enter_context(start_issuer(token_life_s=SHORT_LIFE_S))
        server = started.enter_context(mcp_server("tools", Issuer(listening(issuing))))
        issuer = Issuer(listening(issuing))
        process = started.enter_context(serve_routes(tmp_path, issuer, routes(server), keys=KEYS))
        url = f"{listening(process)}/mcp/tools"
        session = open_session(url)
        issuing.stop()
        ends_s = time.monotonic() + 3 * SHORT_LIFE_S
        while "error" not in (message := send(url, request("tools/list"), mcp_session_id=session).message):
            assert sorted(tool["name"] for tool in message["result"]["tools"]) == SEEN["tools"]
            assert time.monotonic() < ends_s
        assert message["error"]["data"]["hop"] == "credential:sso"
        assert server.tally().refusals in ONE_LATE


def test_a_drain_ends_idle_streams_cleanly(tmp_path):
    with ExitStack() as started:
        issuer = Issuer(listening(started.enter_context(start_issuer())))
        server = started.enter_context(mcp_server("tools", issuer))
        process = started.enter_context(serve_routes(tmp_path, issuer, routes(server), keys=KEYS))
        url = listening(process)
        session = open_session(f"{url}/mcp/tools")
        handshake = started.enter_context(begun_stream(url, "GET", None, {"mcp-session-id": session}))
        wanted = {"notifications": {"resourceSubscriptions": ["words://amber"]}}
        listen = stateless_request("subscriptions/listen", wanted)
        stateless = started.enter_context(begun_stream(url, "POST", listen, STATELESS_LISTEN))
        assert b"acknowledged" in stateless.read1()
        began_s = time.monotonic()
        process.stop()
        assert time.monotonic() - began_s < DRAIN_S
        assert (handshake.read(), stateless.read()) == (b"", b"")  # raises IncompleteRead if a stream was cut off


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_sees_what_the_server_does_across_token_changes(setup: Setup, client: Client):
    """Progress arrives before the tool goes on, a cancelled call reaches the server, and streams continue."""
    assert setup.tours[client.name].result() == client.seen, setup.gatepass.output


def test_no_expired_token_reached_the_server(setup: Setup):
    wait(setup.tours.values())
    tally = setup.server.tally()
    assert tally.refusals in ONE_LATE
    assert len(tally.tokens) > TOUR_S / TOKEN_LIFE_S


def test_no_secret_is_shown(setup: Setup):
    wait(setup.tours.values())
    shown = setup.gatepass.output
    for page in ("status", "metrics"):
        asked = urllib.request.Request(f"{setup.url}/{page}", headers={"authorization": f"Bearer {VIEWER_KEY}"})  # noqa: S310
        with urllib.request.urlopen(asked, timeout=10) as reply:  # noqa: S310 - loopback
            shown += reply.read().decode()
    assert "tools/call" in shown
    for secret in (KEY, OTHER_KEY, VIEWER_KEY, CLIENT_SECRET, "eyJ"):  # a JWT begins so
        assert secret not in shown
