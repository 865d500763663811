"""gatepass as a process of its own, with an issuer and an upstream that the test drives, all on this machine."""

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CONFIG = """
server: {{host: 127.0.0.1, port: 0, ui: true, base_path: /llm}}
credentials:
  corp:
    type: oauth2
    token_url: {upstream}/token
    client_id: gatepass
    client_secret: a-secret-of-the-issuer
upstreams:
  corp: {{base_url: "{upstream}/v1", credential: corp}}
  spare: {{base_url: "{upstream}/v1", credential: corp}}
models:
  gpt-4o: {{upstream: corp}}
  small: {{upstream: spare}}
access:
  keys:
    - {{name: anna, role: admin, hash: "{admin}"}}
    - {{name: ragflow, role: caller, hash: "{caller}"}}
"""
ADMIN = "gp-admin-" + "a" * 40
CALLER = "gp-caller-" + "c" * 40


class Upstream:
    """An issuer and a model server. A stream sends one event, waits for `more`, and ends whole."""

    def __init__(self) -> None:
        self.more = threading.Event()


class UpstreamRoutes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, upstream: Upstream, *arguments: Any) -> None:
        self.upstream = upstream
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/token":
            self._json({"access_token": "a-token", "expires_in": 60})
        elif json.loads(body).get("stream"):
            self._stream()
        else:
            message = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
            self._json({"id": "c", "object": "chat.completion", "choices": [message]})

    def _json(self, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("x-request-id", "upstream-7")
        self.end_headers()
        self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "A "}}]})
        self.upstream.more.wait(30)
        for word in ("light", "house"):
            self._event({"choices": [{"index": 0, "delta": {"content": word}}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, members: dict[str, object]) -> None:
        document = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", **members}
        self._chunk(f"data: {json.dumps(document)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


class Gatepass:
    """A gatepass that runs. `url` is that of the page."""

    def __init__(self, base_url: str, upstream: Upstream, file: Path, process: subprocess.Popen[str]) -> None:
        self.base_url, self.url, self.upstream = base_url, f"{base_url}/ui/", upstream
        self._file, self._process = file, process
        self._pool = ThreadPoolExecutor(4)

    def chat(self, model: str = "gpt-4o", **members: object) -> Future[tuple[int, str]]:
        """Send a chat as the caller ragflow, and return its status and body when it has ended."""
        body = {"model": model, "messages": [{"role": "user", "content": "What is this?"}], **members}
        return self._pool.submit(self._post, json.dumps(body).encode())

    def _post(self, body: bytes) -> tuple[int, str]:
        headers = {"authorization": f"Bearer {CALLER}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.base_url}/v1/chat/completions", body, headers)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - loopback
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    @contextmanager
    def configured(self, more: str) -> Iterator[None]:
        """Reload with `more` at the end of the file, and afterwards without it."""
        text = self._file.read_text()
        try:
            for written in (text + more, text):
                self._file.write_text(written)
                self._process.send_signal(signal.SIGHUP)
                if written != text:
                    yield
        finally:
            self._file.write_text(text)

    def close(self) -> None:
        self.upstream.more.set()
        self._pool.shutdown()


def hashed(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


@contextmanager
def running(folder: Path) -> Iterator[Gatepass]:
    """Run `gatepass serve` of the program $GATEPASS."""
    upstream = Upstream()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(UpstreamRoutes, upstream)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        file = folder / "gatepass.yaml"
        own = f"http://127.0.0.1:{server.server_port}"
        file.write_text(CONFIG.format(upstream=own, admin=hashed(ADMIN), caller=hashed(CALLER)))
        command = [os.environ["GATEPASS"], "serve", "--config", str(file), "--log-format", "text"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
        ) as process:
            try:
                assert process.stdout is not None
                lines = []
                for line in process.stdout:
                    lines.append(line)
                    if found := re.search(r"http://127\.0\.0\.1:(\d+)", line.replace(own, "")):
                        break
                else:
                    raise AssertionError("".join(lines))
                threading.Thread(target=process.stdout.read, daemon=True).start()
                gatepass = Gatepass(f"http://127.0.0.1:{found[1]}/llm", upstream, file, process)
                try:
                    yield gatepass
                finally:
                    gatepass.close()
            finally:
                process.terminate()
                server.shutdown()
                thread.join()
