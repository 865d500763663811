"""The demo's token issuer: OAuth 2.0 client credentials, a JSON login, and the JWTs that both mint."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """One token. `issued_at` and `expires_at` are seconds since the epoch."""

    audience: str
    token: str = field(repr=False)
    issued_at: float
    expires_at: int
    fingerprint: str


def fingerprint(token: str) -> str:
    """Return the first characters of the token's hash, which identify it in the output."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class DemoClient:
    """A client of the issuer, and the audience of its tokens."""

    id: str
    secret: str = field(repr=False)
    audience: str


class DemoIssuer:
    """Mint tokens at `/oauth/token` and `/login`, signed with `key`; `on_mint` is called with each."""

    def __init__(
        self, clients: Iterable[DemoClient], lifetime_s: float, on_mint: Callable[[IssuedToken], object]
    ) -> None:
        self.key = secrets.token_bytes(32)
        self._clients = {client.id: client for client in clients}
        self._life_s = lifetime_s
        self._on_mint = on_mint
        self.minted: list[IssuedToken] = []
        routes = [Route("/oauth/token", self._oauth, methods=["POST"]), Route("/login", self._login, methods=["POST"])]
        self.app = Starlette(routes=routes)

    def mint(self, client: DemoClient) -> IssuedToken:
        """Create a token with at least the issuer's lifetime; `exp` is rounded up to whole seconds (RFC 7519)."""
        now = time.time()
        expires_at = math.ceil(now + self._life_s)
        claims = {"aud": client.audience, "exp": expires_at, "jti": secrets.token_hex(8)}
        token = jwt.encode(claims, self.key, ALGORITHM)
        minted = IssuedToken(client.audience, token, now, expires_at, fingerprint(token))
        self.minted.append(minted)
        self._on_mint(minted)
        return minted

    async def _oauth(self, request: Request) -> Response:
        """Serve the client credentials grant (RFC 6749 4.4) with Basic authentication."""
        basic = request.headers.get("authorization", "").removeprefix("Basic ")
        client = self._known(*b64decode(basic).decode().split(":", 1))
        if client is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        minted = self.mint(client)
        lifetime_s = int(minted.expires_at - minted.issued_at)
        return JSONResponse({"access_token": minted.token, "token_type": "Bearer", "expires_in": lifetime_s})

    async def _login(self, request: Request) -> Response:
        """Serve an in-house portal's login, which returns HTTP 200 with an error code for a wrong secret."""
        given = await request.json()
        client = self._known(given["app_id"], given["secret"])
        if client is None:
            return JSONResponse({"code": 10401, "msg": "wrong app_id or secret", "data": None})
        minted = self.mint(client)
        return JSONResponse({"code": 0, "data": {"token": minted.token, "expireAt": minted.expires_at * 1000}})

    def _known(self, name: str, secret: str = "") -> DemoClient | None:
        client = self._clients.get(name)
        return client if client is not None and client.secret == secret else None
