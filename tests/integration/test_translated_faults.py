"""Each fault of an upstream that has chat completions alone, as Codex and Claude Code read it: none is silent."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from gatepass.proxy.client_response import EVERY_S
from tests.integration.gateway import Answer, relaying
from tests.integration.scripted import LAST_CHUNK, Dialogue, Fin, Send, Wait, begin_stream, chunk, event, reply, stream
from tests.integration.test_translated_messages import ANSWER, CHATS, STREAMED, VERSION, a_chunk, a_completion
from tests.unit.clock import DrivenClock

PATHS = {"messages": "/v1/messages", "responses": "/v1/responses"}
BODIES: dict[str, dict[str, Any]] = {"messages": STREAMED, "responses": {"model": "m", "input": "Hi", "stream": True}}
LAST = {"messages": b'"message_stop"', "responses": b'"response.completed"'}
each_protocol = pytest.mark.parametrize("protocol", PATHS)
each_form = pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])

BEGUN = ANSWER[:4]
PAGE = b"<html><title>Service Unavailable</title></html>"
LONG = "This model's maximum context length is 8192 tokens."
OVERFLOW = {"error": {"message": LONG, "type": "invalid_request_error", "code": "context_length_exceeded"}}
WITHOUT_CODE = {"error": {"message": LONG}}
BUSY = {"error": {"message": "Slow down.", "type": "rate_limit_error", "code": "busy"}}
WHOLE = a_completion({"content": "Hi"})


def in_stream(*events: bytes, end: bytes = LAST_CHUNK) -> Dialogue:
    """A stream that goes on after its first text."""
    return [Send(stream(*BEGUN, *events, end=end))]


@dataclass(frozen=True, slots=True)
class Fault:
    """What the upstream `does`, and what the client reads of it: `status` and `code`, and Anthropic's `kind` of error.

    `codex` is the code of `response.failed`. `begins` if the stream of the client has begun: its status is 200, and
    `status` is that of a whole reply.
    """

    does: Dialogue
    status: int
    code: str
    kind: str
    codex: str = ""
    begins: bool = False
    words: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def closed(does: Dialogue) -> Fault:
    return Fault(does, 502, "upstream_closed", "api_error", begins=True)


def overflow(does: Dialogue, code: str, *, begins: bool = False) -> Fault:
    return Fault(does, 400, code, "invalid_request_error", "context_length_exceeded", begins)


FAULTS = {
    "429 with a wait": Fault(
        [Send(reply(BUSY, 429, retry_after="7"))], 429, "busy", "rate_limit_error", headers=(("retry-after", "7"),)
    ),
    "429 for good": Fault(
        [Send(reply({"error": {"message": "No credit.", "code": "insufficient_quota"}}, 429))],
        429,
        "insufficient_quota",
        "rate_limit_error",
        headers=(("x-should-retry", "false"),),
    ),
    "503 with a page": Fault(
        [Send(reply(PAGE, 503, content_type="text/html"))], 503, "upstream_html", "overloaded_error"
    ),
    "code 102 in a 200": Fault(
        [Send(reply({"code": 102, "message": "No tenant."}))], 400, "102", "invalid_request_error", words="No tenant."
    ),
    "code 102 in a stream": Fault(
        in_stream(event({"code": 102, "message": "No tenant."})), 400, "102", "invalid_request_error", begins=True
    ),
    "an answer without content": Fault(
        [Send(stream(a_chunk({"role": "assistant", "content": ""}), a_chunk({}, "stop"), event("[DONE]")))],
        502,
        "upstream_empty",
        "api_error",
        begins=True,
    ),
    "reasoning alone": Fault(
        [Send(stream(a_chunk({"reasoning_content": "Hm."}), a_chunk({}, "stop"), event("[DONE]")))],
        502,
        "upstream_empty",
        "api_error",
        begins=True,
    ),
    "a cut in an event": closed([*begin_stream(), Send(chunk(b"".join(BEGUN) + BEGUN[0][:-9])), Fin()]),
    "an end without a finish reason": closed(in_stream()),
    "[DONE] in a tool call": closed(in_stream(ANSWER[4], event("[DONE]"))),
    "an error event": Fault(
        in_stream(event({"error": {"message": "It crashed.", "type": "server_error", "code": "crash"}})),
        502,
        "crash",
        "api_error",
        begins=True,
        words="It crashed.",
    ),
    "429 in a stream": Fault(
        in_stream(event({"error": {"message": "Slow down.", "code": 429}})),
        429,
        "429",
        "rate_limit_error",
        codex="rate_limit_exceeded",
        begins=True,
    ),
    "no credit in a stream": Fault(
        in_stream(event({"error": {"message": "No credit.", "code": "insufficient_quota"}})),
        429,
        "insufficient_quota",
        "rate_limit_error",
        codex="insufficient_quota",
        begins=True,
    ),
    "an overflow": overflow([Send(reply(OVERFLOW, 400))], "context_length_exceeded"),
    "an overflow without a code": overflow([Send(reply(WITHOUT_CODE, 400))], "upstream_error"),
    "an overflow in a stream": overflow(in_stream(event(OVERFLOW)), "context_length_exceeded", begins=True),
    "an overflow without a code in a stream": overflow(in_stream(event(WITHOUT_CODE)), "upstream_error", begins=True),
    "a credential that is refused": Fault(
        [Send(reply({"error": {"message": "Bad key."}}, 401))], 401, "upstream_auth", "authentication_error"
    ),
}


async def answered(protocol: str, dialogues: Iterable[Dialogue], *, streams: bool) -> list[Answer]:
    body = {**BODIES[protocol], "stream": streams}
    async with relaying(*(played := [*dialogues]), chat=CHATS) as (_, gp):
        return [await gp.ask(body, PATHS[protocol], headers=VERSION).answer() for _ in played]


@each_form
@each_protocol
async def test_no_fault_is_silent(protocol, streams):
    answers = await answered(protocol, (fault.does for fault in FAULTS.values()), streams=streams)
    for (name, fault), answer in zip(FAULTS.items(), answers, strict=True):
        is_overflow = fault.codex == "context_length_exceeded"
        begins = fault.begins and streams
        status = 200 if begins else fault.status
        assert (answer.status, answer.whole, LAST[protocol] in answer.body) == (status, True, False), name
        error = answer.error
        code = fault.codex if is_overflow and protocol == "responses" and not begins else fault.code
        assert (error["code"], error["hop"], fault.words in error["message"]) == (code, "upstream:chat", True), name
        assert all(answer.headers[field] == value for field, value in fault.headers), name
        if protocol == "messages":
            assert error["type"] == fault.kind, name
            assert ("capability_rejected: prompt_too_long" in error["message"]) is is_overflow, name
        if begins:
            *_, before, last = map(json.loads, answer.events)
            if protocol == "messages":
                assert last["type"] == "error", name
            else:
                assert (before["type"], last["type"]) == ("error", "response.failed"), name
                assert last["response"]["error"]["code"] == (fault.codex or fault.code), name
                assert last["sequence_number"] == before["sequence_number"] + 1 == len(answer.events) - 1, name


RIGHT: dict[str, Dialogue] = {
    "a stream": [Send(stream(*ANSWER))],
    "a whole reply": [Send(reply(a_completion({"content": "Let me see."})))],
    "no [DONE]": [Send(stream(*ANSWER[:-1]))],
    "no finish reason": [Send(stream(*ANSWER[:6], *ANSWER[7:]))],
    "no usage": [Send(stream(*ANSWER[:7], ANSWER[-1]))],
}


def texts_of(protocol: str, answer: Answer, *, streams: bool) -> str:
    """The text of an answer, which must be complete."""
    if not streams:
        blocks = answer.json()["content" if protocol == "messages" else "output"]
        (found,) = [one for one in blocks if one["type"] in ("text", "message")]
        return str(found["text"] if protocol == "messages" else found["content"][0]["text"])
    assert LAST[protocol] in answer.events[-1].encode()
    events = [json.loads(one) for one in answer.events]
    if protocol == "responses":
        return "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
    return "".join(one["delta"].get("text", "") for one in events if one["type"] == "content_block_delta")


@each_form
@each_protocol
async def test_a_harmless_fault_leaves_the_answer_right(protocol, streams):
    answers = await answered(protocol, RIGHT.values(), streams=streams)
    for name, answer in zip(RIGHT, answers, strict=True):
        assert (answer.status, answer.whole) == (200, True), name
        assert texts_of(protocol, answer, streams=streams) == "Let me see.", name


@each_protocol
async def test_usage_that_is_refused_is_asked_no_more_and_noted(protocol, caplog):
    """Counts are 0 then, and never estimated."""

    def answer(request: Any) -> Dialogue:
        if "stream_options" in request.json():
            error = {"message": "Unrecognized request argument supplied: stream_options"}
            return [Send(reply({"error": error}, 400))]
        return [Send(stream(*ANSWER[:7], ANSWER[-1]))]

    caplog.set_level("INFO", "gatepass.access")
    async with relaying(answer=answer, chat=CHATS) as (upstream, gp):
        repeated = await gp.ask(BODIES[protocol], PATHS[protocol], headers=VERSION).answer()
    last = json.loads(repeated.events[-2 if protocol == "messages" else -1])
    usage = last["usage"] if protocol == "messages" else last["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], len(upstream.received)) == (0, 0, 2)
    assert repeated.headers["x-gatepass-adapted"].startswith(f"translate={protocol}, drop=stream_options")
    (line,) = [one.fields for one in caplog.records if one.getMessage() == "request"]
    assert "translate=no-usage" in line["adapted"]


SIGNS = {"messages": b"event: ping\n", "responses": b"event: keepalive\n"}


@each_protocol
async def test_signs_of_life_run_in_the_stream(protocol):
    clock, go = DrivenClock(), asyncio.Event()
    moves: Dialogue = [*in_stream(end=b""), Wait(go), Send(b"".join(map(chunk, ANSWER[4:])) + LAST_CHUNK)]
    async with (
        relaying(moves, clock=clock, chat=CHATS) as (_, gp),
        gp.ask(BODIES[protocol], PATHS[protocol], headers=VERSION) as ask,
    ):
        await ask.head()
        await ask.until(b"see.")
        await clock.advance(3 * (EVERY_S + 1))
        go.set()
        answer = await ask.answer()
    assert answer.body.count(SIGNS[protocol]) == 3
    assert LAST[protocol] in answer.events[-1].encode()
    if protocol == "responses":
        assert [json.loads(one)["sequence_number"] for one in answer.events] == [*range(len(answer.events))]


NOT_SERVED: list[tuple[str, str]] = [
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/responses/compact"),
    ("DELETE", "/v1/responses/r"),
]


@pytest.mark.parametrize(("method", "path"), NOT_SERVED)
async def test_what_no_chat_serves_is_a_named_404_and_not_sent(method, path):
    body = {"messages": BODIES["messages"], "responses": {"model": "m", "input": "Hi"}}[path.split("/")[2]]
    async with relaying([Send(reply({}))], chat=CHATS) as (upstream, gp):
        sent = body if method == "POST" else None
        answer = await gp.ask(sent, path, method=method, headers=VERSION).answer()
    assert (answer.status, upstream.received) == (404, [])
    assert "it has chat alone (`protocols`). Nothing was sent." in answer.error["message"]
    assert answer.headers["x-gatepass-hop"] == "gatepass"
    if "messages" in path:
        assert (answer.json()["type"], answer.error["type"]) == ("error", "not_found_error")


async def test_a_chat_over_an_upstream_without_chats_is_a_named_error():
    for asked, spoken in ((), ["messages", "responses"]), ((BODIES["messages"], "/v1/messages"), ["responses"]):
        async with relaying([Send(reply(WHOLE))], chat={"protocols": spoken}) as (upstream, gp):
            answer = await gp.ask(*asked).answer()
        assert (answer.error["code"], upstream.received) == ("unsupported_operation", [])
        assert f"it has {', '.join(spoken)} alone (`protocols`)" in answer.error["message"]


THOUGHTS: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "messages": (
        lambda signature: {
            **STREAMED,
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": signature}, {"type": "text", "text": "Yes."},
                ]},
                {"role": "user", "content": "And?"},
            ],
        },
        "thinking",
    ),
    "responses": (
        lambda signature: {
            "model": "m",
            "input": [
                {"role": "user", "content": "Hi"},
                {"type": "reasoning", "summary": [], "encrypted_content": signature},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "And?"},
            ],
        },
        "encrypted_content",
    ),
}  # fmt: skip


@each_protocol
@pytest.mark.parametrize("signature", ["gatepass_thought", "gatepass_thoughtAHt9", "real-signature"])
async def test_thoughts_reach_only_the_server_that_can_read_them(protocol, signature):
    """Two targets, one of which has chats alone, serve one conversation."""
    make, note = THOUGHTS[protocol]
    received, adapted = [], []
    for spoken in (["chat"], [protocol]):
        async with relaying([Send(reply({"error": "x"}, 400))], chat={"protocols": spoken}) as (upstream, gp):
            answer = await gp.ask(make(signature), PATHS[protocol], headers=VERSION).answer()
        received.append(upstream.received[0].body.decode())
        adapted.append(answer.headers.get("x-gatepass-adapted", ""))
    in_chat, in_own = received
    is_own = signature.startswith("gatepass_thought")
    assert signature not in in_chat
    assert (signature in in_own) is not is_own
    assert (f"untranslated={note}" in adapted[0]) is not is_own
    assert ("drop=own-thoughts" in adapted[1]) is is_own
