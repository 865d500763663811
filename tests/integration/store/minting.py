"""An issuer of opaque tokens and an upstream that accepts them, in one server. It records both kinds of request."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.serving import serving

COMPLETION = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}


@dataclass
class Minting:
    """`kills_old`: a new token ends the one before it. `refresh_token`: the one that is good now, for one use."""

    life_s: float = 300.0
    kills_old: bool = False
    refresh_token: str | None = None
    delay_s: float = 0.0
    url: str = ""
    calls: list[float] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        token = Route("/token", self._mint, methods=["POST"])
        return Starlette(routes=[token, Route("/v1/chat/completions", self._serve, methods=["POST"])])

    async def _mint(self, request: Request) -> Response:
        used = parse_qs((await request.body()).decode()).get("refresh_token")
        if self.refresh_token is not None and used != [self.refresh_token]:
            self.refused.append(str(used))
            return JSONResponse({"error": "invalid_grant"}, 400)
        self.calls.append(time.monotonic())
        await asyncio.sleep(self.delay_s)  # a slow issuer: time in which others ask too
        text = f"opaque-token-{len(self.calls)}"
        if self.kills_old:
            self.ends.clear()
        self.ends[text] = time.monotonic() + self.life_s
        self.refresh_token = self.refresh_token and f"refresh-token-{len(self.calls) + 1}"
        rotated = {"refresh_token": self.refresh_token} if self.refresh_token else {}
        return JSONResponse({"access_token": text, "token_type": "Bearer", "expires_in": self.life_s, **rotated})

    async def _serve(self, request: Request) -> Response:
        text = request.headers.get("authorization", "").removeprefix("Bearer ")
        if time.monotonic() >= self.ends.get(text, 0.0):
            self.refused.append(text)
            return JSONResponse({"error": {"message": "unknown token"}}, 401)
        self.used.append(text)
        return JSONResponse(COMPLETION)

    def configuration(self, **blocks: Any) -> dict[str, Any]:
        corp = {
            "type": "oauth2",
            "token_url": f"{self.url}/token",
            "client_id": "me",
            "client_secret": "a-secret-of-the-client",
        }
        chat = {"base_url": f"{self.url}/v1", "credential": "corp"}
        return {"server": {"drain_timeout_s": 1}, "credentials": {"corp": corp}, "upstreams": {"chat": chat}, **blocks}


@asynccontextmanager
async def minting(**how: Any) -> AsyncIterator[Minting]:
    issuer = Minting(**how)
    async with serving(issuer.app) as issuer.url:
        yield issuer
