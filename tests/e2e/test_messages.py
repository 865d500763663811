"""Anthropic's clients for Python and Node over a strict Messages API: what their users see of answers and errors."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

import pytest

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
