"""SDKs over the Responses and the Messages API: a tool task with a picture in each form of the answer, and errors.

They also read a stream that is silent for a while.

The upstream has the client's own API, or chat completions alone.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from gatepass.protocols.responses import synthesize_response
from gatepass.proxy.client_response import EVERY_S
from gatepass.sse.chunk import EnvelopeDefaults
from tests.e2e.clients import chats
from tests.e2e.clients.conversation import PICTURE, QUESTION
from tests.e2e.clients.program import CLIENT_S, Program
from tests.integration import messages_upstream as anthropic
from tests.integration.gateway import gateway
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Pause,
    Received,
    Scripted,
    Send,
    Wait,
    chunk,
    reply,
    stream,
)
from tests.unit.clock import DrivenClock
from tests.unit.sse import responses as openai
from tests.waiting import until

Document = dict[str, Any]
CALLS = {"call_1": {"a": 20, "b": 1}, "call_2": {"a": -7, "b": 40}}
RESULTS = {call_id: str(sum(arguments.values())) for call_id, arguments in CALLS.items()}
CALLING, DONE = 'I add "both".\n蓝', "It is 21 °C and 33 %."
STEPS = [
    {"text": CALLING, "calls": [[call_id, "add", found] for call_id, found in CALLS.items()], "tokens": [11, 7]},
    {"text": DONE, "calls": [], "tokens": [11, 7]},
]


class Messages:
    path = "/v1/messages"
    rate_limit = anthropic.error("rate_limit_error", "Slow down.", 429)
    overflow = anthropic.error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", 400)
    failure = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}}\n\n'

    @staticmethod
    def results(body: Document) -> Document:
        """Return the text of each tool result by the id of its call."""
        blocks = [one for message in body["messages"] for one in message["content"] if isinstance(one, dict)]
        found: dict[Any, Any] = {}
        for one in blocks:
            if one["type"] == "tool_result":
                content = one["content"]
                found[one.get("tool_use_id")] = content if isinstance(content, str) else content[0]["text"]
        return found

    @staticmethod
    def answer(*, ends: bool) -> Document:
        usage = {"input_tokens": 11, "output_tokens": 7}
        text = {"type": "text", "text": DONE if ends else CALLING}
        calls = [{"type": "tool_use", "id": key, "name": "add", "input": found} for key, found in CALLS.items()]
        if ends:
            return anthropic.message(text, usage=usage)
        return anthropic.message(anthropic.THINKING, text, *calls, usage=usage, stop_reason="tool_use")

    events = staticmethod(anthropic.events)


class Responses:
    path = "/v1/responses"
    rate_limit = reply(
        {"error": {"message": "Slow down.", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}, 429
    )
    overflow = reply(
        {"error": {"message": "prompt is too long", "type": "x", "code": "context_length_exceeded", "param": "input"}},
        400,
    )
    failure = b'event: error\ndata: {"type":"error","sequence_number":4,"code":"server_error","message":"Busy."}\n\n'

    @staticmethod
    def results(body: Document) -> Document:
        found: dict[Any, Any] = {}
        for one in body["input"]:
            if one.get("type") == "function_call_output":
                found[one.get("call_id")] = one["output"]
        return found

    @staticmethod
    def answer(*, ends: bool) -> Document:
        said = openai.message(openai.part(DONE if ends else CALLING, logprobs=[]))
        calls = [
            openai.call(id=f"fc_{key}", call_id=key, name="add", arguments=json.dumps(found))
            for key, found in CALLS.items()
        ]
        return openai.response(said) if ends else openai.response(openai.reasoning("Hm"), said, *calls)

    @staticmethod
    def events(document: Document) -> list[bytes]:
        return [*synthesize_response(document, EnvelopeDefaults("{}1".format, 7, "m"), "u")]


class Chats:
    path = "/v1/chat/completions"
    rate_limit, overflow = Responses.rate_limit, Responses.overflow
    failure = b'data: {"error": {"message": "Busy.", "type": "server_error", "code": "server_error"}}\n\n'

    @staticmethod
    def results(body: Document) -> Document:
        return {one["tool_call_id"]: one["content"] for one in body["messages"] if one["role"] == "tool"}

    @staticmethod
    def answer(*, ends: bool) -> Document:
        return chats.completion(DONE) if ends else chats.completion(CALLING, CALLS, reasoning_content="Hm")

    events = staticmethod(chats.chunks)


IDS = re.compile(rb'"(?:call_)?id": ?"call_[12]", ?')
"""The ids of the calls, which the model `unnamed` leaves out."""
Api = type[Messages] | type[Responses] | type[Chats]


def answer_of(api: Api, request: Received) -> Dialogue:
    """Answer as the model's name says. A task requires the picture, and the result of each of its calls."""
    body = request.json()
    begun = stream(*api.events(api.answer(ends=True))[:4], end=b"")
    match body["model"]:
        case "limited":
            return [Send(api.rate_limit)]
        case "overflow":
            return [Send(api.overflow)]
        case "busy":  # the pauses let the client receive the first events
            return [Send(begun), Pause(0.1), Send(chunk(api.failure) + LAST_CHUNK)]
        case "dies":
            return [Send(begun), Pause(0.1), Fin()]
    results = api.results(body)
    is_right = results in ({}, RESULTS)
    if api is Chats and body["model"] == "unnamed":  # gatepass named the calls
        is_right = [*results.values()] in ([], [*RESULTS.values()])
    if request.target.partition("?")[0] != api.path or PICTURE not in json.dumps(body) or not is_right:
        return [Send(reply({"error": {"message": f"No such task: {body}", "type": "invalid_request_error"}}, 400))]
    document = api.answer(ends=bool(results))
    events, whole = api.events(document), json.dumps(document).encode()
    if body["model"] == "unnamed":
        events, whole = [IDS.sub(b"", one) for one in events], IDS.sub(b"", whole)
    return [Send(stream(*events, end=LAST_CHUNK) if body.get("stream") else reply(whole))]


@dataclass(frozen=True, slots=True)
class Client(Program):
    api: Api = Responses

    async def ask(self, port: int, *runs: tuple[str, bool], stores: bool) -> list[Document]:
        """Return what the client makes of each of `runs`: a model, and whether it streams.

        Without `stores` the client sends the whole conversation each time, which is an option of the AI SDK.
        """
        task = {"kind": "task", "question": QUESTION, "picture": PICTURE, "stores": stores}
        given = [{**task, "model": model, "streams": streams} for model, streams in runs]
        outcomes: list[Document] = await asyncio.to_thread(self.run, f"http://127.0.0.1:{port}", given)
        return outcomes


def python(name: str, folder: str, api: Api) -> Client:
    return Client(f"{name} for Python", folder, "sdk_tasks.py", (name,), api=api)


def node(name: str, folder: str, api: Api) -> Client:
    return Client(f"{name} for Node", folder, "sdk_tasks.mjs", (name,), api=api)


CLIENTS = (
    python("openai", "python-client", Responses),
    node("openai", "node-client", Responses),
    python("openai-agents", "python-agents", Responses),
    python("langchain-openai", "python-langchain", Responses),
    node("@ai-sdk/openai", "node-ai-sdk", Responses),
    python("anthropic", "python-anthropic", Messages),
    node("anthropic", "node-anthropic", Messages),
    python("langchain-anthropic", "python-langchain", Messages),
    node("@ai-sdk/anthropic", "node-ai-sdk", Messages),
)
FORMS = ("auto", "emulate", "aggregate")
WORDS = {"limited": "Slow down.", "overflow": "prompt is too long", "busy": "Busy.", "dies": "closed the connection"}
STATUSES = {"limited": 429, "overflow": 400}
each_protocol = pytest.mark.parametrize("over_chats", [False, True], ids=["relayed", "over chats"])
each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.title)


def upstreams(url: str, *, over_chats: bool) -> Document:
    return {"chat": {"base_url": f"{url}/v1", **({"protocols": ["chat"]} if over_chats else {})}}


@each_protocol
@each_client
async def test_each_task_has_the_same_steps_in_each_form_and_each_error_is_raised(client: Client, over_chats: bool):
    tasks = [(form, streams) for form in FORMS for streams in (False, True)]
    faults = [("limited", False), ("overflow", False), *((fault, True) for fault in WORDS)]
    unnamed = [("unnamed", False), ("unnamed", True)]
    models = {"*": {"upstream": "chat"}, **{form: {"upstream": "chat", "stream": form} for form in FORMS}}
    api = Chats if over_chats else client.api
    async with (
        Scripted(answer=lambda request: answer_of(api, request)) as upstream,
        gateway(upstreams=upstreams(upstream.url, over_chats=over_chats), models=models) as gp,
    ):
        outcomes = await client.ask(gp.port, *tasks, *faults, *unnamed, stores=not over_chats)
    assert [(one["steps"], one["error"]) for one in outcomes[: len(tasks)]] == [(STEPS, None)] * len(tasks)
    for (fault, _), outcome in zip(faults, outcomes[len(tasks) : -len(unnamed)], strict=True):
        assert WORDS[fault] in outcome["error"]["message"]
        assert outcome["steps"] == []
        if fault in STATUSES:
            assert outcome["error"]["status"] == STATUSES[fault]
    for outcome in outcomes[-len(unnamed) :]:
        if over_chats:  # the repair of chats names the calls
            assert (outcome["error"], outcome["steps"][1:]) == (None, STEPS[1:])
        else:  # gatepass invents no ids of another protocol
            assert outcome["error"] is not None
            assert STEPS[1] not in outcome["steps"]


@each_protocol
@each_client
async def test_keep_alives_in_a_silent_stream_leave_the_answer_whole(client: Client, over_chats: bool):
    clock, go, api = DrivenClock(), asyncio.Event(), Chats if over_chats else client.api
    events = api.events(api.answer(ends=True))
    rest = b"".join(map(chunk, events[3:])) + LAST_CHUNK
    silent: Dialogue = [Send(stream(*events[:3], end=b"")), Wait(go), Send(rest)]
    async with (
        Scripted(silent) as upstream,
        gateway(upstreams=upstreams(upstream.url, over_chats=over_chats), clock=clock) as gp,
    ):
        running = asyncio.create_task(client.ask(gp.port, ("silent", True), stores=not over_chats))
        await until(lambda: upstream.received, CLIENT_S)
        await upstream.until(lambda: upstream.sent_bytes >= len(stream(*events[:3], end=b"")))
        for _ in range(3):
            await clock.advance(EVERY_S + 1)
        go.set()
        (outcome,) = await running
    assert (outcome["steps"], outcome["error"]) == (STEPS[1:], None)
