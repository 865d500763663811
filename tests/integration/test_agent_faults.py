"""Faults of an upstream of the Responses or the Messages API: each is an error, or the answer is right nevertheless."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gatepass.protocols.responses import synthesize_response
from gatepass.sse.chunk import EnvelopeDefaults
from tests.integration.answers import COMPLETION, DONE, EVENTS
from tests.integration.gateway import JSON, Answer, relaying
from tests.integration.messages_upstream import ASKED, MESSAGE, events
from tests.integration.scripted import Dialogue, Fin, Pause, Rst, Send, head, reply, stream
from tests.integration.test_raw_operations import ASKED as ASKED_RESPONSE
from tests.integration.test_responses import RESPONSE

Document = dict[str, Any]


def data_of(one: bytes) -> Any:
    lines = [line for line in one.splitlines() if line.startswith(b"data:")]
    return json.loads(lines[0].removeprefix(b"data:")) if lines else None


def message_of(answer: Answer) -> Any:
    """The stop reason and the blocks of a message, as a client assembles them."""
    if "json" in answer.headers["content-type"]:
        return answer.json()["stop_reason"], answer.json()["content"]
    made = [json.loads(one) for one in answer.events]
    assert made[-1] == {"type": "message_stop"}
    blocks = [one["content_block"] for one in made if one["type"] == "content_block_start"]
    arguments = [""] * len(blocks)
    for one in made:
        if one["type"] == "content_block_delta":
            for name in one["delta"].keys() & {"text", "thinking", "signature"}:
                blocks[one["index"]][name] += one["delta"][name]
            arguments[one["index"]] += one["delta"].get("partial_json", "")
    (ended,) = [one["delta"]["stop_reason"] for one in made if one.get("delta", {}).get("stop_reason")]
    return ended, [
        {**block, "input": json.loads(text)} if text else block for block, text in zip(blocks, arguments, strict=True)
    ]


def response_of(answer: Answer) -> Any:
    """The output of a response, which its deltas must agree with."""
    if "json" in answer.headers["content-type"]:
        return answer.json()["output"]
    made = [json.loads(one) for one in answer.events]
    assert made[-1]["type"] == "response.completed"
    output = made[-1]["response"]["output"]
    for kind, text in (
        ("response.output_text.delta", output[1]["content"][0]["text"]),
        ("response.function_call_arguments.delta", output[2]["arguments"]),
    ):
        assert "".join(one["delta"] for one in made if one["type"] == kind) == text
    return output


@dataclass(frozen=True, slots=True)
class Api:
    path: str
    asked: Document
    whole: Document
    events: tuple[bytes, ...]
    read: Callable[[Answer], Any]
    right: Any
    """What `read` makes of the right answer."""
    last: bytes
    """A member that only an answer has that looks complete."""


MESSAGES = Api(
    "/v1/messages", ASKED, MESSAGE, tuple(events()), message_of,
    (MESSAGE["stop_reason"], MESSAGE["content"]), b'"message_stop"',
)  # fmt: skip
RESPONSES = Api(
    "/v1/responses", ASKED_RESPONSE, RESPONSE,
    tuple(synthesize_response(RESPONSE, EnvelopeDefaults("{}1".format, 7, "m"), "u")), response_of,
    RESPONSE["output"], b'"response.completed"',
)  # fmt: skip


PAGE = b"<html><title>Sign in</title></html>"


def begun(api: Api) -> bytes:
    return b"".join(api.events[:4])


def changed(api: Api, change: Callable[[bytes], bytes]) -> Dialogue:
    """The stream of `api` with each event changed."""
    return [Send(stream(*map(change, api.events)))]


def without(*names: str) -> Callable[[bytes], bytes]:
    """Leave out the members `names`, at every depth."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items() if name not in names}
        return [*map(plain, value)] if isinstance(value, list) else value

    def change(one: bytes) -> bytes:
        name, _, _ = one.partition(b"\ndata:")
        return b"%b\ndata: %b\n\n" % (name, json.dumps(plain(data_of(one))).encode())

    return change


WRONG: dict[str, Callable[[Api], Dialogue]] = {
    "an empty body": lambda _: [Send(reply(b""))],
    "no content": lambda _: [Send(head(204))],
    "a login page": lambda _: [Send(reply(PAGE, content_type="text/html"))],
    "a redirect": lambda _: [Send(head(302, location="https://sso.example/login", content_length="0"))],
    "an error with code 102": lambda _: [Send(reply({"code": 102, "message": "no"}))],
    "an error of OpenAI": lambda _: [Send(reply({"error": {"message": "no", "type": "server_error"}}))],
    "an error without a status": lambda _: [Send(reply({"type": "error", "message": "no"}))],
    "a chat completion": lambda _: [Send(reply(COMPLETION))],
    "a cut body": lambda api: [Send(reply(api.whole)[:-9]), Fin()],
    "JSON that is cut": lambda api: [Send(reply(json.dumps(api.whole).encode()[:-9]))],
    "a reset": lambda api: [Send(stream(begun(api), end=b"")), Pause(0.05), Rst()],
    "a stream that is cut": lambda api: [Send(stream(begun(api), end=b"")), Fin()],
    "a stream that is cut before its last event": lambda api: [Send(stream(*api.events[:-1], end=b"")), Fin()],
    "a stream without its last event": lambda api: [Send(stream(*api.events[:-1]))],
    "[DONE] instead of the last event": lambda api: [Send(stream(*api.events[:-1], DONE))],
    "a stream of comments": lambda _: [Send(stream(b": ping\n\n" * 3))],
    "an error event": lambda api: [Send(stream(begun(api), b'data: {"type":"error","message":"no"}\n\n'))],
    "an error object": lambda api: [Send(stream(begun(api), b'data: {"error":{"message":"no"}}\n\n', DONE))],
    "an error with code 102 in a stream": lambda api: [
        Send(stream(begun(api), b'data: {"code":102,"message":"no"}\n\n', *api.events[4:]))
    ],
    "an event that is not JSON": lambda api: [Send(stream(begun(api), b"event: x\ndata: {oops\n\n", *api.events[4:]))],
    "a stream of chunks": lambda _: [Send(stream(*EVENTS))],
}
RIGHT: dict[str, Callable[[Api], Dialogue]] = {
    "no space after the colon": lambda api: changed(api, lambda one: one.replace(b"\ndata: ", b"\ndata:", 1)),
    "comments": lambda api: changed(api, lambda one: b": ping\n\n" + one),
    "CRLF": lambda api: changed(api, lambda one: one.replace(b"\n", b"\r\n")),
    "no names of events": lambda api: changed(api, lambda one: one.partition(b"\n")[2]),
    "[DONE] after the last event": lambda api: [Send(stream(*api.events, DONE))],
    "a stream labelled JSON": lambda api: [Send(stream(*api.events, content_type="application/json"))],
    "a stream without a label": lambda api: [Send(stream(*api.events, content_type="application/octet-stream"))],
    "a stream": lambda api: [Send(stream(*api.events))],
    "a whole answer": lambda api: [Send(reply(api.whole))],
    "a whole answer labelled as a stream": lambda api: [Send(reply(api.whole, content_type="text/event-stream"))],
    "no usage": lambda api: changed(api, without("usage")),
    "no stop reason": lambda api: changed(api, without("stop_reason")),
    "no numbers": lambda api: changed(api, without("sequence_number")),
    "an unfinished last event": lambda api: [Send(stream(*api.events[:-1], api.events[-1].rstrip()))],
}
each_api = pytest.mark.parametrize("api", [MESSAGES, RESPONSES], ids=lambda api: api.path)
each_form = pytest.mark.parametrize("is_streamed", [True, False])


async def answered(
    api: Api, dialogues: dict[str, Callable[[Api], Dialogue]], *, is_streamed: bool
) -> dict[str, Answer]:
    fields = {**JSON, "anthropic-version": "2023-06-01"}
    played = [dialogue(api) for dialogue in dialogues.values()]
    async with relaying(*played) as (_, gp):
        asked = {**api.asked, "stream": is_streamed}
        return {name: await gp.ask(asked, api.path, headers=fields).answer() for name in dialogues}


@each_form
@each_api
async def test_no_fault_looks_like_an_answer(api, is_streamed):
    for name, answer in (await answered(api, WRONG, is_streamed=is_streamed)).items():
        assert answer.body.count(api.last) == 0, name
        if answer.status >= 400:
            assert answer.error["hop"] == "upstream:chat", name
            continue
        assert is_streamed, name
        found = [event["error"] for event in map(json.loads, answer.events) if event.get("type") == "error"]
        assert [one["hop"] for one in found] == ["upstream:chat"], name


@each_form
@each_api
async def test_a_harmless_fault_leaves_the_answer_right(api, is_streamed):
    for name, answer in (await answered(api, RIGHT, is_streamed=is_streamed)).items():
        assert (answer.status, answer.whole) == (200, True), name
        assert ("event-stream" in answer.headers["content-type"]) is is_streamed, name
        assert api.read(answer) == api.right, name
