"""MCP servers and what outlives a request: reloads, the store, the log, metrics, status, keys with tools."""

import asyncio
import io
import json
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from gatepass.config.access import hash_key
from gatepass.errors import McpSessionNotFound, McpSessionsUnavailable, UpstreamInvalid
from gatepass.mcp.exchange import TAIL_BYTES
from gatepass.mcp.servers import MOST_SESSIONS, SESSION_S, SHARED_S, McpSessions
from gatepass.proxy.upstream_call import ERROR_BYTES
from gatepass.server.inspection import requests_listing, stories
from gatepass.server.pages import status_of
from gatepass.store.base import StoreUnavailable
from tests.integration.gateway import Gateway, gateway
from tests.integration.issuer import SECRET, minted
from tests.integration.scripted import (
    Dialogue,
    Hold,
    Received,
    Scripted,
    Send,
    begin_stream,
    chunk,
    event,
    reply,
    stream,
)
from tests.integration.test_mcp import ACCESS, CALL, INITIALIZE, KEYS, RESULT, key, listen, post, servers, with_token
from tests.integration.test_reload import Serve, events, serve
from tests.integration.test_secrets import ECHOES, assert_silent, logged, received
from tests.unit.clock import DrivenClock
from tests.unit.store.memory import MemoryStore
from tests.waiting import until

__all__ = ["events", "serve"]  # fixtures

TOOLS = {"jsonrpc": "2.0", "id": 7, "result": {"tools": [{"name": "find"}, {"name": "write"}]}}
LISTED = {"keys": [{"name": "anna", "hash": hash_key(KEYS["anna"]), "mcp": {"tools": ["find"]}}]}


# --- keys with a list of tools ---


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_key_with_a_list_sees_all_tools(is_stream):
    good = [Send(stream(event(TOOLS)) if is_stream else reply(TOOLS))]
    async with Scripted(good) as upstream, gateway(**servers(upstream), access=LISTED) as gp:
        got = await post(gp, **key("anna")).answer()
    assert (json.loads(got.events[0]) if is_stream else got.json()) == TOOLS


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        ({**CALL, "params": {"name": "write"}}, {}, 200, -32602),
        ([{**CALL, "params": {"name": "find"}}], {}, 400, -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find","name":"write"}}', {}, 400, -32600),
        ({**CALL, "params": {"name": "find"}}, {"mcp_name": "write"}, 400, -32600),
    ],
)
async def test_a_key_with_a_list_calls_nothing_else(body, headers, status, code):
    async with Scripted([Hold()]) as upstream, gateway(**servers(upstream), access=LISTED) as gp:
        got = await post(gp, body, **headers, **key("anna")).answer()
    assert (got.status, got.json()["error"]["code"], upstream.received) == (status, code, [])


async def test_a_key_that_may_not_use_the_server_gets_a_403():
    access = {"keys": [{"name": "anna", "hash": hash_key(KEYS["anna"]), "models": ["m"]}]}
    async with Scripted([Hold()]) as upstream, gateway(**servers(upstream), access=access) as gp:
        got = await post(gp, **key("anna")).answer()
        summary = await newest(gp)
    assert (got.status, got.json()["error"]["data"]["code"], upstream.received) == (403, "mcp_server_not_allowed", [])
    assert (summary["upstream"], summary["code"]) == ("mcp/tools", "mcp_server_not_allowed")


async def test_a_refused_call_is_listed_with_its_server():
    call = {**CALL, "params": {"name": "write"}}
    async with Scripted([Hold()]) as upstream, gateway(**servers(upstream), access=LISTED) as gp:
        await post(gp, call, **key("anna")).answer()
        summary = await newest(gp)
        (line,) = [one for one in gp.state.metrics.exposition().decode().splitlines() if "errors_total{" in one]
    assert [summary[name] for name in ("upstream", "mcp_tool", "code")] == ["mcp/tools", "write", "mcp_not_allowed"]
    assert ('upstream="none"' in line, gp.state.metrics.health("mcp/tools")) == (True, "unknown")  # not the server's


async def newest(gp: Gateway) -> dict[str, Any]:
    """Return the summary of the last request, as the list of the server's requests has it."""
    await until(lambda: not gp.state.in_flight.busy)
    (found,) = (await requests_listing(gp.state, {"upstream": "mcp/tools", "limit": "1"})).requests
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return shown


# --- sessions ---


class Store(MemoryStore):
    """A store that can be out of reach."""

    is_down = False

    async def get(self, names):
        if self.is_down:
            raise StoreUnavailable("no answer within 0.25 s")
        return await super().get(names)

    async def put(self, name, value, ttl_s):
        if self.is_down:
            raise StoreUnavailable("no answer within 0.25 s")
        await super().put(name, value, ttl_s)


SESSIONS = {
    "another process knows whose it is": (
        "one bind s-1 anna, two check s-1 anna, two foreign s-1 otto, two foreign s-2 anna, two foreign other/s-1 anna,"
        " one forget s-1 anna, new foreign s-1 anna"
    ),
    "a used one does not end after a day": (
        f"one bind s-1 anna, wait {SESSION_S * 0.6}, one check s-1 anna, wait {SESSION_S * 0.6}, one check s-1 anna,"
        f" new check s-1 anna, wait {SESSION_S * 1.1}, new foreign s-1 anna"
    ),
    "none is lost while the store is out of reach": (
        "one bind s-1 anna, down, one check s-1 anna, one bind s-2 anna, one check s-2 anna, two unknown s-1 anna, up,"
        " two check s-1 anna"
    ),
    "it reaches the store when that is in reach again": (
        "down, one bind s-1 anna, up, one check s-1 anna, two check s-1 anna, lose,"
        f" wait {SHARED_S + 1}, one check s-1 anna, new check s-1 anna"
    ),
    "an id that is issued again is its first caller's until its end": (
        "one bind s-1 anna, one taken s-1 otto, one bind s-1 anna, two taken s-1 otto, two check s-1 anna,"
        f" one forget s-1 anna, one bind s-1 otto, wait {SHARED_S + 1}, two check s-1 otto, two foreign s-1 anna"
    ),
}
"""By the promise: processes that bind, check and forget sessions; or the error of a check (`foreign`, `unknown`), or of
a binding (`taken`)."""
FAILS = {"foreign": McpSessionNotFound, "unknown": McpSessionsUnavailable, "taken": UpstreamInvalid}


@pytest.mark.parametrize("promise", SESSIONS)
async def test_a_session_in_several_processes(promise):
    clock = DrivenClock()
    store = Store(clock)
    processes = {name: McpSessions(store, clock) for name in ("one", "two")}
    for step in SESSIONS[promise].split(", "):
        match step.split():
            case ["wait", seconds]:
                await clock.advance(float(seconds))
            case ["down" | "up" as state]:
                store.is_down = state == "down"
            case ["lose"]:
                for name in store.values.entries:
                    await store.drop(name)
            case [_, "forget", session, _]:
                await processes["one"].forget("tools", session.encode())
            case [process, verb, session, caller]:
                sessions = processes.get(process) or McpSessions(store, clock)
                use = sessions.bind if verb in ("bind", "taken") else sessions.check
                with pytest.raises(FAILS[verb]) if verb in FAILS else nullcontext():
                    server, _, session_id = f"tools/{session}".rpartition("/")
                    await use(server.rpartition("/")[2], session_id.encode(), caller)


class LateStore(Store):
    """Replies after all others have asked."""

    async def get(self, names):
        try:
            return await super().get(names)
        finally:
            await asyncio.sleep(0)


@pytest.mark.parametrize("is_down", [False, True])
async def test_an_id_that_a_server_issues_to_two_callers_at_once_belongs_to_the_first(is_down):
    store = LateStore(DrivenClock())
    store.is_down = is_down
    one = McpSessions(store, DrivenClock())
    ends = await asyncio.gather(
        *(one.bind("tools", b"s-1", caller) for caller in ("anna", "otto")), return_exceptions=True
    )
    assert [type(end) for end in ends] == [type(None), UpstreamInvalid]
    await one.check("tools", b"s-1", "anna")


async def test_a_server_with_one_session_id_for_all_serves_one_caller():
    def answer(request: Received) -> list[Send]:
        return [Send(reply(RESULT, mcp_session_id="s-1", status=404 if b"end" in request.body else 200))]

    async with Scripted(answer=answer) as upstream, gateway(**servers(upstream), access=ACCESS) as gp:
        first = await post(gp, CALL, **key("anna")).answer()
        refused = await post(gp, CALL, **key("otto")).answer()
        again = await post(gp, CALL, mcp_session_id="s-1", **key("anna")).answer()
        await post(gp, {**CALL, "method": "end"}, mcp_session_id="s-1", **key("anna")).answer()
        later = await post(gp, CALL, **key("otto")).answer()
    assert refused.json()["error"]["data"]["code"] == "upstream_invalid"
    assert "mcp-session-id" not in refused.headers
    assert [one.json() for one in (first, again, later)] == [RESULT] * 3


async def test_the_sessions_of_one_caller_do_not_end_those_of_others():
    one = McpSessions(None, DrivenClock())
    await one.bind("tools", b"first", "otto")
    for number in range(MOST_SESSIONS + 10):
        await one.bind("tools", b"%d" % number, "anna")
    await one.check("tools", b"first", "otto")
    await one.check("tools", b"%d" % (MOST_SESSIONS + 9), "anna")
    with pytest.raises(McpSessionNotFound):
        await one.check("tools", b"0", "anna")
    await one.forget("tools", b"first")
    with pytest.raises(McpSessionNotFound):
        await one.check("tools", b"first", "otto")


async def test_identities_without_end_have_so_many_sessions_together_and_nothing_stays_of_the_others():
    one = McpSessions(None, DrivenClock())
    for number in range(MOST_SESSIONS + 10):
        await one.bind("tools", b"%d" % number, f"jwt:{number}")
    assert (len(one._sessions), len(one._of_caller)) == (MOST_SESSIONS, MOST_SESSIONS)
    await one.check("tools", b"%d" % number, f"jwt:{number}")
    for caller in (f"jwt:{number - 1}", "people"):
        with pytest.raises(McpSessionNotFound):
            await one.check("tools", b"%d" % number, caller)


# --- a reload ---


async def test_only_a_reload_that_changes_keys_ends_idle_streams_and_the_sessions_stay_their_callers(serve: Serve):
    def answer(request: Received) -> Dialogue:
        if request.method == "GET":
            return [*begin_stream(), Send(chunk(b": hi\n\n")), Hold()]
        return [Send(reply(RESULT, mcp_session_id="s-1"))]

    async with Scripted(answer=answer) as upstream:
        (otto,) = [one for one in ACCESS["keys"] if one["name"] == "otto"]
        async with serve(**servers(upstream), access=ACCESS) as gatepass:
            gp = gatepass.served
            assert (await post(gp, INITIALIZE, **key("anna")).answer()).status == 200
            async with listen(gp, mcp_session_id="s-1", **key("anna")) as idle:
                await idle.head()
                await idle.until(b": hi")
                other = await gatepass.reload(**servers(upstream), access=ACCESS, models={"m": {"upstream": "chat"}})
                assert (await post(gp, mcp_session_id="s-1", **key("anna")).answer()).status == 200
                assert (other.outcome, gp.server.endpoint.state.in_flight.busy) == ("reloaded", 1)
                changed = await gatepass.reload(**servers(upstream), access={**ACCESS, "keys": [otto]})
                assert changed.outcome == "reloaded"
                got = await idle.answer()
            assert (got.whole, got.body) == (True, b": hi\n\n")
            assert (await post(gp, mcp_session_id="s-1", **key("anna")).answer()).status == 401
            assert (await post(gp, mcp_session_id="s-1", **key("otto")).answer()).status == 404
            assert len(upstream.received) == 3


# --- secrets ---


PASSED = {name for name in ECHOES if name.endswith("-event")} | {"in-200", "no-choices"}
"""JSON and streams in HTTP 200 pass as bytes, and nothing in them is masked."""


async def printed(gp: Gateway, out: io.StringIO) -> dict[str, str]:
    """Return what operators can read: the log, the metrics, the status, and the records of requests."""
    await until(lambda: not gp.state.in_flight.busy)
    parts = {"requests": msgspec.json.encode(await requests_listing(gp.state, {})).decode()}
    parts["story"] = msgspec.json.encode(await stories(gp.state, "asked", bodies=False)).decode()
    status = msgspec.json.encode(status_of(gp.state, gp.server.endpoint.mcp)).decode()
    return {"log": out.getvalue(), "metrics": gp.state.metrics.exposition().decode(), "status": status, **parts}


@pytest.mark.parametrize("name", sorted(ECHOES))
async def test_no_secret_is_printed_that_a_server_quotes(name):
    token = "planted-token-of-the-server-4711"
    async with (
        Scripted(answer=lambda _: minted(token)) as issuer,
        Scripted(answer=lambda request: ECHOES[name](received(request))) as upstream,
        gateway(**with_token(issuer, upstream), access=ACCESS) as gp,
    ):
        with logged(gp.state) as out:
            got = await post(gp, CALL, x_request_id="asked", **key("anna")).answer()
            shown = await printed(gp, out)
    if name not in PASSED:
        shown["reply"] = f"{got.headers}\n{got.body.decode('utf-8', 'replace')}"
    assert token in received(upstream.received[0])
    for place, text in shown.items():
        assert_silent(text, [token, KEYS["anna"], SECRET], place)


async def test_neither_arguments_nor_results_nor_sessions_are_printed():
    planted = ["planted-argument-4711", "planted-result-4711", "planted-session-4711"]
    result = {**RESULT, "id": "call-1", "result": {"content": [{"type": "text", "text": planted[1]}]}}
    call = {**CALL, "params": {"name": "slow", "arguments": {"secret": planted[0]}}}
    async with (
        Scripted(answer=lambda _: [Send(reply(result, mcp_session_id=planted[2]))]) as upstream,
        gateway(**servers(upstream), access=ACCESS) as gp,
    ):
        with logged(gp.state) as out:
            await post(gp, INITIALIZE, **key("anna")).answer()
            got = await post(gp, call, x_request_id="asked", mcp_session_id=planted[2], **key("anna")).answer()
            foreign = await post(gp, call, mcp_session_id=planted[2], **key("otto")).answer()
            shown = await printed(gp, out)
    assert (got.status, got.json(), foreign.status) == (200, result, 404)
    for place, text in {**shown, "refusal": foreign.body.decode()}.items():
        assert_silent(text, planted, place)


# --- what operators see ---


async def test_the_log_the_metrics_and_the_status_name_the_server_the_method_and_the_tool():
    async with (
        Scripted([Send(reply({**RESULT, "id": CALL["id"]}, mcp_session_id="s-1"))]) as upstream,
        gateway(**servers(upstream), access=ACCESS) as gp,
    ):
        with logged(gp.state) as out:
            await post(gp, CALL, **key("anna")).answer()
            await until(lambda: not gp.state.in_flight.busy)
            lines = [json.loads(line) for line in out.getvalue().splitlines()]
        metrics = gp.state.metrics.exposition().decode()
        status = status_of(gp.state, gp.server.endpoint.mcp)
    (line,) = [line for line in lines if line["event"] == "request"]
    shown = {name: line[name] for name in ("operation", "upstream", "mcp_method", "mcp_tool", "caller", "outcome")}
    assert shown == {
        "operation": "mcp",
        "upstream": "mcp/tools",
        "mcp_method": "tools/call",
        "mcp_tool": "slow",
        "caller": "anna",
        "outcome": "ok",
    }
    labels = 'caller="anna",code="none",model="none",operation="mcp",outcome="ok",status="200",upstream="mcp/tools"'
    assert f"gatepass_requests_total{{{labels}}} 1.0" in metrics
    assert "gatepass_mcp_streams 0.0" in metrics
    assert 'gatepass_mcp_tool_calls_total{caller="anna",outcome="ok",tool="slow",upstream="mcp/tools"} 1.0' in metrics
    assert status.mcp
    server = status.mcp.servers["tools"]
    assert (server.host, server.credential, server.usable) == (upstream.url.partition("//")[2], None, True)
    assert (status.mcp.streams, server.sessions, server.health, server.last_error) == (0, 1, "ok", None)


UNKNOWN = {"code": -32602, "message": "Unknown tool"}


@pytest.mark.parametrize("form", ["json", "stream", "labelled", "large", "large stream"])
@pytest.mark.parametrize(
    ("answer", "ran"),
    [
        ({"result": {"content": [], "isError": False}, "error": None}, True),
        ({"result": {"content": []}}, True),
        ({"result": {"content": [], "isError": True}}, False),
        ({"result": {"content": [], "isError": "true"}}, False),
        ({"error": UNKNOWN}, False),
        ({"result": "a text"}, False),
    ],
)
async def test_metrics_name_a_tool_once_the_server_ran_it_without_an_error(form, answer, ran):
    """The last event of a stream is read up to TAIL_BYTES: an error may repeat what the client sent."""
    filled = {"_": "x" * (ERROR_BYTES + TAIL_BYTES)} if form.startswith("large") else {}
    body = {"jsonrpc": "2.0", "id": "call-1", **filled, **answer}
    data = reply(event(body), content_type="application/json") if form == "labelled" else reply(body)
    dialogue = [Send(stream(event(body)) if form.endswith("stream") else data)]
    tool = "fi\x1bnd"
    call, long = ({**CALL, "params": {"name": name, "arguments": {}}} for name in (tool, "x" * 300))
    async with Scripted([*dialogue, *dialogue]) as upstream, gateway(**servers(upstream), access=ACCESS) as gp:
        await post(gp, call, **key("anna")).answer()
        await post(gp, long, **key("anna")).answer()
        await until(lambda: not gp.state.in_flight.busy)
        lines = [
            line for line in gp.state.metrics.exposition().decode().splitlines() if "mcp_tool_calls_total{" in line
        ]
    is_named = ran and form != "large stream"
    tools = {line.partition('tool="')[2].partition('"')[0]: line.rpartition(" ")[2] for line in lines}
    assert tools == ({"fi\\\\u001bnd": "1.0", "other": "1.0"} if is_named else {"other": "2.0"})


PROGRESS = event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"id": "call-1"}})
ANSWER = event({"jsonrpc": "2.0", "result": {"id": 4}, "id": "call-1"})
LARGE = event({"jsonrpc": "2.0", "result": {"text": "x" * TAIL_BYTES}, "id": "call-1"})


@pytest.mark.parametrize(
    ("message", "pieces", "outcome"),
    [
        (CALL, [PROGRESS], "client_gone"),
        (CALL, [PROGRESS, ANSWER[:9], ANSWER[9:]], "ok"),
        (CALL, [PROGRESS, ANSWER[:-1]], "client_gone"),
        (CALL, [ANSWER.replace(b"call-1", b"call-2")], "client_gone"),
        (CALL, [PROGRESS, LARGE], "ok"),
        (CALL, [b"\n" * (TAIL_BYTES - 8), ANSWER], "ok"),
        (CALL, [PROGRESS * (TAIL_BYTES // len(PROGRESS) + 1)], "client_gone"),
        ({**CALL, "method": "subscriptions/listen"}, [PROGRESS], "ok"),
        (None, [PROGRESS], "ok"),
    ],
)
async def test_a_client_that_has_its_response_may_close_the_stream(message, pieces, outcome):
    dialogue = [*begin_stream(), *(Send(chunk(piece)) for piece in pieces), Hold()]
    async with Scripted(dialogue) as upstream, gateway(**servers(upstream)) as gp:
        with logged(gp.state) as out:
            async with listen(gp) if message is None else post(gp, message) as ask:
                await ask.head()
                await ask.until(b"".join(pieces))
            await upstream.left()
            await until(lambda: not gp.state.in_flight.busy)
            (line,) = [one for one in map(json.loads, out.getvalue().splitlines()) if one["event"] == "request"]
        metrics = gp.state.metrics.exposition().decode()
    assert (line["outcome"], line["status"], f'outcome="{outcome}"' in metrics) == (outcome, 200, True)


def test_nothing_of_mcp_is_imported_without_mcp_servers():
    script = """
import sys
from gatepass import create_app
from gatepass.config.model import Config
from gatepass.proxy.app_state import create_app_state
from gatepass.server.endpoint import ApiEndpoint
blocks = {"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}}
ApiEndpoint(create_app_state(Config.model_validate(blocks)))
create_app(Config.model_validate(blocks))
found = [name for name in sys.modules if name.startswith("gatepass.mcp")]
assert found == [], found
blocks["mcp"] = {"tools": {"url": "http://127.0.0.1:9/mcp"}}
ApiEndpoint(create_app_state(Config.model_validate(blocks)))
assert "gatepass.mcp.exchange" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
