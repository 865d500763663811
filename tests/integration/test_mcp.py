"""MCP servers behind gatepass, with scripted servers: what passes, what never does, and how streams end."""

import asyncio
import itertools
import json
from typing import Any

import pytest

from gatepass.config.access import hash_key
from gatepass.mcp.exchange import BODY_BYTES
from gatepass.proxy.upstream_call import ERROR_BYTES
from gatepass.server.inspection import stories
from tests.integration.gateway import Gateway, gateway
from tests.integration.issuer import SECRET, minted
from tests.integration.scripted import (
    Dialogue,
    Hold,
    Pause,
    Received,
    Rst,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    event,
    head,
    reply,
    stream,
)
from tests.waiting import until

PATH = "/mcp/tools"
ACCEPT = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
LIST = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
CALL = {"jsonrpc": "2.0", "id": "call-1", "method": "tools/call", "params": {"name": "slow", "arguments": {"a": 1}}}
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
RESULT = {"jsonrpc": "2.0", "id": 7, "result": {"tools": []}}
KEYS = {"anna": "key-of-anna-0815-4711", "otto": "key-of-otto-0815-4711"}
ACCESS = {"keys": [{"name": name, "hash": hash_key(key)} for name, key in KEYS.items()]}


def servers(upstream: Scripted, **settings: Any) -> dict[str, Any]:
    chat = {"base_url": f"{upstream.url}/v1"}
    return {"upstreams": {"chat": chat}, "mcp": {"tools": {"url": f"{upstream.url}/corp/mcp", **settings}}}


def with_token(issuer: Scripted, upstream: Scripted, **settings: Any) -> dict[str, Any]:
    login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": SECRET}
    return {"credentials": {"corp": login}, **servers(upstream, credential="corp", **settings)}


def post(gp: Gateway, message: Any = LIST, **headers: str) -> Any:
    return gp.ask(message, PATH, headers=ACCEPT | {name.replace("_", "-"): value for name, value in headers.items()})


def listen(gp: Gateway, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gp.ask(None, PATH, method="GET", headers={"accept": "text/event-stream", **named})


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


# --- what passes ---


async def test_the_bytes_of_a_message_and_of_its_reply_pass_unchanged():
    body, answer = b'{ "jsonrpc":"2.0","id" :  7,"method":"tools/list" }', b'{"jsonrpc":"2.0", "id":7,"result":{ }}'
    async with Scripted([Send(reply(answer, mcp_session_id="s-1"))]) as upstream, gateway(**servers(upstream)) as gp:
        got = await gp.ask(body, PATH, headers=ACCEPT).answer()
    assert (got.status, got.body, got.headers["mcp-session-id"]) == (200, answer, "s-1")
    assert (upstream.received[0].target, upstream.received[0].body) == ("/corp/mcp", body)


@pytest.mark.parametrize("text", [b"", b"Accepted"])
@pytest.mark.parametrize("status", [202, 204])
async def test_a_reply_without_content_has_no_body(status, text):
    data = head(204) if status == 204 else reply(text, 202, content_type="text/plain")
    async with Scripted([Send(data)]) as upstream, gateway(**servers(upstream)) as gp:
        got = await post(gp, INITIALIZED).answer()
        assert (got.status, got.body) == (status, b"")
        assert "content-type" not in got.headers
        assert (await post(gp, INITIALIZED).answer()).status == status


async def test_a_text_without_a_reader_keeps_no_connection():
    dialogue: Dialogue = [Send(head(202, content_length="8") + b"Acc"), Hold()]
    async with Scripted(dialogue) as upstream, gateway(**servers(upstream)) as gp:
        assert (await post(gp, INITIALIZED).answer()).status == 202
        await until(lambda: not gp.state.upstreams["mcp/tools"].transport.counts.busy)


async def test_progress_passes_as_it_arrives_and_a_piece_of_an_event_too():
    go_on = asyncio.Event()
    first = b'event: message\nid: 1\ndata: {"method":"notifications/progress"}\n\n'
    dialogue = [*begin_stream(mcp_session_id="s"), Send(chunk(first)), Send(chunk(b"data: {")), Wait(go_on)]
    rest = [Send(chunk(b'"id":"call-1"}\n\n') + b"0\r\n\r\n")]
    async with Scripted([*dialogue, *rest]) as upstream, gateway(**servers(upstream)) as gp, post(gp, CALL) as ask:
        assert await ask.head() == 200
        assert ask.received["content-type"].startswith("text/event-stream")
        assert (ask.received["x-accel-buffering"], ask.received["mcp-session-id"]) == ("no", "s")
        await ask.until(b"data: {")
        await ask.until(first + b"data: {")
        go_on.set()
        got = await ask.answer()
    assert (got.body, got.whole) == (first + b'data: {"id":"call-1"}\n\n', True)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("answer", [b"", b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no GET"}}'])
async def test_a_server_that_declines_a_stream_or_the_end_of_a_session_has_not_failed(method: str, answer: bytes):
    declined = reply(answer, 405, allow="POST")
    async with Scripted([Send(declined)]) as upstream, gateway(**servers(upstream)) as gp:
        got = await gp.ask(None, PATH, method=method, headers={"x-request-id": "asked"}).answer()
        assert upstream.received[0].method == method
        await until(lambda: not gp.state.in_flight.busy)
        (story,) = await stories(gp.state, "asked", bodies=False)
    assert (got.status, got.body, got.headers["allow"]) == (405, answer, "POST")
    assert (story.status, story.outcome, story.error) == (405, "ok", None)
    what = "no stream offered" if method == "GET" else "end of session not offered"
    assert (story.message, story.mcp_method) == (what, "" if method == "GET" else "DELETE")
    assert (story.attempts[0].outcome, story.attempts[0].reason) == ("complete", what)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("body", [CALL, [CALL], {}, b"not json"])
async def test_a_body_where_the_protocol_has_none_is_refused_before_it_is_sent(method, body):
    async with Scripted([Send(reply(RESULT))]) as upstream, gateway(**servers(upstream)) as gp:
        got = await gp.ask(body, PATH, method=method).answer()
    assert (got.status, got.json()["error"]["message"]) == (
        400,
        f"A {method} of MCP has no body. Send a message with POST.",
    )
    assert upstream.received == []


async def test_an_error_in_json_that_quotes_the_token_is_masked():
    async with (
        Scripted(minted("issued-token-4711")) as issuer,
        Scripted([Send(reply({"error": "bad Bearer issued-token-4711", "more": "\u00e4"}, 403))]) as upstream,
        gateway(**with_token(issuer, upstream)) as gp,
    ):
        got = await post(gp).answer()
    assert (got.status, got.json()) == (403, {"error": "bad Bearer ***", "more": "\u00e4"})


PAGE = b"<html><title>Gateway down</title></html>"
LARGE = {"error": {"message": "too much", "more": "x" * ERROR_BYTES}}
BROKEN: dict[str, tuple[Dialogue, Any, int, str]] = {
    "a page": ([Send(reply(PAGE, 502, content_type="text/html"))], LIST, 502, ""),
    "an endless stream": (
        [Send(head(500, content_type="text/event-stream", transfer_encoding="chunked")), Hold()], LIST, 500, "",
    ),
    "a large error": ([Send(reply(LARGE, 500))], LIST, 500, "too much"),
    "no gzip": ([Send(reply(b"this is no gzip", content_encoding="gzip"))], CALL, 200, ""),
    "a wrong URL": (
        [Send(reply(b"Not Found", 404, content_type="text/plain"))], LIST, 404,
        "mcp.tools.url is not the endpoint of an MCP server.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
async def test_an_error_of_the_server_names_the_hop_and_has_the_id_of_the_request(fault):
    dialogue, message, status, words = BROKEN[fault]
    async with Scripted(dialogue) as upstream, gateway(**servers(upstream)) as gp:
        got = await post(gp, message).answer()
    error = got.json()
    assert (got.status, error["id"], error["error"]["data"]["hop"]) == (status, message["id"], "upstream:mcp/tools")
    assert words in error["error"]["message"]


# --- tokens ---


def refusing(token: str, good: Dialogue) -> Any:
    def answer(request: Received) -> Dialogue:
        if request.header("authorization") == f"Bearer {token}":
            return good
        challenge = 'Bearer error="invalid_token", resource_metadata="https://corp.example/.well-known/x"'
        return [Send(reply({"error": "invalid_token"}, 401, www_authenticate=challenge))]

    return answer


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_rejected_token_is_renewed_and_the_message_sent_once_more(is_stream):
    good = [Send(stream(event(RESULT)) if is_stream else reply(RESULT))]
    async with (
        Scripted(minted("old-token-4711"), minted("new-token-4711")) as issuer,
        Scripted(answer=refusing("new-token-4711", good)) as upstream,
        gateway(**with_token(issuer, upstream)) as gp,
    ):
        got = await post(gp, CALL).answer()
        assert (got.status, len(upstream.received), len(issuer.received)) == (200, 2, 2)
        assert upstream.received[0].body == upstream.received[1].body


async def test_insufficient_scope_passes_without_its_challenge():
    challenge = 'Bearer error="insufficient_scope", scope="files:write", resource_metadata="https://corp.example/m"'
    refusal = [Send(reply(b"", 403, www_authenticate=challenge))]
    async with (
        Scripted(minted("a-token-4711")) as issuer,
        Scripted(refusal) as upstream,
        gateway(**with_token(issuer, upstream, rejection={"statuses": [403]})) as gp,
    ):
        got = await post(gp, CALL).answer()
    assert (got.status, len(upstream.received), len(issuer.received)) == (403, 1, 1)
    assert "www-authenticate" not in got.headers
    assert "insufficient_scope" in got.body.decode()
    assert "files:write" in got.body.decode()
    assert b"corp.example" not in got.body


async def test_a_401_renews_the_token_and_starts_no_login_whatever_its_challenge_states():
    refusal = [Send(reply(b"", 401, www_authenticate='Bearer error="insufficient_scope", scope="files:write"'))]
    async with (
        Scripted(minted("old-token-4711"), minted("new-token-4711")) as issuer,
        Scripted(refusal) as upstream,
        gateway(**with_token(issuer, upstream)) as gp,
    ):
        got = await post(gp, CALL).answer()
    error = got.json()
    assert (got.status, error["id"], len(upstream.received)) == (200, "call-1", 2)
    assert [error["error"]["data"][name] for name in ("code", "hop")] == ["upstream_auth", "upstream:mcp/tools"]
    assert "www-authenticate" not in got.headers


@pytest.mark.parametrize(
    ("refusal", "rejection"),
    [
        (
            reply({"jsonrpc": "2.0", "id": 7, "error": {"code": -32001, "message": "session over"}}),
            {"codes": ["-32001"]},
        ),
        (reply(b"<html><title>Sign in</title></html>", content_type="text/html"), {}),
        (reply(b"<html><title>Sign in</title></html>", 403, content_type="text/html"), {}),
        (reply({"error": "no"}, 403), {"statuses": [403]}),
        (reply({"error": "no"}, 400, www_authenticate='Basic realm="x", Bearer error="invalid_token"'), {}),
    ],
)
async def test_what_rejection_names_renews_the_token(refusal, rejection):
    async with (
        Scripted(minted("old-token-4711"), minted("new-token-4711")) as issuer,
        Scripted([Send(refusal)], [Send(reply(RESULT))]) as upstream,
        gateway(**with_token(issuer, upstream, rejection=rejection)) as gp,
    ):
        got = await post(gp).answer()
        assert (got.status, got.json(), len(issuer.received)) == (200, RESULT, 2)


# --- how streams end ---


NEXT = b'data: {"method":"notifications/progress"}\n\n'


@pytest.mark.parametrize(
    ("sent", "message", "has_error"),
    [(NEXT, CALL, True), (b'data: {"a', CALL, True), (b"id: 4\n" + NEXT, CALL, False), (b": hi\n\n", None, False)],
    ids=["between events", "in an event", "that can be resumed", "that is idle"],
)
async def test_a_stream_that_dies_ends_with_an_error_for_a_request_that_cannot_be_resumed(sent, message, has_error):
    async with Scripted([*begin_stream(), Send(chunk(sent)), Rst()]) as upstream, gateway(**servers(upstream)) as gp:
        got = await (listen(gp) if message is None else post(gp, message)).answer()
    assert (got.status, got.whole, got.body.startswith(sent)) == (200, True, True)
    assert (got.body != sent) is has_error
    if has_error:
        error = json.loads(got.events[-1])
        assert got.body[len(sent) :].startswith(b"\n\n") is not sent.endswith(b"\n\n")
        assert (error["id"], error["error"]["data"]["hop"], len(got.events)) == ("call-1", "upstream:mcp/tools", 2)


SUBSCRIBE = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {}}


@pytest.mark.parametrize("place", ["of the key", "of its group"])
@pytest.mark.parametrize("waits", [listen, lambda gp, **fields: post(gp, SUBSCRIBE, **fields)])
async def test_streams_that_wait_for_events_take_no_place_of_max_concurrent(waits, place):
    def answer(request: Received) -> Dialogue:
        return [Send(reply(RESULT))] if b"tools" in request.body else [*begin_stream(), Hold()]

    limits = {"limits": {"max_concurrent": 1}}
    more, groups = (limits, {}) if place == "of the key" else ({"group": "all"}, {"groups": {"all": limits}})
    access = {"keys": [{**one, **more} for one in ACCESS["keys"]], **groups}
    anna = key("anna")
    async with Scripted(answer=answer) as upstream, gateway(**servers(upstream), access=access) as gp:
        async with waits(gp, **anna) as one, waits(gp, **anna) as other:
            assert [await one.head(), await other.head()] == [200, 200]
            assert gp.state.in_flight.concurrency.by_caller == {"anna": 2}
            assert (await post(gp, **anna).answer()).json() == RESULT
        await until(lambda: not gp.state.in_flight.busy)


# --- access ---


async def test_a_session_belongs_to_the_caller_who_opened_it():
    async with (
        Scripted([Send(reply(RESULT, mcp_session_id="s-1"))]) as upstream,
        gateway(**servers(upstream), access=ACCESS) as gp,
    ):
        assert (await post(gp, INITIALIZE, **key("anna")).answer()).status == 200
        assert (await post(gp, mcp_session_id="s-1", **key("anna")).answer()).status == 200
        for ask in (post(gp, mcp_session_id="s-1", **key("otto")), listen(gp, mcp_session_id="s-1", **key("otto"))):
            got = await ask.answer()
            assert (got.status, got.json()["error"]["data"]["code"]) == (404, "mcp_session_not_found")
        assert (await post(gp, mcp_session_id="unknown", **key("anna")).answer()).status == 404
    assert len(upstream.received) == 2


async def test_a_session_that_replaces_another_one_belongs_to_the_caller_too():
    sessions = iter(["s-1", "s-2", "s-2"])

    def answer(request: Received) -> Dialogue:
        return [Send(reply(RESULT, mcp_session_id=next(sessions)))]

    async with Scripted(answer=answer) as upstream, gateway(**servers(upstream), access=ACCESS) as gp:
        await post(gp, INITIALIZE, **key("anna")).answer()
        await post(gp, INITIALIZE, mcp_session_id="s-1", **key("anna")).answer()
        assert (await post(gp, mcp_session_id="s-2", **key("anna")).answer()).status == 200
        assert (await post(gp, mcp_session_id="s-2", **key("otto")).answer()).status == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer unknown"}, 401),
        ({**key("anna"), "origin": "https://evil.example"}, 403),
        ({**key("anna"), "origin": "http://evil.example", "host": "evil.example"}, 403),
        ({**key("anna"), "sec-fetch-site": "cross-site"}, 403),
        ({**key("anna"), "host": "gatepass.corp"}, 200),
        ({**key("anna"), "origin": "https://app.example"}, 200),
    ],
)
async def test_a_foreign_origin_and_a_rebound_host_get_nothing(headers, status):
    settings = {"allowed_origins": ["https://app.example"]}
    async with (
        Scripted([Send(reply(RESULT))]) as upstream,
        gateway(**servers(upstream, **settings), access=ACCESS) as gp,
    ):
        got = await gp.ask(LIST, PATH, headers=ACCEPT | headers).answer()
    assert got.status == status
    assert len(upstream.received) == (status == 200)
    assert got.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    allows = headers.get("origin") == "https://app.example"
    assert got.headers.get("access-control-allow-origin") == ("https://app.example" if allows else None)


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"host": "evil.example"}])
async def test_without_keys_only_this_machine_is_served(headers):
    async with Scripted([Send(reply(RESULT))]) as upstream, gateway(**servers(upstream)) as gp:
        got = await gp.ask(LIST, PATH, headers=ACCEPT | headers).answer()
    assert (got.status, upstream.received) == (403, [])


@pytest.mark.parametrize(("origin", "status"), [("https://app.example", 204), ("https://evil.example", 403)])
async def test_a_preflight_is_answered_for_the_origins_that_are_listed(origin, status):
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "mcp-method"}
    async with (
        Scripted([Hold()]) as upstream,
        gateway(**servers(upstream, allowed_origins=["https://app.example"]), access=ACCESS) as gp,
    ):
        got = await gp.ask(None, PATH, method="OPTIONS", headers=asked).answer()
    assert got.status == status
    assert got.headers.get("access-control-allow-headers") == ("mcp-method" if status == 204 else None)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("PUT", PATH, 405), ("POST", "/mcp/other", 404), ("POST", "/mcp", 404)]
)
async def test_other_methods_and_unknown_servers_are_errors_in_json(method, path, status):
    async with Scripted([Hold()]) as upstream, gateway(**servers(upstream)) as gp:
        got = await gp.ask(LIST, path, method=method, headers=ACCEPT).answer()
    assert (got.status, got.json()["jsonrpc"]) == (status, "2.0")
    assert got.headers.get("allow") == ("GET, POST, DELETE" if status == 405 else None)


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-protected-resource/mcp/tools",
        "/.well-known/oauth-authorization-server",
        "/mcp/tools/.well-known/openid-configuration",
    ],
)
async def test_there_is_no_metadata_that_would_start_a_login(path):
    async with Scripted([Hold()]) as upstream, gateway(**servers(upstream), access=ACCESS) as gp:
        got = await gp.ask(None, path, method="GET", headers={}).answer()
    assert (got.status, got.headers["content-type"]) == (404, "application/json")


async def test_a_body_that_is_too_large_is_refused():
    async with Scripted([Hold()]) as upstream, gateway(**servers(upstream)) as gp:
        got = await post(gp, {**LIST, "pad": "x" * BODY_BYTES}).answer()
    assert (got.status, got.json()["error"]["data"]["code"], upstream.received) == (413, "body_too_large", [])
    assert "the limit for MCP" in got.json()["error"]["message"]


async def test_a_base_path_precedes_the_path_of_a_server():
    server = {"base_path": "/llm", "drain_timeout_s": 0}
    async with Scripted([Send(reply(RESULT))]) as upstream, gateway(**servers(upstream), server=server) as gp:
        assert (await gp.ask(LIST, f"/llm{PATH}", headers=ACCEPT).answer()).json() == RESULT
        assert (await gp.ask(LIST, PATH, headers=ACCEPT).answer()).status == 404


@pytest.mark.parametrize("path", ["/v1/mcp/tools", "/mcp/tools/mcp", "/v1/mcp"])
async def test_a_wrong_path_names_the_servers_that_its_key_may_use(path: str):
    both = {"keys": [{**ACCESS["keys"][0], "mcp": ["tools"]}, {**ACCESS["keys"][1], "models": ["m"]}]}
    async with Scripted([]) as upstream, gateway(**servers(upstream), access=both) as gp:
        anna, otto, nobody = [
            await gp.ask(LIST, path, headers=ACCEPT | sent).answer()
            for sent in (key("anna"), key("otto"), {"authorization": "Bearer unknown"})
        ]
    assert {one.status for one in (anna, otto, nobody)} == {404}
    assert "/mcp/NAME. This key may use: /mcp/tools. For its models" in anna.error["message"]
    assert "may use" not in otto.error["message"] + nobody.error["message"]


@pytest.mark.parametrize(
    "body", [json.dumps([CALL, CALL]).encode(), json.dumps([CALL] * 9).encode("utf-16"), b"\xef\xbb\xbf[]"]
)
async def test_a_batch_is_not_one_request_of_a_limit(body):
    keys = [{**one, "limits": {"requests": {"minute": 2}}} for one in ACCESS["keys"]]
    async with Scripted([Send(reply(RESULT))]) as upstream, gateway(**servers(upstream), access={"keys": keys}) as gp:
        refused = await gp.ask(body, PATH, headers=ACCEPT | key("anna")).answer()
    assert (refused.status, upstream.received) == (400, [])
    assert "no batch" in refused.json()["error"]["message"]


async def test_a_call_of_a_tool_counts_although_its_client_leaves():
    keys = [{**one, "limits": {"requests": {"minute": 1}}} for one in ACCESS["keys"]]
    async with Scripted([Hold()]) as upstream, gateway(**servers(upstream), access={"keys": keys}) as gp:
        async with post(gp, CALL, **key("anna")):
            await until(lambda: upstream.received)
        await until(lambda: not gp.state.in_flight.busy)
        refused = await post(gp, CALL, **key("anna")).answer()
    assert (refused.json()["error"]["data"]["code"], len(upstream.received)) == ("limit_reached", 1)


async def test_messages_count_as_requests_of_the_key_and_streams_do_not():
    limits = {"requests": {"minute": 2}, "tokens": {"minute": 5_000}}
    keys = [{**one, "limits": limits} for one in ACCESS["keys"]]

    def answer(received: Received) -> Dialogue:
        return [*begin_stream(), Hold()] if received.method == "GET" else [Send(reply(RESULT))]

    async with Scripted(answer=answer) as upstream, gateway(**servers(upstream), access={"keys": keys}) as gp:
        async with listen(gp, **key("anna")) as stream_of_anna:
            assert await stream_of_anna.head() == 200
            answers = [(await post(gp, **key("anna")).answer()).json() for _ in range(3)]
        refused = await post(gp, **key("anna")).answer()
        other = await post(gp, **key("otto")).answer()
    assert (["error" in one for one in answers], other.json()) == ([False, False, True], RESULT)
    assert (refused.status, refused.json()["id"], refused.json()["error"]["data"]["code"]) == (200, 7, "limit_reached")
    assert "has used its limit of 2 requests per minute" in refused.json()["error"]["message"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


# --- lies in a 200, and lost sessions ---


@pytest.mark.parametrize(
    "pieces",
    [
        [json.dumps(RESULT).encode()],
        [json.dumps(RESULT, indent=1).encode()],
        [b"\n", json.dumps(RESULT).encode()[:9], json.dumps(RESULT).encode()[9:] + b"\r\n"],
    ],
)
async def test_json_with_the_label_of_a_stream_becomes_an_event(pieces: list[bytes]) -> None:
    dialogue: Dialogue = [*begin_stream(), *(Send(chunk(piece)) for piece in pieces), Send(b"0\r\n\r\n")]
    async with Scripted(dialogue) as upstream, gateway(**servers(upstream)) as gp:
        got = await post(gp).answer()
    data = b"".join(line[6:] for line in got.body.split(b"\n") if line.startswith(b"data: "))
    assert (json.loads(data), got.headers["content-type"][:17], got.body[-2:]) == (RESULT, "text/event-stream", b"\n\n")


async def test_events_with_the_label_of_json_are_labelled_as_a_stream() -> None:
    body = b"event: message\ndata: " + json.dumps(RESULT).encode() + b"\n\n"
    async with Scripted([Send(reply(body))]) as upstream, gateway(**servers(upstream)) as gp:
        got = await post(gp).answer()
    assert (got.body, got.headers["content-type"]) == (body, "text/event-stream")


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ({"error": "the index is rebuilt"}, "the index is rebuilt"),
        ({"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": "busy"}}, "busy"),
        ({"status": "ok"}, "not a response of JSON-RPC"),
        (b"", "empty body"),
    ],
)
@pytest.mark.parametrize("ways", ["at once", "later"])
async def test_an_object_that_is_no_response_is_an_error(lie: Any, told: str, ways: str) -> None:
    text = lie if isinstance(lie, bytes) else json.dumps(lie).encode()
    begun = head(content_type="application/json", content_length=str(len(text)))
    later: Dialogue = [Send(begun), Pause(0.02), Send(text)]
    async with (
        Scripted(answer=lambda _: [Send(reply(lie))] if ways == "at once" else later) as upstream,
        gateway(**servers(upstream)) as gp,
    ):
        got = await post(gp).answer()
        notified = await post(gp, INITIALIZED).answer()
    assert (got.status, got.json()["id"], told in got.json()["error"]["message"]) == (200, 7, True), got.body
    assert notified.status >= 400 or b"error" not in text


@pytest.mark.parametrize(
    "lost",
    [
        reply({"error": "Session not found"}),
        reply(b"Unauthorized: Session not found", 401, content_type="text/plain"),
        reply(
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "No valid session ID provided"}}, 400
        ),
        reply({"detail": "Session expired"}, 410),
    ],
)
async def test_a_lost_session_is_a_404_in_any_form_and_renews_no_token(lost: bytes) -> None:
    count = itertools.count()
    async with (
        Scripted(answer=lambda _: minted(f"token-{next(count):04}-4711")) as issuer,
        Scripted(answer=lambda request: [Send(lost)] if request.header("mcp-session-id") else GOOD_SESSION) as upstream,
        gateway(access=ACCESS, **with_token(issuer, upstream)) as gp,
    ):
        assert (await post(gp, INITIALIZE, **key("anna")).answer()).headers["mcp-session-id"] == "s-1"
        for _ in range(2):
            got = await post(gp, mcp_session_id="s-1", **key("anna")).answer()
            assert (got.status, got.json()["error"]["data"]["code"]) == (404, "mcp_session_not_found"), got.body
        assert (len(upstream.received), len(issuer.received)) == (2, 1), "the second one is not sent any more"
        assert (await post(gp, INITIALIZE, **key("anna")).answer()).status == 200


async def test_a_401_about_a_session_that_may_be_that_of_the_token_renews_first() -> None:
    refusal = reply(b"Your session has expired", 401, content_type="text/plain")
    answers, count = iter([[Send(refusal)], [Send(reply(RESULT))], [Send(refusal)], [Send(refusal)]]), itertools.count()
    async with (
        Scripted(answer=lambda _: minted(f"token-{next(count):04}-4711")) as issuer,
        Scripted(answer=lambda _: next(answers)) as upstream,
        gateway(**with_token(issuer, upstream)) as gp,
    ):
        assert [(await post(gp, mcp_session_id="s-1").answer()).status for _ in range(2)] == [200, 404]


GOOD_SESSION: Dialogue = [Send(reply({"jsonrpc": "2.0", "id": 0, "result": {}}, mcp_session_id="s-1"))]
