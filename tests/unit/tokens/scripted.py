"""An issuer with behaviour, behind an HTTP client: it answers, hangs, dribbles, refuses, redirects."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl

import httpx2
import jwt

from gatepass.clock import sleep
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.kinds import StaticCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.errors import Fault, TransportFault
from gatepass.observability.redaction import Redactor
from gatepass.replies.error_body import Mask
from gatepass.tokens import FetchFailure, Token, TokenHolder, WaitBudget, build_source
from gatepass.tokens.failure import failure_advice
from gatepass.tokens.issuer_error import TimedTokenResponse
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.types import Headers, OutboundRequest, Secret
from tests.unit.clock import DrivenClock, settle

JSON: Headers = ((b"content-type", b"application/json"),)
SECRET = "s3cr3t-of-the-client"


def timed_response(
    status: int, headers: Headers = (), body: bytes = b"", *, wall_s: float = 0.0, mask: Mask = str
) -> TimedTokenResponse:
    """Return a reply as `TokenEndpointClient.send` does. Without `mask` no secret is masked."""
    return TimedTokenResponse(status, headers, body, requested_s=0.0, wall_s=wall_s, mask=mask)


@dataclass(frozen=True)
class Answer:
    """One reply: after `delay_s` the head, then the pieces of the body, `every_s` between them."""

    status: int = 200
    body: bytes = b""
    headers: Headers = JSON
    delay_s: float = 0.0
    pieces: Sequence[bytes] | None = None
    every_s: float = 0.0
    ends_with: TransportFault | None = None


@dataclass(frozen=True)
class Broken:
    """The connection fails."""

    fault: Fault = Fault.CONNECT
    detail: str = "refused"
    delay_s: float = 0.0


@dataclass(frozen=True)
class Hang:
    """No head ever comes."""


@dataclass(frozen=True)
class Mint:
    """The usual: a new token, or `text` again."""

    life: Any = 300
    text: str | None = None
    delay_s: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)


IssuerReply = Answer | Broken | Hang | Mint


class Reply(httpx2.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, issuer: ScriptedIssuer, answer: Answer) -> None:
        self.status, self.headers = answer.status, answer.headers
        self._issuer, self._answer = issuer, answer
        issuer.open += 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        answer = self._answer
        for piece in answer.pieces if answer.pieces is not None else [answer.body]:
            if answer.every_s:
                await sleep(self._issuer.clock, answer.every_s)
            await asyncio.sleep(0)
            self._issuer.bytes_read += len(piece)
            yield piece
        if answer.ends_with is not None:
            raise error_of(answer.ends_with)

    async def aclose(self) -> None:
        self._issuer.open -= 1
        await asyncio.sleep(0)


class Far(httpx2.AsyncBaseTransport):
    """The way to whom `play` plays."""

    def __init__(self, play: Callable[[OutboundRequest], Awaitable[Reply]]) -> None:
        self._play = play

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            reply = await self._play(_request(request, await request.aread()))
        except TransportFault as fault:
            raise error_of(fault)  # noqa: B904 - its cause shows its kind
        return httpx2.Response(reply.status, headers=list(reply.headers), stream=reply)


def _request(request: httpx2.Request, body: bytes) -> OutboundRequest:
    """`request` as a source made it, without what HTTP/1.1 asks for."""
    own = tuple((name.lower(), value) for name, value in request.headers.raw)
    headers = tuple(field for field in own if field[0] not in (b"host", b"content-length"))
    url = str(request.url.copy_with(raw_path=b"/")).removesuffix("/") + request.extensions["target"].decode()
    return OutboundRequest(request.method, url, headers, body)


def error_of(fault: TransportFault) -> httpx2.TransportError:
    """Return the error that httpx2 raises for `fault`."""
    kinds: dict[Fault, type[httpx2.TransportError]] = {
        Fault.PROXY: httpx2.ProxyError,
        Fault.CLOSED: httpx2.ReadError,
        Fault.INVALID: httpx2.RemoteProtocolError,
        Fault.TIMEOUT_CONNECT: httpx2.ConnectTimeout,
        Fault.TIMEOUT_FIRST_BYTE: httpx2.ReadTimeout,
        Fault.TIMEOUT_IDLE: httpx2.ReadTimeout,
    }
    causes = {Fault.DNS: socket.gaierror(-2, "unknown"), Fault.TLS: ssl.SSLError(1, "certificate verify failed")}
    error = kinds.get(fault.kind, httpx2.ConnectError)(fault.detail)
    error.__cause__ = causes.get(fault.kind)
    return error


class ScriptedIssuer:
    """Plays `replies` in order, one for each request, then `otherwise`. `accepts` is a form secret that requests must
    have; otherwise the reply is invalid_client. The first request sets `asked`."""

    def __init__(self, clock: DrivenClock, *replies: IssuerReply, otherwise: IssuerReply | None = None) -> None:
        self.clock = clock
        self.replies = deque(replies)
        self.otherwise: IssuerReply = otherwise or Mint()
        self.accepts: str | None = None
        self.requests: list[OutboundRequest] = []
        self.asked = asyncio.Event()
        self.started_s: list[float] = []
        self.minted: list[str] = []
        self.open = 0
        self.under_way = 0
        self.bytes_read = 0

    def __call__(self) -> Far:
        return Far(self.play)

    @property
    def calls(self) -> int:
        return len(self.requests)

    async def play(self, request: OutboundRequest) -> Reply:
        self.under_way += 1
        try:
            return await self._played(request)
        finally:
            self.under_way -= 1

    async def _played(self, request: OutboundRequest) -> Reply:
        self.requests.append(request)
        self.asked.set()
        self.started_s.append(self.clock.now())
        reply = self.replies.popleft() if self.replies else self.otherwise
        await asyncio.sleep(0)
        if isinstance(reply, Hang):
            await asyncio.Event().wait()
        if self.accepts is not None and dict(parse_qsl(request.body.decode())).get("client_secret") != self.accepts:
            return Reply(self, refused())
        delay_s = getattr(reply, "delay_s", 0.0)
        if delay_s:
            await sleep(self.clock, delay_s)
        if isinstance(reply, Broken):
            raise TransportFault(reply.fault, reply.detail)
        return Reply(self, reply if isinstance(reply, Answer) else self._mint(reply))  # type: ignore[arg-type]  # the rest of the union

    def _mint(self, reply: Mint) -> Answer:
        text = reply.text or f"token-{len(self.minted) + 1}"
        self.minted.append(text)
        life = {} if reply.life is None else {"expires_in": reply.life}
        return answer({"access_token": text, "token_type": "Bearer", **life, **reply.more})


class Stubborn(ScriptedIssuer):
    """Continues with requests that no caller waits for, and each of its tokens ends the one before."""

    async def play(self, request: OutboundRequest) -> Reply:
        work = asyncio.ensure_future(super().play(request))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._unheard)
            raise

    def _unheard(self, _: asyncio.Future[Reply]) -> None:
        self.open -= 1


def answer(document: Any, status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> Answer:
    return Answer(status, json.dumps(document).encode(), (*JSON, *headers), **more)


def refused(error: str = "invalid_client", status: int = 401, *headers: tuple[bytes, bytes]) -> Answer:
    return answer({"error": error, "error_description": "No."}, status, *headers)


def date(epoch_s: float) -> tuple[bytes, bytes]:
    return (b"date", formatdate(epoch_s, usegmt=True).encode())


def signed(**claims: Any) -> str:
    return jwt.encode(claims, "a-key-that-nobody-checks-but-is-long-enough", algorithm="HS256")


def oauth2(**settings: Any) -> Oauth2Credential:
    given = {"client_secret": Secret(SECRET), "token_url": "https://sso.example/token", "client_id": "me"}
    return Oauth2Credential.model_validate({"type": "oauth2", "client_auth": "form", **given, **settings})


def http_json(**settings: Any) -> HttpJsonCredential:
    return HttpJsonCredential.model_validate({"type": "http_json", "url": "https://portal.example/login", **settings})


def static(token: Any = "key-1234567890") -> StaticCredential:
    return StaticCredential(type="static", token=token if isinstance(token, Secret) else Secret(token))


class RunningHolder:
    """A started holder over a scripted issuer, with its clock and redactor. Use as `async with`."""

    def __init__(
        self,
        clock: DrivenClock,
        issuer: ScriptedIssuer,
        settings: Any = None,
        *,
        name: str = "corp",
        jitter: float = 0.0,
        holding: Callable[..., TokenHolder] = TokenHolder,
    ) -> None:
        self.clock, self.issuer = clock, issuer
        settings = settings or oauth2()
        self.redactor = Redactor()
        self.holder = holding(
            name,
            build_source(name, settings, issuer, clock),
            clock,
            self.redactor,
            WaitBudget(
                settings.timeout_s,
                random_fraction=lambda: jitter,
                advice=partial(failure_advice, credential=name, settings=settings),
            ),
        )

    async def __aenter__(self) -> Self:
        self.holder.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.holder.aclose()
        await settle()
        assert (self.issuer.open, self.issuer.under_way) == (0, 0), "a response was left open"

    async def asked(self, count: int, instead_of: str | None = None) -> list[asyncio.Task[Token]]:
        """`count` requests that want a token at once."""
        tasks = [asyncio.create_task(self.holder.token(instead_of)) for _ in range(count)]
        await settle()
        return tasks


def kept(
    *replies: IssuerReply, otherwise: IssuerReply | None = None, jitter: float = 0.0, **given: Any
) -> RunningHolder:
    """A holder over an issuer with these replies. `given` are `settings`, or members of `oauth2`."""
    clock = DrivenClock()
    settings = given.pop("settings", None) or oauth2(**given)
    return RunningHolder(clock, ScriptedIssuer(clock, *replies, otherwise=otherwise), settings, jitter=jitter)


class TokenFacts(NamedTuple):
    """The members of a token that parsing decides, comparable: a Secret is not."""

    text: str
    lifetime_s: float | None
    kind: TokenKind
    lifetime_source: LifetimeSource

    @classmethod
    def of(cls, token: Token) -> TokenFacts:
        return cls(*(getattr(token, name) for name in cls._fields))


async def outcomes(tasks: Sequence[asyncio.Task[Token]]) -> list[str]:
    """Return the result of each task: the token, or the kind of error."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [result.text if isinstance(result, Token) else type(result).__name__ for result in results]


async def failure_of(work: Any) -> FetchFailure:
    """The FetchFailure that `work` ends with."""
    try:
        result = await work if asyncio.iscoroutine(work) else work()
    except FetchFailure as failure:
        return failure
    raise AssertionError(f"expected a failure, got {result!r}")


async def cancelled_at_each_await(begin: Callable[[], Any], check: Callable[[], None], most: int = 60) -> int:
    """Begin the work anew and cancel it after 0, 1, 2 … turns of the loop until it gets to its end."""
    for replies in range(most):
        task = asyncio.create_task(begin())
        for _ in range(replies):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await settle(5)
        check()
        if not task.cancelled():
            task.result()
            return replies
    raise AssertionError("the work never came to its end")
