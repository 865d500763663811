"""An upstream's own error or reply format arrives as an OpenAI error or a plain answer, within bounds."""

import asyncio
import json
import zlib
from typing import Any

import pytest

from tests.integration.answers import COMPLETION, DONE, EVENTS, delta
from tests.integration.gateway import HELLO, STREAMED, relaying
from tests.integration.scripted import Hold, Scripted, Send, Wait, begin_stream, chunk, event, head, reply, stream

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
