"""The servers of `gatepass demo`: a token issuer, two model servers, and gatepass in front of them.

The model servers accept only valid tokens and reject unknown members.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import secrets
import socket
import tempfile
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from gatepass.config.load import load
from gatepass.server.app import create_app

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
        self.key = secrets.token_bytes(32)  # HS256 requires 32 bytes (RFC 7518, section 3.2)
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
        # without `jti` two tokens of one second would be equal
        claims = {"aud": client.audience, "exp": expires_at, "jti": secrets.token_hex(8)}
        token = jwt.encode(claims, self.key, ALGORITHM)
        minted = IssuedToken(client.audience, token, now, expires_at, fingerprint(token))
        self.minted.append(minted)
        self._on_mint(minted)
        return minted

    async def _oauth(self, request: Request) -> Response:
        """Serve the client credentials grant (RFC 6749 4.4) with Basic authentication."""
        basic = request.headers.get("authorization", "").removeprefix("Basic ")
        # a password may have colons (RFC 7617, section 2)
        client = self._known(*b64decode(basic).decode().split(":", 1))
        if client is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        minted = self.mint(client)
        lifetime_s = int(minted.expires_at - minted.issued_at)
        return JSONResponse({"access_token": minted.token, "token_type": "Bearer", "expires_in": lifetime_s})

    async def _login(self, request: Request) -> Response:
        """Serve the login of a corporate portal. It returns HTTP 200 with an error code for a wrong secret."""
        given = await request.json()
        client = self._known(given["app_id"], given["secret"])
        if client is None:
            return JSONResponse({"code": 10401, "msg": "wrong app_id or secret", "data": None})
        minted = self.mint(client)
        # an envelope and milliseconds, as in corporate gateways
        return JSONResponse({"code": 0, "data": {"token": minted.token, "expireAt": minted.expires_at * 1000}})

    def _known(self, name: str, secret: str = "") -> DemoClient | None:
        client = self._clients.get(name)
        return client if client is not None and client.secret == secret else None


CHAT_MEMBERS = frozenset(("model", "messages", "stream", "stream_options", "temperature", "max_tokens"))
MESSAGE_MEMBERS = frozenset(("role", "content", "name"))
EMBEDDINGS_MEMBERS = frozenset(("model", "input", "encoding_format", "dimensions", "user"))


class ModelServer:
    """Serve `model` under `/v1` to tokens of `audience`; `pace_s` is the pause between the words of a stream."""

    def __init__(self, key: bytes, audience: str, model: str, pace_s: float = 0.12) -> None:
        self._key, self._audience, self._model, self.pace_s = key, audience, model, pace_s
        self.fingerprints, self.refused = list[str](), list[str]()
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/v1/models", self._models),
        ]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: _refusal})

    async def _chat(self, request: Request) -> Response:
        token = self._authenticate(request)
        body = self._checked(await request.json(), CHAT_MEMBERS)
        text = answer(*understood(body["messages"]))
        self.fingerprints.append(token)
        usage = {"prompt_tokens": 1, "completion_tokens": len(text.split()), "total_tokens": 1 + len(text.split())}
        head = {"id": f"chatcmpl-{time.time_ns()}", "created": int(time.time()), "model": self._model}
        if body.get("stream") is not True:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        with_usage = (body.get("stream_options") or {}).get("include_usage") is True
        chunks = [{**head, **chunk} for chunk in chunked(text, usage if with_usage else None)]
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        return StreamingResponse(self.paced([*events, "data: [DONE]\n\n"]), media_type="text/event-stream")

    async def paced(self, events: list[str]) -> AsyncIterator[str]:
        for event in events:
            yield event
            await asyncio.sleep(self.pace_s)

    async def _embeddings(self, request: Request) -> Response:
        token = self._authenticate(request)
        body = self._checked(await request.json(), EMBEDDINGS_MEMBERS)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        self.fingerprints.append(token)
        data = [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return JSONResponse({"object": "list", "data": data, "model": self._model, "usage": usage})

    async def _models(self, request: Request) -> Response:
        self._authenticate(request)
        return JSONResponse({"object": "list", "data": [{"id": self._model, "object": "model"}]})

    def _authenticate(self, request: Request) -> str:
        """Return the fingerprint of a valid token; raise HTTPException."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            jwt.decode(token, self._key, [ALGORITHM], audience=self._audience)
        except jwt.PyJWTError as error:
            is_stale = isinstance(error, jwt.ExpiredSignatureError)
            reason = "The token has expired" if is_stale else "The token was not issued for this server"
            self.refused.append(reason)
            raise HTTPException(401, reason) from None
        return fingerprint(token)

    def _checked(self, body: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
        if unknown := sorted(set(body) - known):
            raise HTTPException(400, f"Unrecognized request argument supplied: {', '.join(unknown)}")  # OpenAI's text
        if body.get("model") != self._model:
            raise HTTPException(404, f"The model `{body.get('model')}` does not exist")
        return body


async def _refusal(_: Request, error: Any) -> Response:
    body = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": body}, error.status_code)


def understood(messages: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """Read a conversation as a vision model does: the last message's text, and the stated type of each image."""
    text, images = "", list[str]()
    for message in messages:
        if unknown := sorted(set(message) - MESSAGE_MEMBERS):
            raise HTTPException(400, f"Unrecognized request argument supplied: messages.{unknown[0]}")
        content = message["content"]
        parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = " ".join(part["text"] for part in parts if part["type"] == "text")
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        images += [url.removeprefix("data:").partition(";")[0] for url in urls]
    return text, images


def answer(text: str, images: list[str]) -> str:
    if not images:
        return f'You said "{text}" and I answer word by word, each the moment it is made.'
    return f"I see {len(images)} images: {', '.join(images)}."


def chunked(text: str, usage: dict[str, int] | None) -> Iterator[dict[str, Any]]:
    """Yield the chunks of an answer: the role, each word, the end, and `usage` if there is one."""
    words = [f" {word}" if index else word for index, word in enumerate(text.split(" "))]
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in words), {}]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        yield {"object": "chat.completion.chunk", "choices": [choice]}
    if usage is not None:
        yield {"object": "chat.completion.chunk", "choices": [], "usage": usage}


def vector(text: str) -> list[float]:
    """Return eight numbers that depend on `text` alone."""
    # base64 holds 32-bit floats, which represent these fractions exactly
    return [byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:8]]


CHAT_MODEL = "demo-chat"
EMBEDDINGS_MODEL = "demo-embed"


@dataclass(frozen=True, slots=True)
class DemoServers:
    """The running servers. `folder` holds gatepass's configuration, and one file for each secret."""

    issuer: DemoIssuer
    chat: ModelServer
    embeddings: ModelServer
    issuer_url: str
    chat_url: str
    embeddings_url: str
    gateway_url: str
    folder: Path
    key: str = field(repr=False)


@asynccontextmanager
async def demo_servers(
    folder: Path, secret_of: dict[str, str], on_mint: Callable[[IssuedToken], object], lifetime_s: float
) -> AsyncIterator[DemoServers]:
    """Run everything, and stop all of it at the end."""
    clients = [
        DemoClient(name, secret_of[name], name.removeprefix("demo-")) for name in ("demo-chat", "demo-embeddings")
    ]
    issuer = DemoIssuer(clients, lifetime_s, on_mint)
    chat = ModelServer(issuer.key, "chat", CHAT_MODEL)
    embeddings = ModelServer(issuer.key, "embeddings", EMBEDDINGS_MODEL)
    async with serving(issuer.app) as tokens, serving(chat.app) as chats, serving(embeddings.app) as vectors:
        file = folder / "gatepass.yaml"
        file.write_text(CONFIG.format(issuer=tokens, chat=chats, embeddings=vectors, folder=folder))
        # without variables: those of the user's own gatepass would change the demo
        async with serving(create_app(load(str(file), {}).config), lifespan="on") as url:
            yield DemoServers(issuer, chat, embeddings, tokens, chats, vectors, url, folder, secret_of["key"])


@contextmanager
def secrets_in_files() -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a folder with one file for each secret, readable by this user alone, and remove it at the end."""
    names = ("key", "demo-chat", "demo-embeddings")
    with tempfile.TemporaryDirectory(prefix="gatepass-demo-") as name:
        folder, secret_of = Path(name), {name: f"gp-{secrets.token_urlsafe(32)}" for name in names}
        for name, text in secret_of.items():
            # with its mode before it has a secret
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text)
        yield folder, secret_of


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the demo has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp, lifespan: Literal["on", "off"] = "off") -> AsyncIterator[str]:
    """Serve `app` on a free loopback port and yield its root URL."""
    # one second for the end, because a failed step may leave a stream open
    server = _Server(uvicorn.Config(app, lifespan=lifespan, log_config=None, ws="none", timeout_graceful_shutdown=1))
    # bound before uvicorn starts: a request that comes earlier waits instead of failing
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]), name="demo server")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


CONFIG = """\
server: {{host: 127.0.0.1, drain_timeout_s: 2}}
credentials:
  corp:
    type: oauth2
    token_url: {issuer}/oauth/token
    client_id: demo-chat
    client_secret: "${{file:{folder}/demo-chat}}"
  portal:
    type: http_json
    url: {issuer}/login
    json: {{app_id: demo-embeddings, secret: "${{file:{folder}/demo-embeddings}}"}}
    reply: {{token: data.token, expiry: data.expireAt, unit: ms}}
upstreams:
  chat: {{base_url: "{chat}/v1", credential: corp}}
  embed: {{base_url: "{embeddings}/v1", credential: portal}}
models:
  demo-chat: {{upstream: chat}}
  demo-embed: {{upstream: embed}}
access:
  keys:
    - {{name: demo, key: "${{file:{folder}/key}}"}}
"""
