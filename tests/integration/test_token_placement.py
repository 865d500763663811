"""A token arrives at the upstream in the way that is configured, and is shown nowhere else."""

from typing import Any
from urllib.parse import quote

import pytest

from gatepass.config.access import hash_key
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, gateway
from tests.integration.scripted import Dialogue, Received, Rst, Scripted, Send, reply
from tests.integration.test_secrets import assert_silent, logged

TOKEN = "24.a/token+of~many=="
SUBSCRIPTION = "0123456789abcdef-subscription"
GOOD = [Send(reply(COMPLETION))]


def blocks(upstream: Scripted, placement: dict[str, Any], **more: Any) -> dict[str, Any]:
    credential = {"type": "static", "token": TOKEN, "token_placement": placement}
    chat = {"base_url": f"{upstream.url}/v1", "credential": "key", **more}
    return {"credentials": {"key": credential}, "upstreams": {"chat": chat}}


async def test_token_placement_of_an_upstream_overrides_the_credentials():
    async with Scripted(GOOD) as upstream:
        both = blocks(upstream, {"headers": {"api-key": "{token}"}})
        both["upstreams"]["query"] = {**both["upstreams"]["chat"], "token_placement": {"query": "key"}}
        both["models"] = {"m": {"upstream": "chat"}, "q": {"upstream": "query"}}
        async with gateway(**both) as gp:
            for model in ("m", "q"):
                assert (await gp.ask({**HELLO, "model": model}).answer()).status == 200
    first, second = upstream.received
    assert (first.header("authorization"), second.header("authorization")) == (None, None)
    assert (first.target, first.header("api-key")) == ("/v1/chat/completions", TOKEN)
    assert (second.target, second.header("api-key")) == (f"/v1/chat/completions?key={quote(TOKEN, safe='')}", None)


def received(request: Received) -> str:
    fields = "; ".join(f"{name}: {value}" for name, value in request.headers)
    return f"{request.target} [{fields}] {quote(request.target, safe='')}"


def echo(request: Received) -> Dialogue:
    case = request.json().get("user") if request.body else "json"
    text = received(request)
    if case == "reset":
        return [Rst()]
    if case == "moved":
        return [Send(reply(b"", 302, location=f"https://sso.example{request.target}&next={quote(request.target)}"))]
    if case == "page":
        return [Send(reply(f"<html><title>{text}</title>".encode(), content_type="text/html"))]
    return [Send(reply({"error": {"message": text, "code": text[-90:]}}, 401 if case == "refused" else 400))]


async def test_a_token_in_a_query_is_printed_nowhere_in_any_echo():
    log = {"format": "text", "level": "debug"}
    bodies = ""
    async with Scripted(answer=echo) as upstream:
        config = blocks(upstream, {"query": "access_token"}, headers={"Ocp-Apim-Subscription-Key": SUBSCRIPTION})
        async with gateway(log=log, **config) as gp:
            with logged(gp.state) as out:
                for case in ("json", "refused", "moved", "page", "reset"):
                    for stream in (False, True):
                        answer = await gp.ask({**HELLO, "user": case, "stream": stream}).answer()
                        bodies += answer.body.decode() + str(answer.headers)
                bodies += (await gp.ask(None, "/v1/models", method="GET").answer()).body.decode()
                for page in ("/metrics", "/status"):
                    bodies += (await gp.ask(None, page, method="GET").answer()).body.decode()
                shown = repr(gp.state) + repr(gp.state.upstreams["chat"].injector)
    assert bodies.count("***") > 5
    assert "/v1/chat/completions" in bodies
    secrets = [TOKEN, quote(TOKEN, safe=""), quote(quote(TOKEN, safe=""), safe=""), SUBSCRIPTION]
    for text, where in ((bodies, "an answer"), (out.getvalue(), "the log"), (shown, "a repr")):
        assert_silent(text, secrets, where)
    assert_silent(out.getvalue().lower(), [quote(TOKEN, safe="").lower()], "the log")


VERSION = "2025-01-01-preview"


async def test_fixed_query_goes_with_every_request_beside_the_token_and_replaces_what_clients_send():
    query = {"api-version": VERSION, "scene": "a b/c", "limit": "9"}
    asked = f"api-version={VERSION}&scene=a%20b%2Fc&limit=9&key={quote(TOKEN, safe='')}"
    listing: Any = {"object": "list", "data": []}
    async with Scripted(answer=lambda one: [Send(reply(listing if one.method == "GET" else COMPLETION))]) as upstream:
        config = blocks(upstream, {"query": "key"}, query=query)
        config["access"] = {"keys": [{"name": "a", "hash": hash_key(SUBSCRIPTION), "operations": ["chat", "files"]}]}
        config["access"]["keys"][0]["operations"] += ["models", "embeddings", "stored_responses"]
        async with gateway(**config) as gp:
            own = {"content-type": "application/json", "authorization": f"Bearer {SUBSCRIPTION}"}
            paths = ("/v1/models", "/v1/files?limit=2&after=f-1", "/v1/responses/resp_1")
            statuses = [(await gp.ask(None, path, method="GET", headers=own).answer()).status for path in paths]
            statuses.append((await gp.ask(HELLO, headers=own).answer()).status)
    assert statuses == [200] * 4
    assert [one.target for one in upstream.received] == [
        *(f"/v1/models?{asked}", f"/v1/files?after=f-1&{asked}"),
        *(f"/v1/responses/resp_1?{asked}", f"/v1/chat/completions?{asked}"),
    ]


@pytest.mark.parametrize(
    ("settings", "target"),
    [
        ({"dialect": "azure"}, f"/v1/openai/v1/chat/completions?api-version={VERSION}"),
        (
            {"dialect": "azure", "azure": {"api_version": "2024-10-21"}},
            f"/v1/openai/deployments/m/chat/completions?api-version={VERSION}",
        ),
        ({"dialect": "ragflow"}, f"/v1/api/v1/openai/m/chat/completions?api-version={VERSION}"),
        ({}, f"/v1/chat/completions?api-version={VERSION}"),
    ],
)
async def test_fixed_query_goes_to_each_dialect_once_and_with_the_request_after_a_renewal(settings, target):
    refused = [Send(reply({"error": {"message": "expired"}}, 401))]
    issued = [[Send(reply({"access_token": f"token-{number}", "expires_in": 300}))] for number in (1, 2)]
    async with Scripted(refused, GOOD) as upstream, Scripted(*issued) as issuer:
        login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": "secret"}
        chat = {"base_url": f"{upstream.url}{'' if settings.get('dialect') == 'ragflow' else '/v1'}", **settings}
        chat |= {"credential": "corp", "query": {"api-version": VERSION}}
        async with gateway(credentials={"corp": login}, upstreams={"chat": chat}) as gp:
            assert (await gp.ask({**HELLO, "model": "m"}).answer()).status == 200
    target = target.removeprefix("/v1") if "dialect" in settings else target
    assert [one.target for one in upstream.received] == [target] * 2
    assert upstream.received[1].header("authorization") == "Bearer token-2"


async def test_fixed_query_of_an_mcp_server_joins_that_of_its_url():
    result = {"jsonrpc": "2.0", "id": 7, "result": {"tools": []}}
    async with Scripted([Send(reply(result))]) as upstream:
        tools = {"url": f"{upstream.url}/mcp?scene=a&tenant=old", "query": {"tenant": "new"}}
        chat = {"base_url": f"{upstream.url}/v1"}
        async with gateway(upstreams={"chat": chat}, mcp={"tools": tools}) as gp:
            message = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
            accept = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
            assert (await gp.ask(message, "/mcp/tools", headers=accept).answer()).status == 200
    assert upstream.received[0].target == "/mcp?scene=a&tenant=new"


async def test_a_key_in_a_fixed_query_is_masked_by_its_name_and_a_version_is_not():
    query = {"subscription-key": "short-key", "api-version": VERSION, "code": SUBSCRIPTION}

    def quoted(request: Received) -> Dialogue:
        return [Send(reply({"error": {"message": request.target}}, 400))]

    async with Scripted(answer=quoted) as upstream:
        chat = {"base_url": f"{upstream.url}/v1", "query": query}
        async with gateway(upstreams={"chat": chat}) as gp:
            text = (await gp.ask(HELLO).answer()).body.decode()
    assert f"subscription-key=***&api-version={VERSION}&code=***" in text
