"""Responses and messages that gatepass makes of chats are valid by the types of OpenAI's and Anthropic's SDK, strictly.

`test_clients.py` and `test_quirks.py` test this for what upstreams of OpenAI's APIs send.
"""

import asyncio
from typing import Any

import pytest

from tests.e2e.clients import chats
from tests.e2e.clients.program import Program
from tests.e2e.quirks.measurement import CLIENTS
from tests.integration.gateway import gateway
from tests.integration.messages_upstream import TEXT, TOOL, WHOLE
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply, stream

Document = dict[str, Any]
SDKS = [client for client in CLIENTS if client.runner == "ask_openai.py"]
ADD = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
PATCH = {"type": "custom", "name": "patch", "description": "x"}
INNER = {"type": "namespace", "name": "box", "description": "x", "tools": [ADD]}
TRANSLATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({}, chats.completion("It is 21 °C.", reasoning_content="I look at it.")),
    "calls": ({"tools": [ADD]}, chats.completion("I add.", {"call_1": {"a": 1}, "call_2": {}})),
    "custom": ({"tools": [PATCH]}, chats.completion("", {"call_1": {"input": "*** x"}}, name="patch")),
    "namespace": ({"tools": [INNER]}, chats.completion("", {"call_1": {"a": 1}}, name="box__add")),
    "forced": (
        {"tools": [ADD], "tool_choice": {"type": "function", "name": "add"}, "parallel_tool_calls": False},
        chats.completion("", {"call_1": {"a": 1}}, finish_reason="stop"),
    ),
    "refusal": ({}, chats.completion("", refusal="I do not say it.")),
    "length": ({"max_output_tokens": 16}, chats.completion("It", finish_reason="length")),
    "filtered": ({}, chats.completion("It", finish_reason="content_filter")),
    "members": (
        {"text": {"verbosity": "low"}, "reasoning": {"effort": "low"}, "metadata": {"a": "b"}, "truncation": "auto"},
        chats.completion("Hi."),
    ),
}
"""The members of a request and the chat that answers it, by the name of the model."""


def chat_of(request: Received) -> Dialogue:
    asked = request.json()
    if asked["model"] == "limited":
        error = {"message": "Slow down.", "type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None}
        return [Send(reply({"error": error}, 429))]
    document = MESSAGES.get(asked["model"]) or TRANSLATED[asked["model"]][1]
    return [Send(stream(*chats.chunks(document)) if asked.get("stream") else reply(document))]


async def results_of(client: Program, given: list[Document]) -> list[Document]:
    """Return the results of `given` over an upstream that has chats alone."""
    async with Scripted(answer=chat_of) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "protocols": ["chat"]}}
        async with gateway(upstreams=upstreams) as gp:
            asked = [{"repeats": 0, **one} for one in given]
            results: list[Document] = await asyncio.to_thread(client.run, f"http://127.0.0.1:{gp.port}", asked)
    assert [one["model"] for one, result in zip(given, results, strict=True) if result["invalid"]] == [], results
    return results


@pytest.mark.parametrize("client", SDKS, ids=lambda client: client.title)
async def test_each_response_and_event_over_chats_is_valid(client: Program):
    asked = {**{name: members for name, (members, _) in TRANSLATED.items()}, "limited": {}}
    if client.title.endswith("1"):  # it has no type for a namespace
        del asked["namespace"]
    given = [
        {"model": name, "kind": kind, "body": {"input": "Hi", **members}}
        for name, members in asked.items()
        for kind in ("respond", "respond_in_stream")
    ]
    results = await results_of(client, given)
    assert all(result["checked"] for result in results)
    failed = {one["model"] for one, result in zip(given, results, strict=True) if result["error"]}
    assert failed == {"limited"}


THOUGHT = {"type": "thinking", "thinking": "The user asks about weather.", "signature": "gatepass_thought"}
CALLED = {"call_1": TOOL["input"], "call_2": {}}
CHAT_USAGE = {
    "prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19, "prompt_tokens_details": {"cached_tokens": 5},
}  # fmt: skip
MESSAGES: dict[str, Document] = {
    "calling": chats.completion(
        TEXT["text"], CALLED, name="weather", reasoning_content=THOUGHT["thinking"], usage=CHAT_USAGE
    ),
    "cut": chats.completion(TEXT["text"], finish_reason="length"),
    "content filter": chats.completion("", finish_reason="content_filter"),
}
BUILT = {
    "content": [THOUGHT, TEXT, *({**TOOL, "id": key, "input": arguments} for key, arguments in CALLED.items())],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 7, "output_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 5},
}


async def test_each_message_and_event_over_chats_is_valid_and_the_helper_builds_the_whole_message():
    anthropic = Program("anthropic", "python-anthropic", "ask_anthropic.py")
    asked = {name: value for name, value in WHOLE.items() if name not in ("model", "stream")}
    given = [{"model": "calling", "kind": kind, "body": asked} for kind in ("plain", "raw")]
    given += [
        {"model": name, "kind": "valid", "body": {**asked, "stream": streams}}
        for name in MESSAGES
        for streams in (False, True)
    ]
    whole, streamed, *others = await results_of(anthropic, given)
    for answer in (whole["answer"], streamed["answer"]):
        assert {name: answer[name] for name in BUILT} == BUILT
    assert all(result["checked"] for result in others)
