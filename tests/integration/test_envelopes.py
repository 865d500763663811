"""The words of an error arrive in whatever envelope an upstream, an issuer or an MCP server sends it."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatepass.tokens import failure
from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.envelopes import EMBEDDINGS, ENVELOPES, ORDINARY, Envelope
from tests.integration.gateway import HELLO, STREAMED, Answer, Gateway, gateway
from tests.integration.issuer import SECRET, corp, minted
from tests.integration.scripted import Dialogue, Scripted, Send, event, reply, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "issued-token-4711-0815"
ACCEPT = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
CALL = {"jsonrpc": "2.0", "id": "call-1", "method": "tools/call", "params": {"name": "find", "arguments": {"a": 1}}}
CHUNK, MINTED = delta(content="hi"), minted(TOKEN)

each = pytest.mark.parametrize("envelope", ENVELOPES, ids=lambda envelope: envelope.name)
each_status = pytest.mark.parametrize("in_200", [True, False], ids=["200", "its own status"])


@asynccontextmanager
async def behind(*plays: Dialogue, issues: Dialogue = MINTED) -> AsyncIterator[Gateway]:
    """Serve one upstream and one MCP server that play `plays`, with tokens of an issuer that plays `issues`."""
    async with Scripted(*plays) as upstream, Scripted(issues) as issuer:
        blocks = corp(issuer, upstream)
        blocks["mcp"] = {"tools": {"url": f"{upstream.url}/mcp", "credential": "corp"}}
        async with gateway(**blocks) as served:
            yield served


def status_of(envelope: Envelope, in_200: bool) -> int:
    return 200 if in_200 else envelope.status


def check(answer: Answer, words: str, told: str) -> None:
    assert words in told, answer.body.decode()
    assert TOKEN not in answer.body.decode()
    assert SECRET not in answer.body.decode()


# --- an upstream --------------------------------------------------------------------------------------------------


@each_status
@each
@pytest.mark.parametrize("body", [HELLO, STREAMED], ids=["whole", "streamed"])
async def test_the_words_of_an_upstream_arrive(envelope: Envelope, in_200: bool, body: Any) -> None:
    dialogue = [Send(reply(envelope.body(TOKEN), status_of(envelope, in_200)))]
    async with behind(dialogue) as gp:
        answer = await gp.ask(body).answer()
    assert answer.status >= 400
    check(answer, envelope.words, answer.error["message"])


@each
@pytest.mark.parametrize("before", [[], [CHUNK]], ids=["before the first chunk", "after it"])
async def test_the_words_of_an_event_arrive(envelope: Envelope, before: Sequence[bytes]) -> None:
    sent = event(envelope.body(TOKEN).decode())
    async with behind([Send(stream(*before, sent, DONE))]) as gp:
        answer = await gp.ask(STREAMED).answer()
    if envelope.can_be_ordinary and sent in answer.body:
        return
    if answer.status >= 400:
        told = answer.error["message"]
    else:
        assert answer.body.startswith(b"".join(before))
        sent_on = [json.loads(data) for data in answer.events if data != "[DONE]"]
        told = " ".join(str(one["error"]["message"]) for one in sent_on if "error" in one)
    check(answer, envelope.words, told)


# --- an issuer ----------------------------------------------------------------------------------------------------


@each_status
@each
async def test_the_words_of_an_issuer_arrive(envelope: Envelope, in_200: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure, "QUICK_WAITS_S", [0.0] * len(failure.QUICK_WAITS_S))
    issues = [Send(reply(envelope.body(SECRET), status_of(envelope, in_200)))]
    async with behind([Send(reply(COMPLETION))], issues=issues) as gp:
        answer = await gp.ask().answer()
    assert (answer.status, answer.error["code"]) == (503, "token_unavailable")
    check(answer, envelope.words, answer.error["message"])


# --- an MCP server ------------------------------------------------------------------------------------------------


@each
async def test_the_words_of_an_mcp_server_arrive_in_the_answer_to_the_request(envelope: Envelope) -> None:
    async with behind([Send(reply(envelope.body(TOKEN)))]) as gp:
        answer = await gp.ask(CALL, "/mcp/tools", headers=ACCEPT).answer()
    assert answer.json()["id"] == CALL["id"]
    check(answer, envelope.words, answer.error["message"])


@each
async def test_the_words_of_an_mcp_server_arrive_with_its_status(envelope: Envelope) -> None:
    """JSON of the server passes in its own shape, which a client shows beside the status."""
    async with behind([Send(reply(envelope.body(TOKEN), envelope.status))]) as gp:
        answer = await gp.ask(CALL, "/mcp/tools", headers=ACCEPT).answer()
    assert answer.status >= 400
    check(answer, envelope.words, json.dumps(answer.json(), ensure_ascii=False))


# --- what only looks like an error --------------------------------------------------------------------------------


@pytest.mark.parametrize("like", ORDINARY)
async def test_an_ordinary_answer_passes_unchanged(like: str) -> None:
    sent = json.dumps(ORDINARY[like], ensure_ascii=False).encode()
    async with behind([Send(reply(sent))]) as gp:
        answer = await gp.ask().answer()
    assert (answer.status, answer.body) == (200, sent)


@pytest.mark.parametrize("like", ORDINARY)
async def test_an_ordinary_stream_passes_unchanged(like: str) -> None:
    (choice,) = ORDINARY[like]["choices"]
    beside = {name: value for name, value in ORDINARY[like].items() if name != "usage"}
    first = event({**beside, "choices": [{"index": 0, "delta": choice["message"], "finish_reason": None}]})
    events = [first, event({**beside, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), DONE]
    async with behind([Send(stream(*events))]) as gp:
        answer = await gp.ask(STREAMED).answer()
    assert (answer.status, answer.body) == (200, b"".join(events))


@pytest.mark.parametrize("beside", [{"code": 0, "msg": "success"}, {"success": True, "errors": []}, {"status": "ok"}])
async def test_ordinary_embeddings_pass_unchanged(beside: dict[str, Any]) -> None:
    sent = json.dumps({**EMBEDDINGS, **beside}).encode()
    async with behind([Send(reply(sent))]) as gp:
        answer = await gp.ask({"model": "m", "input": "hi"}, "/v1/embeddings").answer()
    assert (answer.status, answer.body) == (200, sent)


@pytest.mark.parametrize(
    "beside",
    [
        {"status": "ok", "message": "Token issued"},
        {"code": 0, "msg": "success", "success": True},
        {"errcode": 0, "errmsg": "ok", "error": None},
        {"state": "active", "ok": True, "errors": []},
    ],
)
async def test_an_ordinary_token_is_sent(beside: dict[str, Any]) -> None:
    issues = [Send(reply({"access_token": TOKEN, "expires_in": 300, **beside}))]
    async with behind([Send(reply(COMPLETION))], issues=issues) as gp:
        answer = await gp.ask().answer()
    assert (answer.status, answer.json()) == (200, COMPLETION)


@pytest.mark.parametrize(
    "result",
    [
        {"isError": True, "content": [{"type": "text", "text": "no such file"}]},
        {"content": [], "structuredContent": {"status": "error", "message": "Quota exceeded", "success": False}},
    ],
)
async def test_a_tool_that_failed_passes_unchanged(result: dict[str, Any]) -> None:
    sent = json.dumps({"jsonrpc": "2.0", "id": CALL["id"], "result": result}).encode()
    async with behind([Send(reply(sent))]) as gp:
        answer = await gp.ask(CALL, "/mcp/tools", headers=ACCEPT).answer()
    assert (answer.status, answer.body) == (200, sent)
