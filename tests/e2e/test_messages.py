"""Anthropic's clients for Python and Node: what their users see of answers.

test_sdk_tasks.py has their tasks and errors.
The upstream has the Messages API, or chat completions alone.
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
    TEXT,
    TOOL,
    WHOLE,
    answer,
    events,
)
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply, stream

ASKED = {name: value for name, value in WHOLE.items() if name != "stream"}
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
    if request.target.startswith("/v1/messages/count_tokens"):
        return [Send(reply({"input_tokens": 14}))]
    if request.target.startswith("/v1/messages/batches"):
        return [Send(reply({"data": [{"id": "msgbatch_1"}], "has_more": False, "first_id": None, "last_id": None}))]
    return answer(MESSAGE)(request)


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


# --- over chat completions ------------------------------------------------------------------------

THOUGHT = {"type": "thinking", "thinking": "The user asks about weather.", "signature": "gatepass_thought"}
CALLED = {"call_1": TOOL["input"], "call_2": {}}
USES = [{**TOOL, "id": key, "input": arguments} for key, arguments in CALLED.items()]
BUILT = {
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [THOUGHT, TEXT, *USES],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 7, "output_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 5},
}
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
    if request.target != "/v1/chat/completions":
        return [Send(reply({"error": {"message": "no such path", "type": "invalid_request_error"}}, 404))]
    return [Send(stream(*chats.chunks(CALLING)) if request.json().get("stream") else reply(CALLING))]


def translated(document: dict[str, Any]) -> dict[str, Any]:
    """Return the message `document` that a client built, without its id and the member that a helper adds."""
    assert (document["id"][:4], document.get("stop_details")) == ("msg_", None)
    return {name: value for name, value in document.items() if name not in ("id", "stop_details")}


@pytest.mark.parametrize("client", CLIENTS)
async def test_over_chats_a_client_builds_the_whole_answer_of_a_stream_and_misses_the_rest_by_name(client):
    count = {name: value for name, value in ASKED.items() if name != "max_tokens"}
    calls: list[Call] = [(way, ASKED) for way in ("create", "stream", "raw", "beta")]
    calls += [("count", count), ("batches", {})]
    async with Scripted(answer=chat_alone) as upstream, gateway(upstreams=over_chats(upstream.url)) as gp:
        created, streamed, raw, beta, *missing = await run(client, gp.port, calls)
    for built in (created["answer"], streamed["answer"]["message"], beta["answer"]):
        assert translated(built) == BUILT
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
