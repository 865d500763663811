"""What clients make of drawn streams behind gatepass, in five ways of an answer.

The openai package reads chats and responses. Of Messages the events are read here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from openai.types.responses import ResponseStreamEvent

from gatepass.sse.event import parse_event, split_events
from tests.integration.gateway import CHAT, JSON, Answer, Ask
from tests.integration.processes import started
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, chunk, head, reply
from tests.integration.tool_streams import Drawn, Meaning, as_text, draw, read_arguments
from tests.unit.sse.peer import chunks_of, helper_reads, response_helper_reads, strictly

AT_ONCE = 8
PARAMETERS = {"type": "object", "properties": {"q": {"type": "string"}}}


# --- reading ------------------------------------------------------------------------------------------------------


def _call(function: Any, identity: Any) -> tuple[str, Any, Any]:
    return function.get("name"), read_arguments(function.get("arguments") or ""), identity


def chat_meaning(document: Any) -> Meaning:
    """Return the meaning of a whole chat completion."""
    usage = document.get("usage")
    choices = sorted(document["choices"], key=lambda one: int(one["index"]))
    return {
        "choices": [_choice_meaning(one["message"], one["finish_reason"]) for one in choices],
        "usage": usage and (usage["prompt_tokens"], usage["completion_tokens"]),
    }


def _choice_meaning(message: Any, finish: str) -> tuple[str, list[Any], str]:
    calls = [_call(one["function"], one.get("id")) for one in message.get("tool_calls") or ()]
    if legacy := message.get("function_call"):
        calls.append(_call(legacy, None))
    return as_text(message.get("content") or ""), calls, finish


def streamed_chat(body: bytes) -> Meaning:
    return chat_meaning(helper_reads(body))


def whole_chat(body: bytes) -> Meaning:
    return chat_meaning(strictly(body).to_dict())


def streamed_response(body: bytes) -> Meaning:
    """Return the meaning of the response at the end, if the events before it mean the same."""
    text, calls = "", dict[int, Any]()
    last: Any = None
    for one in chunks_of(body, ResponseStreamEvent):
        match one.type:
            case "response.output_text.delta":
                text += one.delta
            case "response.output_item.added" if one.item.type == "function_call":
                calls[one.output_index] = one.item
            case "response.function_call_arguments.delta":
                calls[one.output_index].arguments += one.delta
            case "response.completed" | "response.incomplete":
                last = one.response
    assert last is not None, "no end of the response"
    if last.status == "completed":
        response_helper_reads(body)
    streamed = [_call(one.to_dict(), one.call_id) for _, one in sorted(calls.items())]
    whole = [_call(one.to_dict(), one.call_id) for one in last.output if one.type == "function_call"]
    assert (text, streamed) == (last.output_text, whole), f"the events have {text!r} and {streamed}, the end {last}"
    is_cut = last.status == "incomplete" and last.incomplete_details.reason == "max_output_tokens"
    finish = "length" if is_cut else "tool_calls" if whole else "stop"
    usage = last.usage and (last.usage.input_tokens, last.usage.output_tokens)
    return {"choices": [(as_text(text), whole, finish)], "usage": usage}


STOP_REASONS = {"tool_use": "tool_calls", "end_turn": "stop", "max_tokens": "length"}


def streamed_message(body: bytes) -> Meaning:
    """Return the meaning of the events of a message, as Anthropic's reference reads them."""
    blocks: list[Any] = []
    end: Any = {}
    events = [json.loads(data) for one in split_events(body) if (data := parse_event(one).data) is not None]
    for one in events:
        match one["type"]:
            case "content_block_start":
                assert one["index"] == len(blocks), "a block at a wrong place"
                blocks.append({**one["content_block"], "json": ""})
            case "content_block_delta":
                delta, block = one["delta"], blocks[one["index"]]
                block["text"] = block.get("text", "") + delta.get("text", "")
                block["json"] += delta.get("partial_json", "")
            case "message_delta":
                end = one
            case "error":
                raise AssertionError(one["error"])
    assert events[-1]["type"] == "message_stop", "no end of the message"
    usage = end["usage"]
    calls = [_call({**one, "arguments": one["json"]}, one["id"]) for one in blocks if one["type"] == "tool_use"]
    return {
        "choices": [
            (
                as_text("".join(one["text"] for one in blocks if one["type"] == "text")),
                calls,
                STOP_REASONS[end["delta"]["stop_reason"]],
            )
        ],
        "usage": (usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]),
    }


def differences(expected: Meaning, found: Meaning) -> list[str]:
    """Return what differs, in words. An id that the upstream did not give is any of its own."""
    ids = [call[2] for _, calls, _ in found["choices"] for call in calls if call[2] is not None]
    differing = ["an id for two calls"] if len(set(ids)) < len(ids) or "" in ids else []
    if expected["usage"] != found["usage"] and (expected["usage"] or any(found["usage"] or ())):
        differing.append(f"usage: {expected['usage']}, found {found['usage']}")
    if len(expected["choices"]) != len(found["choices"]):
        return [*differing, f"{len(found['choices'])} choices"]
    for (text, calls, finish), (other, others, end) in zip(expected["choices"], found["choices"], strict=True):
        given = [(*one[:2], one[2] if at < len(calls) and calls[at][2] else None) for at, one in enumerate(others)]
        pairs = (("text", text, other), ("calls", calls, given), ("finish", finish, end))
        differing += [f"{name}: {one!r}, found {two!r}" for name, one, two in pairs if one != two]
    return differing


# --- the five ways ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way of an answer through gatepass. `model` chooses how the upstream answers."""

    model: str
    path: str
    streamed: bool
    read: Callable[[bytes], Meaning]

    @property
    def is_translated(self) -> bool:
        return self.path != CHAT

    def body(self, drawn: Drawn) -> Any:
        functions = [{"name": name, "parameters": PARAMETERS} for name in drawn.tools]
        asked: dict[str, Any] = {"model": self.model, "stream": self.streamed}
        messages = [{"role": "user", "content": f"seed {drawn.seed}"}]
        if self.path == "/v1/messages":
            tools: list[Any] = [{"name": one, "input_schema": PARAMETERS} for one in drawn.tools]
            asked |= {"max_tokens": 4096, "messages": messages}
        elif self.path == "/v1/responses":
            tools = [{"type": "function", **one} for one in functions]
            asked |= {"input": messages}
        else:
            tools = [{"type": "function", "function": one} for one in functions]
            asked |= {"messages": messages, "n": len(drawn.choices)}
            asked |= {"stream_options": {"include_usage": True}} if self.streamed else {}
        return {**asked, **({"tools": tools} if tools else {})}


WAYS = {
    "relayed": Way("streams", CHAT, True, streamed_chat),
    "over messages": Way("streams", "/v1/messages", True, streamed_message),
    "over responses": Way("streams", "/v1/responses", True, streamed_response),
    "synthesized": Way("whole", CHAT, True, streamed_chat),
    "aggregated": Way("only-streams", CHAT, False, whole_chat),
}
MODELS = {
    "streams": {"upstream": "chat"},
    "whole": {"upstream": "chat", "stream": "emulate"},
    "only-streams": {"upstream": "chat", "stream": "aggregate"},
}


@dataclass
class Ways:
    """gatepass in front of an upstream that plays what is in `drawn`, by the number in the request."""

    drawn: dict[int, Drawn] = field(default_factory=dict)
    upstream_port: int = 0
    port: int = 0
    limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def answer(self, request: Received) -> Dialogue:
        asked = request.json()
        content = asked["messages"][-1]["content"]
        drawn = self.drawn[int(content.split()[-1])]
        if asked["model"] == "whole":
            return [Send(reply(drawn.completion))]
        begin = head(200, content_type="text/event-stream", transfer_encoding="chunked")
        return [Send(begin), *(Send(chunk(one)) for one in drawn.writes), Send(LAST_CHUNK)]

    async def ask(self, way: Way, drawn: Drawn, *, straight: bool = False) -> Answer:
        self.drawn[drawn.seed] = drawn
        port = self.upstream_port if straight else self.port
        async with self.limit:
            return await Ask(port, "POST", way.path, dict(JSON), json.dumps(way.body(drawn)).encode()).answer()


UNREADABLE = (openai.APIError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What readers raise, of which an error of the stream is the first."""


def difference(way: Way, expected: Meaning, answer: Answer) -> str:
    """Return how the meaning of an answer differs, in words; "" if it does not."""
    if answer.status != 200 or not answer.whole:
        return f"status {answer.status}: {answer.body.decode()}"
    try:
        return "\n".join(differences(expected, way.read(answer.body)))
    except UNREADABLE as error:
        return f"unreadable: {error!r}"


@asynccontextmanager
async def five_ways(folder: Path) -> AsyncIterator[Ways]:
    """Start gatepass as a process of its own, with an upstream that has chats alone."""
    ways = Ways()
    async with Scripted(answer=ways.answer) as upstream:
        settings = {"base_url": f"{upstream.url}/v1", "protocols": ["chat"]}
        configuration = {"upstreams": {"chat": settings}, "models": MODELS}
        async with started(folder, configuration) as running:
            ways.port, ways.upstream_port = await running.port, int(upstream.url.rpartition(":")[2])
            yield ways


# --- many streams -------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What one way made of the streams of some seeds."""

    way: str
    seeds: int = 0
    clean: int = 0
    differing: list[str] = field(default_factory=list)
    """Each stream whose meaning differs, and how."""
    changed: list[str] = field(default_factory=list)
    """Each clean stream whose bytes differ. A relay alone keeps bytes."""

    def __str__(self) -> str:
        return (
            f"{self.way}: seeds {self.seeds}: meaning differs {len(self.differing)};"
            f" bytes of clean streams differ {len(self.changed)} of {self.clean}"
        )

    def add(self, more: Report) -> None:
        self.seeds, self.clean = self.seeds + more.seeds, self.clean + more.clean
        self.differing += more.differing
        self.changed += more.changed

    @property
    def faults(self) -> list[str]:
        """Return the streams that differ, the shortest first."""
        return sorted((*self.differing, *self.changed), key=len)


async def report(ways: Ways, name: str, seeds: Iterable[int]) -> Report:
    """Compare the streams of `seeds` in one way."""
    way, made = WAYS[name], Report(name)

    async def compare(seed: int) -> None:
        drawn = draw(seed, is_translated=way.is_translated)
        answer = await ways.ask(way, drawn)
        made.seeds += 1
        if words := difference(way, drawn.meaning, answer):
            made.differing.append(f"{drawn}\n{words}")
        if name == "relayed" and drawn.is_clean:
            made.clean += 1
            if answer.body != b"".join(drawn.writes):
                made.changed.append(f"{drawn}\n{answer.body.decode()}")

    await asyncio.gather(*map(compare, seeds))
    return made
