"""An upstream's own error or reply format arrives as an OpenAI error or a plain answer, within bounds."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from tests.integration.answers import COMPLETION, DONE, EVENTS, delta
from tests.integration.gateway import CHAT, HELLO, STREAMED, relaying
from tests.integration.scripted import (
    Dialogue,
    Hold,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    event,
    head,
    reply,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


# --- HTTP as some servers write it --------------------------------------------------------------------------------

WRITTEN = json.dumps(COMPLETION).encode()
AMBIGUOUS = {
    "two lengths": reply(WRITTEN).replace(b"content-length", b"content-length: 5\r\ncontent-length", 1),
    "a negative length": reply(WRITTEN, content_length="-5"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_reply_with_an_ambiguous_length_is_refused(case):
    async with relaying([Send(AMBIGUOUS[case])]) as (upstream, gp):
        answers = [await gp.ask().answer() for _ in range(2)]
        assert [(answer.status, answer.error["code"]) for answer in answers] == [(502, "upstream_invalid")] * 2
        assert upstream.connections == 2, "such a connection is not used again"


async def test_chunks_overrule_a_length_and_their_connection_is_not_used_again():
    both = head(200, content_type="application/json", content_length="5", transfer_encoding="chunked")
    async with relaying([Send(both + chunk(WRITTEN) + b"0\r\n\r\n")]) as (upstream, gp):
        answers = [await gp.ask().answer() for _ in range(2)]
        assert [(answer.status, answer.json()) for answer in answers] == [(200, COMPLETION)] * 2
        assert upstream.connections == 2


async def test_a_byte_order_mark_before_a_reply_is_removed_and_shown():
    async with relaying([Send(reply(b"\xef\xbb\xbf" + WRITTEN))]) as (_, gp):
        whole, streamed = [await gp.ask(body).answer() for body in (HELLO, STREAMED)]
    assert (whole.status, whole.json(), whole.headers["x-gatepass-adapted"]) == (200, COMPLETION, "sse=bom")
    assert whole.body.startswith(b"{")
    assert (streamed.status, streamed.body.endswith(b"data: [DONE]\n\n")) == (200, True)


# --- redirects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 308])
async def test_no_redirect_is_followed(status):
    async with Scripted([Send(reply(COMPLETION))]) as decoy:
        moved = reply(b"", status, location=f"{decoy.url}/login?session=abc")
        async with relaying([Send(moved)]) as (upstream, gp):
            answers = [await gp.ask(body).answer() for body in (HELLO, STREAMED)]
        assert (decoy.connections, len(upstream.received)) == (0, 2)
    for answer in answers:
        assert (answer.status, answer.error["code"]) == (502, "upstream_redirect")
        assert answer.headers["x-should-retry"] == "false"
        assert "location" not in answer.headers
        assert "session=abc" not in answer.error["message"]


# --- codings that gatepass did not request ------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_events_come_one_by_one(coding):
    """The upstream flushes each event, and waits with the next until the client has it."""
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    steps = [asyncio.Event() for _ in EVENTS]
    moves: list[Any] = [*begin_stream(content_encoding=coding)]
    for one, step in zip(EVENTS, steps, strict=True):
        moves += [Wait(step), Send(chunk(packer.compress(one) + packer.flush(zlib.Z_SYNC_FLUSH)))]
    moves += [Send(chunk(packer.flush()) + b"0\r\n\r\n")]
    async with relaying(moves) as (upstream, gp), gp.ask(STREAMED) as ask:
        await upstream.requested()
        for count, step in enumerate(steps, 1):
            step.set()
            if count == 1:
                await ask.head()
            await ask.until(b"".join(EVENTS[:count]))
        assert await ask.piece() == b""
    assert ask.body == b"".join(EVENTS)
    assert "content-encoding" not in ask.received


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, HELLO), (CHAT, STREAMED), ("/v1/audio/speech", {"model": "m", "input": "a", "voice": "b"})],
    ids=["whole", "stream", "raw"],
)
async def test_a_reply_of_empty_members_is_refused_after_a_thousand(path: str, body: Any):
    kind = "text/event-stream" if body is STREAMED else "application/json" if path == CHAT else "audio/mpeg"
    packed = reply(gzip.compress(b"") * 156_000, content_encoding="gzip", content_type=kind)
    async with relaying([Send(packed)]) as (_, gp):
        answer = await gp.ask(body, path).answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    assert "thousands of nearly empty members" in answer.error["message"]


# --- sizes --------------------------------------------------------------------------------------------------------

REPLY_BYTES, EVENT_BYTES = 100_000, 20_000
LIMITS = {"reply_bytes": REPLY_BYTES, "event_bytes": EVENT_BYTES}


def completion_of(size_bytes: int) -> bytes:
    bare = json.dumps({**COMPLETION, "x": ""}).encode()
    return json.dumps({**COMPLETION, "x": "a" * (size_bytes - len(bare))}).encode()


def chunked(body: bytes, **more: str) -> bytes:
    return head(200, content_type="application/json", transfer_encoding="chunked", **more) + chunk(body) + b"0\r\n\r\n"


LARGE: dict[str, list[Any]] = {
    "with a length": [Send(reply(completion_of(REPLY_BYTES + 1)))],
    "in chunks": [Send(chunked(completion_of(REPLY_BYTES + 1)))],
    "without an end": [Send(reply(completion_of(8_000_000))[:-9]), Hold()],
}


@pytest.mark.parametrize("case", LARGE)
async def test_a_reply_above_its_limit_is_not_held(case):
    async with relaying(LARGE[case], limits=LIMITS) as (upstream, gp):
        answer = await gp.ask(STREAMED if "chunks" in case else HELLO).answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
        assert "limits.reply_bytes" in answer.error["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert f"larger than {REPLY_BYTES} bytes" in answer.error["message"]
        if case == "without an end":
            await upstream.left()


async def test_only_the_beginning_of_a_large_error_is_read():
    error_reply = b"<html><title>Down</title>" + b"x" * 5_000_000
    async with relaying([Send(reply(error_reply, 503)), Hold()]) as (upstream, gp):
        answer = await gp.ask().answer()
        assert (answer.status, answer.error["code"], len(answer.body) < 1_000) == (503, "upstream_html", True)
        await upstream.left()


async def test_an_event_above_its_limit_ends_the_stream():
    pieces = [delta(content="one"), event({"x": "a" * EVENT_BYTES})[:-2] * 20, DONE]
    async with relaying([Send(stream(*pieces)), Hold()], limits=LIMITS) as (upstream, gp):
        answer = await gp.ask(STREAMED).answer()
        assert (answer.status, answer.error["code"]) == (200, "upstream_invalid")
        assert (answer.body.startswith(pieces[0]), len(answer.events), answer.whole) == (True, 2, True)
        await upstream.left()


# --- the shape and the end of another API --------------------------------------------------------------------------

PROMPT: dict[str, Any] = {"model": "m", "prompt": "Hi"}
TEXTS, CHATS = "/v1/completions", "/v1/chat/completions"
MESSAGE = {**COMPLETION, "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}
SHAPES = {
    "a message": reply(COMPLETION),
    "a message without an end": reply(MESSAGE),
    "a delta": reply({**MESSAGE, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}),
    "a wrapped message": reply({"code": 0, "data": COMPLETION}),
    "deltas": stream(delta(role="assistant"), delta(content="h"), delta(content="i"), *EVENTS[1:]),
    "deltas without an end": stream(delta(content="h"), delta(content="i"), DONE),
    "a message as an event": stream(event(COMPLETION), DONE),
}


@pytest.mark.parametrize("asked", [PROMPT, {**PROMPT, "stream": True}], ids=["whole", "stream"])
@pytest.mark.parametrize("sent", SHAPES.values(), ids=SHAPES)
async def test_a_completion_in_the_shape_of_a_chat_is_a_text(sent, asked):
    async with relaying([Send(sent)]) as (_, gp):
        answer = await gp.ask(asked, TEXTS).answer()
    documents = [json.loads(one) for one in answer.events[:-1]] if "stream" in asked else [answer.json()]
    choices = [choice for one in documents for choice in one["choices"]]
    assert (answer.status, "".join(one["text"] for one in choices)) == (200, "hi")
    assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["stop"]
    assert not any(name in one for one in choices for name in ("message", "delta"))
    assert {one["object"] for one in documents if "object" in one} <= {"text_completion"}
    assert "stream" not in asked or answer.events[-1] == "[DONE]"
    if "stream" not in asked or b"event-stream" not in sent:  # else a change may follow the head
        assert "repair=message" in answer.headers["x-gatepass-adapted"]


@pytest.mark.parametrize("path", [TEXTS, CHATS])
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("members", [{}, {"text": None}, {"token": "hi"}], ids=str)
async def test_a_choice_with_neither_a_text_nor_a_message_is_no_answer(members, is_stream, path):
    last = {"id": "x", "choices": [{"index": 0, "finish_reason": "stop", **members}]}
    begun = {"id": "x", "choices": [{"index": 0, "finish_reason": None, **members}]}
    asked = PROMPT if path == TEXTS else HELLO
    async with relaying(
        [Send(reply(last))], [Send(stream(event(last), DONE))], [Send(stream(event(begun), event(last), DONE))]
    ) as (_, gp):
        answers = [await gp.ask({**asked, "stream": is_stream}, path).answer() for _ in range(3)]
    for answer in answers:
        assert (answer.error["code"], "neither a message nor a text" in answer.error["message"]) == (
            *("upstream_invalid", True),
        )
        assert b"[DONE]" not in answer.body
    # an event with an empty choice was relayed before the third
    assert [answer.status for answer in answers] == [502, 502, 200 if is_stream else 502]


COUNTED = {"prompt_tokens": 10, "completion_tokens": 60, "total_tokens": 70}
USAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Gemini's, with thoughts alone": ({"prompt_tokens": 10, "total_tokens": 70}, COUNTED),
    "the names of the Responses API": ({"input_tokens": 10, "output_tokens": 60}, COUNTED),
    "the names of the Messages API": (
        {"input_tokens": 7, "output_tokens": 60, "cache_read_input_tokens": 3},
        COUNTED,
    ),
    "an answer alone": ({"output_tokens": 60}, {"prompt_tokens": 0, "completion_tokens": 60, "total_tokens": 60}),
    "a null": ({**COUNTED, "total_tokens": None}, COUNTED),
    "a total below the prompt": (
        {"prompt_tokens": 10, "total_tokens": 7},
        {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 7},
    ),
}


@pytest.mark.parametrize(("sent", "expected"), USAGES.values(), ids=USAGES)
async def test_counts_under_other_names_or_missing_ones_are_read(sent, expected):
    last = json.loads(delta("stop").removeprefix(b"data: "))
    streamed = stream(delta(content="hi"), event(last), event({**last, "choices": [], "usage": sent}), DONE)
    async with relaying([Send(reply({**COMPLETION, "usage": sent}))], [Send(streamed)]) as (_, gp):
        plain = await gp.ask(HELLO).answer()
        events = await gp.ask({**STREAMED, "stream_options": {"include_usage": True}}).answer()
    assert plain.json()["usage"] == json.loads(events.events[-2])["usage"] == {**sent, **expected}
    assert "repair=usage" in plain.headers["x-gatepass-adapted"]


@pytest.mark.parametrize("wanted", [True, False])
async def test_an_empty_usage_of_a_chunk_is_absent(wanted):
    pieces = [
        json.loads(one.removeprefix(b"data: ")) for one in (delta(content="h"), delta(content="i"), delta("stop"))
    ]
    streamed = stream(*(event({**one, "usage": {}}) for one in pieces), DONE)
    async with relaying([Send(streamed)]) as (_, gp):
        answer = await gp.ask({**STREAMED, "stream_options": {"include_usage": wanted}}).answer()
    found = [json.loads(one) for one in answer.events[:-1]]
    assert not any("usage" in one for one in found)
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in found) == "hi"
    assert answer.headers["x-gatepass-adapted"] == "repair=usage"


ENDS = {
    CHATS: lambda answer: (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]),
    TEXTS: lambda answer: (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]),
    "/v1/messages": lambda answer: ("".join(answer["content"]), answer["stop_reason"]),
    "/v1/responses": lambda answer: ("".join(answer["output"]), answer["incomplete_details"]["reason"]),
}
CUT_ENDS = {
    "length": ("length", "length", "max_tokens", "max_output_tokens"),
    "MAX_TOKENS": ("length", "length", "max_tokens", "max_output_tokens"),
    "content_filter": ("content_filter", "content_filter", "refusal", "content_filter"),
}


@pytest.mark.parametrize("path", ENDS)
@pytest.mark.parametrize("end", [*CUT_ENDS, "error"])
@pytest.mark.parametrize("members", [{}, {"message": None}, {"message": {}}, {"delta": {}}], ids=str)
async def test_an_answer_that_was_cut_before_its_text_has_an_empty_message(members, end, path):
    """Gemini sends it if all tokens went into thoughts. A 502 would be repeated, and paid for again."""
    sent = {**COMPLETION, "choices": [{"index": 0, "finish_reason": end, **members}], "usage": {"prompt_tokens": 10}}
    sent["usage"]["total_tokens"] = 70
    spoken = {} if path in (TEXTS, CHATS) else {"protocols": ["chat"]}
    async with relaying([Send(reply(sent))], chat=spoken) as (_, gp):
        answer = await gp.ask(ASKED[path][1], path).answer()
    if end == "error":
        assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
        return
    whole = answer.json()
    assert (answer.status, ENDS[path](whole)) == (200, ("", CUT_ENDS[end][[*ENDS].index(path)]))
    assert whole["usage"].get("completion_tokens", whole["usage"].get("output_tokens")) == 60


COMPLETE = {
    CHATS: (delta(content="hi"), delta("stop")),
    TEXTS: tuple(
        event({"id": "x", "choices": [{"index": 0, "text": text, "finish_reason": end}]})
        for text, end in (("hi", None), ("", "stop"))
    ),
}
ASKED = {
    CHATS: (CHATS, HELLO),
    TEXTS: (TEXTS, PROMPT),
    "/v1/messages": (CHATS, {**HELLO, "max_tokens": 9}),
    "/v1/responses": (CHATS, {"model": "m", "input": "Hi"}),
}
"""By path: the path whose stream the upstream sends, and the request."""
LAST = {CHATS: b"[DONE]", TEXTS: b"[DONE]", "/v1/messages": b'"message_stop"', "/v1/responses": b'"response.completed"'}


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("mark", ["done", '"[DONE]"', "[done]"])
async def test_an_end_mark_in_another_spelling_ends_a_complete_stream_and_no_other(mark, path):
    sent_path, asked = ASKED[path]
    whole, cut = (stream(*sent, event(mark), end=b"") for sent in (COMPLETE[sent_path], COMPLETE[sent_path][:1]))
    spoken = {} if path == sent_path else {"protocols": ["chat"]}
    # nothing waits for the end of the body
    dialogues: list[Dialogue] = [[Send(sent), Hold()] for sent in (whole, cut) for _ in range(2)]
    async with relaying(*dialogues, chat=spoken) as (_, gp):
        streamed, plain, cut_stream, cut_plain = [
            await gp.ask({**asked, "stream": is_stream}, path).answer() for _ in range(2) for is_stream in (True, False)
        ]
    assert (streamed.status, streamed.body.count(LAST[path]) > 0, b'"error":{' in streamed.body) == (200, True, False)
    assert (plain.status, b'"hi"' in plain.body) == (200, True)
    assert (cut_stream.status, LAST[path] in cut_stream.body) == (200, False)
    assert [one.error["code"] for one in (cut_stream, cut_plain)] == ["upstream_closed"] * 2
