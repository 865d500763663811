"""A stream of the Responses API that fails after it has begun: what openai-python and Codex read of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from gatepass.proxy.client_response import STREAM_HOLD_S
from tests.integration.gateway import Answer, Gateway, answer_from, gateway, relaying
from tests.integration.scripted import LAST_CHUNK, Dialogue, Fin, Hold, Rst, Scripted, Send, Wait, chunk, reply, stream
from tests.integration.test_raw_operations import ASKED
from tests.unit.clock import DrivenClock
from tests.unit.sse.responses import message, response

BEGUN = {**response(), "status": "in_progress", "usage": None}


def numbered(number: int, kind: str, **members: Any) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": number, **members})
    return f"event: {kind}\ndata: {data}\n\n".encode()


EVENTS = (
    numbered(0, "response.created", response=BEGUN),
    numbered(1, "response.in_progress", response=BEGUN),
    numbered(2, "response.output_item.added", output_index=0, item=message(status="in_progress")),
)
BEGINNING = Send(stream(*EVENTS, end=b""))


@dataclass(frozen=True, slots=True)
class End:
    """How the stream ends after EVENTS, and the code that the client receives."""

    code: str
    moves: Dialogue
    timeouts: Mapping[str, float] = field(default_factory=dict)
    drains: bool = False


def told(**members: Any) -> Dialogue:
    return [Send(chunk(numbered(3, "error", **members)) + LAST_CHUNK)]


ENDS = {
    "an error event": End("server_error", told(code="server_error", message="It crashed.", param=None)),
    "an error object": End("rate_limit_exceeded", told(error={"code": "rate_limit_exceeded", "message": "Slow."})),
    "a clean end": End("upstream_closed", [Send(LAST_CHUNK)]),
    "a close": End("upstream_closed", [Fin()]),
    "a reset": End("upstream_closed", [Rst()]),
    "an invalid event": End("upstream_invalid", [Send(chunk(b"data: {oops\n\n")), Hold()]),
    "a [DONE]": End("upstream_closed", [Send(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)]),
    "silence": End("upstream_timeout_idle", [Hold()], {"idle_s": 2}),
    "a long answer": End("upstream_timeout_total", [Hold()], {"total_s": 3}),
    "a stop of gatepass": End("draining", [Hold()], drains=True),
}
each_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)


Note = Callable[[], object]
"""Called when the client has received the first events."""
Read = Callable[[Gateway, Note], Awaitable[Any]]


async def failed(end: End, read: Read) -> Any:
    """Return what `read` makes of the stream, whose end follows when the client has the first events."""
    go, chat, total_s = asyncio.Event(), {"timeouts": dict(end.timeouts)}, end.timeouts.get("total_s")
    clock = None if total_s is None else DrivenClock()
    async with relaying([BEGINNING, Wait(go), *end.moves], chat=chat, clock=clock) as (_, gp):
        reading = asyncio.ensure_future(read(gp, go.set))
        await go.wait()
        gp.server.should_exit = end.drains
        if clock is not None and total_s is not None:
            await clock.advance(total_s)
        return await reading


async def plainly(gp: Gateway, note: Note) -> Answer:
    async with gp.ask(ASKED, "/v1/responses") as ask:
        await ask.head()
        await ask.until(EVENTS[-1])
        note()
        return await ask.answer()


@each_end
async def test_the_last_events_state_the_failure_and_continue_the_numbers(end):
    answer = await failed(end, plainly)
    *begun, error, last = map(json.loads, answer.events)
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body.startswith(b"".join(EVENTS))
    assert [event["sequence_number"] for event in (*begun, error, last)] == [0, 1, 2, 3, 4]
    assert (error["type"], error["code"], error["error"]["code"]) == ("error", end.code, end.code)
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": end.code, "message": error["message"]}
    assert {name: last["response"][name] for name in ("id", "model", "created_at")} == {
        name: BEGUN[name] for name in ("id", "model", "created_at")
    }
    Response.model_validate({**last["response"], "error": None}, strict=True)  # openai's list of codes is closed


async def by_helper(gp: Gateway, note: Note) -> openai.APIError:
    """Return the error that the SDK's iteration raises."""
    url = f"http://127.0.0.1:{gp.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        try:
            async with client.responses.stream(model="m", input="Hi") as helped:
                async for _ in helped:
                    note()
        except openai.APIError as error:
            return error
    raise AssertionError("no error")


@each_end
async def test_openai_python_raises_the_error(end):
    error = await failed(end, by_helper)
    assert (error.code, bool(error.message)) == (end.code, True)


async def test_openai_python_raises_the_error_of_a_stream_without_events():
    """A keep-alive has sent the head. The SDK's helper would raise RuntimeError at a first `response.failed`."""
    error = await without_events(partial(by_helper, note=print))
    assert error.code == "upstream_closed"


async def test_a_stream_without_events_has_an_id_and_a_model():
    answer = await without_events(lambda gp: gp.ask(ASKED, "/v1/responses").answer())
    first, last = map(json.loads, answer.events)
    assert [first["sequence_number"], last["sequence_number"]] == [0, 1]
    assert last["response"]["id"] == f"resp_{answer.headers['x-request-id']}"
    assert last["response"]["model"] == "m"


async def without_events(read: Callable[[Gateway], Awaitable[Any]]) -> Any:
    clock, go = DrivenClock(), asyncio.Event()
    async with relaying([Send(stream(end=b"")), Wait(go), Fin()], clock=clock) as (upstream, gp):
        reading = asyncio.ensure_future(read(gp))
        await upstream.requested()
        await clock.advance(STREAM_HOLD_S + 2)
        go.set()
        return await reading


@pytest.mark.parametrize("kind", ["response.failed", "response.incomplete"])
async def test_the_upstreams_own_end_passes_unchanged_and_ends_the_stream(kind):
    error = {"code": "context_length_exceeded", "message": "Too long."} if kind == "response.failed" else None
    last = numbered(3, kind, response={**BEGUN, "status": kind.removeprefix("response."), "error": error})
    answer = await answer_from([Send(stream(*EVENTS, last, end=b"")), Hold()], ASKED, "/v1/responses")
    assert (answer.status, answer.whole, answer.body) == (200, True, b"".join((*EVENTS, last)))


@pytest.mark.parametrize("begun", [EVENTS, ()], ids=len)
async def test_a_response_that_the_upstream_failed_is_an_error_in_the_log_and_the_metrics(begun, caplog):
    caplog.set_level("INFO", "gatepass.access")
    error = {"code": "context_length_exceeded", "message": "Too long."}
    last = numbered(len(begun), "response.failed", response={**BEGUN, "status": "failed", "error": error})
    async with relaying([Send(stream(*begun, last, end=b"")), Hold()]) as (_, gp):
        answer = await gp.ask(ASKED, "/v1/responses").answer()
        metrics = (await gp.ask(None, "/metrics", method="GET").answer()).body.decode()
    assert (answer.status, answer.whole, answer.body) == (200, True, b"".join((*begun, last)))
    (line,) = [one.fields for one in caplog.records if one.getMessage() == "request"]
    assert (line["outcome"], line["code"], line["hop"]) == ("error", error["code"], "upstream:chat")
    requests = [one for one in metrics.splitlines() if 'operation="responses"' in one and 'outcome="' in one]
    assert {'outcome="error"' in one for one in requests if not one.endswith(" 0.0")} == {True}
    assert 'code="upstream_error"' in metrics


@pytest.mark.parametrize("text", ["minted-0123456789", "\\u006dinted-0123456789"])
@pytest.mark.parametrize("members", ['"message": "no TEXT"', '"message": "no TEXT", "message": "no"'])
async def test_a_secret_in_the_upstreams_failure_reaches_no_client(text, members):
    failed = b'"type": "response.failed", "sequence_number": 3, "response": {"error": {%b}}'
    written = failed % members.replace("TEXT", text).encode()
    delta = numbered(3, "response.output_text.delta", delta="Hi")
    sent = stream(*EVENTS, delta, b"event: response.failed\ndata: {%b}\n\n" % written, end=b"")
    async with Scripted([Send(sent), Hold()]) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "credential": "corp"}}
        credentials = {"corp": {"type": "static", "token": "minted-0123456789"}}
        async with gateway(upstreams=upstreams, credentials=credentials) as gp:
            answer = await gp.ask(ASKED, "/v1/responses").answer()
    *_, error, last = map(json.loads, answer.events)
    assert (error["type"], last["type"], "minted-0123456789" in json.dumps([error, last])) == (
        "error",
        "response.failed",
        False,
    )


# --- a response that failed, in the words of one that did not ---

LOST = {"code": "server_error", "message": "GPU lost"}
NO_REASON = "The response failed, and the upstream states no reason."
LIES = {
    "completed, but failed": ("response.completed", {"status": "failed", "error": LOST}, LOST["message"]),
    "completed, but with an error": ("response.completed", {"status": "completed", "error": LOST}, LOST["message"]),
    "incomplete, but failed": ("response.incomplete", {"status": "failed", "error": LOST}, LOST["message"]),
    "completed, failed without a reason": ("response.completed", {"status": "failed", "error": None}, NO_REASON),
}


@pytest.mark.parametrize(("kind", "members", "words"), LIES.values(), ids=LIES)
async def test_a_last_event_that_hides_a_failure_is_an_error(kind, members, words, caplog):
    caplog.set_level("INFO", "gatepass.access")
    late, first = (numbered(number, kind, response={**BEGUN, **members}) for number in (4, 0))
    before = (*EVENTS, numbered(3, "response.output_text.delta", delta="Hi"))
    dialogues: list[Dialogue] = [
        [Send(stream(*sent, end=b"")), Fin()] for sent in ((*before, late), (first,), (*before, late))
    ]
    async with relaying(*dialogues) as (_, gp):
        begun, alone, whole = [
            await gp.ask(body, "/v1/responses").answer() for body in (ASKED, ASKED, {**ASKED, "stream": False})
        ]
    code = LOST["code"] if words == LOST["message"] else "upstream_error"
    assert (begun.status, begun.body.startswith(b"".join(before)), kind in begun.body.decode()) == (200, True, False)
    *_, error, last = map(json.loads, begun.events)
    assert (error["type"], error["code"], last["type"], last["response"]["error"]["message"]) == (
        *("error", code, "response.failed", words),
    )
    for answer in (alone, whole):  # nothing was relayed before it
        assert (answer.status, answer.error["message"], answer.error["code"]) == (502, words, code)
    lines = [one.fields for one in caplog.records if one.getMessage() == "request"]
    assert [(line["outcome"], line["code"], line["hop"]) for line in lines] == [("error", code, "upstream:chat")] * 3


@pytest.mark.parametrize("asked", [ASKED, {**ASKED, "stream": False}], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"error": LOST}, LOST["message"]),
        ({"error": None}, NO_REASON),
        ({"error": None, "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"x": "y" * 300_000}, NO_REASON),
    ],
    ids=["an error", "none", "details", "none in a large reply"],
)
async def test_a_whole_response_that_failed_is_an_error(members, words, asked):
    answer = await answer_from([Send(reply(response(status="failed", **members)))], asked, "/v1/responses")
    assert (answer.status, words in answer.error["message"], answer.error["hop"]) == (502, True, "upstream:chat")


async def test_a_compaction_that_failed_is_an_error():
    asked, sent = {"model": "m", "input": "Hi"}, {"object": "response.compaction", "status": "failed", "output": []}
    answer = await answer_from([Send(reply(sent))], asked, "/v1/responses/compact")
    assert (answer.status, answer.error["message"]) == (502, NO_REASON)


@pytest.mark.parametrize(
    ("kind", "status", "stated"),
    [
        ("response.completed", "incomplete", "incomplete"),
        ("response.completed", "cancelled", "cancelled"),
        ("response.incomplete", "completed", "incomplete"),
    ],
)
async def test_an_answer_that_is_not_whole_is_so_in_its_event_and_in_its_response(kind, status, stated):
    cut = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": '{"a":'}
    details = {"reason": "content_filter"}
    for output in ([message()], [cut]):
        sent = {**BEGUN, "status": status, "output": output, "incomplete_details": details}
        last = numbered(3, kind, response=sent)
        async with relaying([Send(stream(*EVENTS, last, end=b"")), Fin()]) as (_, gp):
            streamed = await gp.ask(ASKED, "/v1/responses").answer()
            whole = await gp.ask({**ASKED, "stream": False}, "/v1/responses").answer()
        event = json.loads(streamed.events[-1])
        assert (streamed.status, streamed.headers["x-gatepass-adapted"]) == (200, "repair=incomplete")
        assert (event["type"], streamed.body.count(b"event: response.incomplete\n")) == ("response.incomplete", 1)
        is_cut = output[0] is cut
        assert (event["response"]["status"], whole.json()["status"]) == ("incomplete" if is_cut else stated,) * 2
        assert (event["response"]["incomplete_details"], whole.json()["incomplete_details"]) == (details, details)


async def test_a_stored_response_that_failed_is_relayed_as_it_is():
    sent = response(status="failed", error=LOST)
    answer = await answer_from([Send(reply(sent))], None, "/v1/responses/resp_7", method="GET")
    assert (answer.status, answer.json()) == (200, sent)
