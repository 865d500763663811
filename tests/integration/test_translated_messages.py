"""Messages over an upstream that has chat completions alone: requests, whole replies, streams, errors."""

import asyncio
import json
from typing import Any

import pytest

from tests.integration.gateway import JSON, answer_from, relaying
from tests.integration.scripted import LAST_CHUNK, Dialogue, Send, Wait, chunk, event, reply, stream

PATH = "/v1/messages"
VERSION = {**JSON, "anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219"}
ASKED: dict[str, Any] = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "Weather?"}]}
STREAMED = {**ASKED, "stream": True}
USAGE = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19, "prompt_tokens_details": {"cached_tokens": 5}}
CHATS = {"protocols": ["chat"]}
"""Of an upstream that has chat completions alone."""
TOOL = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}


def a_chunk(delta: Any = None, end: str | None = None, **members: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": end}]
    return event(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": choices} | members
    )


def a_completion(message: Any, end: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": end}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "up", "choices": [choice], "usage": USAGE}


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
ANSWER = [
    a_chunk({"role": "assistant", "content": ""}),
    a_chunk({"reasoning_content": "I look."}),
    a_chunk({"content": "Let me "}),
    a_chunk({"content": "see."}),
    a_chunk({"tool_calls": [CALL]}),
    a_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Paris"}'}}]}),
    a_chunk({}, "tool_calls"),
    a_chunk(usage=USAGE),
    event("[DONE]"),
]


async def test_a_stream_has_the_events_of_a_message():
    go = asyncio.Event()  # the head says nothing of a usage that is still to come
    rest = b"".join(map(chunk, ANSWER[3:])) + LAST_CHUNK
    async with (
        relaying([Send(stream(*ANSWER[:3], end=b"")), Wait(go), Send(rest)], chat=CHATS) as (upstream, gp),
        gp.ask(STREAMED, f"{PATH}?beta=true", headers=VERSION) as ask,
    ):
        await ask.head()
        await ask.until(b"text_delta")
        go.set()
        answered = await ask.answer()
    events = [json.loads(data) for data in answered.events]
    assert [one["type"] for one in events] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert events[0]["message"]["usage"] == dict.fromkeys(events[-2]["usage"], 0)  # a chat states them at its end
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 5,
        "output_tokens": 7,
    }
    assert answered.headers["x-gatepass-adapted"] == "translate=messages"
    assert answered.headers["request-id"] == answered.headers["x-request-id"]  # Anthropic's SDKs show it
    (received,) = upstream.received
    assert (received.target, received.header("anthropic-version"), received.header("anthropic-beta")) == (
        "/v1/chat/completions",
        None,
        None,
    )
    assert received.json() == {
        "model": "m",
        "max_tokens": 64,
        "stream": True,
        "messages": [{"role": "user", "content": "Weather?"}],
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("streams", [True, False])
async def test_an_upstream_that_always_streams_or_never(streams):
    sent = stream(*ANSWER) if not streams else reply(a_completion({"content": "Hi"}))
    models = {"m": {"upstream": "chat", "stream": "emulate" if streams else "aggregate"}}
    asked = {**ASKED, "stream": streams}
    answered = await answer_from([Send(sent)], asked, PATH, headers=VERSION, chat=CHATS, models=models)
    if streams:
        assert json.loads(answered.events[-1]) == {"type": "message_stop"}
        assert '"text":"Hi"' in answered.body.decode()
        assert json.loads(answered.events[-2])["usage"]["output_tokens"] == 7
    else:
        assert answered.json()["content"][-1] == TOOL
    assert answered.headers["request-id"] == answered.headers["x-request-id"]


async def test_a_learned_rule_changes_the_chat_beneath():
    """A strict upstream refuses `parallel_tool_calls`; the next request goes without it at once."""

    def answer(request: Any) -> Any:
        if "parallel_tool_calls" in request.json():
            return [
                Send(reply({"error": {"message": "Unrecognized request argument supplied: parallel_tool_calls"}}, 400))
            ]
        return [Send(reply(a_completion({"content": "Hi"})))]

    tools = [{"name": "weather", "input_schema": {"type": "object"}}]
    asked = {**ASKED, "tools": tools, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    async with relaying(answer=answer, chat=CHATS) as (upstream, gp):
        first = await gp.ask(asked, PATH, headers=VERSION).answer()
        await gp.ask(asked, PATH, headers=VERSION).answer()
    assert first.json()["content"] == [{"type": "text", "text": "Hi"}]
    assert first.headers["x-gatepass-adapted"] == "translate=messages, drop=parallel_tool_calls"
    assert len(upstream.received) == 3


async def test_a_model_may_speak_more_than_its_upstream():
    models = {"m": {"upstream": "chat", "protocols": ["messages"]}, "*": {"upstream": "chat"}}
    async with relaying([Send(reply({"error": "x"}, 400))], chat=CHATS, models=models) as (upstream, gp):
        await gp.ask(ASKED, PATH, headers=VERSION).answer()
        await gp.ask({**ASKED, "model": "n"}, PATH, headers=VERSION).answer()
    assert [one.target for one in upstream.received] == ["/v1/messages", "/v1/chat/completions"]


def chat_only(request: Any) -> Dialogue:
    """An upstream without the path of messages, which knows the model `m`."""
    if not request.target.endswith("/chat/completions"):
        return [Send(reply({"detail": "Not Found"}, 404))]
    if request.json()["model"] != "m":
        return [Send(reply({"error": {"message": "The model `typo` does not exist", "code": "model_not_found"}}, 404))]
    return [Send(reply(a_completion({"content": "Hi"})))]


async def test_a_missing_path_is_learned_from_the_chat_that_succeeds():
    async with relaying(answer=chat_only) as (upstream, gp):
        typo = await gp.ask({**ASKED, "model": "typo"}, PATH, headers=VERSION).answer()
        first, second = [await gp.ask(ASKED, PATH, headers=VERSION).answer() for _ in range(2)]
        (rule,) = gp.state.learned_rules()
    assert (typo.status, typo.json()["error"]["type"]) == (404, "not_found_error")
    assert "typo" in typo.json()["error"]["message"]
    assert [one.json()["content"][0]["text"] for one in (first, second)] == ["Hi", "Hi"]
    assert [one.target.rpartition("/")[2] for one in upstream.received] == [
        *("messages", "completions"),
        *("messages", "completions"),
        "completions",
    ]
    assert (rule.scope.model, rule.rule.setting()) == ("m", {"protocols": ["chat"]})


@pytest.mark.parametrize(
    "lacking", [reply(b"", 404), reply(b"<title>404 Not Found</title>", 404, content_type="text/html")]
)
async def test_a_missing_path_without_an_error_object_is_learned(lacking):
    def chats(request: Any) -> Dialogue:
        return chat_only(request) if request.target.endswith("/chat/completions") else [Send(lacking)]

    async with relaying(answer=chats) as (upstream, gp):
        answered = [await gp.ask(ASKED, PATH, headers=VERSION).answer() for _ in range(2)]
    assert [one.status for one in answered] == [200, 200]
    assert len(upstream.received) == 3


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (f"{PATH}/count_tokens", {"content": [{"type": "thinking", "thinking": "x", "signature": "gatepass_thought"}]}),
        ("/v1/responses/compact", {"encrypted_content": "gatepass_thought"}),
    ],
)
@pytest.mark.parametrize("protocols", [None, ["messages", "responses"]])
async def test_no_other_operation_sends_a_thought_of_a_chat(path, more, protocols):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "type": "reasoning", "summary": [], **more}]
    asked = {"model": "m", "messages" if "messages" in path else "input": turns}
    declared = {} if protocols is None else {"protocols": protocols}
    async with relaying([Send(reply({"input_tokens": 5}))], chat=declared) as (upstream, gp):
        await gp.ask(asked, path, headers=VERSION).answer()
    assert b"gatepass_thought" not in upstream.received[0].body


async def test_an_upstream_with_neither_path_keeps_its_first_error():
    async with relaying([Send(reply({"detail": "Not Found"}, 404))]) as (upstream, gp):
        answered = await gp.ask(ASKED, PATH, headers=VERSION).answer()
        await gp.ask(ASKED, PATH, headers=VERSION).answer()
    assert answered.status == 400
    assert [one.target.rpartition("/")[2] for one in upstream.received] == ["messages", "completions", "messages"]


async def test_names_of_a_client_stand_in_no_header():
    odd = {"a\r\nset-cookie: x": 1, "é": 1, "x" * 100: 1, **{f"member_{number}": 1 for number in range(40)}}
    sent = Send(reply(a_completion({"content": "Hi"})))
    answered = await answer_from([sent], {**ASKED, **odd}, PATH, headers=VERSION, chat=CHATS)
    entries = answered.headers["x-gatepass-adapted"].split(", ")
    assert "set-cookie" not in answered.headers
    assert "untranslated=others" in entries
    assert len(entries) <= 18
    assert all(entry.isascii() and len(entry) < 80 for entry in entries)


async def test_a_busy_upstream_teaches_nothing_about_its_paths():
    """The next request begins as a chat."""

    def busy(request: Any) -> Dialogue:
        is_chat = request.target.endswith("/chat/completions")
        return [Send(reply({"error": {"message": "slow down"}}, 429))] if is_chat else chat_only(request)

    async with relaying(answer=busy) as (upstream, gp):
        answered = [await gp.ask(ASKED, PATH, headers=VERSION).answer() for _ in range(2)]
        assert gp.state.learned_rules() == []
    assert [one.status for one in answered] == [429, 429]
    assert len(upstream.received) == 3


@pytest.mark.parametrize("status", [400, 404])
async def test_a_text_that_quotes_a_client_teaches_nothing_about_the_path(status):
    """The upstream has the path. A chat without the refused member would succeed."""
    refused = {"error": {"message": "Unexpected value(s) `x/messages` for the `anthropic-beta` header"}}

    def whole(request: Any) -> Dialogue:
        return chat_only(request) if request.target.endswith("/completions") else [Send(reply(refused, status))]

    async with relaying(answer=whole) as (upstream, gp):
        answered = await gp.ask(ASKED, PATH, headers={**VERSION, "anthropic-beta": "x/messages"}).answer()
        assert gp.state.learned_rules() == []
    assert (answered.status >= 400, len(upstream.received)) == (True, 1)
