"""A server with the routes of the page, whose documents the tests change while a browser shows them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.ui import documents
from tests.ui.documents import Document

STATIC = Path(__file__).resolve().parents[2] / "src" / "gatepass" / "server" / "ui" / "static"
PREFIX = "/behind/llm/ui/"
"""The page is served below a proxy's prefix and a base path, so an absolute URL in it fails."""
KEY = "gp-admin-key"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


FILTERS = {"caller", "model", "upstream", "code", "kind", "outcome"}


class Fake:
    """The documents of the page, and what it sent. `polled` counts the polls of each view."""

    def __init__(self) -> None:
        self.session = deepcopy(documents.SESSION)
        self.role = "admin"
        self.status = documents.status()
        self.traffic = documents.traffic()
        self.callers = documents.callers()
        self.limits = documents.limits()
        self.summaries = documents.summaries()
        self.stories = {
            "req-1": documents.story(),
            "req-2": documents.failed_story(),
            "req-3": documents.learned_story(),
            "req-4": documents.mcp_story(),
            "run-1": documents.running_story(),
        }
        self.models = documents.models()
        self.learned = documents.learned()
        self.use = documents.use()
        self.capture: Document = deepcopy(self.status["capture"])
        self.doctor = list(documents.DOCTOR)
        self.parts: threading.Semaphore | None = None
        """If set, doctor sends a part for each release: a test sees each state until it goes on."""
        self.refusal = "invalid_api_key"
        self.is_serving = True
        self.received: list[tuple[str, str, Any]] = []
        self.polled: list[tuple[str, dict[str, str]]] = []

    def sign_in(self, role: str = "admin") -> None:
        self.role = role
        self.session["signed_in"] = {"name": "anna", "role": role}

    def answer(
        self, method: str, path: str, query: dict[str, str], body: Any, bearer: str | None
    ) -> tuple[int, Document]:
        """Return the status and the document of a route."""
        name, _, rest = path.partition("/")
        if bearer == f"Bearer {KEY}":
            self.sign_in(self.role)
        if bearer is None and name == "session":
            return 200, self.session
        if self.session["signed_in"] is None:
            return 401, error(self.refusal, "The API key is not known to gatepass.", "client")
        if name == "session":
            return 200, self.session
        if name == "requests" and rest:
            found = self.stories.get(unquote(rest))
            return 200, {"stories": [found] if found else []}
        if name == "requests":
            exact = {key: value for key, value in query.items() if key in FILTERS}
            rows = [row for row in self.summaries["requests"] if all(row[key] == value for key, value in exact.items())]
            return 200, {**self.summaries, "requests": [row for row in rows if query.get("text", "") in row["id"]]}
        if name == "curl":
            return 200, {"curl": documents.CURL}
        if name == "errors":
            unknown = {"code": unquote(rest), "status": 502, "text": "An upstream's own error.", "action": ""}
            return 200, documents.ERRORS.get(rest, unknown)
        if name == "capture" and method != "GET":
            running = (
                {**body, "running": True, "until": documents.NOW + body["for_s"]}
                if method == "POST"
                else {"running": False}
            )
            self.capture.update(running)
        if path == "learned/forget":
            self.learned["rules"] = [rule for rule in self.learned["rules"] if rule["adapted"] != body["adapted"]]
            return 200, {"forgotten": 1}
        return 200, getattr(self, name)


def error(code: str, message: str, hop: str) -> Document:
    return {"error": {"message": message, "code": code, "hop": hop}}


class Routes(BaseHTTPRequestHandler):
    """The routes below PREFIX."""

    def __init__(self, fake: Fake, *arguments: Any) -> None:
        self.fake = fake
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        try:
            if not self.fake.is_serving:
                self._reply(
                    503, "application/json", json.dumps(error("draining", "gatepass stops.", "gatepass")).encode()
                )
            elif not url.path.startswith(PREFIX):
                self._reply(404, "text/plain", b"not below the prefix")
            elif url.path.startswith(f"{PREFIX}api/"):
                self._serve_api(url.path.removeprefix(f"{PREFIX}api/"), dict(parse_qsl(url.query)), body)
            else:
                self._serve_file(url.path.removeprefix(PREFIX) or "index.html")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser left

    def _serve_file(self, name: str) -> None:
        file = STATIC / name
        if file.parent != STATIC or not file.is_file():
            self._reply(404, "text/plain", b"no such file")
            return
        self._reply(200, TYPES[file.suffix], file.read_bytes(), {"cache-control": "no-cache"})

    def _serve_api(self, path: str, query: dict[str, str], body: Any) -> None:
        fake = self.fake
        if self.command != "GET":
            fake.received.append((self.command, path, body))
        if path == "doctor":
            self._stream(self._doctor())
        else:
            status, document = fake.answer(self.command, path, query, body, self.headers.get("authorization"))
            content = json.dumps(document).encode()
            etag = f'"{sha256(content).hexdigest()}"'
            if path in ("status", "requests"):
                fake.polled.append((path, query))
            if self.headers.get("if-none-match") == etag:
                status, content = 304, b""
            self._reply(status, "application/json", content, {"cache-control": "no-store", "etag": etag})

    def _doctor(self) -> Iterator[bytes]:
        for name, document in self.fake.doctor:
            if self.fake.parts:
                self.fake.parts.acquire(timeout=60)
            yield f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()

    def _stream(self, frames: Iterator[bytes]) -> None:
        self._head(200, {"content-type": "text/event-stream", "cache-control": "no-store"})
        for frame in frames:
            self.wfile.write(frame)

    def _reply(self, status: int, media_type: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, {"content-type": media_type, "content-length": str(len(content)), **(headers or {})})
        self.wfile.write(content)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """Serve `fake`, and yield the URL of the page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Routes, fake)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
        fake.is_serving = False
        server.shutdown()
        thread.join()
