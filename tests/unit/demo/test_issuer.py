"""The embedded issuer: both its doors, and the misdeeds that it can be told to do."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import httpx2
import pytest

from gatepass.demo.issuer import Issuer, Turn
from gatepass.demo.signing import SigningKey
from tests.embedded import FORM, GRANT, LOGIN


@pytest.fixture
async def http(issuer: Issuer) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(issuer.app), base_url="http://issuer") as client:
        yield client


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


async def test_a_client_gets_a_token_by_form_and_by_basic(http: httpx2.AsyncClient, issuer: Issuer, key: SigningKey):
    replies = [
        await http.post("/oauth/token", data=FORM),
        await http.post("/oauth/token", data=GRANT, headers=basic("bot:s%3Aecret")),
    ]
    for reply, minted in zip(replies, issuer.minted, strict=True):
        assert reply.status_code == 200
        assert reply.headers["cache-control"] == "no-store"
        assert reply.json() == {"access_token": minted.token, "token_type": "Bearer", "expires_in": 20}
        key.verify(minted.token, "chat")
    assert issuer.fetches == 2
    assert [minted.number for minted in issuer.minted_for("chat")] == [1, 2]
    assert issuer.minted_for("embeddings") == []


@pytest.mark.parametrize(
    ("form", "headers", "status", "error"),
    [
        (FORM | {"client_secret": "wrong"}, {}, 401, "invalid_client"),
        (FORM | {"client_id": "nobody"}, {}, 401, "invalid_client"),
        (GRANT, {}, 401, "invalid_client"),
        (GRANT, {"authorization": "Basic %%%"}, 401, "invalid_client"),
        (GRANT, basic("no colon"), 401, "invalid_client"),
        (GRANT, {"authorization": "Bearer x"}, 401, "invalid_client"),
        (FORM, basic("bot:s%3Aecret"), 400, "invalid_request"),
        (FORM | {"grant_type": "password"}, {}, 400, "unsupported_grant_type"),
    ],
)
async def test_who_is_not_known_gets_the_errors_of_rfc_6749(
    http: httpx2.AsyncClient, issuer: Issuer, form: dict[str, str], headers: dict[str, str], status: int, error: str
):
    reply = await http.post("/oauth/token", data=form, headers=headers)
    assert (reply.status_code, reply.json()["error"]) == (status, error)
    assert (issuer.fetches, issuer.minted) == (1, [])


async def test_the_login_tells_the_end_in_epoch_milliseconds(http: httpx2.AsyncClient, issuer: Issuer):
    reply = await http.post("/login", json=LOGIN)
    (minted,) = issuer.minted
    assert reply.json() == {"code": 0, "data": {"token": minted.token, "expireAt": minted.expires_at * 1000}}


@pytest.mark.parametrize("body", [b'{"app_id":"bot","secret":"x"}', b'{"app_id":"bot"}', b"[]", b"{", b'{"app_id":[]}'])
async def test_a_wrong_login_is_a_200_with_a_code(http: httpx2.AsyncClient, issuer: Issuer, body: bytes):
    reply = await http.post("/login", content=body)
    assert reply.status_code == 200
    assert reply.json() == {"code": 10401, "msg": "wrong app_id or secret", "data": None}
    assert issuer.minted == []


async def test_a_script_is_played_one_turn_per_fetch_then_the_usual(http: httpx2.AsyncClient, issuer: Issuer):
    issuer.script(Turn.fail(503, retry_after="2"), Turn(body=b"<html>", headers={"content-type": "text/html"}))
    first, second, third = [await http.post("/oauth/token", data=FORM) for _ in range(3)]
    assert (first.status_code, first.headers["retry-after"]) == (503, "2")
    assert first.json()["error"] == "temporarily_unavailable"
    assert (second.status_code, second.text, second.headers["content-type"]) == (200, "<html>", "text/html")
    assert third.json()["access_token"] == issuer.minted[0].token
    assert issuer.fetches == 3


async def test_an_outage_lasts_until_it_is_called_off(http: httpx2.AsyncClient, issuer: Issuer):
    issuer.otherwise = Turn.fail(500)
    assert [(await http.post("/login", json=LOGIN)).status_code for _ in range(2)] == [500, 500]
    issuer.otherwise = Turn()
    assert (await http.post("/login", json=LOGIN)).json()["code"] == 0


async def test_a_turn_can_mint_for_another_life(http: httpx2.AsyncClient, issuer: Issuer):
    issuer.script(Turn(life_s=300))
    assert (await http.post("/oauth/token", data=FORM)).json()["expires_in"] == 300
