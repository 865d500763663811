"""A proxy in front of llama.cpp that accepts only requests with a token that is valid now.

It verifies the RS256 signature with the keys that the issuer publishes, and `iss`, `aud` and `exp` without leeway.
Other requests get 401. It relays accepted requests and their replies unchanged. `GET /check` returns its counts.

    python check.py ISSUER_URL AUDIENCE UPSTREAM_URL
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import jwt

BLOCK_BYTES = 65536
CONNECT_S = 5.0
END_OF_HEAD = b"\r\n\r\n"


@dataclass(slots=True)
class Tally:
    """The counts of the check. `tokens`: the number of accepted requests by the `jti` of their token."""

    refusals: list[str] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    least_life_left_s: float | None = None

    def record(self, claims: dict[str, Any], now_s: float) -> None:
        self.tokens[claims["jti"]] += 1
        left_s: float = claims["exp"] - now_s
        least_s = self.least_life_left_s
        self.least_life_left_s = left_s if least_s is None else min(left_s, least_s)

    def as_json(self) -> bytes:
        view = {
            "refusals": self.refusals,
            "tokens": self.tokens,
            "least_life_left_s": self.least_life_left_s,
        }
        return json.dumps(view).encode()


@dataclass(frozen=True, slots=True)
class Head:
    """One request head: the received bytes and three values from it."""

    raw: bytes
    path: str
    authorization: str
    body_bytes: int


class TokenRefused(Exception):
    """The request has no token that is valid now. The text contains the reason."""


class ChunkedBody(Exception):
    """The request body is chunked, which the check does not support."""


def parse(raw: bytes) -> Head:
    """Parse a head; raise ChunkedBody."""
    first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in fields:
        raise ChunkedBody
    return Head(raw, first.split(" ")[1], fields.get("authorization", ""), int(fields.get("content-length", "0")))


@dataclass(frozen=True, slots=True)
class Verifier:
    issuer: str
    audience: str
    keys: dict[str, jwt.PyJWK]

    def claims(self, authorization: str) -> dict[str, Any]:
        """Return the claims of the token; raise TokenRefused."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused("no bearer token")
        try:
            key = self.keys[jwt.get_unverified_header(token)["kid"]]
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                issuer=self.issuer,
                audience=self.audience,
                leeway=0,
                options={"require": ["exp", "iat", "iss", "aud", "jti"]},
            )
        except KeyError:
            raise TokenRefused("signed with an unknown key") from None
        except jwt.InvalidTokenError as error:
            raise TokenRefused(str(error)) from None
        return claims


def published_keys(issuer: str) -> dict[str, jwt.PyJWK]:
    with urllib.request.urlopen(f"{issuer}/jwks", timeout=CONNECT_S) as reply:  # noqa: S310 - our own issuer
        keys = jwt.PyJWKSet.from_dict(json.load(reply)).keys
    return {key.key_id: key for key in keys if key.key_id is not None}


def reply(status: str, body: bytes, *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + END_OF_HEAD + body


def refusal(reason: str) -> bytes:
    error = {"message": f"token refused: {reason}", "type": "authentication_error", "code": "invalid_token"}
    challenge = 'www-authenticate: Bearer error="invalid_token"'
    return reply("401 Unauthorized", json.dumps({"error": error}).encode(), challenge)


class Check:
    def __init__(self, verifier: Verifier, upstream: str) -> None:
        self._verifier = verifier
        self._upstream = urlsplit(upstream)
        self._tally = Tally()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client connection and check each request on it."""
        relay = Relay(self._upstream.hostname or "", self._upstream.port or 0, writer)
        try:
            while True:
                head = parse(await reader.readuntil(END_OF_HEAD))
                await self._answer(head, reader, writer, relay)
        except ChunkedBody:
            writer.write(reply("411 Length Required", b"{}", "connection: close"))
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client or the upstream disconnected: both ends are closed below
        finally:
            await relay.aclose()
            writer.close()

    async def _answer(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, relay: Relay
    ) -> None:
        if head.path == "/check":
            writer.write(reply("200 OK", self._tally.as_json()))
            return
        now_s = time.time()
        try:
            claims = self._verifier.claims(head.authorization)
        except TokenRefused as refused:
            self._tally.refusals.append(str(refused))
            await reader.readexactly(head.body_bytes)
            writer.write(refusal(str(refused)))
        else:
            self._tally.record(claims, now_s)
            await relay.forward(head, reader)


class Relay:
    """The upstream connection of one client connection. The first valid request opens it."""

    def __init__(self, host: str, port: int, client: asyncio.StreamWriter) -> None:
        self._host, self._port, self._client = host, port, client
        self._upstream: asyncio.StreamWriter | None = None
        self._back: asyncio.Task[None] | None = None

    async def forward(self, head: Head, body: asyncio.StreamReader) -> None:
        upstream = self._upstream or await self._open()
        upstream.write(head.raw)
        left = head.body_bytes
        while left:
            block = await body.read(min(left, BLOCK_BYTES))
            if not block:
                raise asyncio.IncompleteReadError(b"", left)
            upstream.write(block)
            await upstream.drain()
            left -= len(block)

    async def aclose(self) -> None:
        if self._upstream is None or self._back is None:
            return
        self._back.cancel()
        await asyncio.wait([self._back])
        self._upstream.close()

    async def _open(self) -> asyncio.StreamWriter:
        opening = asyncio.open_connection(self._host, self._port)
        answers, upstream = await asyncio.wait_for(opening, CONNECT_S)
        self._upstream, self._back = upstream, asyncio.create_task(copy(answers, self._client))
        return upstream


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Relay each block at once; the end of `source` closes `sink`."""
    try:
        while block := await source.read(BLOCK_BYTES):
            sink.write(block)
            await sink.drain()
    except OSError:
        pass  # one end was reset: close the other too
    finally:
        sink.close()


async def main(issuer: str, audience: str, upstream: str) -> None:
    check = Check(Verifier(issuer, audience, published_keys(issuer)), upstream)
    server = await asyncio.start_server(check.serve, "127.0.0.1", 0)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
