"""Clients without a credential keep nobody's new token from being checked. On real sockets, with a driven clock."""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest

from gatepass.auth.jwt_callers import AT_ONCE, SIGNATURES_PER_S
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, Gateway, gateway
from tests.integration.scripted import Scripted, Send, reply
from tests.jwt_signer import Clients, SigningKey, encoded, key_set
from tests.unit.clock import DrivenClock
from tests.waiting import until

ISSUER, KEY = "https://login.corp.example/realms/corp", SigningKey("public-kid", "ES256")
ROW = {"claim": "roles", "contains": "llm-user", "name": "people"}
NEAR, FAR = "127.0.0.1", "127.0.0.2"
PEOPLE = 20


def signed(clock: DrivenClock, subject: str) -> str:
    return KEY.sign(Clients(ISSUER, clock.wall()).claims(sub=subject))


def forged(clock: DrivenClock) -> str:
    """A token with the public `kid` and a random signature, which costs its sender nothing."""
    body = encoded(Clients(ISSUER, clock.wall()).claims(sub="u"))
    return f"{encoded({'alg': 'ES256', 'kid': KEY.kid})}.{body}.{encoded(secrets.token_bytes(64))}"


def head(token: str) -> bytes:
    body = json.dumps(HELLO).encode()
    fields = f"authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n\r\n".encode() + body


@asynccontextmanager
async def connected(gp: Gateway, address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection from `address`, which ends with a reset."""
    reader, writer = await asyncio.open_connection(NEAR, gp.port, local_addr=(address, 0))
    try:
        yield reader, writer
    finally:
        linger = (1).to_bytes(4, "little") + bytes(4)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def status(reader: asyncio.StreamReader) -> int:
    answer = await reader.readuntil(b"\r\n\r\n")
    size = int(answer.lower().partition(b"content-length: ")[2].split(b"\r")[0])
    await reader.readexactly(size)
    return int(answer.split()[1])


async def one_person(gp: Gateway, token: str, address: str) -> int:
    async with connected(gp, address) as (reader, writer):
        writer.write(head(token))
        return await status(reader)


async def people(gp: Gateway, clock: DrivenClock, address: str) -> list[int]:
    """The answers to people with new tokens, each on a connection of their own."""
    asked = [one_person(gp, signed(clock, f"u{number}"), address) for number in range(PEOPLE)]
    return await asyncio.gather(*asked)


async def resets(gp: Gateway, clock: DrivenClock, sent: list[int]) -> None:
    """Send one forged token after the other, each on a connection that is reset after 10 ms."""
    while True:
        with suppress(ConnectionError):
            async with connected(gp, NEAR) as (_, writer):
                writer.write(head(forged(clock)))
                await asyncio.sleep(0.01)  # the pace of the attack: no event is waited for
                sent.append(1)


async def insists(gp: Gateway, clock: DrivenClock, statuses: list[int]) -> None:
    """Send one forged token after the other on an open connection."""
    async with connected(gp, NEAR) as (reader, writer):
        while True:
            writer.write(head(forged(clock)))
            statuses.append(await status(reader))


@asynccontextmanager
async def behind(tmp_path: Any) -> AsyncIterator[tuple[Gateway, DrivenClock]]:
    """gatepass with one issuer. Its clock moves on whenever somebody waits for the check of a signature."""
    keys = tmp_path / "keys.jwks"
    keys.write_bytes(key_set(KEY))
    entry = {"issuer": ISSUER, "audience": "api://gatepass", "jwks": str(keys), "callers": [ROW]}
    clock = DrivenClock()

    async def moves_on() -> None:
        tokens = gp.state.authenticator.tokens
        assert tokens is not None
        turns = tokens._turns
        while True:
            if turns.holding:
                await clock.advance(AT_ONCE / SIGNATURES_PER_S)
            await asyncio.sleep(0)

    async with (
        Scripted(answer=lambda _: [Send(reply(COMPLETION))]) as upstream,
        gateway(upstream=upstream.url, access={"jwt": [entry]}, clock=clock) as gp,
    ):
        await until(lambda: gp.state.key_sets[0].keys is not None)
        moving = asyncio.create_task(moves_on())
        yield gp, clock
        moving.cancel()


@contextmanager
def running(tasks: list[asyncio.Task[None]]) -> Iterator[None]:
    try:
        yield
        assert not [one for one in tasks if one.done() and one.exception() is not None]
    finally:
        for one in tasks:
            one.cancel()


@pytest.mark.attack("forged tokens that keep new ones from being checked")
@pytest.mark.parametrize("address", [FAR, NEAR])
async def test_sockets_that_reset_keep_no_new_token_out(tmp_path, address):
    sent = list[int]()
    async with behind(tmp_path) as (gp, clock):
        with running([asyncio.create_task(resets(gp, clock, sent)) for _ in range(16)]):
            await until(lambda: len(sent) > 2000)
            statuses = await people(gp, clock, address)
        await until(lambda: not gp.state.in_flight.busy)
    assert statuses == [200] * PEOPLE


@pytest.mark.attack("forged tokens that keep new ones from being checked")
@pytest.mark.parametrize("address", [FAR, NEAR])
async def test_six_hundred_connections_keep_no_new_token_out(tmp_path, address):
    """Behind a balancer all have one address: then the rate alone protects."""
    refused = list[int]()
    async with behind(tmp_path) as (gp, clock):
        with running([asyncio.create_task(insists(gp, clock, refused)) for _ in range(600)]):
            await until(lambda: len(refused) > 600)
            statuses = await people(gp, clock, address)
    assert (statuses, set(refused)) == ([200] * PEOPLE, {401})
