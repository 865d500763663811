"""An issuer of opaque tokens and an upstream that accepts them, in one server. It records both kinds of request."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.serving import serving

COMPLETION = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}


@dataclass
class Minting:
    """`kills_old`: a new token ends the one before it."""

    life_s: float = 300.0
    kills_old: bool = False
    delay_s: float = 0.0
    url: str = ""
    calls: list[float] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        token = Route("/token", self._mint, methods=["POST"])
        return Starlette(routes=[token, Route("/v1/chat/completions", self._serve, methods=["POST"])])

    async def _mint(self, request: Request) -> Response:
        await request.body()
        self.calls.append(time.monotonic())
        await asyncio.sleep(self.delay_s)  # a slow issuer: time in which others ask too
        text = f"opaque-token-{len(self.calls)}"
        if self.kills_old:
            self.ends.clear()
        self.ends[text] = time.monotonic() + self.life_s
        return JSONResponse({"access_token": text, "token_type": "Bearer", "expires_in": self.life_s})

    async def _serve(self, request: Request) -> Response:
        text = request.headers.get("authorization", "").removeprefix("Bearer ")
        if time.monotonic() >= self.ends.get(text, 0.0):
            self.refused.append(text)
            return JSONResponse({"error": {"message": "unknown token"}}, 401)
        return JSONResponse(COMPLETION)

    def configuration(self, **blocks: Any) -> dict[str, Any]:
        corp = {
            "type": "oauth2",
            "token_url": f"{self.url}/token",
            "client_id": "me",
            "client_secret": "a-secret-of-the-client",
        }
        chat = {"base_url": f"{self.url}/v1", "credential": "corp"}
        return {"server": {"drain_timeout_s": 30}, "credentials": {"corp": corp}, "upstreams": {"chat": chat}, **blocks}


@asynccontextmanager
async def minting(**how: Any) -> AsyncIterator[Minting]:
    issuer = Minting(**how)
    async with serving(issuer.app) as issuer.url:
        yield issuer
