"""Responses over an upstream that has chat completions alone: requests, whole replies, streams, errors."""

import asyncio
import json
from typing import Any

import pytest

from tests.integration.gateway import JSON, answer_from, relaying
from tests.integration.scripted import LAST_CHUNK, Dialogue, Send, Wait, chunk, head, reply, stream
from tests.integration.test_translated_messages import ANSWER, CHATS, a_chunk, a_completion
from tests.waiting import until

PATH = "/v1/responses"
ASKED: dict[str, Any] = {"model": "m", "input": "Weather?"}


async def asked(sent: bytes, body: Any) -> tuple[Any, Any]:
    async with relaying([Send(sent)], chat=CHATS) as (upstream, gp):
        answered = await gp.ask(body, PATH, headers=JSON).answer()
    return answered, upstream.received[0].json() if upstream.received else None


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


async def test_what_a_chat_cannot_express_is_a_named_400():
    answered, received = await asked(reply(a_completion({"content": "Hi"})), {**ASKED, "previous_response_id": "r"})
    assert (answered.status, answered.json()["error"]["param"], received) == (400, "previous_response_id", None)


COMPACTIONS: dict[str, tuple[str, Any, int]] = {
    "a trigger": ("/v1/responses", [{"role": "user", "content": "Hi"}, {"type": "compaction_trigger"}], 400),
    "an encrypted compaction": ("/v1/responses", [{"type": "compaction", "encrypted_content": "gAAAAx"}], 400),
    "its old name": ("/v1/responses", [{"type": "context_compaction", "encrypted_content": "gAAAAx"}], 400),
    "the path": ("/v1/responses/compact", "Hi", 404),
}


@pytest.mark.parametrize(("path", "given", "status"), COMPACTIONS.values(), ids=COMPACTIONS)
async def test_a_compaction_by_the_server_is_an_error_with_a_way_out(path, given, status):
    async with relaying([Send(reply(a_completion({"content": "Hi"})))], chat=CHATS) as (upstream, gp):
        answer = await gp.ask({"model": "m", "input": given}, path, headers=JSON).answer()
    assert (answer.status, upstream.received) == (status, [])
    assert "Give the provider in Codex's configuration another name than OpenAI or Azure" in answer.error["message"]
    assert answer.error.get("param") == (f"input.{len(given) - 1}" if status == 400 else None)


@pytest.mark.parametrize(("words", "status"), [("上下文长度超出限制", 400), ("context size exceeded", 500)])
async def test_an_overflow_in_other_words_has_the_code_too(words, status):
    answered, _ = await asked(reply({"error": {"message": words}}, status), ASKED)
    assert answered.error["code"] == "context_length_exceeded"


BEGUN = head(200, content_type="text/event-stream", transfer_encoding="chunked")
LARGE = a_chunk({"content": "x" * 900_000})


def paused(texts: int, go: asyncio.Event) -> Dialogue:
    return [Send(BEGUN + chunk(LARGE) * texts), Wait(go), Send(b"".join(map(chunk, ANSWER[3:])) + LAST_CHUNK)]


async def test_streams_whose_texts_do_not_fit_wait_at_the_upstream():
    go = asyncio.Event()
    limits = {"held_bytes": 4 << 20, "body_bytes": 1 << 20, "reply_bytes": 1 << 20}
    dialogues = [paused(3, go) for _ in range(3)]
    async with relaying(*dialogues, chat=CHATS, limits=limits) as (_, gp):
        held = gp.state.in_flight.held
        asked = [asyncio.ensure_future(gp.ask({**ASKED, "stream": True}, PATH).answer()) for _ in dialogues]
        await until(lambda: bool(held.waits))
        go.set()
        for answer in await asyncio.gather(*asked):
            last = json.loads(answer.events[-1])
            assert last["type"] == "response.completed"
            assert len(last["response"]["output"][0]["content"][0]["text"]) > 2_700_000
        await until(lambda: held.total_bytes == 0)


@pytest.mark.parametrize(("calls", "size"), [(1, 900_000), (3, 400_000)])
@pytest.mark.parametrize("path", [PATH, "/v1/messages"])
async def test_a_large_whole_answer_becomes_a_stream_to_its_end(path, calls, size):
    made = [json.dumps({"a": "x" * size}) for _ in range(calls)]
    called = [
        {"id": f"call_{at}", "type": "function", "function": {"name": "f", "arguments": text}}
        for at, text in enumerate(made)
    ]
    answer = a_completion({"content": None, "tool_calls": called}, "tool_calls")
    asked_for = (
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64} if "mess" in path else {"input": "Hi"}
    )
    body = {"model": "m", "stream": True, **asked_for}
    answered = await answer_from([Send(reply(answer))], body, path, headers=JSON, chat=CHATS)
    events = [json.loads(data) for data in answered.events]
    assert events[-1]["type"] in ("response.completed", "message_stop")
    texts = [one["delta"] for one in events if one["type"] == "response.function_call_arguments.delta"]
    texts += [one["delta"]["partial_json"] for one in events if one["type"] == "content_block_delta"]
    assert "".join(texts) == "".join(made)
