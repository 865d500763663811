"""An upstream, an issuer and an MCP server that send gatepass's own codes. No surface explains them as gatepass's."""

import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gatepass.cli.story_lines import story_lines, summary_line
from gatepass.documents import Requests
from gatepass.errors import Explanation, explanations
from gatepass.server.inspection import requests_listing, told
from gatepass.server.pages import status_of
from tests.integration.gateway import HELLO, JSON, STREAMED, Gateway, gateway
from tests.integration.issuer import SECRET
from tests.integration.scripted import Dialogue, Received, Scripted, Send, event, reply, stream

CODES = [code for code, entry in explanations().items() if not entry.of and code != "upstream_error"]
WORDS = "the words of the other side"
BEGIN = event({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
PLACES = ("reply", "200", "first event", "late event")
KINDS = ("upstream_error", "upstream_auth")
"""What a code of an upstream is, and one with the status 401."""


def texts_of(entry: Explanation) -> Iterator[str]:
    """Yield the texts of an entry up to the first name or number that gatepass replaces."""
    for text in (entry.sentence, entry.sentence_zh, entry.more, entry.more_zh, entry.action, entry.action_zh):
        yield text if "`" not in text else max(text.split("`")[::2], key=len)


SHARED = {text for kind in KINDS for text in texts_of(explanations()[kind])} | {
    text for entry in explanations().values() if entry.of == "token_unavailable" for text in texts_of(entry)
}


def explained_in(shown: str, code: str) -> list[str]:
    """Return the texts of gatepass about its own `code` that are in `shown`."""
    flat = " ".join(shown.split())
    return [text for text in texts_of(explanations()[code]) if len(text) > 15 and text not in SHARED and text in flat]


def error_of(code: str) -> dict[str, Any]:
    return {"error": {"message": WORDS, "type": "server_error", "code": code, "hop": "gatepass"}}


def answer(request: Received) -> Dialogue:
    """Send the error of the model, such as `200/overloaded`, and no list of models."""
    if request.method == "GET":
        return [Send(reply({"object": "list", "data": []}))]
    place, _, code = request.json()["model"].partition("/")
    error = error_of(code)
    told = {
        "reply": reply(error, 500),
        "200": reply(error),
        "first event": stream(event(error)),
        "late event": stream(BEGIN, event(error)),
    }
    return [Send(told[place])]


async def page_of(gp: Gateway, request_id: str) -> str:
    """Return what the page reads about a request, with the explanations that it then asks for."""

    async def read(*paths: str) -> list[Any]:
        return [(await gp.ask(None, f"/ui/api/{path}", method="GET").answer()).json() for path in paths]

    found = await read("requests", f"requests/{request_id}", "traffic", "use", "status", "models")
    summaries, stories, traffic, use = found[:4]
    rows = [*summaries["requests"], *traffic["errors"], *(code for row in use["use"] for code in row["codes"])]
    kinds = {row["kind"] for row in rows} | {one["error"]["kind"] for one in stories["stories"]}
    found += await read(*(f"errors/{kind}" for kind in sorted(kinds)))
    return "\n".join(json.dumps(one, ensure_ascii=False) for one in found)


async def surfaces(gp: Gateway, request_id: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the text of each surface that shows a request."""
    shown = {"page": await page_of(gp, request_id)}
    ((story, _),) = told(request_id, gp.state)
    listing: Requests = await requests_listing(gp.state, {})
    for language in ("en", "zh"):
        monkeypatch.setenv("LC_ALL", f"{language}_XX.UTF-8")
        shown[f"show {language}"] = "\n".join(story_lines(story, time.time()))
        shown[f"tail {language}"] = "\n".join(map(summary_line, listing.requests))
    shown["status"] = msgspec.json.encode(status_of(gp.state, gp.server.endpoint.mcp)).decode()
    return shown


def codes_of_metrics(gp: Gateway) -> set[str]:
    """Return the values of the label `code` of errors."""
    text = gp.state.metrics.exposition().decode()
    lines = [line for line in text.splitlines() if line.startswith("gatepass_errors_total")]
    return {line.partition('code="')[2].partition('"')[0] for line in lines}


def lines_of(caplog: pytest.LogCaptureFixture) -> str:
    caught = [one for one in caplog.records if one.name.startswith("gatepass")]
    return "\n".join(f"{one.getMessage()} {one.__dict__.get('fields')}" for one in caught)


@pytest.mark.parametrize("place", PLACES)
async def test_the_code_of_an_upstream_is_explained_as_the_code_of_an_upstream(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    for code in CODES:
        async with Scripted(answer=answer) as upstream, gateway(upstream=upstream.url) as gp:
            body = {**(STREAMED if "event" in place else HELLO), "model": f"{place}/{code}"}
            got = await gp.ask(body, headers={**JSON, "x-request-id": "asked"}).answer()
            shown = {"client": got.body.decode(), **await surfaces(gp, "asked", monkeypatch)}
            ((story, _),) = told("asked", gp.state)
            known = codes_of_metrics(gp)
        shown["log"] = lines_of(caplog)
        caplog.clear()
        assert {name: found for name, text in shown.items() if (found := explained_in(text, code))} == {}, code
        assert WORDS in shown["client"]
        assert story.error is not None
        assert (story.error.hop, story.error.kind in KINDS, known) == ("upstream:chat", True, {story.error.kind}), code


async def test_a_code_of_an_upstream_and_the_same_code_of_gatepass_are_counted_apart():
    """A bug of an upstream was counted and explained as one of gatepass."""
    async with Scripted(answer=answer) as upstream, gateway(upstream=upstream.url) as gp:
        for body in ({**HELLO, "model": "reply/invalid_json"}, b"{"):
            await gp.ask(body).answer()
        traffic = (await gp.ask(None, "/ui/api/traffic", method="GET").answer()).json()
        (found,) = (await gp.ask(None, "/ui/api/requests?kind=invalid_json", method="GET").answer()).json()["requests"]
    counted = [{"code": "invalid_json", "kind": kind, "count": 1} for kind in ("upstream_error", "invalid_json")]
    assert sorted(traffic["errors"], key=str) == sorted(counted, key=str)
    assert (found["hop"], found["kind"]) == ("client", "invalid_json")


@pytest.mark.parametrize("code", ["upstream_connect", "upstream_html", "upstream_auth"])
async def test_one_error_with_a_code_of_gatepass_makes_no_upstream_fail(code: str):
    """`upstream_connect` of a gatepass behind this one made the upstream fail, as if nothing answered."""
    good = {"id": "c", "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}]}
    dialogues = [[Send(reply(good))], [Send(reply(error_of(code), 422))], [Send(reply(error_of(code), 503))]]
    async with Scripted(*dialogues) as upstream, gateway(upstream=upstream.url) as gp:
        for _ in dialogues:
            await gp.ask().answer()
        shown = status_of(gp.state).upstreams["chat"]
    assert (shown.health, shown.errors) == ("ok", 1)


async def test_the_code_of_an_issuer_is_the_failure_of_its_credential(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    codes = [code for code in CODES if code != "token_unavailable"]

    def refuse(request: Received) -> Dialogue:
        return [Send(reply({"error": request.target.strip("/"), "error_description": WORDS}, 400))]

    async with Scripted(answer=refuse) as issuer:
        login = {"type": "oauth2", "client_id": "i", "client_secret": SECRET}
        credentials = {code: {**login, "token_url": f"{issuer.url}/{code}"} for code in codes}
        upstreams = {code: {"base_url": "http://127.0.0.1:9/v1", "credential": code} for code in codes}
        models = {code: {"upstream": code} for code in codes}
        async with gateway(credentials=credentials, upstreams=upstreams, models=models) as gp:
            for code in codes:
                got = await gp.ask({**HELLO, "model": code}, headers={**JSON, "x-request-id": code}).answer()
                shown = {"client": got.body.decode(), **await surfaces(gp, code, monkeypatch), "log": lines_of(caplog)}
                found = {name: found for name, text in shown.items() if (found := explained_in(text, code))}
                assert (found, got.error["code"], got.error["hop"]) == ({}, "token_unavailable", f"credential:{code}")
                assert WORDS in shown["client"]
            assert codes_of_metrics(gp) == {"token_unavailable"}


@pytest.mark.parametrize("status", [200, 500])
async def test_the_code_of_an_mcp_server_is_explained_as_the_code_of_an_upstream(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    for code in CODES:
        data = {"code": code, "hop": "gatepass"}
        inner = {"jsonrpc": "2.0", "id": 7, "error": {"code": -32603, "message": WORDS, "data": data}}
        dialogue = [Send(reply(inner if status == 200 else error_of(code), status))]
        async with (
            Scripted(dialogue) as server,
            gateway(upstream="http://127.0.0.1:9", mcp={"tools": {"url": f"{server.url}/mcp"}}) as gp,
        ):
            headers = {**JSON, "accept": "application/json, text/event-stream", "x-request-id": "asked"}
            got = await gp.ask(CALL, "/mcp/tools", headers=headers).answer()
            shown = {"client": got.body.decode()}
            if status != 200:  # else the answer passes unchanged, and is no error of the request
                shown |= await surfaces(gp, "asked", monkeypatch)
            known = codes_of_metrics(gp)
        shown["log"] = lines_of(caplog)
        caplog.clear()
        assert {name: found for name, text in shown.items() if (found := explained_in(text, code))} == {}, code
        assert (WORDS in shown["client"], known) == (True, set() if status == 200 else {"upstream_error"})
