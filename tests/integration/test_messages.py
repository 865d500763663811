"""Anthropic's Messages API over an upstream that has it: relayed, converted between forms, and its errors."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.integration.gateway import JSON, gateway
from tests.integration.messages_upstream import ASKED, MESSAGE, WHOLE, answer, error, events
from tests.integration.scripted import LAST_CHUNK, Fin, Scripted, Send, reply, stream

PATH = "/v1/messages"
VERSION = {**JSON, "anthropic-version": "2023-06-01"}


PAGE = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 36\r\n\r\n<html><title>Sign in</title></html>\n"


def code_of(answered):
    return answered.json()["error"]["type"], answered.json()["error"]["message"]


async def test_a_stream_passes_unchanged_with_its_usage():
    async with Scripted(answer=answer()) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED, PATH, headers=VERSION).answer()
    assert (answered.status, answered.whole, answered.body) == (200, True, b"".join(events()))
    assert "x-gatepass-adapted" not in answered.headers
    assert upstream.received[0].body == json.dumps(ASKED).encode()


async def test_a_whole_message_passes_unchanged():
    async with Scripted(answer=answer()) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(WHOLE, PATH, headers=VERSION).answer()
    assert (answered.status, answered.json(), answered.headers["content-type"]) == (200, MESSAGE, "application/json")


async def test_fields_and_the_query_of_anthropic_go_up_unchanged():
    sent = {
        **VERSION, "anthropic-beta": "claude-code-20250219,made-up-2027-01-01", "x-claude-code-session-id": "s-1",
        "x-stainless-retry-count": "0", "x-other": "no", "x-api-key": "none", "anthropic-unknown": "no",
    }  # fmt: skip
    async with Scripted(answer=answer()) as upstream, gateway(upstream=upstream.url) as gp:
        await gp.ask(ASKED, f"{PATH}?beta=true&other=1", headers=sent).answer()
        await gp.ask({"model": "m", "messages": []}, "/v1/chat/completions", headers=sent).answer()
    messages, chat = upstream.received
    assert messages.target == "/v1/messages?beta=true"
    for name in ("anthropic-version", "anthropic-beta", "x-claude-code-session-id", "x-stainless-retry-count"):
        assert (messages.header(name), chat.header(name)) == (sent[name], None)
    assert {messages.header(name) for name in ("x-other", "x-api-key", "anthropic-unknown")} == {None}


@pytest.mark.parametrize(
    ("kind", "text", "status"),
    [
        ("invalid_request_error", "prompt is too long: 209375 tokens > 200000 maximum", 400),
        ("rate_limit_error", "This request would exceed your rate limit", 429),
        ("overloaded_error", "Overloaded", 529),
        ("not_found_error", "model: claude-x", 404),
    ],
)
async def test_an_error_of_anthropic_passes_byte_for_byte(kind, text, status):
    sent = error(kind, text, status, ("retry-after", "7"), ("request-id", "req_011"), ("x-should-retry", "true"))
    async with Scripted([Send(sent)]) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED, PATH, headers=VERSION).answer()
    assert (answered.status, answered.body) == (status, sent.partition(b"\r\n\r\n")[2])
    assert (answered.headers["x-gatepass-hop"], answered.headers["retry-after"]) == ("upstream:chat", "7")
    assert answered.headers["request-id"] == "req_011"


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (reply({"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}), 529, "upstream_error"),
        (reply({"code": 102, "message": "no such assistant"}), 400, "102"),
        (PAGE, 502, "upstream_html"),
        (reply({"choices": []}), 502, "upstream_invalid"),
        (reply({"type": "message"}), 502, "upstream_invalid"),
        (
            reply({"error": {"message": "The model `m` does not exist.", "type": "not_found_error"}}, 404),
            404,
            "upstream_error",
        ),
        (reply({"detail": "Not Found"}, 404), 400, "upstream_error"),
        (reply("", 503), 503, "upstream_error"),
        (
            stream(b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n'),
            502,
            "upstream_error",
        ),
        (stream(b""), 502, "upstream_empty"),
        (stream(b"data: [DONE]\n\n"), 502, "upstream_empty"),
    ],
)
async def test_what_is_no_message_is_an_error_of_anthropic(sent, status, code, is_streamed):
    async with Scripted([Send(sent), Fin()]) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED if is_streamed else WHOLE, PATH, headers=VERSION).answer()
    body = answered.json()
    assert (answered.status, body["type"], body["error"]["code"]) == (status, "error", code)
    assert (body["error"]["hop"], bool(body["request_id"])) == ("upstream:chat", True)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (
            b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}\n\n',
            "overloaded_error",
        ),
        (b"", "api_error"),
        (b"data: [DONE]\n\n", "api_error"),
    ],
)
async def test_a_stream_without_message_stop_ends_with_an_error_event(end, kind):
    begun = b"".join(events()[:3])
    parts = [
        Send(stream(begun, end=b"")),
        *([Send(b"%x\r\n%b\r\n" % (len(end), end))] if end else []),
        Send(LAST_CHUNK),
    ]
    async with Scripted(parts) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED, PATH, headers=VERSION).answer()
    assert answered.body.startswith(begun)
    name, data = answered.body[len(begun) :].rstrip().split(b"\n")
    assert (name, answered.body.count(b"event: error")) == (b"event: error", 1)
    failed = json.loads(data.removeprefix(b"data: "))
    assert (failed["type"], failed["error"]["type"]) == ("error", kind)


async def test_each_form_becomes_the_requested_one():
    whole, streamed = Send(reply(MESSAGE)), Send(stream(*events(), end=LAST_CHUNK))
    async with Scripted([whole], [streamed]) as upstream, gateway(upstream=upstream.url) as gp:
        synthesized = await gp.ask(ASKED, PATH, headers=VERSION).answer()
        aggregated = await gp.ask(WHOLE, PATH, headers=VERSION).answer()
    assert (synthesized.body, synthesized.headers["x-gatepass-adapted"]) == (b"".join(events()), "stream=synth")
    assert (aggregated.json(), aggregated.headers["x-gatepass-adapted"]) == (MESSAGE, "stream=aggregate")


async def test_a_message_start_without_usage_is_completed():
    bare = {name: value for name, value in MESSAGE.items() if name != "usage"}
    begun = json.dumps({"type": "message_start", "message": {**bare, "content": []}}).encode()
    sent = stream(b"event: message_start\ndata: %b\n\n" % begun, *events()[1:], end=LAST_CHUNK)
    async with Scripted([Send(sent)], [Send(reply(bare))]) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED, PATH, headers=VERSION).answer()
        whole = await gp.ask(WHOLE, PATH, headers=VERSION).answer()
    first, _, rest = answered.body.partition(b"\n\n")
    zeros = {"input_tokens": 0, "output_tokens": 0}
    assert json.loads(first.partition(b"data: ")[2])["message"]["usage"] == zeros
    assert (rest, answered.headers["x-gatepass-adapted"]) == (b"".join(events()[1:]), "message=usage")
    assert (whole.json(), whole.headers["x-gatepass-adapted"]) == ({**bare, "usage": zeros}, "message=usage")


async def test_events_without_a_name_get_one():
    bare = [one.partition(b"\n")[2] for one in events()]
    async with Scripted([Send(stream(*bare, end=LAST_CHUNK))]) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED, PATH, headers=VERSION).answer()
    assert (answered.body, answered.headers["x-gatepass-adapted"]) == (b"".join(events()), "message=event-name")


async def test_too_long_a_context_of_another_server_has_the_text_that_claude_code_knows():
    said = {
        "error": {
            "code": 400,
            "message": "the request exceeds the available context size",
            "type": "exceed_context_size_error",
        }
    }
    async with Scripted([Send(reply(said, 400))]) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED, PATH, headers=VERSION).answer()
    kind, text = code_of(answered)
    assert (answered.status, kind) == (400, "invalid_request_error")
    assert text == "the request exceeds the available context size. capability_rejected: prompt_too_long"


COUNT = f"{PATH}/count_tokens"
ASKED_COUNT = {"model": "m", "messages": ASKED["messages"]}


async def test_tokens_are_counted_by_the_upstream():
    async with Scripted([Send(reply({"input_tokens": 14}))]) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED_COUNT, f"{COUNT}?beta=true", headers=VERSION).answer()
    assert (answered.status, answered.json()) == (200, {"input_tokens": 14})
    assert (upstream.received[0].target, upstream.received[0].header("anthropic-version")) == (
        "/v1/messages/count_tokens?beta=true", "2023-06-01",
    )  # fmt: skip


@pytest.mark.parametrize("learn", ["on", "off"])
@pytest.mark.parametrize("status", [404, 405, 501])
async def test_fifty_counts_at_once_cost_an_upstream_without_them_one_request(status, learn):
    def respond(request):
        if request.target.startswith("/v1/messages/count_tokens"):
            return [Send(reply({"detail": "Not Found"}, status))]
        return answer()(request)

    async with Scripted(answer=respond) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "learn": learn}}
        async with gateway(upstreams=upstreams) as gp:
            asked = [gp.ask(ASKED_COUNT, COUNT, headers=VERSION).answer() for _ in range(50)]
            answers = await asyncio.gather(*asked)
            after = await gp.ask(WHOLE, PATH, headers=VERSION).answer()
    assert {one.status for one in answers} == {404}
    assert {one.json()["type"] for one in answers} == {"error"}
    assert sum("count_tokens" in request.target for request in upstream.received) == 1
    assert (after.status, after.json()) == (200, MESSAGE)


async def test_an_unknown_model_does_not_mean_that_the_upstream_cannot_count():
    unknown = Send(error("not_found_error", "model: m", 404))
    async with (
        Scripted([unknown], [Send(reply({"input_tokens": 3}))]) as upstream,
        gateway(upstream=upstream.url) as gp,
    ):
        first = await gp.ask(ASKED_COUNT, COUNT, headers=VERSION).answer()
        second = await gp.ask(ASKED_COUNT, COUNT, headers=VERSION).answer()
    assert (first.status, second.json()) == (404, {"input_tokens": 3})


@pytest.mark.parametrize("sent", [reply({"tokens": 1}), reply({"input_tokens": "7"}), reply([])])
async def test_what_is_no_count_is_an_error(sent):
    async with Scripted([Send(sent)]) as upstream, gateway(upstream=upstream.url) as gp:
        answered = await gp.ask(ASKED_COUNT, COUNT, headers=VERSION).answer()
    assert (answered.status, answered.json()["error"]["code"]) == (502, "upstream_invalid")
