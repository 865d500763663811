"""Portkey's gateway as the upstream, before a server that has chat completions alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from tests.e2e.process import Process
from tests.e2e.servers import READY_S, ask, installed, listening, serve
from tests.serving import free_port

CHAT = "/v1/chat/completions"
ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": "m", "input": "Hello"},
    "/v1/messages": {"model": "m", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]},
}


class Model(BaseHTTPRequestHandler):
    """Chats alone."""

    paths: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.paths.append(self.path)
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        chat = {"id": "c", "object": "chat.completion", "created": 1, "model": asked["model"], "choices": [choice]}
        self.answer(200, chat) if self.path == CHAT else self.answer(404, {"detail": "Not Found"})

    def do_GET(self) -> None:
        self.answer(404, {"detail": "Not Found"})

    def answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def model_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture
def through_portkey(tmp_path: Path) -> Iterator[str]:
    """The URL of gatepass before Portkey. It listens on each interface, because it has no option for its address."""
    port, folder = free_port(), installed("node-portkey")
    start = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    with model_server() as model, Process(["node", start, f"--port={port}", "--headless"], folder=folder) as portkey:
        portkey.wait_for("Ready for connections", READY_S)
        fields = {"x-portkey-provider": "openai", "x-portkey-custom-host": model}
        upstream = {"base_url": f"http://127.0.0.1:{port}/v1", "headers": fields}
        config = tmp_path / "gatepass.yaml"
        config.write_text(json.dumps({"upstreams": {"chat": upstream}, "models": {"*": {"upstream": "chat"}}}))
        with serve(config) as gatepass:
            yield listening(gatepass)


@pytest.mark.parametrize("path", ASKED)
def test_chats_serve_an_operation_that_the_gateway_or_its_model_server_lacks(through_portkey: str, path: str):
    """Portkey relays the 404 for responses, and has a 500 of its own for messages."""
    before = len(Model.paths)
    answered = [ask(f"{through_portkey}{path}", ASKED[path]) for _ in range(3)]
    assert [status for status, _ in answered] == [200] * 3
    assert all('"Hi"' in text for _, text in answered)
    assert Model.paths[before:] == [*(["/v1/responses"] if "responses" in path else []), CHAT, CHAT, CHAT]


def test_a_list_of_models_that_the_model_server_lacks_names_the_setting(through_portkey: str):
    status, text = ask(f"{through_portkey}/v1/models")
    assert status == 404
    assert "it does not list its models" in json.loads(text)["error"]["message"]
