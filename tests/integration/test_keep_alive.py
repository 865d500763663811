"""A stream that its upstream sends late, or with pauses: signs of life between whole events, and true errors still."""

import asyncio
from typing import Any

import pytest

from gatepass.protocols.client_protocol import COMMENT, COMMENT_AFTER_ID
from gatepass.proxy.client_response import EVERY_S, STREAM_HOLD_S
from tests.integration.answers import COMPLETION
from tests.integration.gateway import STREAMED, relaying
from tests.integration.scripted import LAST_CHUNK, Dialogue, Send, Wait, chunk, head, reply, stream
from tests.integration.test_raw_operations import EVENTS
from tests.unit.clock import DrivenClock
from tests.unit.sse.dify import Shown
from tests.unit.sse.peer import chunks_of
from tests.unit.sse.streams import DONE, text
from tests.unit.sse.streams import chunk as piece
from tests.unit.sse.streams import data as data_event
from tests.waiting import at_rest

RESPOND = {"model": "m", "input": "Hi", "stream": True}
KEEPALIVE = b'event: keepalive\ndata: {"type":"keepalive"}\n\n'
STOP = data_event(piece({}, finish="stop"))
FIRST, SECOND = text("he"), text("llo")
WHOLE = FIRST + SECOND + STOP + DONE
BEGUN = head(200, content_type="text/event-stream", transfer_encoding="chunked")
BUSY = {"error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "busy"}}


def framed(*events: bytes) -> bytes:
    return b"".join(map(chunk, events))


def content(body: bytes) -> str:
    return "".join(one.choices[0].delta.content or "" for one in chunks_of(body))


def blocks(body: bytes) -> list[str]:
    """Read a stream as a short client does: split at blank lines, and keep the lines that begin with `data:`."""
    return [block for block in body.decode().split("\n\n") if block.startswith("data:")]


async def waited(dialogue: Dialogue, go: asyncio.Event, wait_s: float, asked: Any = STREAMED, path: str = "", **more):
    """The answer to `asked` where the upstream goes on after `wait_s`."""
    clock = DrivenClock()
    async with (
        relaying(dialogue, clock=clock, **more) as (upstream, gp),
        gp.ask(asked, path or "/v1/chat/completions") as ask,
    ):
        await upstream.requested()
        await clock.advance(wait_s)
        go.set()
        answer = await ask.answer()
        await clock.advance(10 * EVERY_S)
    return answer


async def paused(
    *pieces: bytes, asked: Any = STREAMED, path: str = "/v1/chat/completions", method: str = "POST", **more
):
    """The answer to `asked` where the upstream pauses for three signs behind the first of `pieces`."""
    go, clock = asyncio.Event(), DrivenClock()
    dialogue: Dialogue = [Send(BEGUN + chunk(pieces[0])), Wait(go), Send(framed(*pieces[1:]) + LAST_CHUNK)]
    async with relaying(dialogue, clock=clock, **more) as (_, gp), gp.ask(asked, path, method=method) as ask:
        await ask.head()
        await ask.piece()
        await clock.advance(3 * EVERY_S)
        go.set()
        return await ask.answer()


async def test_gatepass_sends_a_late_head_and_the_stream_follows_unchanged():
    go = asyncio.Event()
    answer = await waited([Wait(go), Send(stream(WHOLE))], go, STREAM_HOLD_S + 2 * EVERY_S)
    assert (answer.status, answer.whole) == (200, True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.body == COMMENT * 3 + WHOLE
    assert content(answer.body) == "hello"


async def test_error_after_the_hold_time_is_the_streams_last_event():
    go = asyncio.Event()
    answer = await waited([Wait(go), Send(reply(BUSY, 429))], go, STREAM_HOLD_S)
    assert (answer.status, answer.whole, answer.error["code"]) == (200, True, "busy")
    assert answer.body.startswith(COMMENT + b"data: ")
    assert b"[DONE]" not in answer.body


async def test_a_synthesized_stream_after_a_rejection_is_kept_alive():
    go, clock = asyncio.Event(), DrivenClock()
    words = "This model does not support streaming."
    refusal = reply({"error": {"message": words, "param": "stream", "code": "unsupported_value"}}, 400)
    dialogues: tuple[Dialogue, Dialogue] = ([Send(refusal)], [Wait(go), Send(reply(COMPLETION))])
    async with relaying(*dialogues, clock=clock) as (upstream, gp), gp.ask(STREAMED) as ask:
        await upstream.requested(2)
        await clock.advance(STREAM_HOLD_S)
        go.set()
        answer = await ask.answer()
    assert [request.json()["stream"] for request in upstream.received] == [True, False]
    assert answer.body.startswith(COMMENT + b"data: ")
    assert content(answer.body) == "hi"


async def test_keep_alive_is_sent_before_an_incomplete_event():
    answer = await paused(FIRST + SECOND[:30], SECOND[30:], STOP, DONE)
    assert answer.body == FIRST + COMMENT * 3 + SECOND + STOP + DONE
    assert blocks(answer.body) == [block.decode().strip() for block in (FIRST, SECOND, STOP, DONE)]


async def test_comment_after_an_id_has_no_blank_line():
    first = b"id: 1\n" + FIRST
    answer = await paused(first, SECOND, STOP, DONE)
    assert answer.body == first + COMMENT_AFTER_ID * 3 + SECOND + STOP + DONE
    assert content(answer.body) == "hello"


def numbered(number: int, kind: str, rest: bytes) -> bytes:
    return f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":{number},'.encode() + rest + b"}\n\n"


async def test_the_numbers_after_an_inserted_event_rise_and_nothing_else_changes():
    created = numbered(7, "response.created", b'"response":{"id":"r"}')
    delta, completed = b'"delta":"sequence_number: 9"', b'"response":{"id":"r","metadata":{"sequence_number":9}}'
    answer = await paused(
        created,
        numbered(8, "response.output_text.delta", delta),
        numbered(9, "response.completed", completed),
        asked=RESPOND,
        path="/v1/responses",
    )
    assert answer.body == b"".join(
        (
            created,
            *(b'event: keepalive\ndata: {"type":"keepalive","sequence_number":%d}\n\n' % n for n in (8, 9, 10)),
            numbered(11, "response.output_text.delta", delta),
            numbered(12, "response.completed", completed),
        )
    )


async def test_nothing_with_data_is_sent_before_the_response_is_created():
    go = asyncio.Event()
    dialogue: Dialogue = [Send(BEGUN), Wait(go), Send(framed(*EVENTS) + LAST_CHUNK)]
    answer = await waited(dialogue, go, STREAM_HOLD_S, RESPOND, "/v1/responses")
    assert answer.body == COMMENT + b"".join(EVENTS)


@pytest.mark.parametrize(
    ("more", "sign"),
    [
        ({"asked": RESPOND, "path": "/v1/responses"}, KEEPALIVE),
        ({"asked": {**RESPOND, "background": True}, "path": "/v1/responses"}, COMMENT),
        ({"asked": None, "path": "/v1/responses/r?stream=true", "method": "GET"}, COMMENT),
    ],
)
async def test_a_stream_of_responses_is_kept_alive_by_an_event_that_changes_no_number(more, sign):
    number = b"" if sign == KEEPALIVE else b'"sequence_number":1,'
    events = [one.replace(b'"type"', number + b'"type"') for one in EVENTS]
    answer = await paused(*events, **more)
    assert answer.body == events[0] + sign * 3 + events[1] + events[2]


def thought(words: str, name: str = "reasoning_content") -> bytes:
    return data_event(piece({name: words}))


def arguments(number: int, words: str, **more: str) -> bytes:
    function = {"arguments": words} | ({"name": "look"} if more else {})
    return data_event(piece({"tool_calls": [{"index": number, **more, "function": function}]}))


CALLED = [
    arguments(0, "", id="call_a", type="function"),
    arguments(1, "", id="call_b", type="function"),
    arguments(0, '{"city":'),
    arguments(1, '{"zip":'),
    arguments(0, '"Bern"}'),
    arguments(1, "3000}"),
    data_event(piece({}, finish="tool_calls")),
]
NUMBERED = [b"id: %d\n" % number + one for number, one in enumerate((thought("hm"), thought(" so"), FIRST, STOP))]


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([thought("hm"), thought(" so"), FIRST, STOP], "<think>\nhm so\n</think>he"),
        ([thought("hm", "reasoning"), thought(" so", "reasoning"), FIRST, STOP], "<think>\nhm so\n</think>he"),
        (NUMBERED, "<think>\nhm so\n</think>he"),
        ([thought("hm"), *CALLED], "<think>\nhm\n</think>"),
        ([FIRST, SECOND, STOP], "hello"),
    ],
    ids=["thoughts", "reasoning", "numbered", "calls", "text"],
)
async def test_a_pause_changes_nothing_of_what_dify_shows(events: list[bytes], shown: str):
    answer = await paused(*events, DONE, path=AT_DIFY)
    read = Shown(answer.body)
    assert answer.body.count(COMMENT) == 3
    assert read.text == shown
    if CALLED[0] in events:
        assert read.calls == {"call_a": '{"city":"Bern"}', "call_b": '{"zip":3000}'}


async def test_dify_adds_each_piece_of_two_calls_to_its_own_call_only_with_the_profile():
    async with relaying(answer=lambda _: [Send(stream(b"".join(CALLED) + DONE))]) as (_, gp):
        changed, plain = await gp.ask(STREAMED, AT_DIFY).answer(), await gp.ask(STREAMED).answer()
    assert Shown(changed.body).calls == {"call_a": '{"city":"Bern"}', "call_b": '{"zip":3000}'}
    assert (plain.body, Shown(plain.body).calls["call_a"]) == (b"".join(CALLED) + DONE, "")
    assert "repair=tool-id" in changed.headers.get("x-gatepass-adapted", "")


async def test_continue_gets_comments_and_only_those_of_gatepass():
    answer = await paused(FIRST, b": ping\n\n" + SECOND, STOP, DONE, path="/for/continue/v1/chat/completions")
    assert answer.body == FIRST + COMMENT * 3 + SECOND + STOP + DONE


AT_DIFY = "/for/dify/v1/chat/completions"
BUSY_LINE = b": OPENROUTER PROCESSING\n"


def commented(*events: bytes) -> bytes:
    """Comments as upstreams send them: in separate blocks, and directly before an event."""
    return BUSY_LINE + b"\n" + b"".join(BUSY_LINE + b"\n" + BUSY_LINE * 2 + one for one in events)


@pytest.mark.parametrize(("profile", "adapted"), [("dify", "sse=plain"), ("continue", "sse=comments")])
async def test_upstreams_comments_are_dropped_for_clients_without_comments(profile, adapted):
    path, whole = f"/for/{profile}/v1/chat/completions", commented(FIRST, SECOND, STOP, DONE)
    async with relaying(answer=lambda _: [Send(stream(whole))]) as (_, gp):
        answer, plain = await gp.ask(STREAMED, path).answer(), await gp.ask(STREAMED).answer()
    assert (answer.body, answer.headers["x-gatepass-adapted"]) == (WHOLE, adapted)
    assert (plain.body, "x-gatepass-adapted" in plain.headers) == (whole, False)


@pytest.mark.parametrize(
    ("path", "size_bytes", "status"),
    [("/v1/chat/completions", 4096, 429), ("/v1/chat/completions", 4097, 200), (AT_DIFY, 5000, 429)],
)
async def test_an_upstreams_comments_that_a_client_gets_commit_a_status_above_4_kib(path, size_bytes, status):
    go = asyncio.Event()
    dialogue: Dialogue = [
        Send(BEGUN + chunk(b":" + b"x" * (size_bytes - 3) + b"\n\n")),
        Wait(go),
        Send(framed(data_event({**BUSY, "status": 429})) + LAST_CHUNK),
    ]
    answer = await waited(dialogue, go, STREAM_HOLD_S - 1, path=path)
    assert (answer.status, answer.error["code"]) == (status, "busy")


COMMENTS_HELD_S = 5.0
BLOCK = BUSY_LINE + b"\n"


@pytest.mark.parametrize(("after_s", "is_held"), [(COMMENTS_HELD_S - 2**-10, True), (COMMENTS_HELD_S, False)])
async def test_an_upstreams_comments_are_held_for_five_seconds_and_no_longer(after_s, is_held):
    """Held: an error after them still has its own status. Later they go out, and the status with them."""
    more, go, clock = asyncio.Event(), asyncio.Event(), DrivenClock()
    failure = framed(data_event({**BUSY, "status": 429})) + LAST_CHUNK
    dialogue: Dialogue = [Send(BEGUN + chunk(BLOCK)), Wait(more), Send(chunk(BLOCK)), Wait(go), Send(failure)]
    async with relaying(dialogue, clock=clock) as (upstream, gp), gp.ask(STREAMED) as ask:
        await upstream.requested()
        await at_rest(lambda: upstream.sent_bytes)
        await clock.advance(after_s)
        more.set()
        if is_held:
            await at_rest(lambda: upstream.sent_bytes)
        else:
            assert await ask.head() == 200
            await ask.until(2 * BLOCK)
        go.set()
        answer = await ask.answer()
    assert (answer.status, answer.error["code"]) == (429 if is_held else 200, "busy")
