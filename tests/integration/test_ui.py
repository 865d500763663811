"""The page at /ui over real sockets: keys, checks of Host and Origin, polls, and its files."""

import json
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from gatepass.config.access import hash_key
from gatepass.config.model import Config
from gatepass.http_client.tls import TLSContexts
from gatepass.observability.capture import CaptureSettings
from gatepass.observability.story import NO_CURL
from gatepass.proxy.app_state import next_app_state
from gatepass.server.admin import HEADERS, ROUTES, AdminRoute
from tests.integration.gateway import HELLO, Answer, Gateway, gateway, relaying
from tests.integration.scripted import Send, reply
from tests.unit.clock import DrivenClock

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


def bearer(role: str) -> str:
    return f"Bearer {KEYS[role]}"


async def test_without_keys_the_page_is_on_and_needs_no_login():
    async with relaying(answer=lambda _: [Send(reply(CHAT))]) as (_, gp):
        session = (await get(gp, "/ui/api/session")).json()
        assert (session["login"], session["signed_in"]) == (False, {"name": "local", "role": "admin"})
        assert (await gp.ask().answer()).status == 200
        listed = (await get(gp, "/ui/api/requests")).json()["requests"]
        assert [(one["caller"], one["status"]) for one in listed] == [("local", 200)]
        told = (await get(gp, f"/ui/api/requests/{listed[0]['id']}")).json()["stories"]
        assert told[0]["attempts"][0]["upstream"] == "chat"
        moved = await get(gp, "/ui")
        assert (moved.status, moved.headers["location"]) == (307, "ui/")


async def test_a_reload_that_adds_keys_ends_a_page_that_was_on_by_default():
    upstreams = {"chat": {"base_url": "http://127.0.0.1:9/v1"}}
    async with gateway(upstreams=upstreams) as gp:
        assert (await get(gp, "/ui/api/status")).status == 200
        config = Config.model_validate({"upstreams": upstreams, "access": ACCESS, "server": {"drain_timeout_s": 0}})
        gp.server.endpoint.use(next_app_state(config, TLSContexts(), gp.state))
        assert (await get(gp, "/ui/api/status")).error["code"] == "unknown_path"
    async with gateway(upstreams=upstreams, access=ACCESS) as gp:
        assert "`server.ui: true`" in (await get(gp, "/ui")).error["message"]


async def test_a_key_with_a_role_signs_in_and_no_cookie_is_set():
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=SERVER) as gp:
        nobody = await get(gp, "/ui/api/session")
        assert (nobody.status, nobody.json()["signed_in"]) == (200, None)
        for key, code in ((KEYS["caller"], "role_not_allowed"), ("gp-wrong", "invalid_api_key")):
            assert (await get(gp, "/ui/api/session", authorization=f"Bearer {key}")).error["code"] == code
        answer = await get(gp, "/ui/api/session", authorization=bearer("viewer"))
        assert answer.json()["signed_in"] == {"name": "a-viewer", "role": "viewer"}
        assert "set-cookie" not in answer.headers
        assert (await get(gp, "/ui/api/requests", cookie=f"gatepass_ui={KEYS['admin']}")).status == 401


async def test_a_poll_has_a_body_only_if_something_is_new():
    async with relaying(answer=lambda _: [Send(reply(CHAT))], access=ACCESS, server=SERVER) as (_, gp):
        first = await get(gp, "/ui/api/requests", authorization=bearer("viewer"))
        again = await get(gp, "/ui/api/requests", authorization=bearer("viewer"), if_none_match=first.headers["etag"])
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
        key = {"authorization": f"Bearer {KEYS['admin']}", "content-type": "application/json"}
        assert (await gp.ask(HELLO, headers=key).answer()).status == 200
        new = await get(gp, "/ui/api/requests", authorization=bearer("viewer"), if_none_match=first.headers["etag"])
        assert (new.status, [one["caller"] for one in new.json()["requests"]]) == (200, ["a-admin"])


async def test_polls_are_no_traffic_and_carry_nothing_while_nothing_changes(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=SERVER, clock=DrivenClock()) as gp:
        key, before = {"authorization": bearer("viewer")}, gp.state.metrics.totals()
        for path in ("status", "traffic", "callers", "limits?nearest=20", "requests", "learned", "use"):
            first = await get(gp, f"/ui/api/{path}", **key)
            again = await get(gp, f"/ui/api/{path}", **key, if_none_match=first.headers["etag"])
            assert (first.status, again.status, again.body) == (200, 304, b""), path
        assert gp.state.metrics.totals() == before
        assert (gp.state.in_flight.busy, [*gp.state.inspector.newest()]) == (0, [])
        assert gp.state.metrics.last_used_s == {}
    assert "request" not in caplog.messages


ROWS: Mapping[str, tuple[Any, int]] = {
    "GET session": (None, 200),
    "GET traffic": (None, 200),
    "GET callers": (None, 200),
    "GET requests": (None, 200),
    "GET requests/{id}": (None, 200),
    "GET curl/{id}": (None, 400),
    "GET models": (None, 200),
    "GET use": (None, 200),
    "GET status": (None, 200),
    "GET limits": (None, 200),
    "GET learned": (None, 200),
    "GET errors/{id}": (None, 200),
    "POST learned/forget": ({"upstream": "chat", "model": "m", "operation": "chat", "adapted": "drop=x"}, 200),
    "GET capture": (None, 200),
    "POST capture": ({"for_s": 60}, 200),
    "DELETE capture": (None, 200),
    "POST doctor": ({}, 404),
}
"""The body of each route, and its status for those who may use it."""
ROUTES_OF_PAGE = [route for route in ROUTES if route.only != "socket"]
FORBIDDEN = ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"})


async def test_each_route_serves_its_role_and_no_other():
    assert {f"{route.method} {route.path}" for route in ROUTES_OF_PAGE} == set(ROWS)
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=SERVER) as gp:
        for route in ROUTES_OF_PAGE:
            await check_route(gp, route)


async def check_route(gp: Gateway, route: AdminRoute) -> None:
    body, status = ROWS[f"{route.method} {route.path}"]
    path = f"/ui/api/{route.path.format(id='x')}"
    own = {"origin": origin(gp), "content-type": "application/json"}

    async def answer(method: str = route.method, **fields: str) -> Answer:
        headers = {**own, **{name.replace("_", "-"): value for name, value in fields.items()}}
        return await gp.ask(body, path, method=method, headers=headers).answer()

    roles = ["anyone", "viewer", "admin"]
    for role in roles:
        key = {} if role == "anyone" else {"authorization": bearer(role)}
        may = roles.index(role) >= roles.index(route.role)
        expected = status if may else 401 if role == "anyone" else 403
        found = await answer(**key)
        assert found.status == expected, (route, role)
        if found.status == 200 and route.document is not None:
            strict = msgspec.defstruct("strict", [], bases=(route.document,), forbid_unknown_fields=True)
            msgspec.json.decode(found.body, type=strict)
    assert (await answer(authorization=bearer("caller"))).status == 403, route
    key = {"authorization": bearer("admin")}
    allowed = {one.method for one in ROUTES_OF_PAGE if one.path == route.path}
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - allowed:
        async with gp.ask(body, path, method=method, headers={**own, **key}) as ask:
            assert await ask.head() == 405, (route, method)
    for fields in FORBIDDEN:
        found = await gp.ask(body, path, method=route.method, headers={**own, **key, **fields}).answer()
        assert (found.status, found.error["code"][:9]) == (403, "forbidden"), (route, fields)
        assert "set-cookie" not in found.headers
    if route.method == "POST":
        for kind in ("", "text/plain", "application/x-www-form-urlencoded"):
            found = await gp.ask(body, path, headers={**own, "content-type": kind, **key}).answer()
            assert found.status == 415, (route, kind)
        without = {name: value for name, value in own.items() if name != "origin"}
        assert (await gp.ask(body, path, headers=without).answer()).status == 403, route


async def test_each_response_has_the_fields_that_protect_the_page():
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=SERVER) as gp:
        for path in ("/ui", "/ui/", "/ui/api/session", "/ui/api/nowhere", "/ui/api/requests", "/ui/../x"):
            fields = (await get(gp, path)).headers
            assert {name: fields[name] for name in HEADERS} == dict(HEADERS), path
            assert fields["cache-control"] in ("no-store", "no-cache")


async def test_only_an_admin_gets_captured_bodies_and_their_curl():
    async with relaying(answer=lambda _: [Send(reply(CHAT))], access=ACCESS, server=SERVER) as (_, gp):
        await post(gp, "/ui/api/capture", {"for_s": 60}, authorization=bearer("admin"))
        key = {"authorization": f"Bearer {KEYS['caller']}", "content-type": "application/json", "x-request-id": "one"}
        assert (await gp.ask(HELLO, headers=key).answer()).status == 200
        answers = {
            role: await get(gp, "/ui/api/requests/one", authorization=bearer(role)) for role in ("viewer", "admin")
        }
        (story,) = answers["admin"].json()["stories"]
        assert json.loads(story["bodies"][0]["text"]) == HELLO
        (seen,) = answers["viewer"].json()["stories"]
        assert (seen["captured"], "bodies" in seen) == (True, False)
        curl = {role: await get(gp, "/ui/api/curl/one", authorization=bearer(role)) for role in ("viewer", "admin")}
        assert curl["admin"].json()["curl"].startswith("curl ")
        assert (curl["viewer"].status, curl["viewer"].json()["error"]["message"]) == (400, NO_CURL)


async def test_an_action_is_one_line_of_the_log_without_a_key(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "gatepass")
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=SERVER) as gp:
        await post(gp, "/ui/api/learned/forget", ROWS["POST learned/forget"][0], authorization=bearer("admin"))
        await get(gp, "/ui/api/status", authorization="Bearer gp-wrong-key-0123456789")
    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "page_action"]
    assert [(line["action"], line["caller"]) for line in lines] == [("forget", "a-admin")]
    written = [str(record.__dict__.get("fields")) for record in caplog.records]
    assert any("'code': 'invalid_api_key'" in one for one in written)
    assert not any(secret in one for one in written for secret in (KEYS["admin"], "gp-wrong"))


async def test_a_path_with_a_line_feed_is_checked_as_every_other():
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server={**SERVER, "base_path": "/llm"}) as gp:
        for path in ("/ui/%0a", "/ui/api/requests/%00%0a/story", "/llm/ui/api/requests%0a"):
            answer = await get(gp, path, host="evil.example")
            assert (answer.status, answer.error["code"]) == (403, "forbidden_host"), path
            assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS), path
            assert (await get(gp, path)).status in (401, 404), path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caller": "a-caler"}, "The caller 'a-caler' is not known; did you mean a-caller?"),
        ({"caller": ""}, "The caller '' is not known; there is a-admin, a-caller, a-viewer, local"),
        ({"model": ""}, "The request body is invalid: "),
    ],
)
async def test_a_capture_that_would_capture_nothing_is_refused(settings: dict[str, str], message: str):
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server=SERVER) as gp:
        refused = await post(gp, "/ui/api/capture", settings, authorization=bearer("admin"))
        assert (refused.status, refused.error["message"][: len(message)]) == (400, message)
        assert not (await get(gp, "/ui/api/capture", authorization=bearer("admin"))).json()["running"]
        for known in ("a-caller", "local"):
            assert (await post(gp, "/ui/api/capture", {"caller": known}, authorization=bearer("admin"))).json()[
                "caller"
            ] == known


@pytest.mark.parametrize(
    ("base", "page", "root"),
    [
        ("/ui", "", "http://127.0.0.1:{port}"),
        ("/ui", "https://127.0.0.1:{port}/ui/", "https://127.0.0.1:{port}"),
        ("/ui", "https://127.0.0.1:{port}/proxy/ui/", "https://127.0.0.1:{port}/proxy"),
        ("/llm/ui", "http://127.0.0.1:{port}/llm/ui/", "http://127.0.0.1:{port}"),
        ("/llm/ui", "http://127.0.0.1:{port}/proxy/llm/ui/", "http://127.0.0.1:{port}/proxy"),
        ("/ui", "http://evil.example/ui/", "http://127.0.0.1:{port}"),
        ("/ui", "http://127.0.0.1:{port}/$(id)/ui/", "http://127.0.0.1:{port}"),
    ],
)
async def test_the_curl_command_has_the_address_of_the_browser(base: str, page: str, root: str):
    async with gateway(upstream="http://127.0.0.1:9", access=ACCESS, server={**SERVER, "base_path": "/llm"}) as gp:
        key = {"authorization": f"Bearer {KEYS['caller']}", "content-type": "application/json", "x-request-id": "one"}
        gp.state.capture.start(CaptureSettings())
        await gp.ask(HELLO, "/llm/v1/chat/completions", headers=key).answer()
        query = urlencode({"page": page.format(port=gp.port)})
        curl = (await get(gp, f"{base}/api/curl/one?{query}", authorization=bearer("admin"))).json()["curl"]
    assert shlex.split(curl.replace("\\\n", ""))[5] == f"{root.format(port=gp.port)}/llm/v1/chat/completions"
    assert KEYS["caller"] not in curl
