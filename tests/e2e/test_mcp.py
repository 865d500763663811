"""MCP clients call a server of the official SDK, which wants tokens that live five seconds, through gatepass."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.mcp.clients import CLIENTS, FINDING, Client, McpServer, conformance, inspect, mcp_server, routes, tour
from tests.e2e.process import Process
from tests.e2e.servers import KEY, ONE_LATE, ROOT, Issuer, listening, serve_routes, start_issuer

LIFE_S = 5
TOUR_S = 2.0 * LIFE_S
"""Each client calls for longer than two tokens live."""
AT_ONCE = len(CLIENTS)
"""The clients wait more than they compute."""
SHOWING = [*FINDING, *(client for client in CLIENTS if client.name != "typescript 2, stateless")]
"""That one shows only that it got no version, whatever the error says."""


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
        issuer = Issuer(listening(started.enter_context(start_issuer(token_life_s=LIFE_S))))
        server = started.enter_context(mcp_server("tools", issuer))
        folder = tmp_path_factory.mktemp("mcp")
        process = started.enter_context(serve_routes(folder, issuer, routes(server)))
        url = listening(process)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            tours = {client.name: pool.submit(tour, client, f"{url}/mcp/tools", server, TOUR_S) for client in CLIENTS}
            yield Setup(url, server, process, tours)


def test_the_curl_of_the_page_lists_the_tools(setup: Setup):
    page = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    command, *_ = re.findall(r"```sh\n(curl .*?)```", page, re.DOTALL)
    command = command.replace("http://localhost:8080/mcp/search", setup.mcp)
    environment = {"PATH": os.environ["PATH"], "LLM_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=30, check=True)
    assert "echo" in {tool["name"] for tool in json.loads(done.stdout)["result"]["tools"]}


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
        process = started.enter_context(serve_routes(tmp_path, issuer, routes(server), requires_key=False))
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
        process = started.enter_context(serve_routes(folder, dead, routes(server)))
        yield f"{listening(process)}/mcp/tools"


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


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_sees_what_the_server_does_across_token_changes(setup: Setup, client: Client):
    """Progress arrives before the tool goes on, a cancelled call reaches the server, and streams continue."""
    assert setup.tours[client.name].result() == client.seen, setup.gatepass.output


def test_no_expired_token_reached_the_server(setup: Setup):
    wait(setup.tours.values())
    tally = setup.server.tally()
    assert tally.refusals in ONE_LATE
    assert len(tally.tokens) > TOUR_S / LIFE_S
