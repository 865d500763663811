"""Responses over an upstream that has chat completions alone: requests, whole replies, streams, errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.integration.gateway import JSON, gateway
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Scripted,
    Send,
    Wait,
    chunk,
    event,
    head,
    reply,
    stream,
)
from tests.integration.test_translated_messages import ANSWER, USAGE, a_chunk, a_completion, over_chat
from tests.waiting import until

PATH = "/v1/responses"
ASKED: dict[str, Any] = {"model": "m", "input": "Weather?"}
PATCH = {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "g"}}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
SPACE = {"type": "namespace", "name": "mcp__maps", "tools": [{**WEATHER, "name": "find"}]}
HOSTED = {"type": "web_search"}


def called(name: str, arguments: str, call_id: str = "call_1", index: int = 0) -> bytes:
    function = {"name": name, "arguments": arguments}
    return a_chunk({"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]})


async def asked(sent: bytes, body: Any) -> tuple[Any, Any]:
    """The answer of gatepass, and what the upstream received."""
    async with Scripted([Send(sent)]) as upstream, gateway(**over_chat(upstream.url)) as gp:
        answered = await gp.ask(body, PATH, headers=JSON).answer()
    return answered, upstream.received[0].json() if upstream.received else None


async def test_a_response_has_each_member_that_open_responses_requires():
    tool = {"type": "function", "name": "weather"}
    more = {"tools": [tool], "text": {"verbosity": "low"}, "reasoning": {"effort": "low"}, "safety_identifier": "s"}
    answered, _ = await asked(reply(a_completion({"content": "Hi"})), {**ASKED, **more})
    response = answered.json()
    assert response["tools"] == [{**tool, "description": None, "parameters": None, "strict": None}]
    assert (response["text"], response["reasoning"]) == (
        {"format": {"type": "text"}, "verbosity": "low"},
        {"effort": "low", "summary": None},
    )
    expected: dict[str, Any] = {
        "temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "top_logprobs": 0,
        "service_tier": "default", "metadata": {}, "max_tool_calls": None, "prompt_cache_key": None,
        "safety_identifier": "s",
    }  # fmt: skip
    assert {name: response[name] for name in expected} == expected


async def test_a_stream_has_the_events_of_a_response():
    answered, received = await asked(stream(*ANSWER), {**ASKED, "stream": True, "instructions": "Be kind."})
    events = [json.loads(data) for data in answered.events]
    assert [one["type"].removeprefix("response.") for one in events] == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert [one["sequence_number"] for one in events] == [*range(len(events))]
    response = events[-1]["response"]
    thought, message, call = response["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "I look."}]
    assert thought["encrypted_content"] == "gatepass_thought"
    assert message["content"][0]["text"] == "Let me see."
    assert (call["call_id"], call["name"], call["arguments"]) == ("call_1", "weather", '{"city":"Paris"}')
    assert (response["status"], response["store"], response["instructions"]) == ("completed", False, "Be kind.")
    assert response["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 19,
    }
    assert received == {
        "model": "m",
        "stream": True,
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Weather?"}],
        "stream_options": {"include_usage": True},
    }


async def test_a_whole_reply_is_a_response():
    answered, _ = await asked(reply(a_completion({"content": "Hi"}, "length")), {**ASKED, "store": True})
    response = answered.json()
    assert (response["object"], response["status"]) == ("response", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["content"] == [
        {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
    ]
    assert (response["usage"]["total_tokens"], response["store"]) == (USAGE["total_tokens"], False)


async def test_tools_return_as_what_they_were():
    """A custom one takes a text, one of a namespace names it, a hosted one is dropped."""
    patch = json.dumps({"input": "*** Begin Patch\n"})
    sent = stream(
        called("apply_patch", patch),
        called("mcp__maps__find", '{"x":1}', "call_2", 1),
        a_chunk({}, "tool_calls"),
        a_chunk(usage=USAGE),
        event("[DONE]"),
    )
    body = {**ASKED, "stream": True, "tools": [PATCH, WEATHER, SPACE, HOSTED], "tool_choice": "auto"}
    answered, received = await asked(sent, body)
    custom, inner = json.loads(answered.events[-1])["response"]["output"]
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "apply_patch", "*** Begin Patch\n")
    assert (inner["type"], inner["namespace"], inner["name"]) == ("function_call", "mcp__maps", "find")
    assert [tool["function"]["name"] for tool in received["tools"]] == ["apply_patch", "weather", "mcp__maps__find"]
    assert received["tools"][0]["function"]["parameters"]["required"] == ["input"]
    assert "lark grammar:\ng" in received["tools"][0]["function"]["description"]
    assert answered.headers["x-gatepass-adapted"] == "translate=responses, untranslated=web_search"


async def test_a_conversation_becomes_messages_with_results_behind_their_calls():
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
        {"role": "user", "content": [
            {"type": "input_text", "text": "Look"}, {"type": "input_image", "image_url": "data:image/png;base64,AA"},
        ]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "apply_patch", "input": "p"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": "done"},
        {"type": "web_search_call", "id": "ws", "status": "completed"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "sunny"}]},
        {"role": "user", "content": "and?"},
    ]  # fmt: skip
    body = {**ASKED, "input": items, "instructions": "Be kind.", "tools": [PATCH, WEATHER]}
    answered, received = await asked(reply(a_completion({"content": "Hi"})), body)
    assert received["messages"] == [
        {"role": "system", "content": "Be kind.\n\nRules."},
        {"role": "user", "content": [
            {"type": "text", "text": "Look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
        ]},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "apply_patch", "arguments": '{"input":"p"}'}},
        ]},
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "done"},
        {"role": "user", "content": "and?"},
    ]  # fmt: skip
    assert answered.headers["x-gatepass-adapted"] == "translate=responses, untranslated=web_search_call"


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"tools": [HOSTED, WEATHER], "tool_choice": HOSTED}, "tool_choice"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "n", "arguments": "{}"}]}, "input"),
    ],
)
async def test_what_a_chat_cannot_express_is_a_named_400(more, name):
    answered, received = await asked(reply(a_completion({"content": "Hi"})), {**ASKED, **more})
    assert (answered.status, answered.json()["error"]["param"], received) == (400, name, None)


async def test_a_cut_stream_fails_with_its_number():
    async with (
        Scripted([Send(stream(*ANSWER[:4], end=b"")), Fin()]) as upstream,
        gateway(**over_chat(upstream.url)) as gp,
    ):
        answered = await gp.ask({**ASKED, "stream": True}, PATH).answer()
    *before, error, failed = (json.loads(data) for data in answered.events)
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert [before[-1]["sequence_number"] + 1, before[-1]["sequence_number"] + 2] == [
        error["sequence_number"],
        failed["sequence_number"],
    ]
    assert failed["response"]["id"] == before[0]["response"]["id"]


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("code", [None, "x", "exceed_context_size_error"])
async def test_an_overflow_has_the_code_at_which_codex_compacts(code, streams):
    refused = {"error": {"message": "This model's maximum context length is 8192 tokens.", "code": code}}
    answered, _ = await asked(reply(refused, 400), {**ASKED, "stream": streams})
    assert (answered.status, answered.error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length" in answered.error["message"]


@pytest.mark.parametrize(("words", "status"), [("上下文长度超出限制", 400), ("context size exceeded", 500)])
async def test_an_overflow_in_other_words_has_the_code_too(words, status):
    answered, _ = await asked(reply({"error": {"message": words}}, status), ASKED)
    assert answered.error["code"] == "context_length_exceeded"


BEGUN = head(200, content_type="text/event-stream", transfer_encoding="chunked")
LARGE = a_chunk({"content": "x" * 900_000})


def paused(texts: int, go: asyncio.Event) -> Dialogue:
    return [Send(BEGUN + chunk(LARGE) * texts), Wait(go), Send(b"".join(map(chunk, ANSWER[3:])) + LAST_CHUNK)]


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "client leaves"])
async def test_the_texts_of_an_open_stream_are_held_until_its_end(ends):
    go = asyncio.Event()
    async with Scripted(paused(2, go)) as upstream, gateway(**over_chat(upstream.url)) as gp:
        held = gp.state.in_flight.held
        async with gp.ask({**ASKED, "stream": True}, PATH) as ask:
            await ask.head()
            await ask.until(b"x" * 1000)
            await until(lambda: held.total_bytes >= 1_800_000)
            if ends:
                go.set()
                assert json.loads((await ask.answer()).events[-1])["type"] == "response.completed"
        await until(lambda: held.total_bytes == 0)


async def test_streams_whose_texts_do_not_fit_wait_at_the_upstream():
    go = asyncio.Event()
    limits = {"held_bytes": 4 << 20, "body_bytes": 1 << 20, "reply_bytes": 1 << 20}
    dialogues = [paused(3, go) for _ in range(3)]
    async with Scripted(*dialogues) as upstream, gateway(**over_chat(upstream.url), limits=limits) as gp:
        held = gp.state.in_flight.held
        asked = [asyncio.ensure_future(gp.ask({**ASKED, "stream": True}, PATH).answer()) for _ in dialogues]
        await until(lambda: bool(held.waits))
        go.set()
        for answer in await asyncio.gather(*asked):
            last = json.loads(answer.events[-1])
            assert last["type"] == "response.completed"
            assert len(last["response"]["output"][0]["content"][0]["text"]) > 2_700_000
        await until(lambda: held.total_bytes == 0)
