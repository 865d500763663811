"""RAGFlow's own MCP server behind gatepass. Its file is not part of this repository, and runs as it is.

    RAGFLOW_MCP_SERVER=/path/to/ragflow/mcp/server/server.py .venv/bin/pytest -s tests/e2e/test_mcp_ragflow.py

It runs in its mode `host`: it sends the token of each request to RAGFlow's API. The API of this test accepts only
tokens that are valid now.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.check import TokenRefused, Verifier, verifier
from tests.e2e.mcp.clients import McpServer, inspect, routes
from tests.e2e.process import Process
from tests.e2e.servers import READY_S, RESOURCE, Issuer, installed, listening, serve_routes, start_issuer
from tests.serving import free_port

FILE = os.environ.get("RAGFLOW_MCP_SERVER")
LIFE_S = 4
CHUNK = {"id": "c1", "content": "Amber is no mineral.", "dataset_id": "d1", "document_id": "f1", "similarity": 0.9}

pytestmark = pytest.mark.skipif(
    FILE is None, reason="RAGFLOW_MCP_SERVER is not the path of RAGFlow's mcp/server/server.py"
)


class Api(BaseHTTPRequestHandler):
    """What of RAGFlow's API its MCP server calls."""

    protocol_version = "HTTP/1.1"
    server: ApiServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        data: dict[str, list[Any]] = {
            "/api/v1/datasets": [{"id": "d1", "name": "minerals", "description": "About minerals"}],
            "/api/v1/datasets/d1/documents": [],
            "/api/v1/chats": [{"id": "a1", "name": "geologist", "description": "Knows minerals"}],
        }
        self._answer({"code": 0, "data": data.get(path, []), "total": len(data.get(path, []))})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer({"code": 0, "data": {"chunks": [CHUNK], "total": 1}})

    def _answer(self, document: dict[str, Any]) -> None:
        try:
            self.server.verifier.claims(self.headers.get("authorization", ""))
        except TokenRefused as refused:
            document = {"code": 109, "message": str(refused)}
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class ApiServer(ThreadingHTTPServer):
    def __init__(self, verifier: Verifier) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.verifier = verifier

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def ragflow_api(issuer: Issuer) -> Iterator[ApiServer]:
    with ApiServer(verifier(issuer.url, RESOURCE)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dataclass(frozen=True, slots=True)
class Setup:
    mcp: str
    api: ApiServer
    gatepass: Process


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    assert FILE is not None
    python = installed("python-mcp1") / "bin" / "python"
    with ExitStack() as started:
        issuer = Issuer(listening(started.enter_context(start_issuer(token_life_s=LIFE_S))))
        api = started.enter_context(ragflow_api(issuer))
        port = free_port()
        options = ["--mode", "host", "--port", str(port), "--base-url", api.url]
        ragflow = started.enter_context(Process([python, Path(FILE), *options], folder=tmp_path_factory.mktemp("cwd")))
        ragflow.wait_for("Uvicorn running", READY_S)
        folder = tmp_path_factory.mktemp("gatepass")
        config = routes(McpServer(f"http://127.0.0.1:{port}"))
        process = started.enter_context(serve_routes(folder, issuer, config))
        yield Setup(f"{listening(process)}/mcp/tools", api, process)


@pytest.mark.parametrize("era", ["legacy", "auto"])
def test_its_tools_are_listed(setup: Setup, era: str):
    tools = inspect(setup.mcp, era, "--method", "tools/list")["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["ragflow_retrieval", "ragflow_list_datasets", "ragflow_list_chats"]
    assert "About minerals" in tools[0]["description"]  # from its API, with the token of this request


def test_it_finds_chunks_across_token_changes(setup: Setup):
    call = ("--method", "tools/call", "--tool-name", "ragflow_retrieval", "--tool-arg", "question=What is amber?")
    until_s = time.monotonic() + 2 * LIFE_S
    while time.monotonic() < until_s:
        result = inspect(setup.mcp, "legacy", *call)["result"]
        assert result["isError"] is False, (result, setup.gatepass.output)
        found = json.loads(result["content"][0]["text"])["chunks"]
        assert [chunk["content"] for chunk in found] == ["Amber is no mineral."]
    tally = setup.api.verifier.tally
    assert len(tally.tokens) > 2
    assert tally.refusals == []
