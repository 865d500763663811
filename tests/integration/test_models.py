"""`/v1/models`: the configured names, and the upstreams' own lists where a wildcard opens them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gatepass.proxy.models import FAILED_S
from tests.integration.gateway import Gateway, gateway
from tests.integration.scripted import Dialogue, Hold, Rst, Scripted, Send, Wait, head, reply
from tests.unit.clock import DrivenClock
from tests.waiting import until

LARGE = {"id": "org/large", "object": "model", "created": 1, "owned_by": "corp", "x_context": 128_000}
SMALL = {"id": "small", "object": "model", "created": 2, "owned_by": "corp"}
LIST = [Send(reply({"object": "list", "data": [LARGE, SMALL]}))]
EMBEDDERS = [Send(reply({"object": "list", "data": [{"id": "bge-m3"}, {"id": "small"}]}))]


async def listed(gp: Gateway) -> tuple[int, Any]:
    answer = await gp.ask(None, "/v1/models", method="GET").answer()
    return answer.status, answer.json()


async def refreshed(gp: Gateway) -> None:
    """Returns when no list is under way any more."""
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("models of ")])


def ids(found: tuple[int, Any]) -> list[str]:
    assert (found[0], found[1]["object"]) == (200, "list")
    return [model["id"] for model in found[1]["data"]]


async def test_a_wildcard_lists_the_upstreams_own_models_as_they_are():
    async with Scripted(LIST) as upstream, gateway(upstream=upstream.url) as gp:
        assert await listed(gp) == (200, {"object": "list", "data": [LARGE, SMALL]})
        one = await gp.ask(None, "/v1/models/org/large", method="GET").answer()
        escaped = await gp.ask(None, "/models/org%2Flarge", method="GET").answer()
        absent = await gp.ask(None, "/v1/models/org", method="GET").answer()
    asked = upstream.received[0]
    assert (asked.method, asked.target, asked.body, asked.header("content-type")) == ("GET", "/v1/models", b"", None)
    assert (one.status, one.json()) == (escaped.status, escaped.json()) == (200, LARGE)
    assert (absent.status, absent.error["code"], absent.error["param"]) == (404, "model_not_found", "model")
    assert len(upstream.received) == 1


async def test_configured_names_precede_models_that_match_globs():
    async with Scripted(LIST) as chat, Scripted(EMBEDDERS) as embed:
        upstreams = {"chat": {"base_url": chat.url}, "embed": {"base_url": embed.url}}
        models = {"gpt-best": {"upstream": "chat", "name": "deployed"}, "org/*": {"upstream": "chat"}}
        async with gateway(upstreams=upstreams, models=models) as gp:
            assert ids(await listed(gp)) == ["gpt-best", "org/large"]
        assert embed.connections == 0
        operations = {"embeddings": {"upstream": "embed"}}
        async with gateway(upstreams=upstreams, models=models, operations=operations) as gp:
            assert ids(await listed(gp)) == ["gpt-best", "bge-m3", "small", "org/large"]
        async with gateway(upstreams=upstreams, models={"only": {"upstream": "chat"}}) as gp:
            assert ids(await listed(gp)) == ["only"]
            described = await gp.ask(None, "/v1/models/only", method="GET").answer()
    assert described.json() == {"id": "only", "object": "model", "created": 0, "owned_by": "gatepass"}


async def test_model_list_is_fetched_once_a_minute_for_all_clients():
    clock = DrivenClock()
    async with Scripted(LIST, EMBEDDERS) as upstream, gateway(upstream=upstream.url, clock=clock) as gp:
        found = await asyncio.gather(*(listed(gp) for _ in range(20)))
        assert {tuple(ids(one)) for one in found} == {("org/large", "small")}
        assert len(upstream.received) == 1
        await clock.advance(59)
        assert ids(await listed(gp)) == ["org/large", "small"]
        assert len(upstream.received) == 1
        await clock.advance(2)
        assert ids(await listed(gp)) == ["org/large", "small"]
        await refreshed(gp)
        assert ids(await listed(gp)) == ["bge-m3", "small"]
        assert len(upstream.received) == 2


FAILURES: dict[str, Dialogue] = {
    "an error": [Send(reply({"error": {"message": "boom"}}, 500))],
    "a page": [Send(reply(b"<html>", content_type="text/html"))],
    "nothing": [Send(reply(b""))],
    "an error in a 200": [Send(reply({"code": 102, "message": "no such thing"}))],
    "no list": [Send(reply({"object": "list"}))],
    "no JSON": [Send(reply(b"[{"))],
    "a reset": [Rst()],
    "too much": [Send(reply(b'{"data":[' + b" " * 5_000_000 + b"]}"))],
    "a redirect": [Send(head(302, location="http://127.0.0.1:9/", content_length="0"))],
}


async def test_the_last_good_list_outlives_whatever_the_upstream_does_then():
    clock = DrivenClock()
    async with Scripted(LIST, *FAILURES.values()) as upstream:
        once = {"chat": {"base_url": f"{upstream.url}/v1", "repeat_stale": False}}
        async with gateway(upstreams=once, clock=clock) as gp:
            for count in range(1 + len(FAILURES)):
                assert ids(await listed(gp)) == ["org/large", "small"]
                await refreshed(gp)
                assert len(upstream.received) == 1 + count
                await clock.advance(61)


async def test_without_any_list_the_upstreams_error_is_reported():
    expected = {
        "an error": (500, "upstream_error"),
        "a page": (502, "upstream_html"),
        "nothing": (502, "upstream_empty"),
        "an error in a 200": (400, "102"),
        "no list": (502, "upstream_invalid"),
        "no JSON": (502, "upstream_invalid"),
        "a reset": (502, "upstream_closed"),
        "too much": (502, "upstream_invalid"),
        "a redirect": (502, "upstream_redirect"),
    }
    found, clock = {}, DrivenClock()
    async with (
        Scripted(*FAILURES.values()) as upstream,
        gateway(upstreams={"chat": {"base_url": upstream.url, "repeat_stale": False}}, clock=clock) as gp,
    ):
        for name in FAILURES:
            answer = await gp.ask(None, "/v1/models", method="GET").answer()
            found[name] = (answer.status, answer.error["code"])
            assert (answer.error["hop"], answer.headers["x-gatepass-hop"]) == ("upstream:chat", "upstream:chat")
            await clock.advance(FAILED_S)
    assert found == expected


async def test_failing_upstream_does_not_remove_models_of_others():
    async with Scripted([Rst()]) as chat, Scripted(EMBEDDERS) as embed:
        upstreams = {"chat": {"base_url": chat.url}, "embed": {"base_url": embed.url}}
        blocks: dict[str, Any] = {
            "operations": {"embeddings": {"upstream": "embed"}},
            "models": {"*": {"upstream": "chat"}},
        }
        async with gateway(upstreams=upstreams, **blocks) as gp:
            assert ids(await listed(gp)) == ["bge-m3", "small"]


async def test_an_upstream_that_hangs_is_waited_for_eight_seconds():
    """Clients verify a provider by this call within ten (RAGFlow's provider check)."""
    clock = DrivenClock()
    async with Scripted([Hold()], LIST) as upstream, gateway(upstream=upstream.url, clock=clock) as gp:
        asking = asyncio.create_task(gp.ask(None, "/v1/models", method="GET").answer())
        await upstream.requested()
        await clock.advance(7.9)
        assert not asking.done()
        await clock.advance(0.2)
        answer = await asking
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
        await clock.advance(FAILED_S)
        assert ids(await listed(gp)) == ["org/large", "small"]


async def test_first_upstream_list_is_awaited_four_seconds_if_models_are_configured():
    """LibreChat gives up after five seconds. A later list is there for the next request."""
    clock, release = DrivenClock(), asyncio.Event()
    async with Scripted([Wait(release), *LIST]) as upstream:
        models = {"own": {"upstream": "chat"}, "*": {"upstream": "chat"}}
        async with gateway(upstream=upstream.url, clock=clock, models=models) as gp:
            asking = asyncio.create_task(listed(gp))
            await upstream.requested()
            await clock.advance(3.9)
            assert not asking.done()
            await clock.advance(0.2)
            assert ids(await asking) == ["own"]
            release.set()
            assert ids(await listed(gp)) == ["own", "org/large", "small"]
    assert len(upstream.received) == 1


async def test_a_failure_is_remembered_for_a_few_seconds():
    clock = DrivenClock()
    busy = [Send(reply({"error": {"message": "boom"}}, 500))]
    async with Scripted(busy, LIST) as upstream, gateway(upstream=upstream.url, clock=clock) as gp:
        for _ in range(3):
            assert (await listed(gp))[0] == 500
            await clock.advance(FAILED_S / 4)
        assert len(upstream.received) == 1
        await clock.advance(FAILED_S / 4)
        assert ids(await listed(gp)) == ["org/large", "small"]


async def test_a_disconnect_stops_no_other_request_for_the_list():
    release = asyncio.Event()
    async with Scripted([Wait(release), *LIST]) as upstream, gateway(upstream=upstream.url) as gp:
        async with gp.ask(None, "/v1/models", method="GET"):
            await upstream.requested()
            staying = asyncio.create_task(listed(gp))
            await until(lambda: gp.state.in_flight.busy == 2)
        release.set()
        assert ids(await staying) == ["org/large", "small"]
    assert len(upstream.received) == 1


async def test_model_list_is_requested_with_a_token_that_is_renewed():
    def mint(count: int):
        return [Send(reply({"access_token": f"list-token-{count}", "expires_in": 300}))]

    expired = [Send(reply({"error": {"message": "token expired"}}, 401))]
    async with Scripted(mint(1), mint(2)) as issuer, Scripted(expired, LIST) as upstream:
        login = {"type": "http_json", "url": issuer.url}
        upstreams = {"chat": {"base_url": upstream.url, "credential": "corp"}}
        async with gateway(upstreams=upstreams, credentials={"corp": login}) as gp:
            assert ids(await listed(gp)) == ["org/large", "small"]
        shown = [request.header("authorization") for request in upstream.received]
        assert shown == ["Bearer list-token-1", "Bearer list-token-2"]
        assert len(issuer.received) == 2


async def test_without_a_token_the_list_is_an_error():
    async with Scripted([Send(reply({"error": "invalid_client"}, 401))]) as issuer, Scripted(LIST) as upstream:
        login = {"type": "http_json", "url": issuer.url}
        upstreams = {"chat": {"base_url": upstream.url, "credential": "corp"}}
        async with gateway(upstreams=upstreams, credentials={"corp": login}) as gp:
            answer = await gp.ask(None, "/v1/models", method="GET").answer()
        assert (answer.status, answer.error["code"]) == (503, "token_unavailable")
        assert answer.error["hop"] == "credential:corp"
        assert upstream.connections == 0


async def test_invalid_entries_are_skipped_and_a_bare_list_is_read():
    last = {"id": "d", "object": "model", "created": 7, "owned_by": "them", "x": {"deep": [1]}}
    odd = [{"id": "a", "created": None}, {"name": "b"}, "c", None, {"id": 4}, {"id": ""}, last]
    async with Scripted([Send(reply(odd))]) as upstream, gateway(upstream=upstream.url) as gp:
        assert (await listed(gp))[1]["data"] == [
            {"id": "a", "object": "model", "created": 0, "owned_by": "upstream"},
            last,
        ]


@pytest.mark.parametrize(
    ("listed_entry", "shown"),
    [
        ({"created": 1686935002.0}, {"created": 1686935002}),
        ({"created": 1686935002.75}, {"created": 1686935002}),
        ({"created": -1, "object": "thing", "owned_by": ""}, {"created": -1, "object": "thing", "owned_by": ""}),
        ({"created": True, "object": None, "owned_by": None}, {}),
        ({"created": "2023-06-16", "object": 1, "owned_by": ["me"]}, {}),
    ],
)
async def test_only_missing_or_invalid_members_of_an_entry_are_filled_in(listed_entry, shown):
    async with Scripted([Send(reply([{"id": "a", **listed_entry}]))]) as upstream, gateway(upstream=upstream.url) as gp:
        (entry,) = (await listed(gp))[1]["data"]
    assert entry == {"id": "a", "object": "model", "created": 0, "owned_by": "upstream", **shown}
    assert type(entry["created"]) is int


async def test_a_list_has_its_bound():
    many = {"data": [{"id": f"m{number}"} for number in range(6_000)]}
    async with Scripted([Send(reply(json.dumps(many).encode()))]) as upstream, gateway(upstream=upstream.url) as gp:
        assert len(ids(await listed(gp))) == 5_000
