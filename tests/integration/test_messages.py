"""Anthropic's Messages API over an upstream that has it: relayed, converted between forms, and its errors."""

import json
from hashlib import sha256
from typing import Any

import pytest

from gatepass.cli.probe import ProbeCall
from gatepass.cli.steps import diagnose
from gatepass.config.model import Config
from gatepass.documents import StepOutcome
from gatepass.sse.chunk import event_of
from tests.integration.gateway import JSON, answer_from, gateway, relaying
from tests.integration.messages_upstream import ASKED, MESSAGE, TEXT, WHOLE, answer, error, events, message
from tests.integration.scripted import LAST_CHUNK, Fin, Scripted, Send, reply, stream

PATH = "/v1/messages"
VERSION = {**JSON, "anthropic-version": "2023-06-01"}


def code_of(answered):
    return answered.json()["error"]["type"], answered.json()["error"]["message"]


async def test_fields_and_the_query_of_anthropic_go_up_unchanged():
    sent = {
        **VERSION, "anthropic-beta": "claude-code-20250219,made-up-2027-01-01", "x-claude-code-session-id": "s-1",
        "x-stainless-retry-count": "0", "x-other": "no", "x-api-key": "none", "anthropic-unknown": "no",
    }  # fmt: skip
    async with relaying(answer=answer()) as (upstream, gp):
        await gp.ask(ASKED, f"{PATH}?beta=true&other=1", headers=sent).answer()
        await gp.ask({"model": "m", "messages": []}, "/v1/chat/completions", headers=sent).answer()
    messages, chat = upstream.received
    assert messages.target == "/v1/messages?beta=true"
    for name in ("anthropic-version", "anthropic-beta", "x-claude-code-session-id", "x-stainless-retry-count"):
        assert (messages.header(name), chat.header(name)) == (sent[name], None)
    assert {messages.header(name) for name in ("x-other", "x-api-key", "anthropic-unknown")} == {None}


OVERLOADED = b'{"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}, "request_id": "req_011"}'
OVERLOADED_EVENT = b"event: error\ndata: %b\n\n" % OVERLOADED


async def test_an_error_event_of_anthropic_passes_unchanged_and_is_a_failure(caplog):
    caplog.set_level("INFO", "gatepass.access")
    sent = b"".join(events()[:4]) + OVERLOADED_EVENT
    answered = await answer_from([Send(stream(sent, end=b"")), Fin()], ASKED, PATH, headers=VERSION)
    assert (answered.status, answered.whole, answered.body) == (200, True, sent)
    (line,) = [one.fields for one in caplog.records if one.getMessage() == "request"]
    assert (line["outcome"], line["code"], line["hop"]) == ("error", "upstream_error", "upstream:chat")


FIELDS = (("request-id", "req_011"), ("anthropic-ratelimit-tokens-limit", "5"), ("x-ratelimit-reset-tokens", "7s"))


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(("status", "answered_status"), [(200, 529), (529, 529)])
async def test_an_error_keeps_its_bytes_and_fields_at_any_status(status, answered_status, is_streamed):
    sent = error("overloaded_error", "Busy", status, *FIELDS)
    answered = await answer_from([Send(sent)], ASKED if is_streamed else WHOLE, PATH, headers=VERSION)
    assert (answered.status, answered.body) == (answered_status, sent.partition(b"\r\n\r\n")[2])
    assert [(name, answered.headers[name]) for name, _ in FIELDS] == [*FIELDS]


async def test_an_error_about_a_member_that_carries_meaning_has_advice_in_its_own_form():
    sent = error("invalid_request_error", "mcp_servers: Extra inputs are not permitted", 400)
    answered = await answer_from([Send(sent)], {**WHOLE, "mcp_servers": [{"name": "a"}]}, PATH, headers=VERSION)
    kind, told = code_of(answered)
    assert (answered.json()["type"], kind) == ("error", "invalid_request_error")
    assert 'set rules: {drop: ["mcp_servers"]}' in told


async def test_an_error_above_64_kib_is_not_quoted():
    sent = error("invalid_request_error", "prompt is too long" + "x" * 70_000, 400, ("request-id", "req_011"))
    answered = await answer_from([Send(sent)], WHOLE, PATH, headers=VERSION)
    assert (answered.status, answered.headers["request-id"]) == (400, "req_011")
    end = "answered 400 Bad Request with an error that is too large to read (more than 64 KiB)."
    kind, message = code_of(answered)
    assert (kind, message.endswith(end), len(message) < 200) == ("invalid_request_error", True, True)


@pytest.mark.parametrize(
    "told",
    [
        b'data: {"error": {"message": "boom", "code": "context_length_exceeded"}}\n\n',
        b'data: {"type": "error", "error": {"type": "api_error", "message": "maximum context length is 8192"}}\n\n',
    ],
)
async def test_too_long_a_context_in_a_begun_stream_has_the_text_that_claude_code_knows(told):
    begun = b"".join(events()[:4])
    answered = await answer_from([Send(stream(begun, told, end=b"")), Fin()], ASKED, PATH, headers=VERSION)
    assert (answered.status, answered.body.startswith(begun)) == (200, True)
    message = json.loads(answered.body[len(begun) :].partition(b"data: ")[2])["error"]["message"]
    assert message.count("capability_rejected: prompt_too_long") == 1


async def test_a_prompt_that_fits_without_its_answer_has_the_text_with_which_claude_code_asks_for_less():
    refused = [Send(error("invalid_request_error", "max_tokens is too large: 262144 < 230462 + 32000", 400))] * 2
    answered = await answer_from(refused, WHOLE, PATH, headers=VERSION)
    message = json.loads(answered.body)["error"]["message"]
    assert message.endswith(" input length and `max_tokens` exceed context limit: 230462 + 32000 > 262144")
    assert "x-gatepass-attempts" not in answered.headers


async def test_a_message_start_without_usage_is_completed():
    bare = {name: value for name, value in MESSAGE.items() if name != "usage"}
    begun = json.dumps({"type": "message_start", "message": {**bare, "content": []}}).encode()
    sent = stream(b"event: message_start\ndata: %b\n\n" % begun, *events()[1:], end=LAST_CHUNK)
    async with relaying([Send(sent)], [Send(reply(bare))]) as (_, gp):
        answered = await gp.ask(ASKED, PATH, headers=VERSION).answer()
        whole = await gp.ask(WHOLE, PATH, headers=VERSION).answer()
    first, _, rest = answered.body.partition(b"\n\n")
    zeros = {"input_tokens": 0, "output_tokens": 0}
    assert json.loads(first.partition(b"data: ")[2])["message"]["usage"] == zeros
    assert (rest, answered.headers["x-gatepass-adapted"]) == (b"".join(events()[1:]), "repair=message-usage")
    assert (whole.json(), whole.headers["x-gatepass-adapted"]) == ({**bare, "usage": zeros}, "repair=message-usage")


@pytest.mark.parametrize(("document", "reason"), [(MESSAGE, "tool_use"), (message(TEXT), "end_turn")])
@pytest.mark.parametrize("has_delta", [True, False])
async def test_a_message_without_a_stop_reason_gets_one(document, reason, has_delta):
    """The AI SDK would run the tools, and end the task without an answer."""
    *begun, _, last = events(document)
    bare = (
        [*begun, event_of({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 5}})]
        if has_delta
        else begun
    )
    whole = {name: value for name, value in document.items() if name != "stop_reason"}
    async with relaying([Send(stream(*bare, last))], [Send(reply(whole))]) as (_, gp):
        streamed = await gp.ask(ASKED, PATH, headers=VERSION).answer()
        answered = await gp.ask(WHOLE, PATH, headers=VERSION).answer()
    counts = {"output_tokens": 5 if has_delta else 0}
    added = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": counts}
    assert streamed.body == b"".join([*bare, event_of(added), last])
    assert (answered.json(), answered.headers["x-gatepass-adapted"]) == (
        {**whole, "stop_reason": reason}, "repair=stop-reason",
    )  # fmt: skip


COUNT = f"{PATH}/count_tokens"
ASKED_COUNT = {"model": "m", "messages": ASKED["messages"]}


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_an_upstream_that_cannot_count_is_a_404_and_relays_messages(status):
    def respond(request):
        if request.target.startswith("/v1/messages/count_tokens"):
            return [Send(reply({"detail": "Not Found"}, status))]
        return answer()(request)

    async with relaying(answer=respond) as (_, gp):
        counted = await gp.ask(ASKED_COUNT, COUNT, headers=VERSION).answer()
        after = await gp.ask(WHOLE, PATH, headers=VERSION).answer()
    assert (counted.status, counted.json()["type"]) == (404, "error")
    assert (after.status, after.json()) == (200, MESSAGE)


# --- who may, and with which token -----------------------------------------------------------------------------------

KEY, OTHER_KEY = "gp-0123456789abcdef", "gp-fedcba9876543210"


def key(text: str, **more: Any) -> dict[str, Any]:
    return {"hash": f"sha256:{sha256(text.encode()).hexdigest()}", **more}


@pytest.mark.parametrize("path", ["/messages", "/v1/v1/messages", "/for/dify/v1/messages", "//v1/messages/"])
@pytest.mark.parametrize("field", [{"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}])
async def test_the_key_may_be_in_either_field_at_each_path(path, field):
    access = {"keys": [key(KEY, name="me", models=["m"], operations=["messages"])]}
    async with relaying(answer=answer(), access=access) as (upstream, gp):
        answered = await gp.ask(ASKED, path, headers={**VERSION, **field}).answer()
    assert (answered.status, answered.body) == (200, b"".join(events()))
    assert upstream.received[0].header("x-api-key") is upstream.received[0].header("authorization") is None


@pytest.mark.parametrize(
    ("body", "path", "sent", "status", "kind", "code"),
    [
        (ASKED, PATH, {"x-api-key": "gp-wrong"}, 401, "authentication_error", "invalid_api_key"),
        ({**ASKED, "model": "n"}, PATH, {"x-api-key": KEY}, 403, "permission_error", "model_not_allowed"),
        ({**ASKED, "fallbacks": ["n"]}, PATH, {"x-api-key": KEY}, 403, "permission_error", "model_not_allowed"),
        (ASKED, PATH, {"x-api-key": OTHER_KEY}, 403, "permission_error", "operation_not_allowed"),
        (ASKED_COUNT, COUNT, {"x-api-key": OTHER_KEY}, 403, "permission_error", "operation_not_allowed"),
        (ASKED, f"{PATH}/batches", {"x-api-key": KEY}, 400, "invalid_request_error", "unknown_path"),
        ({"messages": []}, PATH, {"x-api-key": KEY}, 400, "invalid_request_error", "invalid_request"),
        (b"{", PATH, {"x-api-key": KEY}, 400, "invalid_request_error", "invalid_json"),
        (ASKED, "/for/nobody/v1/messages", {"x-api-key": KEY}, 400, "invalid_request_error", "unknown_path"),
    ],
)
async def test_an_own_error_has_anthropics_form(body, path, sent, status, kind, code):
    keys = [
        key(KEY, name="me", models=["m"], operations=["messages"]),
        key(OTHER_KEY, name="other", operations=["chat"]),
    ]
    async with relaying(answer=answer(), access={"keys": keys}) as (upstream, gp):
        answered = await gp.ask(body, path, headers={**VERSION, **sent}).answer()
    found = answered.json()
    assert (answered.status, found["type"], found["error"]["type"], found["error"]["code"]) == (
        status, "error", kind, code,
    )  # fmt: skip
    assert (answered.headers["x-gatepass-hop"], upstream.received) == ("client", [])


async def test_an_error_of_another_type_than_anthropics_is_told_as_over_chats():
    """vLLM sends the names of its classes, which no SDK knows."""
    own = {"type": "error", "error": {"type": "NotFoundError", "message": "The model `nope` does not exist."}}
    async with relaying(answer=lambda _: [Send(reply(own, 404))]) as (_, gp):
        answered = await gp.ask({**ASKED, "model": "nope"}, PATH, headers=VERSION).answer()
    found = answered.json()
    assert (answered.status, found["error"]["type"], found["error"]["hop"]) == (404, "not_found_error", "upstream:chat")
    assert found["error"]["message"].startswith(
        "The model `nope` does not exist. gatepass sent the client's model name"
    )
    assert "models.nope.name" in found["error"]["message"]
    assert found["request_id"] == answered.headers["x-request-id"]
    assert found["error"]["code"]


async def test_a_message_and_a_count_have_the_route_and_the_rules_of_messages():
    operations = {"messages": {"upstream": "claude", "rules": {"drop": ["context_management"]}}}
    async with Scripted(answer=answer()) as chat, Scripted(answer=answer()) as claude:
        upstreams = {"chat": {"base_url": f"{chat.url}/v1"}, "claude": {"base_url": f"{claude.url}/v1"}}
        async with gateway(upstreams=upstreams, models={"*": {"upstream": "chat"}}, operations=operations) as gp:
            for path in (PATH, COUNT):
                await gp.ask({**WHOLE, "context_management": {}}, path, headers=VERSION).answer()
    assert (chat.received, [one.json() for one in claude.received]) == ([], [WHOLE, WHOLE])


async def test_an_error_with_a_secret_is_written_anew():
    secret = "minted-0123456789"
    sent = error("invalid_request_error", f"no {secret}", 400)
    more: Any = {"chat": {"credential": "corp"}, "credentials": {"corp": {"type": "static", "token": secret}}}
    answered = await answer_from([Send(sent)], WHOLE, PATH, headers=VERSION, **more)
    assert (answered.status, answered.json()["error"]["hop"]) == (400, "upstream:chat")
    assert secret.encode() not in answered.body


async def test_doctor_calls_messages_with_their_version():
    async with Scripted(answer=answer()) as upstream:
        config = Config.model_validate({"upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}})
        calls = [ProbeCall("messages", "m"), ProbeCall("messages", "m", stream=True)]
        steps = [one async for one in diagnose(config, calls, model="m")]
    found = [(one.what, one.outcome) for one in steps if one.what in ("call", "stream")]
    assert found == [("call", StepOutcome.WORKS), ("stream", StepOutcome.WORKS)]
