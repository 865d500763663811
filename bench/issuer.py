"""The OAuth 2.0 issuer of the rig, with tokens that live 20 s.

Start it with `python -m bench.issuer PORT` and BENCH_CLIENT_SECRET in the environment. `GET /minted` returns the number
of tokens and the last one.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

CLIENT_ID = "bench"
LIFE_S = 20


class Issuer(HTTPServer):
    def __init__(self, port: int, secret: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.expects = "Basic " + b64encode(f"{CLIENT_ID}:{secret}".encode()).decode()
        self.minted: list[str] = []

    def mint(self) -> dict[str, Any]:
        self.minted.append("bench-" + secrets.token_urlsafe(600)[:800])  # as long as a usual JWT
        return {"access_token": self.minted[-1], "token_type": "Bearer", "expires_in": LIFE_S}


class Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        self._reply(200, {"minted": len(self.server.minted), "last": (self.server.minted or [""])[-1]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") == self.server.expects:
            self._reply(200, self.server.mint())
        else:
            self._reply(401, {"error": "invalid_client"})

    def _reply(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing, because a line could contain a token."""


if __name__ == "__main__":
    Issuer(int(sys.argv[1]), os.environ["BENCH_CLIENT_SECRET"]).serve_forever()
