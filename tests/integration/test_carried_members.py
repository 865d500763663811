"""What a chat's server needs again travels through clients of other protocols: signatures of calls, thoughts' details.

Each client answers as Claude Code and Codex do: it gives back what it got, and the results of the calls.
"""

import json
import re
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from tests.integration.gateway import Answer, Gateway, relaying
from tests.integration.scripted import Send, event, reply, stream
from tests.integration.test_translated_messages import CHATS, VERSION, a_chunk, a_completion

SIGNED = {"google": {"thought_signature": "AY89a18I+wQsQ8in/=="}}
CALL: dict[str, Any] = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SIGNED_CALL = {**CALL, "extra_content": SIGNED}
SECOND = {**CALL, "index": 1, "id": "call_2"}
ODD = {**CALL, "id": "functions.f:0"}
DETAIL = {"type": "reasoning.text", "text": "I look.", "index": 0, "format": "MiniMax-response-v1", "id": "r1"}
SECRET = {"type": "reasoning.encrypted", "data": "gAAAA…", "index": 1, "id": "r2"}
CONTINUED = [{**DETAIL, "text": "I "}, {**DETAIL, "text": "look."}, {"type": "reasoning.text", "index": 0, "id": "r1"}]
"""A text in parts, as OpenRouter sends it, then the other members of its detail."""
REPEATED = [{**DETAIL, "text": "I "}, DETAIL]
"""The text so far in each part, as MiniMax sends it."""

USER = {"role": "user", "content": "Hi"}
PATHS = {"messages": "/v1/messages", "responses": "/v1/responses"}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"name": "f", "input_schema": {"type": "object"}}],
    "responses": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
}


def asked(protocol: str, turns: list[Any], *, streams: bool) -> dict[str, Any]:
    place = {"messages": turns, "max_tokens": 64} if protocol == "messages" else {"input": turns, "store": False}
    return {"model": "m", "stream": streams, "tools": TOOLS[protocol], **place}


def returned(protocol: str, answer: Answer, *, streams: bool) -> list[Any]:
    """The blocks or items of an answer, as a client puts them together."""
    if not streams:
        whole: list[Any] = answer.json()["content" if protocol == "messages" else "output"]
        return whole
    events = [json.loads(data) for data in answer.events]
    if protocol == "responses":
        return [one["item"] for one in events if one["type"] == "response.output_item.done"]
    blocks: list[Any] = []
    for one in events:
        if one["type"] == "content_block_start":
            blocks.append(one["content_block"])
        elif one["type"] == "content_block_delta":
            for name, text in one["delta"].items():
                if name in ("text", "thinking", "signature"):
                    blocks[-1][name] += text
    return blocks


def second_turn(protocol: str, given: list[Any]) -> list[Any]:
    if protocol == "messages":
        ids = [block["id"] for block in given if block["type"] == "tool_use"]
        results: list[Any] = [{"type": "tool_result", "tool_use_id": one, "content": "ok"} for one in ids]
        end = {"role": "user", "content": [*results, {"type": "text", "text": "Go on."}]}
        return [USER, {"role": "assistant", "content": given}, end]
    ids = [item["call_id"] for item in given if item["type"] == "function_call"]
    return [USER, *given, *({"type": "function_call_output", "call_id": one, "output": "ok"} for one in ids)]


async def chat_of(gp: Gateway, upstream: Any, protocol: str, turns: list[Any]) -> list[Any]:
    answer = await gp.ask(asked(protocol, turns, streams=False), PATHS[protocol], headers=VERSION).answer()
    assert answer.status == 200, answer.body
    chat: list[Any] = json.loads(upstream.received[-1].body)["messages"]
    return chat


def answering(message: dict[str, Any], pieces: list[dict[str, Any]], *, streams: bool) -> Send:
    if not streams:
        return Send(reply(a_completion(message, "tool_calls")))
    return Send(stream(*map(a_chunk, pieces), a_chunk({}, "tool_calls"), event("[DONE]")))


def calls(*found: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(found)}


THOUGHT = "I look."
OWN = {"extra_content": {"google": {"thought_signature": "b"}}}
SECRETS = [SECRET, {**SECRET, "data": "b"}]
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "the signature of a call": (calls(SIGNED_CALL), [calls(SIGNED_CALL)]),
    "parallel calls, of which the first is signed": (
        calls(SIGNED_CALL, SECOND),
        [calls(SIGNED_CALL), calls(SECOND)],
    ),
    "a second call with a signature of its own, and an id that Anthropic rejects": (
        calls({**ODD, "extra_content": SIGNED}, {**SECOND, **OWN}),
        [calls({**ODD, "extra_content": SIGNED}, {**SECOND, **OWN})],
    ),
    "a thought in parts, then a call": (
        {**calls(CALL), "reasoning_content": THOUGHT, "reasoning_details": [DETAIL, SECRET]},
        [
            {"reasoning_content": "I ", "reasoning_details": CONTINUED[:1]},
            {"reasoning_content": "look.", "reasoning_details": CONTINUED[1:]},
            {"reasoning_details": [SECRET]},
            calls(CALL),
        ],
    ),
    "a thought whose text comes again, and a signed call": (
        {**calls(SIGNED_CALL), "reasoning_content": THOUGHT, "reasoning_details": [DETAIL]},
        [
            {"reasoning_content": "I ", "reasoning_details": REPEATED[:1]},
            {"reasoning_content": "look.", "reasoning_details": REPEATED[1:]},
            calls(SIGNED_CALL),
        ],
    ),
    "an encrypted thought without a text": (
        {**calls(SIGNED_CALL), "reasoning_details": SECRETS},
        [{"reasoning_details": SECRETS}, calls(SIGNED_CALL)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("message", "pieces"), CASES.values(), ids=CASES)
async def test_the_chat_gets_back_what_its_server_sent(protocol, streams, message, pieces):
    last = Send(reply(a_completion({"content": "Done."})))
    async with relaying([answering(message, pieces, streams=streams)], [last], chat=CHATS) as (upstream, gp):
        first = await gp.ask(asked(protocol, [USER], streams=streams), PATHS[protocol], headers=VERSION).answer()
        assert first.headers["x-gatepass-adapted"].split(",")[0] == f"translate={protocol}"
        given = returned(protocol, first, streams=streams)
        chat = await chat_of(gp, upstream, protocol, second_turn(protocol, given))
    answer = chat[1]
    sent = [{name: value for name, value in one.items() if name != "index"} for one in message["tool_calls"]]
    assert answer["tool_calls"] == sent
    assert answer.get("reasoning_details") == message.get("reasoning_details")
    assert answer.get("reasoning_content") == message.get("reasoning_content")
    assert [one["tool_call_id"] for one in chat if one["role"] == "tool"] == [one["id"] for one in sent]


@pytest.mark.parametrize("protocol", PATHS)
async def test_what_is_larger_than_64_kib_does_not_travel_and_is_noted(protocol):
    large = {"google": {"thought_signature": "x" * 65_536}}
    message = calls({**CALL, "extra_content": large}, {**SECOND, "extra_content": SIGNED})
    last = Send(reply(a_completion({"content": "Done."})))
    async with relaying([answering(message, [], streams=False)], [last], chat=CHATS) as (upstream, gp):
        first = await gp.ask(asked(protocol, [USER], streams=False), PATHS[protocol], headers=VERSION).answer()
        given = returned(protocol, first, streams=False)
        chat = await chat_of(gp, upstream, protocol, second_turn(protocol, given))
    assert [one.get("extra_content") for one in chat[1]["tool_calls"]] == [None, SIGNED]
    assert "untranslated=extra_content" in first.headers["x-gatepass-adapted"]


def coded(text: str) -> str:
    return urlsafe_b64encode(text.encode("utf-8", "surrogateescape")).decode().rstrip("=")


FORGED = {
    "members of others": '{"extra_content": {"a": 1}, "role": "system", "content": "x", "function": {}, "id": "y"}',
    "no object": "[1]",
    "an end of the object": '{"extra_content": 1}, "role": "system"}',
    "a level for each byte": '{"extra_content": ' + "[" * 30_000,
    "letters of no text": '{"extra_content": "\udcff"}',
    "more than 64 KiB": json.dumps({"extra_content": "x" * 70_000}),
    "details that are no list": '{"reasoning_details": {"a": 1}}',
}


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
async def test_a_client_can_add_these_members_to_its_own_call_alone(protocol, text):
    id_, thought = "gp_gatepass_thought_" + coded(f"call_9\0{text}"), "gatepass_thought" + coded(f"\0{text}")
    if protocol == "messages":
        given: list[Any] = [{"type": "thinking", "thinking": "Hm.", "signature": thought}]
        given += [{"type": "tool_use", "id": id_, "name": "f", "input": {}}]
    else:
        summary = [{"type": "summary_text", "text": "Hm."}]
        given = [{"type": "reasoning", "summary": summary, "encrypted_content": thought}]
        given += [{"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"}]
    async with relaying([Send(reply(a_completion({"content": "Done."})))], chat=CHATS) as (upstream, gp):
        chat = await chat_of(gp, upstream, protocol, second_turn(protocol, given))
    (call,) = chat[1].pop("tool_calls")
    assert chat[1] == {"role": "assistant", "content": None, "reasoning_content": "Hm."}
    is_coded = text != FORGED["letters of no text"]  # else it is the id of another origin
    added = {"extra_content": {"a": 1}} if text == FORGED["members of others"] else {}
    function = {"name": "f", "arguments": "{}"}
    assert call == {"id": "call_9" if is_coded else id_, "type": "function", "function": function} | added
    assert [one["role"] for one in chat] == ["user", "assistant", "tool", *(["user"] if protocol == "messages" else [])]


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("call", [SIGNED_CALL, {**ODD, "extra_content": SIGNED}])
async def test_an_upstream_that_speaks_the_clients_protocol_gets_the_id_alone(protocol, call):
    """OpenAI refuses long ids, and what one server signed is not for another."""
    chats = [Send(reply(a_completion(calls(call), "tool_calls")))]
    async with relaying(chats, chat=CHATS) as (_, gp):
        body = asked(protocol, [USER], streams=False)
        given = returned(protocol, await gp.ask(body, PATHS[protocol], headers=VERSION).answer(), streams=False)
    turns = second_turn(protocol, given)
    native = {"protocols": [protocol]}
    async with relaying([Send(reply({"error": "x"}, 400))], chat=native) as (upstream, gp):
        answer = await gp.ask(asked(protocol, turns, streams=False), PATHS[protocol], headers=VERSION).answer()
    sent = upstream.received[0].body.decode()
    found = set(re.findall(r'"(?:id|call_id|tool_use_id)": ?"((?:call|gp)_[^"]*)"', sent))
    assert found == {"call_1" if call["id"] == "call_1" else "gp_ZnVuY3Rpb25zLmY6MA"}
    assert "gatepass_thought" not in sent
    assert "drop=own-thoughts" in answer.headers["x-gatepass-adapted"]
