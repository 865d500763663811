"""Anthropic's clients for Python and Node: what their users see of answers and errors.

The upstream has a strict Messages API, or chat completions alone.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

import pytest

from tests.e2e.clients import chats
from tests.e2e.clients.measurement import RUNNERS
from tests.e2e.servers import installed
from tests.integration.gateway import gateway
from tests.integration.messages_upstream import (
    MESSAGE,
    OTHER,
    TEXT,
    THINKING,
    TOOL,
    WHOLE,
    answer,
    error,
    events,
    message,
)
from tests.integration.scripted import LAST_CHUNK, Dialogue, Fin, Pause, Received, Scripted, Send, reply, stream

PARALLEL = [TOOL, {**TOOL, "id": "toolu_02", "input": {}}]
TASK = message(TEXT, *PARALLEL, stop_reason="tool_use")
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
ASKED = {name: value for name, value in WHOLE.items() if name != "stream"}
WEATHER = {"name": "weather", "description": "x", "input_schema": {"type": "object", "properties": {}}}
CLIENTS = ("python", "node")
Call = tuple[str, dict[str, Any]]


async def run(client: str, port: int, calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Return what `client` makes of each call."""
    folder = installed(f"{client}-anthropic")
    program = {"python": (folder / "bin" / "python", RUNNERS / "try_anthropic.py")}
    command = program.get(client, ("node", RUNNERS / "try_anthropic.mjs"))
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env={**os.environ, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "none"},
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await asyncio.wait_for(process.communicate(json.dumps(calls).encode()), 60)
    found: list[dict[str, Any]] = json.loads(printed)
    return found


def strict(request: Received) -> Dialogue:
    """Answer a question with two tool calls, their results with a text."""
    if request.target.startswith("/v1/messages/count_tokens"):
        return [Send(reply({"input_tokens": 14}))]
    if request.target.startswith("/v1/messages/batches"):
        return [Send(reply({"data": [{"id": "msgbatch_1"}], "has_more": False, "first_id": None, "last_id": None}))]
    asked = request.json()
    last = asked["messages"][-1]["content"]
    if not asked.get("tools"):
        return answer(MESSAGE)(request)
    if isinstance(last, list) and last[0]["type"] == "tool_result":
        return answer(message(TEXT))(request)
    return answer(TASK)(request)


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_a_client_builds_of_a_stream_is_the_whole_answer(client):
    calls: list[Call] = [("create", ASKED), ("stream", ASKED), ("raw", ASKED), ("beta", ASKED)]
    count = {name: value for name, value in ASKED.items() if name != "max_tokens"}
    calls += [("count", count), ("batches", {})]
    async with Scripted(answer=strict) as upstream, gateway(upstream=upstream.url) as gp:
        created, streamed, raw, beta, counted, batches = await run(client, gp.port, calls)
    assert (created, streamed) == ({"answer": MESSAGE}, {"answer": {"message": MESSAGE, "text": TEXT["text"]}})
    kinds = [one.partition(b"\n")[0].removeprefix(b"event: ").decode() for one in events()]
    assert (raw["answer"], beta["answer"]) == (kinds, MESSAGE)
    assert (counted["answer"], [one["id"] for one in batches["answer"]]) == ({"input_tokens": 14}, ["msgbatch_1"])
    received = {way: one for (way, _), one in zip(calls, upstream.received, strict=True)}
    assert received["count"].target == "/v1/messages/count_tokens"
    assert received["beta"].header("anthropic-beta") == "made-up-2027-01-01"
    assert received["create"].header("x-stainless-lang") is not None
    assert received["create"].header("x-api-key") is None


@pytest.mark.parametrize("stream", ["auto", "emulate", "aggregate"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_tool_task_with_parallel_calls_and_an_image_has_the_same_end_in_each_form(client, stream):
    question = {"role": "user", "content": [IMAGE, {"type": "text", "text": "Weather here?"}]}
    results = [{"type": "tool_result", "tool_use_id": one["id"], "content": "21"} for one in PARALLEL]
    turn = [question, {"role": "assistant", "content": TASK["content"]}, {"role": "user", "content": results}]
    first, second = ({**ASKED, "tools": [WEATHER], "messages": messages} for messages in ([question], turn))
    models = {"m": {"upstream": "chat", "stream": stream}}
    async with Scripted(answer=strict) as upstream, gateway(upstream=upstream.url, models=models) as gp:
        calls = [(way, body) for way in ("create", "stream") for body in (first, second)]
        plain_task, plain_end, streamed_task, streamed_end = await run(client, gp.port, calls)
    assert plain_task["answer"] == streamed_task["answer"]["message"] == TASK
    assert plain_end["answer"] == streamed_end["answer"]["message"] == message(TEXT)
    assert upstream.received[0].json()["messages"] == [question]


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_error_before_a_stream_is_the_clients_own_exception(client):
    sent = (
        ("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", 400, "BadRequestError"),
        ("rate_limit_error", "slow down", 429, "RateLimitError"),
        ("not_found_error", "model: m", 404, "NotFoundError"),
        ("overloaded_error", "Overloaded", 529, ""),
    )
    for way in ("create", "stream"):
        dialogues: list[Dialogue] = [[Send(error(*one[:3]))] for one in sent]
        async with Scripted(*dialogues) as upstream, gateway(upstream=upstream.url) as gp:
            outcomes = await run(client, gp.port, [(way, ASKED)] * len(sent))
        for (kind, text, status, name), one in zip(sent, outcomes, strict=True):
            assert (one["status"], one["inner"]) == (status, {"type": kind, "message": text})
            assert name in one["error"]


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_stream_that_breaks_is_an_exception_and_never_a_message(client):
    begun = stream(*events(message(THINKING, TEXT, OTHER))[:4], end=b"")
    failed = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}\n\n'
    told: Dialogue = [Send(begun), Pause(0.2), Send(b"%x\r\n%b\r\n" % (len(failed), failed) + LAST_CHUNK)]
    cut: Dialogue = [Send(begun), Pause(0.2), Fin()]
    # the upstream's own event passes unchanged, so it names no hop
    for dialogue, kind, hop in ((told, "overloaded_error", None), (cut, "api_error", "upstream:chat")):
        async with Scripted(dialogue) as upstream, gateway(upstream=upstream.url) as gp:
            outcomes = await run(client, gp.port, [("stream", ASKED), ("raw", ASKED)])
        for one in outcomes:
            assert (one["inner"]["type"], one["inner"].get("hop")) == (kind, hop)


# --- over chat completions ------------------------------------------------------------------------

THOUGHT = {"type": "thinking", "thinking": "The user asks about weather.", "signature": "gatepass_thought"}
CALLED = {"call_1": TOOL["input"], "call_2": {}}
USES = [{**TOOL, "id": key, "input": arguments} for key, arguments in CALLED.items()]
CHAT_USAGE = {
    "prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19, "prompt_tokens_details": {"cached_tokens": 5},
}  # fmt: skip
SAID = chats.completion(TEXT["text"], usage=CHAT_USAGE)
CALLING = chats.completion(
    TEXT["text"], CALLED, name="weather", reasoning_content=THOUGHT["thinking"], usage=CHAT_USAGE
)


def over_chats(url: str) -> dict[str, Any]:
    return {"chat": {"base_url": f"{url}/v1", "protocols": ["chat"]}}


def chat_alone(request: Received) -> Dialogue:
    """Answer a question with two tool calls, their results with a text."""
    if request.target != "/v1/chat/completions":
        return [Send(reply({"error": {"message": "no such path", "type": "invalid_request_error"}}, 404))]
    asked = request.json()
    document = SAID if asked["messages"][-1]["role"] == "tool" else CALLING
    return [Send(stream(*chats.chunks(document)) if asked.get("stream") else reply(document))]


def translated(document: dict[str, Any]) -> dict[str, Any]:
    """Return the message `document` that a client built, without its id and the member that a helper adds."""
    assert (document["id"][:4], document.get("stop_details")) == ("msg_", None)
    return {name: value for name, value in document.items() if name not in ("id", "stop_details")}


def expected(*blocks: Any, stop_reason: str) -> dict[str, Any]:
    usage = {"input_tokens": 7, "output_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 5}
    made = {"type": "message", "role": "assistant", "model": "m", "content": [*blocks]}
    return {**made, "stop_reason": stop_reason, "stop_sequence": None, "usage": usage}


ENDS = [
    expected(THOUGHT, TEXT, *USES, stop_reason="tool_use"),
    expected(TEXT, stop_reason="end_turn"),
]


@pytest.mark.parametrize("client", CLIENTS)
async def test_over_chats_a_client_builds_the_whole_answer_of_a_stream_and_misses_the_rest_by_name(client):
    count = {name: value for name, value in ASKED.items() if name != "max_tokens"}
    calls: list[Call] = [(way, ASKED) for way in ("create", "stream", "raw", "beta")]
    calls += [("count", count), ("batches", {})]
    async with Scripted(answer=chat_alone) as upstream, gateway(upstreams=over_chats(upstream.url)) as gp:
        created, streamed, raw, beta, *missing = await run(client, gp.port, calls)
    assert [translated(one) for one in (created["answer"], streamed["answer"]["message"], beta["answer"])] == [
        ENDS[0]
    ] * 3
    assert streamed["answer"]["text"] == TEXT["text"]
    deltas = ("content_block_start", *["content_block_delta"] * 3, "content_block_stop")
    assert [kind for kind in raw["answer"] if kind != "ping"] == [
        "message_start",
        *("content_block_start", *["content_block_delta"] * 4, "content_block_stop"),
        *deltas,
        *deltas,
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert [(one["status"], one["inner"]["type"]) for one in missing] == [(404, "not_found_error")] * 2
    assert {one.target for one in upstream.received} == {"/v1/chat/completions"}
    assert {one.header("anthropic-beta") for one in upstream.received} == {None}


async def test_over_chats_each_event_is_valid_by_the_types_of_the_sdk():
    cut = chats.completion(TEXT["text"], finish_reason="length")
    filtered = chats.completion("", finish_reason="content_filter")
    documents = [CALLING, SAID, cut, filtered]
    dialogues = [
        [Send(answer)] for one in documents for answer in (reply(one), stream(*chats.chunks(one)))
    ]  # fmt: skip
    async with Scripted(*dialogues) as upstream, gateway(upstreams=over_chats(upstream.url)) as gp:
        outcomes = await run(
            "python", gp.port, [("valid", ASKED), ("valid", {**ASKED, "stream": True})] * len(documents)
        )
    assert [one["answer"]["invalid"] for one in outcomes] == [[]] * len(outcomes)
    assert all(one["answer"]["checked"] for one in outcomes)


@pytest.mark.parametrize("client", CLIENTS)
async def test_over_chats_a_tool_task_has_the_same_end_in_each_form(client):
    question = {"role": "user", "content": [IMAGE, {"type": "text", "text": "Weather here?"}]}
    results = [{"type": "tool_result", "tool_use_id": key, "content": "21"} for key in CALLED]
    turn = [question, {"role": "assistant", "content": ENDS[0]["content"]}, {"role": "user", "content": results}]
    forms = ("auto", "emulate", "aggregate")
    models = {form: {"upstream": "chat", "stream": form} for form in forms}
    calls: list[Call] = [
        (way, {**ASKED, "model": form, "tools": [WEATHER], "messages": messages})
        for form in forms for way in ("create", "stream") for messages in ([question], turn)
    ]  # fmt: skip
    async with (
        Scripted(answer=chat_alone) as upstream,
        gateway(upstreams=over_chats(upstream.url), models=models) as gp,
    ):
        outcomes = await run(client, gp.port, calls)
    built = [one["answer"].get("message", one["answer"]) for one in outcomes]
    assert [translated(one) for one in built] == ENDS * 2 * len(forms)
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    for asked in (one.json()["messages"] for one in upstream.received):
        assert asked[0]["content"] == [picture, {"type": "text", "text": "Weather here?"}]
    assert upstream.received[1].json()["messages"][1]["reasoning_content"] == THOUGHT["thinking"]


@pytest.mark.parametrize("client", CLIENTS)
async def test_over_chats_an_error_before_a_stream_is_the_clients_own_exception(client):
    too_long = "This model's maximum context length is 8 tokens. However, your messages resulted in 9 tokens."
    sent = (
        ({"message": too_long, "code": "context_length_exceeded"}, 400, "invalid_request_error", "BadRequestError"),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, 429, "rate_limit_error", "RateLimitError"),
        ({"message": "model: m", "code": "model_not_found"}, 404, "not_found_error", "NotFoundError"),
        ({"message": "no", "code": "invalid_api_key"}, 403, "permission_error", "PermissionDeniedError"),
    )
    dialogues: list[Dialogue] = [[Send(reply({"error": one}, status))] for one, status, _, _ in sent]
    async with Scripted(*dialogues, *dialogues) as upstream, gateway(upstreams=over_chats(upstream.url)) as gp:
        outcomes = await run(client, gp.port, [(way, ASKED) for way in ("create", "stream") for _ in sent])
    for (fault, status, kind, name), one in zip(sent * 2, outcomes, strict=True):
        assert (one["status"], one["inner"]["type"], name in one["error"]) == (status, kind, True)
        assert fault["message"] in one["inner"]["message"]
    assert "prompt_too_long" in outcomes[0]["inner"]["message"]  # Claude Code compacts at it


@pytest.mark.parametrize("client", CLIENTS)
async def test_over_chats_a_stream_that_breaks_is_an_exception_and_never_a_message(client):
    begun = stream(*chats.chunks(CALLING)[:9], end=b"")
    failed = b'data: {"error": {"message": "Busy", "type": "server_error", "code": 503}}\n\n'
    told: Dialogue = [Send(begun), Pause(0.2), Send(b"%x\r\n%b\r\n" % (len(failed), failed) + LAST_CHUNK)]
    cut: Dialogue = [Send(begun), Pause(0.2), Fin()]
    clean: Dialogue = [Send(begun), Pause(0.2), Send(LAST_CHUNK)]
    ways = ("stream", "raw")
    ends = [dialogue for dialogue in (told, cut, clean) for _ in ways]
    async with Scripted(*ends) as upstream, gateway(upstreams=over_chats(upstream.url)) as gp:
        outcomes = await run(client, gp.port, [(way, ASKED) for way in ways] * 3)
    for one in outcomes:
        assert one["inner"]["type"] in ("api_error", "overloaded_error")
        assert one["inner"]["hop"] == "upstream:chat"
