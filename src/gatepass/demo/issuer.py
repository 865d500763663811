"""A small token issuer: OAuth 2.0 client credentials and a JSON login, with a script of misdeeds."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gatepass.demo.signing import Minted, SigningKey

_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Client:
    """Who may fetch: its id, its secret, and the audience of the tokens it gets."""

    id: str
    secret: str = field(repr=False)
    audience: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What the issuer does with one fetch instead of the usual.

    First it waits `delay_s`, then for `hold` (or for the caller to leave). Then it mints as usual,
    for `life_s` where that is set; or, where `body` is set, answers with `status`, `headers` and
    these bytes, one at a time every `dribble_s` where that is set.
    """

    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hold: asyncio.Event | None = None
    dribble_s: float | None = None
    life_s: float | None = None

    @classmethod
    def fail(cls, status: int, error: str = "temporarily_unavailable", **headers: str) -> Turn:
        body = json.dumps({"error": error, "error_description": f"the issuer was told to say {error}"})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status=status, body=body.encode(), headers={"content-type": "application/json", **named})

    @classmethod
    def hang(cls) -> Turn:
        """Never answer; ends when the caller leaves."""
        return cls(hold=asyncio.Event())


USUAL = Turn()


class _Refused(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Issuer:
    """Signs tokens for its clients at `/oauth/token` and `/login`, and remembers what it did.

    `fetches` counts every call, `minted` holds every token in order. `script(turns…)` is used up
    one turn per fetch; after it comes `otherwise`. `on_mint` is told of each new token.
    """

    def __init__(
        self, key: SigningKey, *clients: Client, life_s: float = 20.0, on_mint: Callable[[Minted], object] | None = None
    ) -> None:
        self._key = key
        self._clients = {client.id: client for client in clients}
        self._life_s = life_s
        self.on_mint: Callable[[Minted], object] = on_mint or (lambda _: None)
        self._script: deque[Turn] = deque()
        self.otherwise = USUAL
        self.fetches = 0
        self.minted: list[Minted] = []
        self.app = Starlette(
            routes=[
                Route("/oauth/token", self._oauth, methods=["POST"]),
                Route("/login", self._login, methods=["POST"]),
            ]
        )

    def script(self, *turns: Turn) -> None:
        """What to do with the next fetches, in order."""
        self._script.extend(turns)

    def minted_for(self, audience: str) -> list[Minted]:
        return [token for token in self.minted if token.audience == audience]

    async def _oauth(self, request: Request) -> Response:
        """RFC 6749 4.4: the client's id and secret by Basic or in the form, never both (2.3)."""

        async def mint(life_s: float) -> Response:
            minted = self._mint(_oauth_client(self._clients, request.headers, await request.body()), life_s)
            life = {"expires_in": int(minted.expires_at - minted.issued_at)}
            return JSONResponse({"access_token": minted.token, "token_type": "Bearer", **life}, headers=_NO_STORE)

        return await self._play(request, mint)

    async def _login(self, request: Request) -> Response:
        """A login as in-house portals have it: a wrong secret is a 200 with a code of its own."""

        async def mint(life_s: float) -> Response:
            client = _login_client(self._clients, await request.body())
            if client is None:
                return JSONResponse({"code": 10401, "msg": "wrong app_id or secret", "data": None})
            minted = self._mint(client, life_s)
            data = {"token": minted.token, "expireAt": minted.expires_at * 1000}
            return JSONResponse({"code": 0, "data": data}, headers=_NO_STORE)

        return await self._play(request, mint)

    async def _play(self, request: Request, mint: Any) -> Response:
        self.fetches += 1
        turn = self._script.popleft() if self._script else self.otherwise
        await asyncio.sleep(turn.delay_s)
        if turn.hold is not None:
            await request.body()
            await _held(request, turn.hold)
        if turn.body is not None:
            return _said(turn, turn.body)
        try:
            response: Response = await mint(self._life_s if turn.life_s is None else turn.life_s)
        except _Refused as refused:
            return refused.response
        return response

    def _mint(self, client: Client, life_s: float) -> Minted:
        number = len(self.minted) + 1
        minted = self._key.sign(number=number, subject=client.id, audience=client.audience, life_s=life_s)
        self.minted.append(minted)
        self.on_mint(minted)
        return minted


def _said(turn: Turn, body: bytes) -> Response:
    if turn.dribble_s is None:
        return Response(body, turn.status, dict(turn.headers))
    return StreamingResponse(_dribbled(body, turn.dribble_s), turn.status, dict(turn.headers))


async def _dribbled(body: bytes, pause_s: float) -> AsyncIterator[bytes]:
    for index in range(len(body)):
        yield body[index : index + 1]
        await asyncio.sleep(pause_s)


async def _held(request: Request, until: asyncio.Event) -> None:
    released = asyncio.create_task(until.wait())
    left = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({released, left}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        released.cancel()
        left.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _oauth_client(clients: Mapping[str, Client], headers: Mapping[str, str], body: bytes) -> Client:
    form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    if form.get("grant_type") != "client_credentials":
        raise _Refused(_oauth_error(400, "unsupported_grant_type", "grant_type must be client_credentials"))
    basic = headers.get("authorization")
    if basic is not None and "client_secret" in form:
        raise _Refused(_oauth_error(400, "invalid_request", "the secret came by Basic and in the form"))
    name, secret = _from_basic(basic) if basic is not None else (form.get("client_id"), form.get("client_secret"))
    client = _known(clients, name, secret)
    if client is None:
        raise _Refused(_oauth_error(401, "invalid_client", "unknown client or wrong secret"))
    return client


def _from_basic(value: str) -> tuple[str | None, str | None]:
    """RFC 6749 2.3.1: both parts are form-encoded before they are joined."""
    scheme, _, rest = value.partition(" ")
    try:
        name, colon, secret = base64.b64decode(rest, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None, None
    if scheme.lower() != "basic" or not colon:
        return None, None
    return unquote_plus(name), unquote_plus(secret)


def _login_client(clients: Mapping[str, Client], body: bytes) -> Client | None:
    try:
        said = json.loads(body)
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    return _known(clients, said.get("app_id"), said.get("secret"))


def _known(clients: Mapping[str, Client], name: object, secret: object) -> Client | None:
    client = clients.get(name) if isinstance(name, str) else None
    if client is None or not isinstance(secret, str):
        return None
    return client if secrets.compare_digest(client.secret.encode(), secret.encode()) else None


def _oauth_error(status: int, error: str, description: str) -> Response:
    headers = _NO_STORE | ({"www-authenticate": "Basic"} if status == 401 else {})
    return JSONResponse({"error": error, "error_description": description}, status, headers)
