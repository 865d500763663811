"""Refresh tokens that are good once, over restarts and between processes that share a file."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.integration.answers import COMPLETION
from tests.integration.gateway import gateway
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.tokens.strict_issuer import StrictIssuer
from tests.waiting import until

GOOD = [Send(reply(COMPLETION))]
FIRST = "refresh-token-of-a-person"


def corp(issuer: Scripted, upstream: Scripted, **settings: Any) -> dict[str, Any]:
    login = {"type": "oauth2", "token_url": f"{issuer.url}/token", "client_id": "me", "client_auth": "none", **settings}
    return {"credentials": {"corp": login}, "upstreams": {"chat": {"base_url": upstream.url, "credential": "corp"}}}


def bearers(upstream: Scripted) -> list[str | None]:
    return [request.header("authorization") for request in upstream.received]


async def test_a_rotated_refresh_token_is_good_after_a_restart(tmp_path: Path):
    strict, file = StrictIssuer(first=FIRST), tmp_path / "refresh"
    chain = {"grant_type": "refresh_token", "refresh_token": FIRST, "refresh_token_file": str(file)}
    async with Scripted(answer=strict) as issuer, Scripted(GOOD) as upstream:
        for _ in range(3):
            async with gateway(**corp(issuer, upstream, **chain)) as gp:
                assert (await gp.ask().answer()).status == 200
        assert bearers(upstream) == [f"Bearer access-token-{number}" for number in (1, 2, 3)]
    assert strict.shown == [FIRST, "refresh-token-1", "refresh-token-2"]
    assert (strict.reused, json.loads(file.read_text())["refresh_token"]) == (0, "refresh-token-3")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_without_a_file_a_restart_shows_the_first_one_again_and_the_issuer_objects():
    strict = StrictIssuer(first=FIRST)
    chain = {"grant_type": "refresh_token", "refresh_token": FIRST}
    async with Scripted(answer=strict) as issuer, Scripted(GOOD) as upstream:
        async with gateway(**corp(issuer, upstream, **chain)) as gp:
            assert (await gp.ask().answer()).status == 200
        async with gateway(**corp(issuer, upstream, **chain)) as gp:
            answer = await gp.ask().answer()
    assert (answer.status, answer.error["code"], strict.reused) == (503, "token_unavailable", 1)
    assert "invalid_grant: refused; sign in again" in answer.error["message"]
    assert FIRST not in answer.body.decode()


async def test_a_rejected_refresh_token_leads_to_a_login_with_the_password():
    strict = StrictIssuer(first=None)
    login = {"grant_type": "password", "username": "bot", "password": "pass-word-4711", "refresh_token": "long-dead"}
    async with (
        Scripted(answer=strict) as issuer,
        Scripted(GOOD) as upstream,
        gateway(**corp(issuer, upstream, **login)) as gp,
    ):
        assert (await gp.ask().answer()).status == 200
    assert strict.shown == ["long-dead", "password"]


@pytest.mark.parametrize("gates", [3])
async def test_processes_that_share_a_file_never_show_a_refresh_token_twice(tmp_path: Path, gates: int):
    """Tokens of one second: each gateway refreshes about every second, all of one chain."""
    strict, file = StrictIssuer(first=FIRST, life_s=1), tmp_path / "refresh"
    chain = {"grant_type": "refresh_token", "refresh_token": FIRST, "refresh_token_file": str(file)}
    async with Scripted(answer=strict) as issuer, Scripted(GOOD) as upstream:
        opened = [gateway(**corp(issuer, upstream, **chain)) for _ in range(gates)]
        started = await asyncio.gather(*(each.__aenter__() for each in opened))
        await until(lambda: len(strict.minted) >= 4 * gates)
        answers = await asyncio.gather(*(gp.ask().answer() for gp in started))
        await asyncio.gather(*(each.__aexit__(None, None, None) for each in opened))
    assert [answer.status for answer in answers] == [200] * gates
    assert strict.reused == 0
    assert len(set(strict.shown)) == len(strict.shown)
