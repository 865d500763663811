"""The page at /ui under each server: files, redirect, sign-in and polls."""

from typing import Any

import pytest

from gatepass.config.access import hash_key
from gatepass.server.admin import HEADERS
from tests.integration.gateway import Ask
from tests.integration.servers.running import BY_HTTP1, served

KEY = "gp-admin-0123456789abcdef"
BLOCKS: dict[str, Any] = {
    "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}},
    "access": {"keys": [{"name": "alice", "role": "admin", "hash": hash_key(KEY)}]},
    "server": {"ui": True, "base_path": "/llm", "drain_timeout_s": 0},
}


@pytest.mark.parametrize("name", BY_HTTP1)
async def test_each_server_has_the_page(name: str):
    async with served(name, **BLOCKS) as server:
        base = f"{server.prefix}/llm/ui"
        own = {"origin": f"http://127.0.0.1:{server.port}", "content-type": "application/json"}

        def ask(path: str, method: str = "GET", body: bytes = b"", **fields: str) -> Ask:
            headers = {**own, **{name.replace("_", "-"): value for name, value in fields.items()}}
            return Ask(server.port, method, base + path, headers, body)

        moved = await ask("").answer()
        assert (moved.status, moved.headers["location"]) == (307, "ui/")
        index = await ask("/").answer()
        assert (index.status, index.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert {field: index.headers[field] for field in HEADERS} == dict(HEADERS)
        assert (await ask("/", if_none_match=index.headers["etag"]).answer()).status == 304
        async with ask("/", "HEAD") as head:
            assert await head.head() == 200
            assert head.received["content-length"] == str(len(index.body))
        for path in ("/static/../routes.py", "/..%2froutes.py", "/%00", "/INDEX.html"):
            assert (await ask(path).answer()).status == 404, path
        assert (await ask("/main.js", "POST", b"{}").answer()).status == 405

        assert (await ask("/api/models").answer()).status == 401
        key = f"Bearer {KEY}"
        signed_in = await ask("/api/session", authorization=key).answer()
        assert signed_in.json()["base_url"].endswith(f"{server.prefix}/llm/v1")
        assert (await ask("/api/models", authorization=key).answer()).status == 200
        status = await ask("/api/status", authorization=key).answer()
        assert (status.status, status.json()["ready"]) == (200, True)
        callers = await ask("/api/requests", authorization=key).answer()
        assert (
            await ask("/api/requests", authorization=key, if_none_match=callers.headers["etag"]).answer()
        ).status == 304
