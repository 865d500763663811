"""`/v1/models` for clients of Anthropic's API and for Codex."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest

from tests.integration.gateway import Answer, Gateway, gateway
from tests.integration.scripted import Hold, Scripted, Send, reply

VERSION = {"anthropic-version": "2023-06-01"}
LISTED = [
    {"id": "claude-large", "created": 1_700_000_000, "display_name": "Large"},
    {"id": "claude-small", "created": 10**30},
    {"id": "org/other", "created": None, "display_name": 7},
]
SHAPED = [
    {"type": "model", "id": "claude-large", "display_name": "Large", "created_at": "2023-11-14T22:13:20Z"},
    {"type": "model", "id": "claude-small", "display_name": "claude-small", "created_at": "1970-01-01T00:00:00Z"},
    {"type": "model", "id": "org/other", "display_name": "org/other", "created_at": "1970-01-01T00:00:00Z"},
]


async def asked(gp: Gateway, path: str = "/v1/models", headers: dict[str, str] | None = None) -> Answer:
    return await gp.ask(None, path, method="GET", headers=VERSION if headers is None else headers).answer()


@asynccontextmanager
async def listing(**more: Any) -> AsyncIterator[Gateway]:
    async with (
        Scripted(answer=lambda _: [Send(reply({"data": LISTED}))]) as upstream,
        gateway(upstream=upstream.url, **more) as gp,
    ):
        yield gp


async def test_a_request_with_anthropics_version_receives_its_list():
    async with listing() as gp:
        whole, one = await asked(gp), await asked(gp, "/v1/models/org/other")
        plain = await asked(gp, headers={})
    ends = {"first_id": "claude-large", "last_id": "org/other", "has_more": False}
    assert (whole.status, whole.json()) == (200, {"data": SHAPED, **ends})
    assert (one.status, one.json()) == (200, SHAPED[2])
    assert plain.json()["object"] == "list"


@pytest.mark.parametrize("query", ["limit=2", "limit=1000", "after_id=claude-large"])
async def test_a_page_has_the_whole_list(query):
    async with listing() as gp:
        page = (await asked(gp, f"/v1/models?{query}")).json()
    assert (page["data"], page["has_more"]) == (SHAPED, False)


async def test_errors_have_anthropics_shape():
    keys = [{"name": "a", "hash": f"sha256:{sha256(b'a' * 32).hexdigest()}"}]
    async with listing(access={"keys": keys}) as gp:
        known = {**VERSION, "authorization": f"Bearer {'a' * 32}"}
        absent, unknown_key = await asked(gp, "/v1/models/none", known), await asked(gp)
        method = await gp.ask({}, "/v1/models", method="POST", headers=known).answer()
        plain = await asked(gp, headers={})
    assert [(one.status, one.json()["error"]["type"]) for one in (absent, unknown_key, method)] == [
        (404, "not_found_error"),
        (401, "authentication_error"),
        (405, "invalid_request_error"),
    ]
    assert plain.json()["error"]["code"] == "invalid_api_key"


async def test_codex_receives_its_own_form_without_waiting_for_an_upstream():
    """Codex logs an error at a list without `models`, and waits 5 s for it at its start."""
    async with Scripted(answer=lambda _: [Hold()]) as upstream, gateway(upstream=upstream.url) as gp:
        answer = await asked(gp, "/v1/models?client_version=0.169.0", {})
    assert (answer.status, json.loads(answer.body)) == (200, {"models": []})
    assert upstream.received == []
