"""Callers by tokens over real sockets: an issuer that rotates, moves and breaks, and one answer on every route."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from gatepass.auth import key_sets
from gatepass.config.access import hash_key
from gatepass.tokens import key_set as key_set_source
from tests.integration.answers import COMPLETION, VECTORS
from tests.integration.gateway import HELLO, JSON, Answer, Gateway, gateway
from tests.integration.scripted import Dialogue, Fin, Hold, Received, Scripted, Send, Wait, reply
from tests.jwt_signer import Clients, SigningKey, key_set
from tests.waiting import until

FIRST, SECOND, FOREIGN = SigningKey("k1"), SigningKey("k2", "ES256"), SigningKey("k1", number=5)
DISCOVERY, OAUTH = "/realm/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/realm"
CERTS = "/realm/certs"
ROWS = [
    {"claim": "roles", "contains": "llm-admin", "name": "admins", "role": "admin"},
    {"claim": "roles", "contains": "llm-viewer", "name": "viewers", "role": "viewer"},
    {"claim": "roles", "contains": "llm-user", "name": "people", "name_from": "preferred_username"},
]
KEY = "gp-0123456789abcdef"
LOGIN = "sk-ant-oat01-a-login-of-its-own"
NO = Send(reply({"error": "not_found"}, 404))


class Issuer:
    """A company's issuer. `says` has what it answers at a path in place of what a good one does."""

    def __init__(self, *keys: SigningKey, tls: ssl.SSLContext | None = None) -> None:
        self.keys: tuple[SigningKey, ...] = keys or (FIRST,)
        self.says: dict[str, Dialogue] = {}
        self.fields: dict[str, Any] = {}
        self.server = Scripted(answer=self._answer, tls=tls)

    @property
    def name(self) -> str:
        return f"{self.server.url}/realm"

    def _answer(self, request: Received) -> Dialogue:
        good = {
            DISCOVERY: Send(reply({"issuer": self.name, "jwks_uri": f"{self.server.url}{CERTS}"})),
            CERTS: Send(reply(key_set(*self.keys), **self.fields)),
        }
        return self.says.get(request.target, [good.get(request.target, NO)])

    @property
    def asked(self) -> list[str]:
        return [one.target for one in self.server.received]

    def token(self, key: SigningKey = FIRST, **changed: Any) -> str:
        return key.sign(Clients(self.name, time.time()).claims(**changed))

    def entry(self, **more: Any) -> dict[str, Any]:
        return {"issuer": self.name, "audience": "api://gatepass", "callers": ROWS, **more}


def upstream_answer(request: Received) -> Dialogue:
    if request.target.endswith("/mcp"):
        return [Send(reply({"jsonrpc": "2.0", "id": 7, "result": {"tools": []}}))]
    if request.target.endswith("/embeddings"):
        return [Send(reply(VECTORS))]
    return [Send(reply({"object": "list", "data": []} if request.method == "GET" else COMPLETION))]


@asynccontextmanager
async def callers(issuer: Issuer, entry: Mapping[str, Any] | None = None, **blocks: Any) -> AsyncIterator[Any]:
    """Serve the tokens of `issuer` and one key on every route; yields the upstream, and gatepass."""
    async with Scripted(answer=upstream_answer) as upstream:
        settings: dict[str, Any] = {
            "upstreams": {"chat": {"base_url": f"{upstream.url}/v1", "protocols": ["chat"]}},
            "mcp": {"tools": {"url": f"{upstream.url}/mcp"}},
            "server": {"ui": True, "drain_timeout_s": 0},
            "access": {"jwt": [entry or issuer.entry()], "keys": [{"name": "batch", "hash": hash_key(KEY)}]},
        }
        async with gateway(**{**settings, **blocks}) as gp:
            yield upstream, gp


@pytest.fixture(autouse=True)
def _slow_machine(monkeypatch):
    """The bound of a fetch is the subject of one test alone."""
    monkeypatch.setattr(key_set_source, "FETCH_S", 120.0)


@pytest.fixture
async def issuer():
    made = Issuer()
    async with made.server:
        yield made


async def chat(gp: Gateway, bearer: str = "", **fields: str) -> Answer:
    named = {"authorization": f"Bearer {bearer}"} if bearer else {}
    more = {name.replace("_", "-"): value for name, value in fields.items()}
    return await gp.ask(headers={**JSON, **named, **more}).answer()


def key_fault(gp: Gateway) -> str:
    """Why the keys could not be fetched: in log, status and doctor, because nobody who asks for a model may read it."""
    return gp.state.key_sets[0].fault


# --- one answer on every route ---

MESSAGES = {"model": "m", "max_tokens": 9, "messages": HELLO["messages"]}
LIST = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
MCP = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
ROUTES: dict[str, tuple[str, str, Any, dict[str, str], str]] = {
    "chat": ("POST", "/v1/chat/completions", HELLO, {}, "llm-user"),
    "completions of a path without /v1": ("POST", "/chat/completions", HELLO, {}, "llm-user"),
    "messages": ("POST", "/v1/messages", MESSAGES, {"anthropic-version": "2023-06-01"}, "llm-user"),
    "a profile's path": ("POST", "/for/dify/v1/chat/completions", HELLO, {}, "llm-user"),
    "responses": ("POST", "/v1/responses", {"model": "m", "input": "hi", "store": False}, {}, "llm-user"),
    "embeddings": ("POST", "/v1/embeddings", {"model": "e", "input": "hi"}, {}, "llm-user"),
    "models": ("GET", "/v1/models", None, {}, "llm-user"),
    "models of Claude Desktop": ("GET", "/v1/models", None, {"anthropic-version": "2023-06-01"}, "llm-user"),
    "MCP": ("POST", "/mcp/tools", LIST, MCP, "llm-user"),
    "metrics": ("GET", "/metrics", None, {}, "llm-viewer"),
    "status": ("GET", "/status", None, {}, "llm-viewer"),
    "learned rules": ("GET", "/learned", None, {}, "llm-viewer"),
    "the page's session": ("GET", "/ui/api/session", None, {}, "llm-viewer"),
    "the page's requests": ("GET", "/ui/api/requests", None, {}, "llm-viewer"),
    "the page's captures": ("POST", "/ui/api/capture", {"for_s": 5}, {}, "llm-admin"),
}
PLACES: dict[str, Any] = {
    "Authorization": lambda text: {"authorization": f"Bearer {text}"},
    "x-api-key": lambda text: {"x-api-key": text},
    "both": lambda text: {"authorization": f"Bearer {text}", "x-api-key": text},
}


@pytest.mark.parametrize("place", PLACES)
async def test_every_route_accepts_the_same_token_and_refuses_the_same(issuer, place):
    async with callers(issuer) as (upstream, gp):
        good = {role: issuer.token(roles=[role]) for role in ("llm-user", "llm-viewer", "llm-admin")}
        foreign = issuer.token(FOREIGN, roles=["llm-admin"])
        bad = {"expired": issuer.token(exp=time.time() - 95, roles=["llm-admin"]), "signature": foreign}
        found: dict[str, list[Any]] = {}
        for route, (method, path, body, fields, role) in ROUTES.items():
            own = {**JSON, **fields, "origin": f"http://127.0.0.1:{gp.port}"} if "/ui/" in path else {**JSON, **fields}
            accepted = await gp.ask(body, path, method=method, headers={**own, **PLACES[place](good[role])}).answer()
            found[route] = [accepted.status // 100]
            for why, text in bad.items():
                got = await gp.ask(body, path, method=method, headers={**own, **PLACES[place](text)}).answer()
                is_said = b"invalid_token" in got.body and why.encode() in got.body
                found[route] += [got.status, got.headers.get("www-authenticate"), is_said]
                assert not [part for part in text.split(".") if part.encode() in got.body]
        named = 'Bearer error="invalid_token"'
        expected = {route: [2, *(401, named, True) * 2] for route in ROUTES}
        assert found == expected
    # the token stays here, in whichever header it came
    relayed = [f"{one.headers} {one.target} {one.body!r}" for one in upstream.received]
    assert len(relayed) >= 7
    texts = [*good.values(), *bad.values()]
    assert not [part for text in texts for part in text.split(".") for one in relayed if part in one]


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        *(("llm-user", path, 403) for path in ("/metrics", "/status", "/learned", "/ui/api/requests")),
        *(("llm-viewer", path, 200) for path in ("/metrics", "/status", "/learned", "/ui/api/requests")),
        ("llm-admin", "/status", 200),
    ],
)
async def test_admin_routes_go_by_the_row_s_role(issuer, role, path, status):
    async with callers(issuer) as (_, gp):
        bearer = {"authorization": f"Bearer {issuer.token(roles=[role])}"}
        got = await gp.ask(None, path, method="GET", headers=bearer).answer()
    assert (got.status, b"role_not_allowed" in got.body) == (status, status == 403)


async def test_refusals_at_the_page_are_logged_and_counted(issuer, caplog):
    caplog.set_level("INFO", "gatepass.access")
    async with callers(issuer) as (_, gp):
        sent = {
            "invalid_token": [issuer.token(FOREIGN), "opaque-of-nobody", issuer.token(exp=5), issuer.token(iss="x")],
            "no_caller_row": [issuer.token(roles=[]), issuer.token(roles=["x"])],
            "role_not_allowed": [issuer.token(roles=["llm-user"]), KEY],
        }
        for code, texts in sent.items():
            for text in texts:
                bearer = {"authorization": f"Bearer {text}"}
                got = await gp.ask(None, "/ui/api/status", method="GET", headers=bearer).answer()
                assert (got.error["code"], got.status) == (code, 401 if code == "invalid_token" else 403)
        no_file = await gp.ask(None, "/ui/nothing.js", method="GET", headers=bearer).answer()
        assert (no_file.status, no_file.error["code"]) == (404, "unknown_path")
        shown = gp.state.metrics.exposition().decode().splitlines()
        await until(lambda: sum(one.__dict__["fields"]["count"] for one in caplog.records) == 8)
    assert {one.__dict__["fields"]["code"] for one in caplog.records} == set(sent)
    counted = {code: one.split()[-1] for code in sent for one in shown if "errors_total{" in one and code in one}
    assert counted == {"invalid_token": "4.0", "no_caller_row": "2.0", "role_not_allowed": "2.0"}


async def test_a_viewer_s_token_calls_no_model(issuer):
    async with callers(issuer) as (upstream, gp):
        got = await chat(gp, issuer.token(roles=["llm-viewer"]))
    assert (got.status, got.error["code"], upstream.received) == (403, "role_not_allowed", [])


async def test_what_came_beside_the_token_decides(issuer):
    async with callers(issuer) as (_, gp):
        good, old = issuer.token(), issuer.token(exp=time.time() - 60)
        rows = {
            "nothing": await chat(gp),
            "token": await chat(gp, good),
            "x-api-key alone": await chat(gp, x_api_key=good),
            "api-key alone": await chat(gp, api_key=good),
            "both": await chat(gp, good, x_api_key=good),
            "a login and a token": await chat(gp, LOGIN, x_api_key=good),
            "a login and a key": await chat(gp, LOGIN, x_api_key=KEY),
            "a token of nobody and a key": await chat(gp, FOREIGN.sign({"iss": "x"}), x_api_key=KEY),
            "key": await chat(gp, KEY),
            "a token and a key": await chat(gp, good, x_api_key=KEY),
            "a key and a token": await chat(gp, KEY, x_api_key=good),
            "two tokens": await chat(gp, good, x_api_key=issuer.token(sub="u2")),
            "an expired token": await chat(gp, old),
            "an expired token and a key": await chat(gp, old, x_api_key=KEY),
            "an expired token and a login": await chat(gp, LOGIN, x_api_key=old),
            "an expired token twice": await chat(gp, old, x_api_key=old),
            "opaque": await chat(gp, "ya29.opaque-of-google"),
            "basic": await gp.ask(headers={**JSON, "authorization": "Basic YTpi"}).answer(),
        }
    accepted = {name for name, got in rows.items() if got.status == 200}
    two = {name for name, got in rows.items() if got.status == 401 and "two different" in got.error["message"]}
    ended = {name for name, got in rows.items() if got.status == 401 and "The token expired 6" in got.error["message"]}
    assert accepted == {
        *("token", "x-api-key alone", "api-key alone", "both", "a login and a token", "key"),
        *("a login and a key", "a token of nobody and a key"),
    }
    assert two == {"a token and a key", "a key and a token", "two tokens", "an expired token and a key"}
    assert ended == {"an expired token", "an expired token and a login", "an expired token twice"}
    codes = {name: rows[name].error["code"] for name in ("nothing", "opaque", "basic")}
    assert codes == {"nothing": "invalid_api_key", "opaque": "invalid_token", "basic": "invalid_api_key"}
    assert {got.headers["www-authenticate"].partition(" ")[0] for got in rows.values() if got.status == 401} == {
        "Bearer"
    }


async def test_a_token_without_a_row_counts_under_its_own_name_and_its_lines_stay_bounded(issuer, caplog):
    caplog.set_level("INFO", "gatepass.access")
    async with callers(issuer) as (_, gp):
        for _ in range(9):
            await chat(gp, issuer.token(roles=[]))
        await chat(gp)
        by_caller = gp.state.metrics.totals().by_caller
        lines = [one for one in caplog.records if getattr(one, "msg", "") == "request"]
    assert {name: failed for name, (_, failed, _) in by_caller.items()} == {"no_caller_row": 9, "none": 1}
    assert len(lines) < 5


async def test_a_good_token_without_a_row_is_a_403_and_an_expired_one_a_401(issuer):
    async with callers(issuer) as (_, gp):
        none, old = await chat(gp, issuer.token(roles=[])), await chat(gp, issuer.token(roles=[], exp=5))
    assert (none.status, none.error["code"], "www-authenticate" in none.headers) == (403, "no_caller_row", False)
    assert (old.status, old.error["code"]) == (401, "invalid_token")


async def test_a_page_of_an_allowed_origin_can_read_the_401(issuer):
    server = {"cors_origins": ["https://app.example"], "drain_timeout_s": 0}
    async with callers(issuer, server=server) as (_, gp):
        got = await chat(gp, issuer.token(exp=5), origin="https://app.example")
        foreign = await chat(gp, issuer.token(exp=5), origin="https://evil.example")
    assert (got.status, got.headers["access-control-allow-origin"]) == (401, "https://app.example")
    assert "access-control-allow-origin" not in foreign.headers


async def test_a_header_that_is_too_large_for_the_server_breaks_nothing(issuer):
    async with callers(issuer) as (_, gp):
        got = await chat(gp, issuer.token(filler="x" * 1_000_000))
        assert 400 <= got.status < 500
        assert (await chat(gp, issuer.token())).status == 200


# --- the key set ---


@pytest.fixture
def at_once(monkeypatch):
    """Unknown keys may fetch without a pause between two fetches."""
    monkeypatch.setattr(key_sets, "AGAIN_S", 0.0)


async def test_the_keys_are_fetched_by_discovery_once_for_all(issuer):
    async with callers(issuer) as (_, gp):
        answers = await asyncio.gather(*(chat(gp, issuer.token(sub=f"u{number}")) for number in range(40)))
    assert {one.status for one in answers} == {200}
    assert issuer.asked == [DISCOVERY, CERTS]
    assert {one.header("authorization") for one in issuer.server.received} == {None}


async def test_a_new_key_needs_no_restart_and_a_removed_one_ends(issuer, at_once):
    async with callers(issuer) as (_, gp):
        old = issuer.token()
        assert (await chat(gp, old)).status == 200
        issuer.keys = (FIRST, SECOND)
        assert (await chat(gp, issuer.token(SECOND))).status == 200
        assert (await chat(gp, old)).status == 200
        issuer.keys = (SECOND,)
        assert (await chat(gp, issuer.token(SigningKey("k9", "EdDSA")))).status == 401  # fetches again
        got = await chat(gp, old)
    assert (got.status, got.error["code"]) == (401, "invalid_token")
    assert "The token has the kid k1, and its issuer has no such key for RS256" in got.error["message"]


async def test_a_new_key_under_an_old_kid_needs_no_restart(issuer, at_once):
    async with callers(issuer) as (_, gp):
        assert (await chat(gp, issuer.token())).status == 200
        issuer.keys = (FOREIGN,)
        assert (await chat(gp, issuer.token(FOREIGN))).status == 200
        got = await chat(gp, issuer.token())
    assert (got.status, "the issuer may have replaced this key" in got.error["message"]) == (401, True)
    assert "x-should-retry" not in got.headers


@pytest.mark.parametrize(
    ("value", "again_s"),
    [
        *(("max-age=600", 600), ("public, max-age=600, must-revalidate", 600), ("MAX-AGE=600", 600)),
        *(("max-age=1", 300), ("max-age=0", 300), ("max-age=999999999", 3600), ("s-maxage=600", 900)),
        *(("no-store", 900), ("max-age=-5", 900), ("max-age=x", 900), ('max-age="600"', 600), ("", 900)),
    ],
)
async def test_cache_control_says_when_to_fetch_again_within_bounds(issuer, value, again_s):
    issuer.fields = {"cache_control": value}
    async with callers(issuer) as (_, gp):
        assert (await chat(gp, issuer.token())).status == 200
        [holder] = gp.state.key_sets
        assert round(holder._next_s - holder._fetched_s, 3) == again_s  # a float of the clock


FAULTS: dict[str, tuple[str, Dialogue, str]] = {
    "discovery is HTML": (DISCOVERY, [Send(reply(b"<html>login</html>", content_type="text/html"))], "is no JSON"),
    "discovery is a list": (DISCOVERY, [Send(reply([]))], "names the issuer 'None'"),
    "discovery is deeply nested": (DISCOVERY, [Send(reply(b"[" * 60_000))], "is no JSON"),
    "discovery is a redirect": (DISCOVERY, [Send(reply(b"", 302, location="/other"))], "answers with HTTP 302"),
    "discovery is an error": (DISCOVERY, [Send(reply({}, 500))], "openid-configuration answers with HTTP 500"),
    "discovery is huge": (DISCOVERY, [Send(reply(b" " * 3_000_000))], "is larger than"),
    "discovery breaks off": (DISCOVERY, [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"), Fin()], "closed"),
    "discovery is no HTTP": (DISCOVERY, [Send(b"-ERR\r\n\r\n"), Fin()], "127.0.0.1"),
    "keys are HTML": (CERTS, [Send(reply(b"<html>", content_type="text/html"))], "its key set is no JSON"),
    "keys are no set": (CERTS, [Send(reply({"keys": {}}))], "its key set has no list `keys`"),
    "keys are a redirect": (CERTS, [Send(reply(b"", 307, location="/other"))], "/certs answers with HTTP 307"),
    "keys are refused": (CERTS, [Send(reply({}, 401))], "/certs answers with HTTP 401"),
    "keys are huge": (CERTS, [Send(reply(b'{"keys": [' + b" " * 3_000_000 + b"]}"))], "is larger than"),
    "keys are compressed": (CERTS, [Send(reply(b"\x1f\x8b", content_encoding="gzip"))], "its key set is no JSON"),
}


@pytest.mark.attack("an issuer whose key set breaks")
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_key_set_that_cannot_be_read_is_a_503_that_says_why(issuer, fault):
    target, dialogue, why = FAULTS[fault]
    issuer.says[target] = dialogue
    async with callers(issuer) as (_, gp):
        text = issuer.token()
        got, by_key = await chat(gp, text), await chat(gp, KEY)
        bad = await chat(gp, issuer.token(exp=5))
    assert (got.status, got.error["code"], by_key.status, bad.status) == (503, "key_set_unavailable", 200, 401)
    assert why in key_fault(gp)
    assert key_fault(gp) not in got.error["message"]
    assert ".." not in got.error["message"]
    assert 0 < int(got.headers["retry-after"]) <= 10
    assert "/other" not in issuer.asked
    assert text.rpartition(".")[2] not in got.body.decode()


@pytest.mark.attack("an issuer whose key set breaks")
async def test_a_key_set_that_never_ends_is_a_503(issuer, monkeypatch):
    monkeypatch.setattr(key_set_source, "FETCH_S", 0.05)
    issuer.says[CERTS] = [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"), Hold()]
    async with callers(issuer) as (_, gp):
        got = await chat(gp, issuer.token())
    assert (got.status, got.error["code"]) == (503, "key_set_unavailable")
    assert "within 0.05 s" in key_fault(gp)


@pytest.mark.attack("an issuer whose key set breaks")
@pytest.mark.parametrize("changed", ["/", "/v2.0", "?x", " "])
async def test_a_discovery_of_another_issuer_gives_no_keys(issuer, changed):
    document = {"issuer": f"{issuer.name}{changed}", "jwks_uri": f"{issuer.server.url}{CERTS}"}
    issuer.says[DISCOVERY] = [Send(reply(document))]
    async with callers(issuer) as (_, gp):
        got = await chat(gp, issuer.token())
    assert (got.status, CERTS in issuer.asked) == (503, False)
    assert f"names the issuer '{issuer.name}{changed}', and access.jwt[0].issuer is '{issuer.name}'" in key_fault(gp)


@pytest.mark.attack("an issuer whose key set breaks")
@pytest.mark.parametrize("uri", [None, 5, "", "ftp://a/b", "file:///etc/passwd", "certs", "https://u:p@a/b", ["x"]])
async def test_a_discovery_without_a_usable_jwks_uri_says_so(issuer, uri):
    issuer.says[DISCOVERY] = [Send(reply({"issuer": issuer.name, "jwks_uri": uri}))]
    async with callers(issuer) as (_, gp):
        got = await chat(gp, issuer.token())
    assert (got.status, "names no jwks_uri" in key_fault(gp)) == (503, True)


async def test_keys_are_not_fetched_over_plain_http_from_another_machine(issuer):
    issuer.says[DISCOVERY] = [Send(reply({"issuer": issuer.name, "jwks_uri": "http://keys.corp.example/certs"}))]
    async with callers(issuer) as (_, gp):
        got = await chat(gp, issuer.token())
    assert got.status == 503
    assert "http://keys.corp.example/certs is plain HTTP" in key_fault(gp)
    assert "access.jwt[0].allow_plain_http" in key_fault(gp)


async def test_discovery_of_rfc_8414_is_the_second_place(issuer):
    issuer.says[DISCOVERY] = [NO]
    issuer.says[OAUTH] = [Send(reply({"issuer": issuer.name, "jwks_uri": f"{issuer.server.url}{CERTS}"}))]
    async with callers(issuer) as (_, gp):
        assert (await chat(gp, issuer.token())).status == 200
    assert issuer.asked == [DISCOVERY, OAUTH, CERTS]


async def test_both_places_of_a_discovery_that_fails_are_named(issuer):
    issuer.says = {DISCOVERY: [Send(reply(b"<html>"))], OAUTH: [Send(reply({}, 410))]}
    async with callers(issuer) as (_, gp):
        assert (await chat(gp, issuer.token())).status == 503
    message = key_fault(gp)
    assert f"{DISCOVERY} is no JSON; " in message
    assert f"{OAUTH} answers with HTTP 410" in message


async def test_jwks_takes_the_place_of_discovery(issuer):
    async with callers(issuer, issuer.entry(jwks=f"{issuer.server.url}{CERTS}")) as (_, gp):
        assert (await chat(gp, issuer.token())).status == 200
    assert issuer.asked == [CERTS]


async def test_the_credential_goes_to_the_configured_host_alone(issuer):
    kube = {"kube": {"type": "static", "token": "token-of-the-reader-4711"}}
    other = Issuer()
    async with other.server:
        issuer.says[DISCOVERY] = [Send(reply({"issuer": issuer.name, "jwks_uri": f"{other.server.url}{CERTS}"}))]
        async with callers(issuer, issuer.entry(credential="kube"), credentials=kube) as (_, gp):
            assert (await chat(gp, issuer.token())).status == 200
    assert [one.header("authorization") for one in issuer.server.received] == ["Bearer token-of-the-reader-4711"]
    assert [one.header("authorization") for one in other.server.received] == [None]


async def test_the_credential_opens_a_key_set_for_readers(issuer):
    kube = {"kube": {"type": "static", "token": "token-of-the-reader-4711"}}
    entry = issuer.entry(credential="kube", jwks=f"{issuer.server.url}{CERTS}")
    async with callers(issuer, entry, credentials=kube) as (upstream, gp):
        assert (await chat(gp, issuer.token())).status == 200
    assert [one.header("authorization") for one in issuer.server.received] == ["Bearer token-of-the-reader-4711"]
    assert {one.header("authorization") for one in upstream.received} == {None}


async def test_a_file_with_keys_is_read_again_when_it_is_replaced(issuer, at_once, tmp_path):
    path = tmp_path / "cluster.jwks"
    path.write_bytes(key_set(FIRST))
    async with callers(issuer, issuer.entry(jwks=str(path))) as (_, gp):
        old = issuer.token()
        assert (await chat(gp, old)).status == 200
        new = tmp_path / "new.jwks"
        new.write_bytes(b"\xef\xbb\xbf" + key_set(SECOND))  # with a byte order mark
        new.replace(path)
        assert (await chat(gp, issuer.token(SECOND))).status == 200
        assert (await chat(gp, old)).status == 401
        path.unlink()
        assert (await chat(gp, issuer.token(SigningKey("k9", "EdDSA")))).status == 401
        assert (await chat(gp, issuer.token(SECOND))).status == 200  # the last keys stay
    assert issuer.asked == []


async def test_a_file_that_is_absent_is_a_503_that_names_it(issuer, tmp_path):
    path = tmp_path / "absent.jwks"
    async with callers(issuer, issuer.entry(jwks=str(path))) as (_, gp):
        got = await chat(gp, issuer.token())
    assert (got.status, f"the file {path} cannot be read" in key_fault(gp)) == (503, True)


async def test_an_issuer_with_a_ca_of_the_company(tmp_path):
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issuer = Issuer(tls=context)
    async with issuer.server:
        network = {"ca_file": str(tmp_path / "ca.pem")}
        async with callers(issuer, issuer.entry(network=network)) as (_, gp):
            assert (await chat(gp, issuer.token())).status == 200
        async with callers(issuer) as (_, gp):
            got = await chat(gp, issuer.token())
    assert (got.status, got.error["code"]) == (503, "key_set_unavailable")
    assert "certificate" in key_fault(gp)


async def test_a_key_of_one_issuer_opens_nothing_at_another(issuer):
    other = Issuer(FOREIGN)
    async with other.server, Scripted(answer=upstream_answer) as upstream:
        entries = [issuer.entry(), other.entry()]
        async with gateway(upstream=upstream.url, access={"jwt": entries}) as gp:
            assert (await chat(gp, issuer.token())).status == 200
            assert (await chat(gp, other.token(FOREIGN))).status == 200
            for text in (issuer.token(FOREIGN), other.token(FIRST)):
                got = await chat(gp, text)
                assert (got.status, "signature" in got.error["message"]) == (401, True)
            got = await chat(gp, FIRST.sign(Clients("https://third.example", time.time()).claims()))
    assert (got.status, json.dumps(got.error).count("/realm")) == (401, 2)


async def test_a_client_that_leaves_does_not_end_the_fetch_and_sends_nothing(issuer):
    go_on = asyncio.Event()
    issuer.says[CERTS] = [Wait(go_on), Send(reply(key_set(FIRST)))]
    async with callers(issuer) as (upstream, gp):
        bearer = {**JSON, "authorization": f"Bearer {issuer.token()}"}
        async with gp.ask(headers=bearer):
            await until(lambda: gp.state.in_flight.busy and CERTS in issuer.asked)
        go_on.set()
        await until(lambda: not gp.state.in_flight.busy)
        assert (await gp.ask(headers=bearer).answer()).status == 200
    assert (len(upstream.received), issuer.asked) == (1, [DISCOVERY, CERTS])
