"""The page at /ui over real sockets: sessions, checks of Host and Origin, the event stream, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gatepass.auth.api_keys import hash_key
from gatepass.clock import SystemClock
from gatepass.server.ui.events import MOST_VIEWERS
from gatepass.server.ui.sessions import LIFE_S
from tests.integration.gateway import HELLO, Answer, Gateway, gateway
from tests.integration.scripted import Scripted, Send, reply

KEYS = {role: f"gp-{role}-" + role * 8 for role in ("caller", "viewer", "admin")}
ACCESS: Mapping[str, Any] = {
    "keys": [{"name": f"a-{role}", "role": role, "hash": hash_key(key)} for role, key in KEYS.items()]
}
SERVER = {"ui": True, "drain_timeout_s": 0, "ui_hosts": ["Gatepass.example"]}
CHAT = {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "yes"}}]}


def origin(gp: Gateway) -> str:
    return f"http://127.0.0.1:{gp.port}"


async def get(gp: Gateway, path: str, **fields: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return await gp.ask(None, path, method="GET", headers=headers).answer()


async def post(gp: Gateway, path: str, body: Any, **fields: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    headers = {"content-type": "application/json", "origin": origin(gp), **headers}
    return await gp.ask(body, path, headers=headers).answer()


async def signed_in(gp: Gateway, role: str, base: str = "/ui") -> str:
    """Sign in, and return the Cookie field."""
    answer = await post(gp, f"{base}/api/login", {"key": KEYS[role]})
    assert answer.status == 200, answer.body
    return answer.headers["set-cookie"].partition(";")[0]


async def test_without_keys_the_page_is_on_and_needs_no_login():
    async with Scripted(answer=lambda _: [Send(reply(CHAT))]) as upstream, gateway(upstream=upstream.url) as gp:
        session = (await get(gp, "/ui/api/session")).json()
        assert (session["login"], session["signed_in"]) == (False, {"name": "local", "role": "admin"})
        assert (await gp.ask().answer()).status == 200
        listed = (await get(gp, "/ui/api/requests")).json()["requests"]
        assert [(one["caller"], one["status"]) for one in listed] == [("local", 200)]
        told = (await get(gp, f"/ui/api/requests/{listed[0]['id']}")).json()["stories"]
        assert told[0]["attempts"][0]["upstream"] == "chat"
        moved = await get(gp, "/ui")
        assert (moved.status, moved.headers["location"]) == (307, "ui/")


async def test_with_keys_the_page_is_off_by_default():
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS) as gp:
        for path in ("/ui", "/ui/", "/ui/api/session"):
            assert (await get(gp, path)).status in (401, 404)


async def test_a_session_begins_with_a_key_and_ends_with_the_logout():
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=SERVER) as gp:
        assert (await get(gp, "/ui/api/session")).json()["signed_in"] is None
        assert (await get(gp, "/ui/api/requests")).error["code"] == "session_required"
        assert (await get(gp, "/ui/api/requests", authorization=f"Bearer {KEYS['admin']}")).status == 401
        refused = await post(gp, "/ui/api/login", {"key": "gp-wrong"})
        assert (refused.status, refused.error["code"], "set-cookie" in refused.headers) == (
            401,
            "invalid_api_key",
            False,
        )
        assert (await post(gp, "/ui/api/login", {"key": KEYS["caller"]})).error["code"] == "role_not_allowed"
        answer = await post(gp, "/ui/api/login", {"key": KEYS["viewer"]})
        cookie, _, attributes = answer.headers["set-cookie"].partition("; ")
        assert attributes == f"Max-Age={LIFE_S}; HttpOnly; SameSite=Strict"
        assert answer.json()["signed_in"] == {"name": "a-viewer", "role": "viewer"}
        assert (await get(gp, "/ui/api/requests", cookie=f'x="; {cookie}; y=1')).status == 200
        assert (await post(gp, "/ui/api/logout", {}, cookie=cookie)).status == 200
        assert (await get(gp, "/ui/api/requests", cookie=cookie)).status == 401
        assert "ended" in (await get(gp, "/ui/api/session", cookie=cookie)).json()["why"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"host": "evil.example"}, "forbidden_host"),
        ({"host": "gatepass.example"}, None),
        ({"host": "GATEPASS.example:8443"}, None),
        ({"host": "10.0.0.9"}, None),
        ({"origin": "http://evil.example"}, "forbidden_origin"),
        ({"origin": "null"}, "forbidden_origin"),
        ({"origin": "http://127.0.0.1:1"}, "forbidden_origin"),
        ({"host": "gatepass.example:80", "origin": "http://gatepass.example"}, None),
        ({"host": "gatepass.example", "origin": "https://gatepass.example"}, None),
        ({"sec-fetch-site": "cross-site"}, "forbidden_origin"),
        ({"sec-fetch-site": "same-site"}, "forbidden_origin"),
        ({"sec-fetch-site": "same-origin"}, None),
    ],
)
async def test_only_its_own_origin_reaches_the_page(fields: dict[str, str], code: str | None):
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=SERVER) as gp:
        answer = await gp.ask(None, "/ui/api/session", method="GET", headers=fields).answer()
        assert (answer.status, answer.error["code"] if code else None) == ((403, code) if code else (200, None))


async def test_the_cookie_is_secure_behind_tls():
    server = {**SERVER, "trusted_proxies": ["127.0.0.1"]}
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=server) as gp:
        login = {"key": KEYS["admin"]}
        for fields in ({"x_forwarded_proto": "https"}, {"origin": f"https://127.0.0.1:{gp.port}"}):
            answer = await post(gp, "/ui/api/login", login, **fields)
            assert answer.headers["set-cookie"].endswith("SameSite=Strict; Secure")


async def test_the_event_stream_shows_what_ends_and_ends_with_the_session():
    async with (
        Scripted(answer=lambda _: [Send(reply(CHAT))]) as upstream,
        gateway(upstream=upstream.url, access=ACCESS, server=SERVER) as gp,
    ):
        cookie = await signed_in(gp, "viewer")
        headers = {"cookie": cookie}
        async with gp.ask(None, "/ui/api/events?view=requests", method="GET", headers=headers) as ask:
            assert await ask.head() == 200
            assert ask.received["content-type"].startswith("text/event-stream")
            await ask.until(b"event: requests")
            key = {"authorization": f"Bearer {KEYS['admin']}", "content-type": "application/json"}
            assert (await gp.ask(HELLO, headers=key).answer()).status == 200
            await ask.until(b'"caller":"a-admin"')
            await post(gp, "/ui/api/logout", {}, cookie=cookie)
            await ask.until(b"the session has ended")
            assert await ask.piece() == b""


async def test_a_closed_tab_makes_room_for_another_viewer():
    async with gateway(upstream="http://127.0.0.1:9", server=SERVER) as gp:
        asks = [gp.ask(None, "/ui/api/events?view=overview", method="GET", headers={}) for _ in range(MOST_VIEWERS)]
        for ask in asks:
            await ask.__aenter__()
            assert await ask.head() == 200
        answer = await get(gp, "/ui/api/events?view=overview")
        assert (answer.status, answer.error["code"]) == (503, "too_many_viewers")
        overview = json.loads((await asks[0].until(b"}\n\n")).partition(b"data: ")[2].partition(b"\n")[0])
        assert (overview["workers"], len(overview["series"]["requests"])) == (1, 60)
        began_s = SystemClock().now()
        for ask in asks:
            await ask.__aexit__()
        async with gp.ask(None, "/ui/api/events?view=overview", method="GET", headers={}) as ask:
            while await ask.head() == 503:
                await ask.__aexit__()
                await ask.__aenter__()
        assert SystemClock().now() - began_s < 1


async def test_an_open_page_does_not_delay_the_stop():
    async with gateway(upstream="http://127.0.0.1:9", server={**SERVER, "drain_timeout_s": 20}) as gp:
        ask = gp.ask(None, "/ui/api/events?view=overview", method="GET", headers={})
        await ask.__aenter__()
        await ask.until(b"event: overview") if await ask.head() == 200 else None
        began_s = SystemClock().now()
    assert SystemClock().now() - began_s < 3
    await ask.until(b"gatepass is stopping")
    await ask.__aexit__()
