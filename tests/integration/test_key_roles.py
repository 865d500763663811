"""Roles on real sockets: no page leaves to a key without the role."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest

from gatepass.auth.api_keys import hash_key

from .gateway import HELLO, JSON, gateway
from .scripted import Hold, Scripted

KEYS = {role: f"gp-{role}-0123456789abcdef" for role in ("caller", "viewer", "admin")}
ACCESS = {"keys": [{"name": role, "role": role, "hash": hash_key(key)} for role, key in KEYS.items()]}
OPEN = {
    "/metrics": rb"gatepass_requests_",
    "/status": rb"in_flight",
    "/usage": rb"\"rows\"",
    "/learned": rb"\"rules\"|# Nothing has",
}
"""A word of each page that no error contains."""
SPELLINGS = ("{}", "/llm{}", "{}/", "/{}", "/llm/{}", "{}?as=config", "/v1{}", "/%6cearned/..{}", "/x/..{}")


def bearer(role: str | None) -> dict[str, str]:
    return {} if role is None else {"authorization": f"Bearer {KEYS[role]}"}


@pytest.mark.parametrize("metrics_open", [False, True])
async def test_no_page_leaves_to_a_key_without_the_role(metrics_open):
    """Each page, spelling, method and role: only viewer and admin ever see a word of a page."""
    access = {**ACCESS, "metrics_open": metrics_open}
    shown = set()
    async with (
        Scripted([Hold()]) as upstream,
        gateway(upstream=upstream.url, access=access, server={"base_path": "/llm"}) as gp,
    ):
        for page, spelling, method, role in product(OPEN, SPELLINGS, ("GET", "HEAD", "POST"), (None, *KEYS)):
            path = spelling.format(page)
            async with gp.ask(None, path, method=method, headers=bearer(role)) as ask:
                await ask.head()
                body = b"" if method == "HEAD" else (await ask.answer()).body
            if ask.status == 200:
                shown.add((page, role))
                assert method == "HEAD" or re.search(OPEN[page], body)
            else:
                assert not any(re.search(words, body) for words in OPEN.values()), (path, method, role)
            if ask.status == 403:
                assert role == "caller"
                assert (ask.received["x-gatepass-hop"], ask.received["cache-control"]) == ("client", "no-store")
                assert method == "HEAD" or json.loads(body)["error"]["code"] == "role_not_allowed"
        assert upstream.received == []
    readers = {"/metrics": [None, *KEYS]} if metrics_open else {}
    assert shown == {(page, role) for page in OPEN for role in readers.get(page, ["viewer", "admin"])}


async def test_a_caller_at_a_page_and_a_viewer_at_a_model_see_which_key_to_use():
    async with Scripted([Hold()]) as upstream, gateway(upstream=upstream.url, access=ACCESS) as gp:
        page = await gp.ask(None, "/status", method="GET", headers=bearer("caller")).answer()
        call = await gp.ask(HELLO, headers={**JSON, **bearer("viewer")}).answer()
        models = await gp.ask(None, "/v1/models", method="GET", headers=bearer("viewer")).answer()
    assert (page.status, page.error) == (
        403,
        {
            "message": "The caller 'caller' may not read /status, because its key has the role caller."
            " Use a key with the role viewer or admin (`gatepass keys new --role viewer`).",
            "type": "permission_error",
            "param": None,
            "code": "role_not_allowed",
            "hop": "client",
        },
    )
    assert [(answer.status, answer.error["code"]) for answer in (call, models)] == [(403, "role_not_allowed")] * 2
    assert "Use a key with the role caller or admin" in call.error["message"]
    assert upstream.received == []


async def test_no_role_reloads_over_http():
    async with Scripted([Hold()]) as upstream, gateway(upstream=upstream.url, access=ACCESS) as gp:
        for role, method in product(KEYS, ("GET", "POST")):
            answer = await gp.ask(None, "/reload", method=method, headers=bearer(role)).answer()
            assert (answer.status, answer.error["code"]) == (404, "unknown_path")


async def test_two_keys_of_one_caller_share_its_limit_its_name_and_its_count():
    keys = [
        {"name": "rag", "max_concurrent": 1, "hash": hash_key(key), "role": "admin"}
        for key in (KEYS["caller"], KEYS["admin"])
    ]
    async with Scripted([Hold()]) as upstream, gateway(upstream=upstream.url, access={"keys": keys}) as gp:
        held = gp.ask(headers={**JSON, **bearer("caller")})
        async with held:
            await upstream.requested()
            other = await gp.ask(headers={**JSON, **bearer("admin")}).answer()
    assert (other.status, other.error["code"]) == (429, "concurrency_limited")
    assert "'rag'" in other.error["message"]
