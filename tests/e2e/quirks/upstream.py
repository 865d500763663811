"""The scripted upstream: each model name selects a row. Start it with `python -m tests.e2e.quirks.upstream`.

`GET /count` returns the requests per model since the last `POST /forget`, which also clears the state of all models.
`POST /token` issues the tokens of the rows about expired tokens.
"""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.e2e.quirks.replies import Reply, Request, Serve, error, json_reply
from tests.e2e.quirks.rows import ROWS

SERVE: dict[str, Serve] = {row.model: row.serve for row in ROWS}
RAGFLOW = "/api/v1/openai/"


class Memory:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self.forget()

    def forget(self) -> None:
        self.counts: Counter[str] = Counter()
        self.remembered: defaultdict[str, dict[str, Any]] = defaultdict(dict)

    def note(self, model: str) -> dict[str, Any]:
        with self._lock:
            self.counts[model] += 1
            return self.remembered[model]

    def mint(self) -> Reply:
        return json_reply({"access_token": f"token-{next(self._tokens)}", "expires_in": 3600})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    memory: Memory

    def do_GET(self) -> None:
        if self.path == "/count":
            self._answer(json_reply(self.memory.counts))
        elif self.path.endswith("/models"):
            self._answer(json_reply({"object": "list", "data": [{"id": name, "object": "model"} for name in SERVE]}))
        else:  # the target of a redirect: a login page
            page = b"<!doctype html><html><head><title>Sign in</title></head><body>who are you?</body></html>"
            self._answer(Reply(200, "text/html", (page,)))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/token":
            self._answer(self.memory.mint())
        elif self.path == "/forget":
            self.memory.forget()
            self._answer(json_reply({}))
        else:
            self._answer(self._served(json.loads(body)))

    def _served(self, body: dict[str, Any]) -> Reply:
        model = self.path.removeprefix(RAGFLOW).split("/")[0] if self.path.startswith(RAGFLOW) else body.get("model")
        serve = SERVE.get(str(model))
        if serve is None:
            return json_reply(error(f"The model {model!r} does not exist.", "model", "model_not_found"), 404)
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        return serve(Request(body, token, self.memory.note(str(model))))

    def _answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        if reply.kind is not None:
            self.send_header("content-type", reply.kind)
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.kind == "text/event-stream":
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in filter(None, reply.pieces):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.close_connection = self.close_connection or reply.cut
            self.wfile.write(b"" if reply.cut else b"0\r\n\r\n")
        else:
            body = b"".join(reply.pieces)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing, because `GET /count` reports the requests."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disconnect during a defective reply."""


def main() -> None:
    Handler.memory = Memory()
    server = Server(("127.0.0.1", 0), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
